//! The Python package `thalweg`: arguments in, library calls, objects out. Every rule is in the libraries.
//!
//! Floor 5: a face beside `cli`. It does not parse command lines and prints nothing.

mod arguments;
mod average_folder;
mod checkpoint;
mod compare;
#[expect(unsafe_code, reason = "DLPack is a protocol of C structures; each block says why it is sound")]
mod dlpack;
mod error;
mod explain;
mod fetch;
mod forecast;
mod hint;
#[expect(unsafe_code, reason = "bytes that Python owns are written where they are; each block says why it is sound")]
mod memory;
mod merge;
mod options;
mod plan;
mod receipt;
mod recover;
mod results;
mod run;
mod saves;
mod saves_window;
mod scores;
mod session;
mod sweep;
mod tensor;
mod tensor_data;

use pyo3::prelude::*;

/// What `import thalweg` builds on; use the package `thalweg`.
#[pymodule(name = "_thalweg")]
mod module {
    #[pymodule_export]
    use crate::checkpoint::{PyCheckpoint, PyTensorInfo, open_checkpoint};
    #[pymodule_export]
    use crate::compare::{PyDiff, PyTensorDiff, PyVerification, diff, verify};
    #[pymodule_export]
    use crate::explain::{PyGeometry, PyTrajectoryGeometry, explain};
    #[pymodule_export]
    use crate::fetch::{PyFetched, PyFetchedRevision, fetch};
    #[pymodule_export]
    use crate::forecast::{PyForecast, PyForecastScore, PyProposedWindow, forecast};
    #[pymodule_export]
    use crate::merge::{_copy, _take, PyMerge, PyTensorIterator, merge};
    #[pymodule_export]
    use crate::plan::{PyPlan, PyPlanSource, plan};
    #[pymodule_export]
    use crate::receipt::PyReceipt;
    #[pymodule_export]
    use crate::recover::{PyRecovery, PySpike, recover};
    #[pymodule_export]
    use crate::results::{PyComparison, PyResults, PyScore, compare_results, read_results};
    #[pymodule_export]
    use crate::run::{PyRun, PyRunCheckpoint, open_run, select};
    #[pymodule_export]
    use crate::saves::{PySaves, PyWindow};
    #[pymodule_export]
    use crate::sweep::{PyStudy, PySweep, PyTrial, sweep};
    #[pymodule_export]
    use crate::tensor::PyTensor;
    use pyo3::prelude::*;
    use thalweg_study::request::OPTION_NAMES;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("_OPTION_NAMES", OPTION_NAMES)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

//! Runs that are published as revisions of a repository, in the local cache of Hugging Face's libraries.
//!
//! Which revisions and files, and how they are fetched, is in `thalweg_study::fetch`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_checkpoint::ReadOptions;
use thalweg_storage::{HubClient, HubSettings, WaitNotes};
use thalweg_study::fetch::{FetchReport, FetchRequest, FetchRevision, cache_root, execute_fetch, plan_fetch};
use thalweg_study::request::MergeRequest;
use thalweg_tensor::counted;

use crate::error::Result;
use crate::options::merge_request;
use crate::run::refuse_others;
use crate::session::{Session, Watch, hub_cache_root, run_watched};

/// A name, or several.
#[derive(Debug, FromPyObject)]
pub(crate) enum NamesArgument {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// A revision that was fetched. It can be given wherever the path of a checkpoint can.
#[pyclass(frozen, module = "thalweg", name = "FetchedRevision")]
#[derive(Debug, Clone)]
pub(crate) struct PyFetchedRevision {
    report: FetchRevision,
    /// Its folder in the local cache.
    #[pyo3(get)]
    path: PathBuf,
}

#[pymethods]
impl PyFetchedRevision {
    /// The name of the branch or tag.
    #[getter]
    fn name(&self) -> &str {
        &self.report.name
    }

    /// Its commit.
    #[getter]
    fn commit(&self) -> &str {
        &self.report.commit
    }

    /// The step in its name, if there is one.
    #[getter]
    fn step(&self) -> Option<u64> {
        self.report.step
    }

    /// The tokens in its name, if they are there.
    #[getter]
    fn tokens(&self) -> Option<u64> {
        self.report.tokens
    }

    /// The files that a merge of it reads.
    #[getter]
    fn files(&self) -> Vec<String> {
        self.report.files.iter().map(|file| file.path.clone()).collect()
    }

    /// Bytes of its files.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.report.bytes
    }

    /// Bytes of them that were not in the cache before.
    #[getter]
    fn missing_bytes(&self) -> u64 {
        self.report.missing_bytes
    }

    fn __fspath__(&self) -> OsString {
        self.path.clone().into()
    }

    fn __repr__(&self) -> String {
        let step = self.report.step.map_or_else(|| "None".to_owned(), |step| step.to_string());
        format!("FetchedRevision({:?}, step={step}, nbytes={})", self.report.name, self.report.bytes)
    }
}

/// What was fetched. It can be given wherever a run can.
#[pyclass(frozen, module = "thalweg", name = "Fetched")]
#[derive(Debug)]
pub(crate) struct PyFetched {
    report: FetchReport,
    revisions: Vec<PyFetchedRevision>,
}

#[pymethods]
impl PyFetched {
    /// The repository, as `ORG/NAME`.
    #[getter]
    fn repository(&self) -> &str {
        &self.report.repository
    }

    /// Its folder in the local cache: a run whose checkpoints are all cached revisions that have a step.
    #[getter]
    fn path(&self) -> PathBuf {
        self.report.folder.clone()
    }

    /// The revisions that were asked for, oldest first where they have steps.
    #[getter]
    fn revisions(&self) -> Vec<PyFetchedRevision> {
        self.revisions.clone()
    }

    /// Bytes of all distinct files.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.report.bytes
    }

    /// Bytes of them that were not in the cache before.
    #[getter]
    fn missing_bytes(&self) -> u64 {
        self.report.missing_bytes
    }

    /// Bytes that were fetched; `None` after `dry_run=True`.
    #[getter]
    fn fetched_bytes(&self) -> Option<u64> {
        self.report.fetched_bytes
    }

    /// The command that merges these revisions, or shows the only one; `None` after `dry_run=True`.
    #[getter]
    fn next(&self) -> Option<&str> {
        self.report.next.as_deref()
    }

    /// The report as JSON, as `thalweg fetch --json` prints it.
    fn to_json(&self) -> Result<String> {
        Ok(self.report.to_json()?.to_string())
    }

    fn __fspath__(&self) -> OsString {
        self.report.folder.clone().into()
    }

    fn __len__(&self) -> usize {
        self.revisions.len()
    }

    fn __repr__(&self) -> String {
        let revisions = counted(self.revisions.len(), "revision");
        format!("Fetched({:?}, {revisions}, nbytes={})", self.report.repository, self.report.bytes)
    }
}

/// Fetches revisions of a repository of the Hugging Face Hub into the local cache, as `thalweg fetch` does.
///
/// `revisions` are names of branches and tags, in which `*` matches anything; the other keywords choose among them by
/// step, as for `select`. Only what a merge reads is fetched; `code` adds Python files. `dry_run` fetches nothing and
/// says what would be fetched. An interrupted fetch resumes with the next call.
#[pyfunction]
#[pyo3(signature = (
    repository, *, revisions=None, checkpoint_pattern=None, code=false, dry_run=false, progress=None, **options
))]
#[pyo3(text_signature = "(repository, *, revisions=None, checkpoint_pattern=None, code=False, dry_run=False, \
    progress=None, last=None, count=None, interval_steps=None, interval_tokens=None, duration_steps=None, \
    duration_tokens=None, end_step=None, end_tokens=None, from_step=None, to_step=None, every=None, steps=None)")]
#[expect(clippy::too_many_arguments, reason = "keywords of Python")]
pub(crate) fn fetch(
    py: Python<'_>,
    repository: String,
    revisions: Option<NamesArgument>,
    checkpoint_pattern: Option<String>,
    code: bool,
    dry_run: bool,
    progress: Option<Bound<'_, PyAny>>,
    options: Option<&Bound<'_, PyDict>>,
) -> Result<PyFetched> {
    let given = merge_request(None, None, options)?;
    refuse_others(&given, &MergeRequest { selection: given.selection.clone(), ..MergeRequest::default() })?;
    let revisions = match revisions {
        None => Vec::new(),
        Some(NamesArgument::One(name)) => vec![name],
        Some(NamesArgument::Several(names)) => names,
    };
    let request = FetchRequest { repository, revisions, selection: given.selection, checkpoint_pattern, code };
    let watch = Watch::default();
    let session = Session::for_headers()?;
    run_watched(py, progress.as_ref(), &watch, || {
        let root = cache_root(hub_cache_root(), &*session.storage)?;
        let settings = HubSettings::from_variables(&|name| std::env::var_os(name));
        let hub = HubClient::new(settings, Arc::clone(&session.stop), WaitNotes::default())?;
        let resolver = session.resolver(&watch, ReadOptions::default());
        let plan = plan_fetch(&request, &hub, (&root, &resolver))?;
        let mut report = FetchReport::of_plan(&plan);
        if !dry_run {
            report = report.with_outcome(&execute_fetch(&plan, &hub, &session.context(&watch))?);
        }
        let path = |revision: &FetchRevision| plan.folder.snapshot_path(&revision.commit);
        let revision = |report: &FetchRevision| PyFetchedRevision { report: report.clone(), path: path(report) };
        let revisions = report.revisions.iter().map(revision).collect();
        Ok(PyFetched { report, revisions })
    })
}

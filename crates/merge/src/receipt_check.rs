//! Checks a receipt against itself: facts that are recorded twice must agree, and derived facts must be correct.

use thalweg_tensor::digest::ListHasher;
use thalweg_tensor::{Digest, Dtype, Shape};

use crate::error::Error;
use crate::receipt::MergeReceipt;

/// Whether one thing is as the receipt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The file, tensor or source.
    pub name: String,
    /// What is wrong with it; `None` when nothing is.
    pub fault: Option<String>,
}

/// Facts of a receipt that contradict each other.
///
/// # Errors
/// `PlanInvalid` when the receipt cannot be serialised again.
pub(crate) fn check_receipt(receipt: &MergeReceipt) -> Result<Vec<Verdict>, Error> {
    let mut faults = Vec::new();
    let mut fault = |name: &str, what: String| faults.push(Verdict { name: name.to_owned(), fault: Some(what) });
    if receipt.plan.digest()? != receipt.plan_digest {
        fault("the receipt's plan", "its digest does not match the receipt: the plan was changed".to_owned());
    }
    if let Err(error) = receipt.plan.check_scheme() {
        fault("the receipt's scheme", error.to_string());
    }
    match receipt.plan.coefficients() {
        Err(error) => fault("the receipt's coefficients", error.to_string()),
        Ok(coefficients) => check_sources(receipt, &coefficients.as_f64(), &mut fault),
    }
    if let Some(what) = check_output_digest(receipt) {
        fault("the receipt's digest of the output", what);
    }
    let n_bytes: u64 = receipt.files.iter().map(|file| file.len_bytes).fold(0, u64::saturating_add);
    if n_bytes != receipt.bytes_written {
        fault(
            "the receipt's files",
            format!("they have {n_bytes} bytes, but the receipt says {}", receipt.bytes_written),
        );
    }
    // Last, because the faults above say more about what was changed.
    if receipt.is_as_sealed()? == Some(false) {
        fault("the receipt", "it has changed since it was written".to_owned());
    }
    Ok(faults)
}

/// Sources are both in the plan and in the list of what was read.
fn check_sources(receipt: &MergeReceipt, coefficients: &[f64], fault: &mut dyn FnMut(&str, String)) {
    let (planned, merged) = (&receipt.plan.sources, &receipt.sources);
    if planned.len() != merged.len() {
        fault("the receipt's sources", format!("{} are planned, but {} were merged", planned.len(), merged.len()));
        return;
    }
    for ((planned, merged), coefficient) in planned.iter().zip(merged).zip(coefficients) {
        let name = merged.path.display().to_string();
        if (&planned.path, planned.step, planned.tokens) != (&merged.path, merged.step, merged.tokens) {
            fault(&name, "its path, step or tokens differ from the plan".to_owned());
        }
        let is_exact = |value: f64| value.to_bits() == coefficient.to_bits();
        if !is_exact(planned.coefficient) || !is_exact(merged.coefficient) {
            fault(
                &name,
                format!(
                    "its coefficient is {coefficient} according to the plan's integers, but a different one is recorded"
                ),
            );
        }
    }
}

/// The output's digest follows from those of its tensors.
fn check_output_digest(receipt: &MergeReceipt) -> Option<String> {
    let kind = receipt.plan.digest.kind()?;
    let mut list = ListHasher::new(kind);
    for tensor in &receipt.tensors {
        let unknown = || Some(format!("tensor `{}` has no digest or element type that can be read", tensor.name));
        let Some(digest) = tensor.digest.as_ref().and_then(|digest| digest.parse::<Digest>().ok()) else {
            return unknown();
        };
        let Some(dtype) = Dtype::from_name(&tensor.dtype) else { return unknown() };
        list.add_tensor(&tensor.name, dtype, &Shape::new(tensor.shape.clone()), &digest);
    }
    let digest = list.finish().to_string();
    (receipt.digest.as_deref() != Some(digest.as_str())).then(|| "it does not match the tensors' digests".to_owned())
}

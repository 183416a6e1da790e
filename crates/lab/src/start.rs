//! Where a run starts from: a checkpoint of a run, or a merged one with a policy for the optimizer's moments
//! (PMA-init).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::open_checkpoint;
use thalweg_merge::context::RunContext;
use thalweg_merge::receipt::{MergeReceipt, RECEIPT_NAME};
use thalweg_model::{Model, ModelConfig};
use thalweg_storage::Storage;

use crate::Error;
use crate::averages::combine_arenas;
use crate::config::{MomentsPolicy, StartSection, StartState};
use crate::folder::exists;
use crate::run_folder::AVERAGES_FOLDER;
use crate::state::{STATES_FOLDER, TrainState, read_state};

const MAX_RECEIPT_BYTES: u64 = 1 << 30;

/// Parameters, moments and counters before the first step of a run.
#[derive(Debug)]
pub(crate) struct StartPoint {
    pub(crate) params: Vec<f32>,
    pub(crate) first_moments: Vec<f32>,
    pub(crate) second_moments: Vec<f32>,
    pub(crate) step: u64,
    pub(crate) tokens: u64,
    pub(crate) n_updates: u64,
}

impl StartPoint {
    /// Parameters alone: everything else begins.
    pub(crate) fn fresh(params: Vec<f32>) -> Self {
        let zeros = vec![0.0; params.len()];
        Self { first_moments: zeros.clone(), second_moments: zeros, params, step: 0, tokens: 0, n_updates: 0 }
    }
}

/// Reads the start point that a config names; relative paths begin at `folder`.
///
/// # Errors
/// `Start` where the checkpoint, its state or a policy is missing; `Model` where its tensors do not fit.
pub(crate) fn start_from(
    section: &StartSection,
    folder: &Path,
    model: &ModelConfig,
    run: &RunContext<'_>,
) -> Result<StartPoint, Error> {
    let path = run.storage.canonical_path(&folder.join(&section.from))?;
    let refuse = |message: &str, hint| Error::Start { path: path.clone(), message: message.to_owned(), hint };
    let checkpoint = open_checkpoint(&run.storage, &path)?;
    let params = Model::load(model.clone(), &checkpoint)?.params().to_vec();
    if section.state == StartState::ParamsOnly {
        return match section.moments {
            None | Some(MomentsPolicy::Reset) => Ok(StartPoint::fresh(params)),
            Some(_) => Err(refuse("`params-only` carries no moments over", Some("write `state = \"full\"`"))),
        };
    }
    let receipt = read_receipt(&*run.storage, &path)?;
    let is_average = average_run(&path).is_some();
    match (receipt, section.moments) {
        (None, None) if !is_average => {
            let state = state_of(&run.storage, &path, params.len())?;
            Ok(with_moments(params, state, MomentsPolicy::Newest))
        }
        (_, None) => Err(refuse(
            "it is a merge, and `[start]` does not say what to do with the optimizer's moments",
            Some("add `moments = \"reset\"`, `\"newest\"` or `\"average\"` to `[start]`"),
        )),
        // A checkpoint of a run, or an average that it kept, has its own state.
        (None, Some(policy)) if policy != MomentsPolicy::Average => {
            let state = state_of(&run.storage, &path, params.len())?;
            Ok(with_moments(params, state, policy))
        }
        (None, Some(_)) => Err(refuse(
            "it has no receipt that names its sources, whose moments could be averaged",
            Some("take a checkpoint that `thalweg merge` wrote, or `moments = \"newest\"` or `\"reset\"`"),
        )),
        (Some(receipt), Some(policy)) => from_merge(params, &receipt, policy, model, run),
    }
}

fn with_moments(params: Vec<f32>, state: TrainState, policy: MomentsPolicy) -> StartPoint {
    let (step, tokens) = (state.record.step, state.record.tokens);
    match policy {
        MomentsPolicy::Reset => StartPoint { step, tokens, ..StartPoint::fresh(params) },
        _ => StartPoint {
            params,
            first_moments: state.first_moments,
            second_moments: state.second_moments,
            step,
            tokens,
            n_updates: state.record.n_updates,
        },
    }
}

fn from_merge(
    params: Vec<f32>,
    receipt: &MergeReceipt,
    policy: MomentsPolicy,
    model: &ModelConfig,
    run: &RunContext<'_>,
) -> Result<StartPoint, Error> {
    let sources = &receipt.plan.sources;
    let n_params = params.len();
    let newest = receipt.plan.newest_source().map(|source| source.path.clone()).unwrap_or_default();
    let newest = state_of(&run.storage, &newest, n_params)?;
    let mut start = with_moments(params, newest, policy);
    if policy == MomentsPolicy::Average {
        let coefficients = receipt.plan.coefficients()?;
        if coefficients.as_f64().iter().any(|coefficient| *coefficient < 0.0) {
            return Err(Error::Start {
                path: receipt.plan.path.clone(),
                message: "a coefficient is negative, but a mean of squares must not become negative".to_owned(),
                hint: Some("take `moments = \"newest\"` or `\"reset\"`"),
            });
        }
        let states = sources.iter().map(|source| state_of(&run.storage, &source.path, n_params));
        let states = states.collect::<Result<Vec<_>, Error>>()?;
        let names: Vec<String> = sources.iter().map(|source| source.path.display().to_string()).collect();
        let layout = model.layout();
        let first: Vec<&[f32]> = states.iter().map(|state| state.first_moments.as_slice()).collect();
        combine_arenas(&layout, &first, &names, &coefficients, &mut start.first_moments, run)?;
        let second: Vec<&[f32]> = states.iter().map(|state| state.second_moments.as_slice()).collect();
        combine_arenas(&layout, &second, &names, &coefficients, &mut start.second_moments, run)?;
    }
    Ok(start)
}

fn read_receipt(storage: &dyn Storage, checkpoint: &Path) -> Result<Option<MergeReceipt>, Error> {
    let path = checkpoint.join(RECEIPT_NAME);
    match storage.read_file(&path, MAX_RECEIPT_BYTES) {
        Ok(bytes) => Ok(Some(MergeReceipt::from_json(&bytes, &path)?)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The run of an average that was kept while training: `RUN/averages/NAME/step-N`.
fn average_run(checkpoint: &Path) -> Option<&Path> {
    let folder = checkpoint.parent()?.parent()?;
    folder.ends_with(AVERAGES_FOLDER).then(|| folder.parent()).flatten()
}

/// The training state beside a checkpoint of a run.
fn state_of(storage: &Arc<dyn Storage>, checkpoint: &Path, n_params: usize) -> Result<TrainState, Error> {
    let run = average_run(checkpoint).or_else(|| checkpoint.parent()).unwrap_or(Path::new(""));
    let name = checkpoint.file_name().unwrap_or_default();
    let path: PathBuf = run.join(STATES_FOLDER).join(name);
    if !exists(&**storage, &path)? {
        return Err(Error::Start {
            path: checkpoint.to_owned(),
            message: format!("there is no training state `{}`", path.display()),
            hint: Some("take `state = \"params-only\"`, or train the source with `keep_states = 0` to keep all"),
        });
    }
    read_state(storage, &path, n_params)
}

//! From what was typed to a plan: which checkpoints, which coefficients, which policies. Reads names and headers only.

use std::path::{Path, PathBuf};

use thalweg_merge::plan::{
    CodePolicy, DigestChoice, MergePlan, MergePolicy, NonFloatPolicy, OutputDtype, OutputPlan, PlanSource, RouterPolicy,
};
use thalweg_merge::scheme::{
    CoefficientOrder, Normalize, PowerSnapshot, Scheme, SchemeParameters, reconstruct_from_averages,
};
use thalweg_merge::waiver::{ConfigWaiver, WaiverError};
use thalweg_merge::{Coefficients, Ratio};
use thalweg_storage::{FileKind, Storage};

use crate::args::{
    DigestArg, DtypeChoice, NonFloatChoice, OutputArgs, RouterChoice, RunArgs, SchemeArgs, SelectionArgs, SourceArgs,
};
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::run::{is_selection_empty, open_trajectory, select};

/// A checkpoint that was chosen, with its place in the run where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) path: PathBuf,
    pub(crate) step: Option<u64>,
    pub(crate) tokens: Option<u64>,
}

impl Chosen {
    /// What a table calls it.
    pub(crate) fn label(&self) -> String {
        let name = || self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        self.step.map_or_else(name, |step| format!("step {step}"))
    }
}

/// Whether a path is a checkpoint of its own rather than a run that holds some.
pub(crate) fn is_checkpoint(storage: &dyn Storage, path: &Path) -> bool {
    let Ok(info) = storage.file_info(path) else { return false };
    if info.kind == FileKind::File {
        return true;
    }
    let has = |name: &str| storage.file_info(&path.join(name)).is_ok();
    has("model.safetensors") || has("model.safetensors.index.json")
}

/// The checkpoints that positional arguments and a selection mean, oldest first.
pub(crate) fn choose_checkpoints(
    inputs: &[PathBuf],
    selection: &SelectionArgs,
    run: &RunArgs,
    world: &World<'_>,
    messages: &Messages,
) -> Result<Vec<Chosen>, Error> {
    if let [only] = inputs
        && !is_checkpoint(&*world.storage, only)
    {
        let trajectory = open_trajectory(only, run, world, messages)?;
        return select(&trajectory, selection, messages);
    }
    if inputs.is_empty() {
        return Err(Error::usage_with_hint(
            "no run and no checkpoints were given",
            "name a run folder, or two checkpoints and more",
        ));
    }
    if !is_selection_empty(selection) {
        return Err(Error::usage("checkpoints were given one by one, so there is nothing left to select from"));
    }
    inputs.iter().map(|path| given_checkpoint(path, world)).collect()
}

/// A checkpoint that was named, with the step that its own name tells.
fn given_checkpoint(path: &Path, world: &World<'_>) -> Result<Chosen, Error> {
    let (step, tokens) = crate::run::step_in_name(path);
    let path = world.resolve(path)?;
    let (step, tokens) = if step.is_some() { (step, tokens) } else { crate::run::step_in_name(&path) };
    Ok(Chosen { path, step, tokens })
}

/// What is merged, before its coefficients are known.
struct Ingredients {
    chosen: Vec<Chosen>,
    /// Coefficients that came with the checkpoints.
    given: Option<Vec<Ratio>>,
}

fn ingredients(args: &SourceArgs, world: &World<'_>, messages: &Messages) -> Result<Ingredients, Error> {
    if args.models.is_empty() {
        let chosen = choose_checkpoints(&args.inputs, &args.selection, &args.run, world, messages)?;
        return Ok(Ingredients { chosen, given: None });
    }
    if !args.inputs.is_empty() {
        return Err(Error::usage("checkpoints are given either by themselves or with `-m`, not both ways"));
    }
    let split: Vec<(PathBuf, Option<Ratio>)> =
        args.models.iter().map(|model| split_model(model, &*world.storage)).collect();
    let n_given = split.iter().filter(|(_, coefficient)| coefficient.is_some()).count();
    if n_given != 0 && n_given != split.len() {
        return Err(Error::usage_with_hint(
            format!("{n_given} of {} checkpoints have a coefficient", split.len()),
            "give one to all of them (`-m CKPT:COEF`), or to none",
        ));
    }
    let chosen = split.iter().map(|(path, _)| given_checkpoint(path, world)).collect::<Result<_, _>>()?;
    let given = split.into_iter().map(|(_, coefficient)| coefficient).collect::<Option<Vec<_>>>();
    Ok(Ingredients { chosen, given })
}

/// `PATH:COEF`, split at the last colon; a path that exists as it stands has no coefficient.
fn split_model(model: &str, storage: &dyn Storage) -> (PathBuf, Option<Ratio>) {
    let whole = PathBuf::from(model);
    if storage.file_info(&whole).is_ok() {
        return (whole, None);
    }
    let split = model.rsplit_once(':').and_then(|(path, coefficient)| Some((path, coefficient.parse().ok()?)));
    split.map_or((whole, None), |(path, coefficient)| (PathBuf::from(path), Some(coefficient)))
}

fn parse_ratio(option: &str, text: &str) -> Result<Ratio, Error> {
    text.parse().map_err(|error| Error::usage(format!("`--{option} {text}`: {error}")))
}

/// The scheme that the options mean; `sma` when none is named.
pub(crate) fn parse_scheme(args: &SchemeArgs) -> Result<Scheme, Error> {
    let optional =
        |option: &str, text: &Option<String>| text.as_deref().map(|text| parse_ratio(option, text)).transpose();
    let coefficients: Vec<Ratio> =
        args.coefficients.iter().map(|text| parse_ratio("coefficients", text)).collect::<Result<_, _>>()?;
    let parameters = SchemeParameters {
        alpha: optional("alpha", &args.alpha)?,
        floor: optional("floor", &args.floor)?,
        sigma_rel: optional("sigma-rel", &args.sigma_rel)?,
        coefficients: (!coefficients.is_empty()).then_some(coefficients),
        normalize: if args.normalize { Normalize::BySum } else { Normalize::AsGiven },
    };
    let named = args.scheme.as_deref().unwrap_or(if args.coefficients.is_empty() { "sma" } else { "custom" });
    Ok(Scheme::parse(named, parameters)?)
}

/// Coefficients of the chosen checkpoints, and the name under which the plan records them.
fn weigh(args: &SchemeArgs, ingredients: &Ingredients) -> Result<(Coefficients, String), Error> {
    let (coefficients, name) = match &ingredients.given {
        Some(given) => {
            if args.scheme.is_some() || !args.coefficients.is_empty() {
                return Err(Error::usage("the checkpoints bring their coefficients; a scheme would give others"));
            }
            let normalize = if args.normalize { Normalize::BySum } else { Normalize::AsGiven };
            (thalweg_merge::scheme::custom_coefficients(given, normalize)?, "custom".to_owned())
        }
        None => {
            let scheme = parse_scheme(args)?;
            (scheme_coefficients(&scheme, &ingredients.chosen)?, scheme.to_string())
        }
    };
    let order = args.order.as_deref().map(str::parse::<CoefficientOrder>).transpose()?.unwrap_or_default();
    let name = if order == CoefficientOrder::AsIs { name } else { format!("{name} ({order})") };
    Ok((order.apply(&coefficients), name))
}

/// The plan of one merge of a window by a scheme.
pub(crate) fn window_plan(
    window: &[Chosen],
    scheme: &Scheme,
    args: &OutputArgs,
    out: &Path,
    world: &World<'_>,
) -> Result<MergePlan, Error> {
    let coefficients = scheme_coefficients(scheme, window)?;
    Ok(MergePlan::new(vec![output_plan(window, &coefficients, scheme.to_string(), args, out, world)?])?)
}

/// A power profile depends on the steps themselves; the other schemes on their number.
pub(crate) fn scheme_coefficients(scheme: &Scheme, chosen: &[Chosen]) -> Result<Coefficients, Error> {
    let steps: Option<Vec<u64>> = chosen.iter().map(|one| one.step).collect();
    match (scheme, steps) {
        (Scheme::PowerEma { .. }, Some(steps)) => Ok(scheme.coefficients_at(&steps)?),
        _ => Ok(scheme.coefficients(chosen.len())?),
    }
}

/// The plan of one merge.
pub(crate) fn resolve_plan(
    args: &SourceArgs,
    out: &Path,
    world: &World<'_>,
    messages: &Messages,
) -> Result<MergePlan, Error> {
    if !args.scheme.from_averages.is_empty() {
        return resolve_reconstruction(args, out, world, messages);
    }
    let ingredients = ingredients(args, world, messages)?;
    let (coefficients, name) = weigh(&args.scheme, &ingredients)?;
    let output = output_plan(&ingredients.chosen, &coefficients, name, &args.output, out, world)?;
    Ok(MergePlan::new(vec![output])?)
}

/// A power average of another width, from snapshots of online averages.
fn resolve_reconstruction(
    args: &SourceArgs,
    out: &Path,
    world: &World<'_>,
    messages: &Messages,
) -> Result<MergePlan, Error> {
    let Some(target) = args.scheme.sigma_rel.as_deref() else {
        return Err(Error::usage("`--from-averages` needs the width to reconstruct: `--sigma-rel`"));
    };
    let mut snapshots: Vec<(PowerSnapshot, Chosen)> = Vec::new();
    for given in &args.scheme.from_averages {
        let Some((sigma, run)) = given.split_once('=') else {
            return Err(Error::usage(format!(
                "`--from-averages {given}`: SIGMA=RUN expected, such as 0.05=runs/ema05"
            )));
        };
        let sigma_rel = parse_ratio("from-averages", sigma)?;
        let trajectory = open_trajectory(Path::new(run), &args.run, world, messages)?;
        for chosen in select(&trajectory, &args.selection, messages)? {
            let Some(step) = chosen.step else { continue };
            snapshots.push((PowerSnapshot { step, sigma_rel: sigma_rel.clone() }, chosen));
        }
    }
    let Some(last) = snapshots.iter().map(|(snapshot, _)| snapshot.step).max() else {
        return Err(Error::usage("`--from-averages` found no snapshots"));
    };
    let target = PowerSnapshot { step: last, sigma_rel: parse_ratio("sigma-rel", target)? };
    let (profiles, chosen): (Vec<PowerSnapshot>, Vec<Chosen>) = snapshots.into_iter().unzip();
    let coefficients = reconstruct_from_averages(&profiles, &target)?;
    let name = format!("power-ema:{} from averages", target.sigma_rel);
    Ok(MergePlan::new(vec![output_plan(&chosen, &coefficients, name, &args.output, out, world)?])?)
}

/// One output of a plan.
pub(crate) fn output_plan(
    chosen: &[Chosen],
    coefficients: &Coefficients,
    scheme: String,
    args: &OutputArgs,
    out: &Path,
    world: &World<'_>,
) -> Result<OutputPlan, Error> {
    let (numerators, divisor) = coefficients.to_decimal_strings();
    let read_back = coefficients.as_f64();
    let sources = chosen.iter().zip(numerators).zip(read_back).map(|((one, numerator), coefficient)| PlanSource {
        path: one.path.clone(),
        step: one.step,
        tokens: one.tokens,
        numerator,
        coefficient,
    });
    Ok(OutputPlan {
        path: world.storage.canonical_path(out)?,
        scheme,
        dtype: match args.dtype {
            DtypeChoice::Same => OutputDtype::Same,
            DtypeChoice::F32 => OutputDtype::F32,
            DtypeChoice::Bf16 => OutputDtype::Bf16,
            DtypeChoice::F16 => OutputDtype::F16,
        },
        divisor,
        sources: sources.collect(),
        policy: policy(chosen, args, world)?,
        out_shard_bytes: args.out_shard_size.0,
        digest: match args.digest {
            DigestArg::Blake3 => DigestChoice::Blake3,
            DigestArg::Xxh3 => DigestChoice::Xxh3,
            DigestArg::None => DigestChoice::None,
        },
    })
}

fn policy(chosen: &[Chosen], args: &OutputArgs, world: &World<'_>) -> Result<MergePolicy, Error> {
    let newest = newest(chosen);
    let side_files_from = match args.side_files_from.as_str() {
        "newest" => newest,
        path => {
            let path = world.storage.canonical_path(Path::new(path))?;
            chosen.iter().position(|one| one.path == path).ok_or_else(|| {
                Error::usage_with_hint(
                    format!("`--side-files-from {}` is not one of the checkpoints", path.display()),
                    "name one of the checkpoints that are merged, or `newest`",
                )
            })?
        }
    };
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort();
        list.dedup();
        list
    };
    let allow_config = sorted(&args.allow_config).iter().map(|text| parse_waiver(text)).collect::<Result<_, _>>()?;
    Ok(MergePolicy {
        non_float: match args.non_float {
            NonFloatChoice::Error => NonFloatPolicy::Error,
            NonFloatChoice::Newest => NonFloatPolicy::Newest,
        },
        router: match args.router {
            RouterChoice::Average => RouterPolicy::Average,
            RouterChoice::Newest => RouterPolicy::Newest,
        },
        allow_config,
        drop: sorted(&args.drop),
        take_newest: sorted(&args.take_newest),
        code: if args.code { CodePolicy::Copy } else { CodePolicy::Leave },
        allow_non_finite: args.allow_non_finite,
        newest,
        side_files_from,
        model_card: !args.no_model_card,
    })
}

/// `KEY=VALUE,VALUE`: a key alone would waive values that nobody has seen.
fn parse_waiver(text: &str) -> Result<ConfigWaiver, Error> {
    text.parse().map_err(|error: WaiverError| {
        Error::usage_with_hint(
            format!("`--allow-config {}`: {error}", thalweg_tensor::display_name(text)),
            "leave the option away: the error that follows has the whole line to copy, with the values that differ",
        )
    })
}

/// The highest step, or the last one given where not every step is known.
fn newest(chosen: &[Chosen]) -> usize {
    let last = chosen.len().saturating_sub(1);
    if chosen.iter().any(|one| one.step.is_none()) {
        return last;
    }
    (0..chosen.len()).max_by_key(|&i| (chosen[i].step, i)).unwrap_or(last)
}

/// A plan that only says which checkpoints are looked at: for geometry, which has no output.
pub(crate) fn geometry_plan(chosen: &[Chosen]) -> Result<MergePlan, Error> {
    let source = |one: &Chosen| PlanSource {
        path: one.path.clone(),
        step: one.step,
        tokens: one.tokens,
        numerator: "1".to_owned(),
        coefficient: 0.0,
    };
    let output = OutputPlan {
        path: PathBuf::new(),
        scheme: "none".to_owned(),
        dtype: OutputDtype::Same,
        divisor: chosen.len().to_string(),
        sources: chosen.iter().map(source).collect(),
        policy: MergePolicy {
            non_float: NonFloatPolicy::Newest,
            model_card: false,
            ..MergePolicy::defaults(chosen.len().saturating_sub(1))
        },
        out_shard_bytes: 1,
        digest: DigestChoice::None,
    };
    Ok(MergePlan::new(vec![output])?)
}

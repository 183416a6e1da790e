//! From what was typed to a plan: which checkpoints, which coefficients, which policies. Reads names and headers only.

use std::path::{Path, PathBuf};

use thalweg_checkpoint::{ReadOptions, can_be_template};
use thalweg_merge::Coefficients;
use thalweg_merge::huggingface::heads_of_output;
use thalweg_merge::masters::unreached_masters;
use thalweg_merge::output_format::{ChosenFormat, FormatRequest, OutputFormat, RequestedFormat, choose_format};
use thalweg_merge::plan::{
    CodePolicy, DEFAULT_SHARD_BYTES, DigestChoice, MergePlan, MergePolicy, NonFloatPolicy, OutputDtype, OutputPlan,
    RouterPolicy, SourceRef, newest_of,
};
use thalweg_merge::scheme::{CoefficientOrder, PowerSnapshot, Scheme, reconstruct_from_averages};
use thalweg_merge::waiver::{ConfigWaiver, WaiverError};
use thalweg_storage::guard::output_path;

use crate::args::{
    DigestArg, DtypeChoice, FormatChoice, NonFloatChoice, OptimizerChoice, OutputArgs, RouterChoice, SchemeArgs,
    SourceArgs,
};
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::run::{open_trajectory, select};
use crate::sources::{SourceOrder, choose_checkpoints, choose_models};
use crate::weigh::{Weighed, Weights, parse_order, parse_ratio, parse_scheme, sum_rule, weigh};

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
    let order = parse_order(&args.scheme)?;
    let (sources, weights) = ingredients(args, order, world, messages)?;
    merge_plan((&sources, &weights, order), &args.output, out, world, messages)
}

/// The plan of one merge of a run's window by the options of a scheme.
pub(crate) fn window_plan(
    window: &[SourceRef],
    args: &SchemeArgs,
    (output, out): (&OutputArgs, &Path),
    world: &World<'_>,
    messages: &Messages,
) -> Result<MergePlan, Error> {
    let weights = Weights::Scheme(check_window_scheme(args)?);
    merge_plan((window, &weights, parse_order(args)?), output, out, world, messages)
}

/// The scheme of a window of one run.
pub(crate) fn check_window_scheme(args: &SchemeArgs) -> Result<Scheme, Error> {
    if !args.from_averages.is_empty() {
        return Err(Error::usage("`--from-averages` is an option of `merge` and `plan` only"));
    }
    parse_scheme(args)
}

/// The plan of one merge of a run's window by a scheme.
pub(crate) fn scheme_plan(
    window: &[SourceRef],
    scheme: &Scheme,
    (output, out): (&OutputArgs, &Path),
    world: &World<'_>,
    messages: &Messages,
) -> Result<MergePlan, Error> {
    merge_plan((window, &Weights::Scheme(scheme.clone()), CoefficientOrder::AsIs), output, out, world, messages)
}

fn merge_plan(
    (sources, weights, order): (&[SourceRef], &Weights, CoefficientOrder),
    args: &OutputArgs,
    out: &Path,
    world: &World<'_>,
    messages: &Messages,
) -> Result<MergePlan, Error> {
    let weighed = weigh(weights, order, sources)?;
    weighed.notes.iter().for_each(|note| messages.note(note));
    let newest = match order {
        CoefficientOrder::Given => sources.len().saturating_sub(1),
        _ => newest_of(sources),
    };
    let Weighed { coefficients, name, .. } = weighed;
    let output = output_plan((sources, newest), (&coefficients, name), args, out, world)?;
    Ok(MergePlan::new(vec![output])?)
}

/// The checkpoints, and how they are weighed.
fn ingredients(
    args: &SourceArgs,
    order: CoefficientOrder,
    world: &World<'_>,
    messages: &Messages,
) -> Result<(Vec<SourceRef>, Weights), Error> {
    let source_order = match order {
        CoefficientOrder::Given => SourceOrder::Given,
        _ => SourceOrder::BySteps { keep_option: Some("--order given") },
    };
    if args.models.is_empty() {
        let weights = Weights::Scheme(parse_scheme(&args.scheme)?);
        let from = (&args.selection, &args.run);
        return Ok((choose_checkpoints(&args.inputs, from, source_order, world, messages)?, weights));
    }
    if !args.inputs.is_empty() {
        return Err(Error::usage("checkpoints are given either by themselves or with `-m`, not both ways"));
    }
    let (sources, given) = choose_models(&args.models, &args.run, source_order, world, messages)?;
    let Some(given) = given else { return Ok((sources, Weights::Scheme(parse_scheme(&args.scheme)?))) };
    if args.scheme.scheme.is_some() || !args.scheme.coefficients.is_empty() {
        return Err(Error::usage("the checkpoints bring their coefficients; a scheme would give others"));
    }
    Ok((sources, Weights::Given(given, sum_rule(&args.scheme))))
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
    let mut snapshots: Vec<(PowerSnapshot, SourceRef)> = Vec::new();
    for given in &args.scheme.from_averages {
        let Some((sigma, run)) = given.split_once('=') else {
            return Err(Error::usage(format!(
                "`--from-averages {given}`: SIGMA=RUN expected, such as 0.05=runs/ema05"
            )));
        };
        let sigma_rel = parse_ratio("from-averages", sigma)?;
        let trajectory = open_trajectory(Path::new(run), &args.run, world, messages)?;
        for source in select(&trajectory, &args.selection, messages)? {
            let Some(step) = source.step else { continue };
            snapshots.push((PowerSnapshot { step, sigma_rel: sigma_rel.clone() }, source));
        }
    }
    let Some(last) = snapshots.iter().map(|(snapshot, _)| snapshot.step).max() else {
        return Err(Error::usage("`--from-averages` found no snapshots"));
    };
    let target = PowerSnapshot { step: last, sigma_rel: parse_ratio("sigma-rel", target)? };
    let (profiles, sources): (Vec<PowerSnapshot>, Vec<SourceRef>) = snapshots.into_iter().unzip();
    let coefficients = reconstruct_from_averages(&profiles, &target)?;
    let name = format!("power-ema:{} from averages", target.sigma_rel);
    let newest = newest_of(&sources);
    Ok(MergePlan::new(vec![output_plan((&sources, newest), (&coefficients, name), &args.output, out, world)?])?)
}

/// One output of a plan; `newest` is a position in `sources`.
pub(crate) fn output_plan(
    (sources, newest): (&[SourceRef], usize),
    (coefficients, scheme): (&Coefficients, String),
    args: &OutputArgs,
    out: &Path,
    world: &World<'_>,
) -> Result<OutputPlan, Error> {
    let mut output = OutputPlan::new(output_folder(out, world)?, scheme, sources, coefficients);
    output.dtype = match args.files.dtype {
        DtypeChoice::Same => OutputDtype::Same,
        DtypeChoice::F32 => OutputDtype::F32,
        DtypeChoice::Bf16 => OutputDtype::Bf16,
        DtypeChoice::F16 => OutputDtype::F16,
    };
    let averages_moments = args.optimizer == Some(OptimizerChoice::Average);
    output.reading = ReadOptions { optimizer: averages_moments, ..world.reading.clone() };
    output.policy = policy((sources, newest), args, world)?;
    translate_names(&mut output, args, world)?;
    let chosen = output_format(&output, args, world)?;
    (output.format, output.policy.optimizer) = (chosen.format, chosen.optimizer);
    world.note_once(chosen.note);
    output.out_shard_bytes = args.files.out_shard_size.map_or(DEFAULT_SHARD_BYTES, |size| size.0);
    output.digest = match args.files.digest {
        DigestArg::Blake3 => DigestChoice::Blake3,
        DigestArg::Xxh3 => DigestChoice::Xxh3,
        DigestArg::None => DigestChoice::None,
    };
    Ok(output)
}

/// The absolute path of an output, which is a folder: a name that ends like a file's is refused.
pub(crate) fn output_folder(out: &Path, world: &World<'_>) -> Result<PathBuf, Error> {
    const FILE_ENDS: [&str; 6] = ["safetensors", "pt", "pth", "bin", "ckpt", "distcp"];
    let end = out.extension().and_then(|end| end.to_str()).filter(|end| FILE_ENDS.contains(end));
    let Some(end) = end else { return Ok(output_path(&*world.storage, out)?) };
    Err(Error::usage_with_hint(
        format!("an output is a folder, and `{}` ends with `.{end}` like a file", out.display()),
        format!("leave out the ending: `-o {}`", out.with_extension("").display()),
    ))
}

/// Gives an output Hugging Face names, if that was asked for.
fn translate_names(output: &mut OutputPlan, args: &OutputArgs, world: &World<'_>) -> Result<(), Error> {
    if !world.huggingface.to_huggingface {
        return Ok(());
    }
    if args.format.is_some_and(|format| format != FormatChoice::Safetensors) {
        return Err(Error::usage_with_hint(
            "`--to-huggingface` writes safetensors, and `--format` asks for something else",
            "leave out `--format`",
        ));
    }
    if args.optimizer.is_some_and(|optimizer| optimizer != OptimizerChoice::Drop) {
        return Err(Error::usage_with_hint(
            "`--to-huggingface` writes a model without the state of the training",
            "leave out `--optimizer`",
        ));
    }
    let Some(source) = output.sources.get(output.policy.side_files_from) else { return Ok(()) };
    let checkpoint = world.pool.open(&source.path, &output.reading)?;
    output.policy.hf_assets = world.huggingface.hf_assets.as_ref().map(|path| world.resolve(path)).transpose()?;
    output.reading.to_huggingface = Some(heads_of_output(output, &checkpoint, &*world.storage)?);
    Ok(())
}

/// The format of an output: that of its newest source, unless another one was asked for or is all that works.
fn output_format(output: &OutputPlan, args: &OutputArgs, world: &World<'_>) -> Result<ChosenFormat, Error> {
    let is_translated = output.reading.to_huggingface.is_some();
    let format = args.format.or(is_translated.then_some(FormatChoice::Safetensors));
    let Some(newest) = output.newest_source() else { return Err(Error::usage("no checkpoints to merge")) };
    let newest = world.pool.open(&newest.path, &output.reading_options())?;
    let asked = format.map(Into::into);
    // Other formats hold the tensors alone.
    let may_keep = match asked {
        Some(RequestedFormat::Named(format)) => OutputFormat::of(&newest) == Some(format),
        Some(RequestedFormat::OnlyRead(_)) => false,
        Some(RequestedFormat::Same) | None => can_be_template(newest.format_name()),
    };
    let master = match may_keep {
        true => unreached_masters(&world.storage, &newest, &output.reading)?,
        false => None,
    };
    let request = FormatRequest {
        format: asked,
        optimizer: args.optimizer.map(Into::into),
        shards: args.files.out_shard_size.is_some(),
        unreached_master: master.as_deref(),
    };
    let chosen = choose_format(request, &newest, output);
    Ok(chosen.map_err(thalweg_merge::Error::from)?)
}

fn policy(
    (sources, newest): (&[SourceRef], usize),
    args: &OutputArgs,
    world: &World<'_>,
) -> Result<MergePolicy, Error> {
    let side_files_from = match args.side_files_from.as_str() {
        "newest" => newest,
        path => {
            let path = world.resolve_checkpoint(Path::new(path))?;
            sources.iter().position(|one| one.path == path).ok_or_else(|| {
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
        drop: sorted(&args.files.drop),
        take_newest: sorted(&args.take_newest),
        code: if args.files.code { CodePolicy::Copy } else { CodePolicy::Leave },
        allow_non_finite: args.allow_non_finite,
        side_files_from,
        model_card: !args.files.no_model_card,
        ..MergePolicy::defaults(newest)
    })
}

/// Parses `KEY=VALUE,VALUE`. A key alone is refused: it would waive values that the user has not seen.
fn parse_waiver(text: &str) -> Result<ConfigWaiver, Error> {
    text.parse().map_err(|error: WaiverError| {
        Error::usage_with_hint(
            format!("`--allow-config {}`: {error}", thalweg_tensor::display_name(text)),
            "leave out the option: the error then shows the option to copy, with the values that differ",
        )
    })
}

/// A plan that only names checkpoints: for geometry, which has no output.
pub(crate) fn geometry_plan(sources: &[SourceRef], world: &World<'_>) -> Result<MergePlan, Error> {
    let mean = Scheme::Sma.coefficients(sources.len())?;
    let mut output = OutputPlan::new("geometry", "none", sources, &mean);
    output.reading = world.reading.clone();
    // Nothing is written; sources are then read as numbers, whatever codes they hold.
    output.dtype = OutputDtype::F32;
    output.policy.non_float = NonFloatPolicy::Newest;
    Ok(MergePlan::new(vec![output])?)
}

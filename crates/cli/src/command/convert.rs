//! `thalweg convert`: one checkpoint in another format or element type. It is a merge of one, with the same promises.

use thalweg_study::request::OutputOptions;

use crate::args::ConvertArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::{describe_with, document, execute};
use crate::planned::show_plan;
use crate::requests::file_options;

pub(crate) fn run(args: &ConvertArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let mut output = OutputOptions { format: Some(args.format), ..file_options(&args.files, &args.huggingface) };
    if args.consolidate {
        output.out_shard_bytes = Some(u64::MAX);
    }
    let plan = world.resolver().conversion_plan(&args.source, &output, &args.out)?;
    if args.dry_run {
        show_plan(&plan, args.execution.memory.0, world)?;
        return Ok(Outcome::Done);
    }
    let outcomes = execute(&plan, &args.execution, world)?;
    world.messages.json(&document("thalweg-convert", &plan, &outcomes));
    for outcome in &outcomes {
        let what = format!("wrote `{}` as {} into", args.source.display(), outcome.receipt.plan.format);
        world.messages.text(&describe_with(&what, outcome));
    }
    Ok(Outcome::Done)
}

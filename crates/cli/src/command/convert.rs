//! `thalweg convert`: one checkpoint in another format or element type. It is a merge of one, with the same promises.

use thalweg_merge::engine::MergeOutcome;
use thalweg_study::request::OutputOptions;

use crate::args::ConvertArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::{describe_with, document, execute};
use crate::planned::show_plan;

pub(crate) fn run(args: &ConvertArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let mut files = args.files.clone();
    if args.consolidate {
        files.out_shard_size = Some(u64::MAX);
    }
    let (format, huggingface) = (Some(args.format), args.huggingface.clone());
    let output = OutputOptions { format, files, huggingface, ..OutputOptions::default() };
    let plan = world.resolver().conversion_plan(&args.source, &output, &args.out)?;
    if args.dry_run {
        return show_plan(&plan, args.execution.memory, world);
    }
    let outcomes = execute(&plan, &args.execution, world)?;
    let describe = |outcome: &MergeOutcome| {
        let what = format!("wrote `{}` as {} into", args.source.display(), outcome.receipt.plan.format);
        describe_with(&what, outcome)
    };
    let text: String = outcomes.iter().map(describe).collect();
    Ok(world.answer(&document("thalweg-convert", &plan, &outcomes), &text))
}

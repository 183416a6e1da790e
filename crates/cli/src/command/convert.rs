//! `thalweg convert`: one checkpoint in another format or element type. It is a merge of one, with the same promises.

use thalweg_merge::Coefficients;
use thalweg_merge::plan::{CONVERT_SCHEME, MergePlan, OutputPlan, SourceRef};

use crate::args::{ConvertArgs, NonFloatChoice, OutputArgs, RouterChoice};
use crate::command::Outcome;
use crate::command::merge::{describe_with, document, execute};
use crate::command::plan::show_plan;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::options::ByteSize;
use crate::resolve::output_plan;

pub(crate) fn run(args: &ConvertArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let plan = MergePlan::new(vec![conversion(args, world)?])?;
    if args.dry_run {
        show_plan(&plan, args.execution.memory.0, world, messages)?;
        return Ok(Outcome::Done);
    }
    let outcomes = execute(&plan, &args.execution, world)?;
    messages.json(&document("thalweg-convert", &plan, &outcomes));
    for outcome in &outcomes {
        let what = format!("wrote `{}` as {} into", args.source.display(), outcome.receipt.plan.format);
        messages.text(&describe_with(&what, outcome));
    }
    Ok(Outcome::Done)
}

fn conversion(args: &ConvertArgs, world: &World<'_>) -> Result<OutputPlan, Error> {
    let path = world.resolve_checkpoint(&args.source)?;
    let source = SourceRef { path, step: None, tokens: None };
    let one = Coefficients::new([1], 1)?;
    let mut files = args.files.clone();
    if args.consolidate {
        files.out_shard_size = Some(ByteSize(u64::MAX));
    }
    let wanted = OutputArgs {
        files,
        format: Some(args.format),
        optimizer: None,
        non_float: NonFloatChoice::Newest,
        router: RouterChoice::Average,
        allow_config: Vec::new(),
        take_newest: Vec::new(),
        // Nothing is computed: values that are not finite are copied like any others.
        allow_non_finite: true,
        side_files_from: "newest".to_owned(),
    };
    output_plan((&[source], 0), (&one, CONVERT_SCHEME.to_owned()), &wanted, &args.out, world)
}

//! `thalweg plan`: everything resolved and printed, nothing read but headers.

use std::path::Path;

use thalweg_merge::engine::open_sources;
use thalweg_merge::plan::PLAN_FILE;
use thalweg_merge::seen::see_sources;
use thalweg_storage::publish::publish_file;
use thalweg_tensor::shell_path;
use thalweg_trajectory::check_new_document;

use crate::args::PlanArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::planned::show_plan;
use crate::recipe::{plan_of_recipe, recipe_of};
use crate::requests::merge_request;

/// The output that a plan names by default.
const DEFAULT_OUTPUT: &str = "merged";

pub(crate) fn run(args: &PlanArgs, world: &World<'_>) -> Result<Outcome, Error> {
    if let Some(path) = &args.out {
        check_new_document(&world.storage, path, PLAN_FILE)?;
    }
    let merged = args.merged.as_deref();
    let recipe = recipe_of(&args.source.inputs, merged)?;
    let named = recipe.map_or(merged, |(_, out)| out);
    let output = named.unwrap_or(Path::new(DEFAULT_OUTPUT));
    let mut plan = match recipe {
        Some((recipe, _)) => plan_of_recipe(recipe, Some(output), &args.source, world)?,
        None => {
            let resolver = world.resolver();
            resolver.merge_plan(&merge_request(args.source.clone(), &resolver)?, output)?
        }
    };
    if let Some(path) = &args.out {
        let run = world.context(args.execution.memory);
        plan.seen_sources = see_sources(&open_sources(&plan, &run)?, &*world.storage)?;
        publish_file(&*world.storage, path, plan.to_json()?.as_bytes(), PLAN_FILE)?;
        world.note(format!(
            "the plan is in `{}`; `thalweg merge --plan {}` executes it",
            path.display(),
            shell_path(path)
        ));
    }
    show_plan(&plan, args.execution.memory, world)?;
    if named.is_none() {
        let example = args.out.as_ref().map_or_else(
            || "`thalweg merge ... -o OUT` makes the merge".to_owned(),
            |path| format!("`thalweg merge --plan {} -o OUT` writes elsewhere", shell_path(path)),
        );
        world.note(format!(
            "no output was named, so the plan says `{DEFAULT_OUTPUT}`: `--merged OUT` names another; {example}"
        ));
    }
    Ok(Outcome::Done)
}

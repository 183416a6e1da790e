//! `thalweg merge recipe.yml OUT`: a recipe, with the few options that may be given beside it.

use std::path::{Path, PathBuf};

use thalweg_merge::plan::MergePlan;
use thalweg_study::request::MergeRequest;

use crate::args::{ReadArgs, SourceArgs};
use crate::error::Error;
use crate::host::World;
use crate::requests::merge_request;

/// The recipe among the inputs of a command, if there is one, and its output, if it is given.
pub(crate) fn recipe_of<'a>(
    inputs: &'a [PathBuf],
    out: Option<&'a Path>,
) -> Result<Option<(&'a Path, Option<&'a Path>)>, Error> {
    let is_recipe = |path: &Path| {
        path.extension().is_some_and(|extension| ["yml", "yaml", "toml"].iter().any(|known| extension == *known))
    };
    let [recipe, rest @ ..] = inputs else { return Ok(None) };
    if !is_recipe(recipe) {
        return Ok(None);
    }
    match (rest, out) {
        ([], out) => Ok(Some((recipe, out))),
        ([out], None) => Ok(Some((recipe, Some(out)))),
        ([_], Some(_)) => Err(Error::usage("the output is named twice: after the recipe and by an option")),
        _ => Err(Error::usage("a recipe takes one output folder and no checkpoints beside it")),
    }
}

/// Whether the user typed anything that says what is merged, or how.
pub(crate) fn is_anything_typed(typed: SourceArgs, world: &World<'_>) -> Result<bool, Error> {
    let is_reading = typed.run.reading != ReadArgs::default();
    Ok(merge_request(typed, &world.resolver())? != MergeRequest::default() || is_reading)
}

/// The plan that a recipe file describes.
pub(crate) fn plan_of_recipe(
    path: &Path,
    out: Option<&Path>,
    typed: &SourceArgs,
    world: &World<'_>,
) -> Result<MergePlan, Error> {
    let resolver = world.resolver();
    let recipe = resolver.read_recipe(path)?;
    let Some(out) = out else {
        return Err(Error::usage_with_hint(
            "where should the merged checkpoint go?",
            format!("give its folder as the second path: `thalweg merge {} OUT`", thalweg_tensor::shell_path(path)),
        ));
    };
    let request = with_typed(MergeRequest::from_recipe(&recipe)?, typed, world)?;
    Ok(resolver.recipe_plan((path, &recipe), request, out)?)
}

/// A recipe's request, with what may be given beside it on the command line. Other options there are refused.
fn with_typed(mut request: MergeRequest, typed: &SourceArgs, world: &World<'_>) -> Result<MergeRequest, Error> {
    let mut rest = typed.clone();
    rest.inputs = Vec::new();
    let huggingface = std::mem::take(&mut rest.huggingface);
    let normalize = std::mem::take(&mut rest.scheme.normalize);
    let allow_sum = std::mem::take(&mut rest.scheme.allow_sum);
    if is_anything_typed(rest, world)? {
        return Err(Error::usage_with_hint(
            "a recipe already says what is merged and how, so other options would be ignored",
            "write them into the recipe; only `--normalize`, `--allow-sum`, `--to-huggingface` and `--hf-assets` may be \
             given beside it",
        ));
    }
    if normalize || allow_sum {
        (request.scheme.normalize, request.scheme.allow_sum) = (normalize, allow_sum);
    }
    request.output.huggingface = huggingface;
    Ok(request)
}

//! `thalweg merge recipe.yml OUT`: a recipe read, its native equivalent shown, its plan resolved as if it had been
//! typed.

use std::path::{Path, PathBuf};

use clap::Parser;
use thalweg_merge::engine::open_sources;
use thalweg_merge::plan::MergePlan;
use thalweg_merge::recipe::{Recipe, RecipeDialect, RecipeKind, cast_is_exact, native_equivalent, parse_recipe};
use thalweg_tensor::DtypeClass;

use crate::args::{HuggingFaceArgs, SchemeArgs, SourceArgs};
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::resolve::resolve_plan;

const MAX_RECIPE_BYTES: u64 = 1 << 20;

/// The options of a merge by themselves, for what a recipe means.
#[derive(Debug, Parser)]
#[command(name = "recipe", no_binary_name = true)]
struct RecipeArguments {
    #[command(flatten)]
    source: SourceArgs,
}

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
pub(crate) fn is_anything_typed(typed: &SourceArgs) -> bool {
    let nothing = RecipeArguments::try_parse_from(std::iter::empty::<&str>());
    nothing.map_or(true, |nothing| nothing.source != *typed)
}

/// A recipe's options, with those from the command line that may be given beside it. Others there are refused.
fn with_typed(mut recipe: SourceArgs, typed: &SourceArgs) -> Result<SourceArgs, Error> {
    let SchemeArgs { normalize, allow_sum, .. } = typed.scheme;
    let mut rest = typed.clone();
    (rest.inputs, rest.scheme.normalize, rest.scheme.allow_sum) = (Vec::new(), false, false);
    rest.huggingface = HuggingFaceArgs::default();
    if is_anything_typed(&rest) {
        return Err(Error::usage_with_hint(
            "a recipe says what is merged and how, so other options would be ignored",
            "write them into the recipe; only `--normalize`, `--allow-sum`, `--to-huggingface` and `--hf-assets` may be \
             given beside it",
        ));
    }
    if normalize || allow_sum {
        (recipe.scheme.normalize, recipe.scheme.allow_sum) = (normalize, allow_sum);
    }
    Ok(recipe)
}

/// The plan that a recipe file describes.
pub(crate) fn plan_of_recipe(
    path: &Path,
    out: Option<&Path>,
    typed: &SourceArgs,
    world: &World<'_>,
    messages: &Messages,
) -> Result<MergePlan, Error> {
    let in_recipe = |source| Error::Recipe { path: path.to_owned(), source };
    let bytes = world.storage.read_file(path, MAX_RECIPE_BYTES)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::usage(format!("`{}` is not a recipe: it is not UTF-8 text", path.display())))?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let kind = if is_toml { RecipeKind::Toml } else { RecipeKind::Yaml };
    let recipe = parse_recipe(&text, kind).map_err(in_recipe)?;
    recipe.notices.iter().for_each(|notice| messages.note(notice));
    if recipe.dialect == RecipeDialect::Mergekit {
        messages.note(format!("the native equivalent of this recipe:\n{}", native_equivalent(&recipe)));
    }
    let Some(out) = out else {
        return Err(Error::usage_with_hint(
            "where should the merged checkpoint go?",
            format!("name it after the recipe: `thalweg merge {} OUT`", path.display()),
        ));
    };
    let arguments = RecipeArguments::try_parse_from(recipe.to_arguments())
        .map_err(|error| Error::usage(format!("recipe `{}`: {error}", path.display())))?;
    let source = beside_recipe(with_typed(arguments.source, typed)?, path, world);
    let plan = resolve_plan(&source, out, world, messages)?;
    refuse_lossy_cast(&recipe, &plan, world)?;
    Ok(plan)
}

/// Paths of a recipe count from where the program runs, or from the recipe's folder where only that has them.
fn beside_recipe(mut source: SourceArgs, recipe: &Path, world: &World<'_>) -> SourceArgs {
    let Some(folder) = recipe.parent() else { return source };
    let exists = |path: &Path| world.find(path).is_ok();
    let is_only_beside = |path: &Path| !exists(path) && exists(&folder.join(path));
    let find = |path: PathBuf| if is_only_beside(&path) { folder.join(path) } else { path };
    source.inputs = source.inputs.into_iter().map(find).collect();
    for model in &mut source.models {
        let path = model.rsplit_once(':').map_or(model.as_str(), |(path, _)| path);
        if is_only_beside(Path::new(path)) {
            *model = folder.join(&*model).to_string_lossy().into_owned();
        }
    }
    source
}

/// mergekit casts its inputs to `dtype` first; where that would change one, the result would not be what is asked here.
fn refuse_lossy_cast(recipe: &Recipe, plan: &MergePlan, world: &World<'_>) -> Result<(), Error> {
    /// Headers only: no limit is met.
    const MEMORY_BYTES: u64 = 1 << 30;
    let Some(to) = recipe.input_dtype else { return Ok(()) };
    for source in open_sources(plan, &world.context(MEMORY_BYTES))? {
        let mut entries = source.checkpoint.catalog().entries().iter();
        let lossy =
            entries.find(|entry| entry.dtype.class() == DtypeClass::Mergeable && !cast_is_exact(entry.dtype, to));
        if let Some(entry) = lossy {
            return Err(Error::usage_with_hint(
                format!("`dtype` would cast the inputs from {} to {to} before they are averaged", entry.dtype),
                "drop `dtype`, and use `out_dtype` for the type of the output: the sum itself is exact",
            ));
        }
    }
    Ok(())
}

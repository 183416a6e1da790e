//! Recipes: the request that a recipe file describes.

use std::path::{Path, PathBuf};

use thalweg_merge::engine::open_sources;
use thalweg_merge::plan::MergePlan;
use thalweg_merge::recipe::{
    Recipe, RecipeCheckpoint, RecipeDialect, RecipeKind, RecipeSources, cast_is_exact, native_equivalent, parse_recipe,
};
use thalweg_tensor::DtypeClass;

use super::{GivenModel, MergeRequest, Resolver};
use crate::Error;

const MAX_RECIPE_BYTES: u64 = 1 << 20;

impl MergeRequest {
    /// The request that a recipe describes.
    ///
    /// # Errors
    /// `Request` for a value that does not parse.
    ///
    /// # Example
    /// ```
    /// use thalweg_merge::recipe::{RecipeKind, parse_recipe};
    /// use thalweg_study::request::MergeRequest;
    ///
    /// let recipe = parse_recipe("run: runs/base\nlast: 10\nscheme: ema:0.2\n", RecipeKind::Yaml)?;
    /// let request = MergeRequest::from_recipe(&recipe)?;
    /// assert_eq!((request.selection.last, request.scheme.scheme.as_deref()), (Some(10), Some("ema:0.2")));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_recipe(recipe: &Recipe) -> Result<Self, Error> {
        let mut request = Self::default();
        recipe.options.iter().try_for_each(|option| request.set_option(option.name, &option.values))?;
        match &recipe.sources {
            RecipeSources::Run { path } => request.inputs.push(path.into()),
            RecipeSources::Averages(runs) => {
                request.scheme.from_averages = runs.iter().map(|(sigma, run)| format!("{sigma}={run}")).collect();
            }
            RecipeSources::Checkpoints(checkpoints) => {
                for RecipeCheckpoint { path, coefficient } in checkpoints {
                    match coefficient {
                        Some(_) => {
                            request.models.push(GivenModel { path: path.into(), coefficient: coefficient.clone() })
                        }
                        None => request.inputs.push(path.into()),
                    }
                }
            }
        }
        Ok(request)
    }
}

impl Resolver<'_> {
    /// The recipe in a file (`.toml`, `.yml`, `.yaml`); passes notes about its translation.
    ///
    /// # Errors
    /// `Recipe` with every problem of the text; `Request` where it is not text; `Storage`.
    pub fn read_recipe(&self, path: &Path) -> Result<Recipe, Error> {
        let bytes = self.storage().read_file(path, MAX_RECIPE_BYTES)?;
        let text = thalweg_storage::text_of(bytes)
            .map_err(|_| Error::request(format!("`{}` is not a recipe: it is not UTF-8 text", path.display())))?;
        let is_toml = path.extension().is_some_and(|extension| extension == "toml");
        let kind = if is_toml { RecipeKind::Toml } else { RecipeKind::Yaml };
        let recipe = parse_recipe(&text, kind).map_err(|source| Error::Recipe { path: path.to_owned(), source })?;
        recipe.notices.iter().for_each(|notice| self.note(notice));
        if recipe.dialect == RecipeDialect::Mergekit {
            self.note(format!("the native equivalent of this recipe:\n{}", native_equivalent(&recipe)));
        }
        Ok(recipe)
    }

    /// The plan of a recipe that was read from `path`. `request` is that of the recipe, with what was added to it.
    ///
    /// # Errors
    /// As [`merge_plan`](Self::merge_plan); `Request` where mergekit would round the inputs first.
    pub fn recipe_plan(
        &self,
        (path, recipe): (&Path, &Recipe),
        request: MergeRequest,
        out: &Path,
    ) -> Result<MergePlan, Error> {
        let plan = self.merge_plan(&self.beside_recipe(request, path), out)?;
        self.refuse_lossy_cast(recipe, &plan)?;
        Ok(plan)
    }

    /// Paths of a recipe count from where the program runs, or from the recipe's folder where only that has them.
    fn beside_recipe(&self, mut request: MergeRequest, recipe: &Path) -> MergeRequest {
        let Some(folder) = recipe.parent() else { return request };
        let exists = |path: &Path| self.find(path).is_ok();
        let find = |path: &mut PathBuf| {
            if !exists(path) && exists(&folder.join(&*path)) {
                *path = folder.join(&*path);
            }
        };
        let models = request.models.iter_mut().map(|model| &mut model.path);
        request.inputs.iter_mut().chain(models).chain(&mut request.rule.base).for_each(find);
        request
    }

    /// mergekit casts its inputs to `dtype` first; where that would change one, the result would not be what is asked
    /// here.
    fn refuse_lossy_cast(&self, recipe: &Recipe, plan: &MergePlan) -> Result<(), Error> {
        let Some(to) = recipe.input_dtype else { return Ok(()) };
        for source in open_sources(plan, &self.cx)? {
            let mut entries = source.checkpoint.catalog().entries().iter();
            let lossy =
                entries.find(|entry| entry.dtype.class() == DtypeClass::Mergeable && !cast_is_exact(entry.dtype, to));
            if let Some(entry) = lossy {
                return Err(Error::request_with_hint(
                    format!("`dtype` would cast the inputs from {} to {to} before they are averaged", entry.dtype),
                    "drop `dtype`, and use `out_dtype` for the type of the output: the sum itself is exact",
                ));
            }
        }
        Ok(())
    }
}

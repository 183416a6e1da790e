//! Recipes: a merge written down in TOML or YAML.
//!
//! Two dialects. The native one has the options of `thalweg merge` as keys, in TOML or YAML; a dash in a key may be
//! written as an underscore:
//!
//! ```toml
//! kind = "thalweg-recipe"     # both lines may be left away
//! version = 1
//!
//! run = "runs/base"           # or: checkpoints = [{ path = "a", coefficient = 0.75 }, ...]
//! last = 10
//! scheme = "ema"
//! alpha = 0.2
//! dtype = "bf16"
//! ```
//!
//! The other is mergekit's YAML for weighted averages (`merge_method: linear`) and for rules of experts.
//! Both become a [`Recipe`]. Everything here is a pure function of text: no file is opened, and paths stay as they are
//! written. Unknown keys are errors, every problem is shown with its line, and hostile input costs little.

mod checker;
mod error;
mod mergekit;
mod mergekit_model;
mod mergekit_rules;
mod native;
mod toml_tree;
mod tree;
mod yaml_tree;

use std::borrow::Cow;

use thalweg_tensor::Dtype;

pub use error::{RecipeError, RecipeFault, RecipeProblem};

use crate::Ratio;
use crate::scheme::Scheme;
use tree::{NodeValue, Place};

/// Longest recipe that is read, in bytes.
const MAX_RECIPE_BYTES: usize = 1 << 20;

/// Language of a recipe's text, known from the file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipeKind {
    /// `.toml`
    Toml,
    /// `.yml`, `.yaml`
    Yaml,
}

/// Whose keys a recipe has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipeDialect {
    /// This program's.
    Native,
    /// mergekit's.
    Mergekit,
}

/// A merge as a recipe describes it. Paths are as they are written; nothing was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Whose keys it was written in.
    pub dialect: RecipeDialect,
    /// What is merged.
    pub sources: RecipeSources,
    /// Options of `thalweg merge`, in a fixed order.
    pub options: Vec<RecipeOption>,
    /// The scheme with its parameters, already checked; none means the default.
    pub scheme: Option<Scheme>,
    /// mergekit's `dtype`: its meaning is kept only if no source changes when it is cast to this; see
    /// [`cast_is_exact`].
    pub input_dtype: Option<Dtype>,
    /// Notes for the user about the translation.
    pub notices: Vec<String>,
}

/// What a recipe merges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipeSources {
    /// Checkpoints chosen from a run by the options.
    Run {
        /// The run's folder.
        path: String,
    },
    /// These checkpoints, oldest first. All have a coefficient, or none has.
    Checkpoints(Vec<RecipeCheckpoint>),
    /// Snapshots of power averages: the width of each profile and the folder of its snapshots.
    Averages(Vec<(Ratio, String)>),
}

impl RecipeSources {
    /// The coefficients that are given beside the checkpoints.
    pub fn coefficients(&self) -> Option<Vec<Ratio>> {
        match self {
            Self::Checkpoints(checkpoints) if !checkpoints.is_empty() => {
                checkpoints.iter().map(|checkpoint| checkpoint.coefficient.clone()).collect()
            }
            _ => None,
        }
    }
}

/// One checkpoint of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeCheckpoint {
    /// Its path.
    pub path: String,
    /// What it is multiplied by.
    pub coefficient: Option<Ratio>,
}

/// One option as the command line takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeOption {
    /// Name with underscores, without dashes in front.
    pub name: &'static str,
    /// Values as text; `true` for a flag.
    pub values: Vec<String>,
}

impl Recipe {
    /// Values of an option; none if the recipe does not give it.
    pub fn option(&self, name: &str) -> Option<&[String]> {
        self.options.iter().find(|option| option.name == name).map(|option| option.values.as_slice())
    }
}

/// Reads a recipe.
///
/// YAML with keys of mergekit (`merge_method`, `models`) is translated; everything else is native.
///
/// # Errors
/// Every problem of the text, with line and column.
///
/// # Example
/// ```
/// use thalweg_merge::recipe::{RecipeKind, native_equivalent, parse_recipe};
///
/// let yaml = "
/// merge_method: linear
/// models:
///   - {model: run/step1000, parameters: {weight: 1}}
///   - {model: run/step2000, parameters: {weight: 3}}
/// dtype: bfloat16
/// ";
/// let recipe = parse_recipe(yaml, RecipeKind::Yaml)?;
/// assert!(native_equivalent(&recipe).contains("{ path = \"run/step2000\", coefficient = 3 }"));
///
/// let error = parse_recipe("run = \"base\"\nlats = 10\n", RecipeKind::Toml).unwrap_err();
/// assert_eq!(error.hint().as_deref(), Some("did you mean `last`?"));
/// # Ok::<(), thalweg_merge::recipe::RecipeError>(())
/// ```
pub fn parse_recipe(text: &str, kind: RecipeKind) -> Result<Recipe, RecipeError> {
    let fail = |(place, fault)| RecipeError { problems: vec![RecipeProblem::new(text, place, fault)] };
    let start = Place { line: 1, column: 1, n_chars: 1 };
    if text.len() > MAX_RECIPE_BYTES {
        return Err(fail((start, RecipeFault::TooLarge { what: "bytes", limit: MAX_RECIPE_BYTES })));
    }
    // YAML breaks lines at a lone carriage return too; with one kind of break, places and excerpts agree.
    let text = match kind {
        RecipeKind::Yaml if text.contains('\r') => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
        _ => Cow::Borrowed(text),
    };
    let text = &*text;
    let root = match kind {
        RecipeKind::Toml => toml_tree::read_toml(text).map_err(fail)?,
        RecipeKind::Yaml => yaml_tree::read_yaml(text).map_err(fail)?,
    };
    let is_mergekit = match &root.value {
        NodeValue::Table(entries) if kind == RecipeKind::Yaml => {
            let n_mergekit = entries.iter().filter(|entry| mergekit::is_mergekit_key(&entry.key)).count();
            n_mergekit > entries.iter().filter(|entry| native::is_native_key(&entry.key)).count()
        }
        _ => false,
    };
    if is_mergekit { mergekit::read_mergekit(text, &root) } else { native::read_native(text, &root) }
}

/// The native recipe, as TOML text, that means the same.
pub fn native_equivalent(recipe: &Recipe) -> String {
    native::write_native(recipe)
}

/// Whether every value of type `from` stays what it is when it is cast to `to`, both types that can be averaged.
pub fn cast_is_exact(from: Dtype, to: Dtype) -> bool {
    from == to
        || to == Dtype::F64 && matches!(from, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
        || to == Dtype::F32 && matches!(from, Dtype::F16 | Dtype::Bf16)
}

/// Text of the input for a message: short, and without control characters.
fn show(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let show = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().take(MAX_CHARS).map(show).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests;

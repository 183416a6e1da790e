//! mergekit's YAML, in its own meaning: `linear` here, the rules of experts by `mergekit_rules`.
//!
//! Facts of mergekit 0.1.5: `linear` divides by the sum of the weights unless `normalize` is false; a weight is at the
//! model or in the global `parameters`; `dtype` casts the inputs before they are merged and is the output's type unless
//! `out_dtype` says otherwise; a `base_model` that is not among the models is added to them.

use thalweg_tensor::Dtype;

use super::checker::{Checker, Dashes, Fields, Level};
use super::error::{RecipeError, RecipeFault};
use super::mergekit_model::{MODEL, read_reference, refuse};
use super::mergekit_rules::{self, RuleRecipe, read_rule};
use super::tree::{Entry, Node, NodeValue};
use super::{Recipe, RecipeCheckpoint, RecipeDialect, RecipeOption, RecipeSources, show};
use crate::Ratio;
use crate::rule::RuleKind;
use crate::scheme::{Scheme, SchemeError, SchemeParameters, SumRule};

static TOP: Level = Level {
    name: "the top level",
    keys: &[
        "merge_method",
        "models",
        "parameters",
        "base_model",
        "dtype",
        "out_dtype",
        "tokenizer_source",
        "chat_template",
        "slices",
        "modules",
        "tokenizer",
        "name",
    ],
};
static PARAMETERS: Level = Level { name: "the top level's `parameters`", keys: &["weight", "normalize"] };
static MODEL_PARAMETERS: Level = Level { name: "`models[].parameters`", keys: &["weight"] };
static LEVELS: [&Level; 4] = [&MODEL_PARAMETERS, &PARAMETERS, &MODEL, &TOP];
static RULE_LEVELS: [&Level; 4] = [&mergekit_rules::MODEL_PARAMETERS, &mergekit_rules::PARAMETERS, &MODEL, &TOP];

/// The method that is read, then the others of mergekit 0.1.5.
const METHODS: &[&str] = &[
    "linear",
    "slerp",
    "nuslerp",
    "multislerp",
    "karcher",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "sce",
    "ram",
    "ramplus_tl",
    "model_stock",
    "nearswap",
    "arcee_fusion",
    "passthrough",
];
/// What is proposed in place of another type; `float64` is a type of the dialect too, but not one of outputs.
const DTYPES: &[&str] = &["float32", "bfloat16", "float16"];

/// Whether a key of the top level shows that a document is of this dialect.
pub(super) fn is_mergekit_key(key: &str) -> bool {
    TOP.keys.contains(&key) && !matches!(key, "dtype" | "name")
}

/// What is known about the sources while the rest is read.
struct Models {
    checkpoints: Vec<RecipeCheckpoint>,
}

/// Translates mergekit's YAML.
pub(super) fn read_mergekit(text: &str, root: &Node) -> Result<Recipe, RecipeError> {
    let rule = rule_of(root);
    let levels = if rule.is_some() { &RULE_LEVELS } else { &LEVELS };
    let mut checker = Checker::new(text, levels, Dashes::Distinct);
    let top = checker.fields("the recipe", root, &TOP);
    check_method(&mut checker, &top, root);
    refuse_others(&mut checker, &top);
    if let Some(kind) = rule {
        return read_experts(checker, &top, root, kind);
    }
    let mut options = Vec::new();
    let mut notices = Vec::new();
    let parameters = top.get_set("parameters").map(|entry| checker.fields("parameters", &entry.node, &PARAMETERS));
    let global_weight = parameters.as_ref().and_then(|fields| read_weight(&mut checker, fields));
    let normalize_entry = parameters.as_ref().and_then(|fields| fields.get_set("normalize"));
    let is_normalized = normalize_entry.is_none_or(|entry| read_normalize(&mut checker, entry));
    let models = read_models(&mut checker, &top, global_weight.as_ref(), root);
    let scheme = read_scheme(&mut checker, &top, &models, is_normalized);
    if is_normalized {
        options.push(RecipeOption { name: "normalize", values: vec!["true".to_owned()] });
    }
    let (input_dtype, output_dtype) = read_dtypes(&mut checker, &top);
    if let Some(dtype) = output_dtype {
        let name = dtype.name().to_lowercase();
        options.push(RecipeOption { name: "dtype", values: vec![name] });
    }
    match read_side_files(&mut checker, &top, &models) {
        Some(path) => options.push(RecipeOption { name: "side_files_from", values: vec![path] }),
        None => notices.push(
            "the config and tokenizer are taken from the last model; set `base_model` to choose another".to_owned(),
        ),
    }
    if top.get_set("chat_template").is_some() {
        notices.push("`chat_template` is ignored: the template is copied with the tokenizer".to_owned());
    }
    let sources = RecipeSources::Checkpoints(models.checkpoints);
    let dialect = RecipeDialect::Mergekit;
    checker.finish(Recipe { dialect, sources, options, scheme, input_dtype, notices })
}

/// The rule that a recipe's method is, if it is one.
fn rule_of(root: &Node) -> Option<RuleKind> {
    let NodeValue::Table(entries) = &root.value else { return None };
    let method = entries.iter().find(|entry| entry.key == "merge_method")?;
    let NodeValue::Scalar { text, .. } = &method.node.value else { return None };
    // The names are mergekit's; this program's with dashes are none of its.
    METHODS.contains(&text.as_str()).then(|| text.parse().ok()).flatten()
}

/// A merge of experts by a rule.
fn read_experts(
    mut checker: Checker<'_>,
    top: &Fields<'_>,
    root: &Node,
    kind: RuleKind,
) -> Result<Recipe, RecipeError> {
    let RuleRecipe { checkpoints, mut options, mut notices } = read_rule(&mut checker, top, root, kind);
    let (input_dtype, output_dtype) = read_dtypes(&mut checker, top);
    options.extend(output_dtype.map(|dtype| {
        let values = vec![dtype.name().to_lowercase()];
        RecipeOption { name: "dtype", values }
    }));
    for key in ["tokenizer_source", "chat_template"] {
        if top.get_set(key).is_some() {
            notices.push(format!(
                "`{key}` is ignored: the config and tokenizer are copied from the base or the last model"
            ));
        }
    }
    let (dialect, sources) = (RecipeDialect::Mergekit, RecipeSources::Checkpoints(checkpoints));
    checker.finish(Recipe { dialect, sources, options, scheme: None, input_dtype, notices })
}

fn check_method(checker: &mut Checker<'_>, top: &Fields<'_>, root: &Node) {
    let Some(entry) = top.get("merge_method") else {
        if !checker.has_problems() {
            checker.report(root.place, RecipeFault::MissingKey { key: "merge_method", level: TOP.name });
        }
        return;
    };
    match checker.choice("merge_method", &entry.node, METHODS).as_deref() {
        None | Some("linear") => {}
        Some(method) if method.parse::<RuleKind>().is_ok() => {}
        Some(method) => {
            let why = "thalweg has no scheme or rule of that name; use mergekit for it";
            refuse(checker, entry.node.place, format!("`merge_method: {method}`"), why);
        }
    }
}

fn refuse_others(checker: &mut Checker<'_>, top: &Fields<'_>) {
    for (key, why) in [
        ("slices", "layers cannot be rearranged; list whole checkpoints under `models`"),
        ("modules", "parts of a model cannot be merged separately; list whole checkpoints under `models`"),
        ("tokenizer", "vocabularies cannot be rebuilt; checkpoints of one run share one, so omit the key"),
        ("name", "one recipe makes one output; omit the key and give the output on the command line"),
    ] {
        if let Some(entry) = top.get_set(key) {
            refuse(checker, entry.key_place, format!("`{key}`"), why);
        }
    }
}

fn read_weight(checker: &mut Checker<'_>, fields: &Fields<'_>) -> Option<Ratio> {
    let entry = fields.get_set("weight")?;
    match &entry.node.value {
        NodeValue::List(_) | NodeValue::Table(_) => {
            let why = "a coefficient applies to the whole checkpoint; give one number";
            refuse(checker, entry.node.place, "a weight that differs between layers or tensors", why);
            None
        }
        _ => checker.ratio("weight", &entry.node),
    }
}

fn read_normalize(checker: &mut Checker<'_>, entry: &Entry) -> bool {
    if matches!(entry.node.value, NodeValue::List(_) | NodeValue::Table(_)) {
        let why = "it applies to the whole merge; give `true` or `false`";
        refuse(checker, entry.node.place, "a `normalize` that differs between layers or tensors", why);
        return true;
    }
    checker.flag("normalize", &entry.node).unwrap_or(true)
}

fn read_models(checker: &mut Checker<'_>, top: &Fields<'_>, global_weight: Option<&Ratio>, root: &Node) -> Models {
    let mut models = Models { checkpoints: Vec::new() };
    let Some(entry) = top.get_set("models") else {
        if !checker.has_problems() {
            checker.report(root.place, RecipeFault::MissingKey { key: "models", level: TOP.name });
        }
        return models;
    };
    for item in checker.list("models", "a list of tables with `model`", &entry.node).unwrap_or(&[]) {
        let fields = checker.fields("models", item, &MODEL);
        let own = fields.get_set("parameters").map(|entry| {
            let parameters = checker.fields("parameters", &entry.node, &MODEL_PARAMETERS);
            (parameters.get_set("weight").is_some(), read_weight(checker, &parameters))
        });
        let Some(model) = fields.get("model") else {
            checker.report(item.place, RecipeFault::MissingKey { key: "model", level: MODEL.name });
            continue;
        };
        let Some(path) = read_reference(checker, "model", model) else { continue };
        let (has_own, own_weight) = own.unwrap_or((false, None));
        let coefficient = if has_own { own_weight } else { global_weight.cloned() };
        if coefficient.is_none() && !has_own && !checker.has_problems() {
            let level = "a model, or the top level's `parameters`,";
            checker.report(item.place, RecipeFault::MissingKey { key: "weight", level });
        }
        models.checkpoints.push(RecipeCheckpoint { path, coefficient });
    }
    models
}

fn read_scheme(checker: &mut Checker<'_>, top: &Fields<'_>, models: &Models, is_normalized: bool) -> Option<Scheme> {
    if checker.has_problems() {
        return None;
    }
    let coefficients = models.checkpoints.iter().map(|checkpoint| checkpoint.coefficient.clone()).collect();
    // A sum other than 1 is checked where the plan is made.
    let sum_rule = if is_normalized { SumRule::DivideBySum } else { SumRule::AsGiven };
    match Scheme::parse("custom", SchemeParameters { coefficients, sum_rule, ..Default::default() }) {
        Ok(scheme) => Some(scheme),
        Err(error) => {
            let place = top.get("models").map(|entry| entry.key_place).unwrap_or_default();
            let error = if error == SchemeError::SumZero { SchemeError::RecipeSumZero } else { error };
            checker.report(place, RecipeFault::Scheme(error));
            None
        }
    }
}

/// What the inputs are to be cast to, and the output's type if it is not the input's.
fn read_dtypes(checker: &mut Checker<'_>, top: &Fields<'_>) -> (Option<Dtype>, Option<Dtype>) {
    let mut read = |key: &'static str| {
        let entry = top.get_set(key)?;
        let text = checker.text(key, &entry.node)?;
        match text.strip_prefix("torch.").unwrap_or(&text) {
            "float32" => Some(Dtype::F32),
            "bfloat16" => Some(Dtype::Bf16),
            "float16" => Some(Dtype::F16),
            "float64" => {
                let why = "the output can be f32, bf16 or f16; the sum is exact for any of them";
                refuse(checker, entry.node.place, format!("`{key}: float64`"), why);
                None
            }
            _ => {
                let fault = RecipeFault::UnknownValue { key, value: show(&text), choices: DTYPES };
                checker.report(entry.node.place, fault);
                None
            }
        }
    };
    let (input, output) = (read("dtype"), read("out_dtype"));
    (input, output.or(input))
}

/// The model whose config and tokenizer travel, if the recipe names one.
fn read_side_files(checker: &mut Checker<'_>, top: &Fields<'_>, models: &Models) -> Option<String> {
    let is_model = |path: &str| models.checkpoints.iter().any(|checkpoint| checkpoint.path == path);
    let base_entry = top.get_set("base_model");
    let base = base_entry.and_then(|entry| read_reference(checker, "base_model", entry));
    if let (Some(entry), Some(base)) = (base_entry, &base)
        && !is_model(base)
        && !checker.has_problems()
    {
        let why = "mergekit would add it to the models without a weight; name one of the models, or omit it";
        refuse(checker, entry.node.place, "a `base_model` that is not among the models", why);
    }
    let Some(entry) = top.get_set("tokenizer_source") else { return base };
    let source = checker.text("tokenizer_source", &entry.node)?;
    match source.as_str() {
        "union" => {
            let why = "checkpoints of one run share one vocabulary; name one of the models, or omit the key";
            refuse(checker, entry.node.place, "`tokenizer_source: union`", why);
        }
        "base" if base.is_none() && base_entry.is_none() => {
            let why = "there is no `base_model`; name one of the models instead";
            refuse(checker, entry.node.place, "`tokenizer_source: base`", why);
        }
        "base" => return base,
        path if base.as_deref().is_some_and(|base| base != path) => {
            let why = "the config and tokenizer are copied together; name the same model for both";
            refuse(checker, entry.node.place, "a `tokenizer_source` that is not the `base_model`", why);
        }
        path if !is_model(path) && !checker.has_problems() => {
            let why = "name one of the models, or omit the key";
            refuse(checker, entry.node.place, "a `tokenizer_source` that is not among the models", why);
        }
        _ => {}
    }
    Some(source)
}

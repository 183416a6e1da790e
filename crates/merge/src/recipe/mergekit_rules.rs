//! mergekit's YAML for rules of experts, in mergekit's convention.
//!
//! Facts of mergekit 0.1.5: a parameter is at the model or in the global `parameters`; `density` is 1 unless given;
//! `normalize` and `rescale` have the method's default; the `base_model` is not merged, but for `karcher`, which has no
//! base and counts it as one model more; `int8_mask` changes no result.

use super::checker::{Checker, Fields, Level};
use super::error::RecipeFault;
use super::mergekit_model::{MODEL, read_reference, refuse};
use super::tree::{Entry, Node, NodeValue};
use super::{RecipeCheckpoint, RecipeOption};
use crate::Ratio;
use crate::rule::{Convention, RuleKind};

pub(super) static PARAMETERS: Level = Level {
    name: "the top level's `parameters`",
    keys: &[
        "weight",
        "density",
        "gamma",
        "epsilon",
        "lambda",
        "normalize",
        "rescale",
        "int8_mask",
        "t",
        "normalize_weights",
        "filter_wise",
        "select_topk",
    ],
};
pub(super) static MODEL_PARAMETERS: Level =
    Level { name: "`models[].parameters`", keys: &["weight", "density", "gamma", "epsilon", "t"] };

/// What a recipe of a rule says.
pub(super) struct RuleRecipe {
    pub(super) checkpoints: Vec<RecipeCheckpoint>,
    pub(super) options: Vec<RecipeOption>,
    pub(super) notices: Vec<String>,
}

/// One model that is merged, with its parameters.
struct Model {
    path: String,
    weight: Option<Ratio>,
    density: Option<Ratio>,
    gamma: Option<Ratio>,
    epsilon: Option<Ratio>,
}

fn option(name: &'static str, value: impl Into<String>) -> RecipeOption {
    RecipeOption { name, values: vec![value.into()] }
}

/// Reads the models and parameters of a rule.
pub(super) fn read_rule(checker: &mut Checker<'_>, top: &Fields<'_>, root: &Node, kind: RuleKind) -> RuleRecipe {
    let parameters = top.get_set("parameters").map(|entry| checker.fields("parameters", &entry.node, &PARAMETERS));
    let base = top.get_set("base_model").and_then(|entry| read_reference(checker, "base_model", entry));
    let mut models = read_models(checker, top, (parameters.as_ref(), base.as_deref()), root, kind);
    let mut recipe =
        RuleRecipe { checkpoints: Vec::new(), options: vec![option("rule", kind.to_string())], notices: Vec::new() };
    match base {
        Some(base) if kind == RuleKind::Karcher => {
            recipe
                .notices
                .push("mergekit's `karcher` has no base: `base_model` counts as one of its models".to_owned());
            models.insert(0, Model { path: base, weight: None, density: None, gamma: None, epsilon: None });
        }
        Some(base) => recipe.options.push(option("base", base)),
        None if !kind.works_without_base() && !checker.has_problems() => {
            checker.report(root.place, RecipeFault::MissingKey { key: "base_model", level: "the top level" });
        }
        None => {}
    }
    recipe.options.extend(read_options(checker, parameters.as_ref(), &models, kind));
    recipe.options.push(option("convention", "mergekit"));
    if kind.has_seed() {
        let text = "the random mask has the same distribution as mergekit's but keeps different elements, because the generator differs";
        recipe.notices.push(text.to_owned());
    }
    recipe.checkpoints =
        models.into_iter().map(|model| RecipeCheckpoint { path: model.path, coefficient: model.weight }).collect();
    recipe
}

fn read_options(
    checker: &mut Checker<'_>,
    parameters: Option<&Fields<'_>>,
    models: &[Model],
    kind: RuleKind,
) -> Vec<RecipeOption> {
    let mut options = Vec::new();
    if kind == RuleKind::Sce {
        let entry = parameters.and_then(|parameters| parameters.get_set("select_topk"));
        let share = entry.and_then(|entry| read_number(checker, "select_topk", entry));
        let share = share.map_or_else(|| "1".to_owned(), |share| share.to_string());
        options.push(RecipeOption { name: "density", values: vec![share; models.len()] });
    } else if kind.has_density() {
        let density = |model: &Model| model.density.as_ref().map_or_else(|| "1".to_owned(), ToString::to_string);
        options.push(RecipeOption { name: "density", values: models.iter().map(density).collect() });
    }
    let all = |of: fn(&Model) -> &Option<Ratio>| models.first().and_then(|model| of(model).clone());
    if let Some(gamma) = all(|model| &model.gamma).filter(|_| kind.has_gamma()) {
        options.push(option("gamma", gamma.to_string()));
    }
    if let Some(epsilon) = all(|model| &model.epsilon).filter(|_| kind.has_epsilon()) {
        options.push(option("epsilon", epsilon.to_string()));
    }
    let Some(parameters) = parameters else { return options };
    if let Some(entry) = parameters.get_set("lambda")
        && let Some(lambda) = read_number(checker, "lambda", entry)
        && !lambda.is_one()
    {
        options.push(option("lambda", lambda.to_string()));
    }
    let mut flag = |key: &str| parameters.get_set(key).and_then(|entry| checker.flag(key, &entry.node));
    let (normalize, rescale) = (flag("normalize"), flag("rescale"));
    let _ = flag("int8_mask");
    let (whole, filters) = (flag("normalize_weights"), flag("filter_wise"));
    if let Some(normalize) =
        normalize.filter(|normalize| kind.has_lambda() && *normalize != kind.divides(Convention::Mergekit))
    {
        options.push(option("divide", if normalize { "yes" } else { "no" }));
    }
    let is_default = kind.has_seed();
    if let Some(rescale) = rescale.filter(|rescale| kind.has_density() && *rescale != is_default) {
        options.push(option("rescale", if rescale { "l1" } else { "none" }));
    }
    for (key, value, expected) in [("normalize_weights", whole, true), ("filter_wise", filters, false)] {
        if let (Some(entry), true) = (parameters.get_set(key), value.is_some_and(|value| value != expected)) {
            refuse(checker, entry.node.place, format!("`{key}: {}`", !expected), "omit the key");
        }
    }
    options
}

/// One number. A gradient or a filter gives several.
fn read_number(checker: &mut Checker<'_>, key: &'static str, entry: &Entry) -> Option<Ratio> {
    if matches!(entry.node.value, NodeValue::List(_) | NodeValue::Table(_)) {
        let why = "a value applies to the whole model; give one number";
        refuse(checker, entry.node.place, format!("a `{key}` that differs between layers or tensors"), why);
        return None;
    }
    checker.ratio(key, &entry.node)
}

fn read_models(
    checker: &mut Checker<'_>,
    top: &Fields<'_>,
    (global, base): (Option<&Fields<'_>>, Option<&str>),
    root: &Node,
    kind: RuleKind,
) -> Vec<Model> {
    let mut models: Vec<Model> = Vec::new();
    let Some(entry) = top.get_set("models") else {
        if !checker.has_problems() {
            checker.report(root.place, RecipeFault::MissingKey { key: "models", level: "the top level" });
        }
        return models;
    };
    let weight_key = if kind == RuleKind::Slerp { "t" } else { "weight" };
    let mut read_shared = |key: &'static str| {
        let entry = global.and_then(|all| all.get_set(key));
        (key, entry.and_then(|entry| read_number(checker, key, entry)))
    };
    let shared = [weight_key, "density", "gamma", "epsilon"].map(&mut read_shared);
    for item in checker.list("models", "a list of tables with `model`", &entry.node).unwrap_or(&[]) {
        let fields = checker.fields("models", item, &MODEL);
        let own =
            fields.get_set("parameters").map(|entry| checker.fields("parameters", &entry.node, &MODEL_PARAMETERS));
        let Some(model) = fields.get("model") else {
            checker.report(item.place, RecipeFault::MissingKey { key: "model", level: MODEL.name });
            continue;
        };
        let Some(path) = read_reference(checker, "model", model) else { continue };
        if Some(path.as_str()) == base {
            continue;
        }
        let mut number = |key: &'static str| match own.as_ref().and_then(|own| own.get_set(key)) {
            Some(entry) => read_number(checker, key, entry),
            None => shared.iter().find(|(name, _)| *name == key).and_then(|(_, value)| value.clone()),
        };
        let weight = number(weight_key).filter(|_| kind.has_coefficients() && kind != RuleKind::Karcher);
        let (density, gamma, epsilon) = (number("density"), number("gamma"), number("epsilon"));
        let needs_weight = kind.has_coefficients() && kind != RuleKind::Karcher;
        if weight.is_none() && needs_weight && !checker.has_problems() {
            let level = "a model, or the top level's `parameters`,";
            checker.report(item.place, RecipeFault::MissingKey { key: weight_key, level });
        }
        let differs = |of: fn(&Model) -> &Option<Ratio>, value: &Option<Ratio>| {
            models.first().is_some_and(|first| of(first) != value)
        };
        if differs(|model| &model.gamma, &gamma) || differs(|model| &model.epsilon, &epsilon) {
            let why = "one value applies to all experts; give it in the global `parameters`";
            refuse(checker, item.place, "a `gamma` or `epsilon` that differs between models", why);
        }
        models.push(Model { path, weight, density, gamma, epsilon });
    }
    models
}

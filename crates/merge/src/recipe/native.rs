//! This program's own recipes: the options of `thalweg merge` as keys, in TOML or YAML.

use super::checker::{Checker, Dashes, Fields, Level};
use super::error::{RecipeError, RecipeFault};
use super::tree::{Entry, Node, Place};
use super::{Recipe, RecipeCheckpoint, RecipeDialect, RecipeOption, RecipeSources};
use thalweg_tensor::parse_size;

use crate::Ratio;
use crate::output_kind::FORMAT_CHOICES;
use crate::plan::OutputDtype;
use crate::scheme::{CoefficientOrder, Scheme, SchemeError, SchemeParameters, SumRule};

/// `kind` of a recipe, where it is given.
pub(super) const RECIPE_KIND: &str = "thalweg-recipe";
/// `version` of the recipes that are read.
pub(super) const RECIPE_VERSION: &str = "1";

/// What an option's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OptionKind {
    Text,
    TextList,
    Count,
    CountList,
    Number,
    NumberList,
    Flag,
    Size,
    Choice(&'static [&'static str]),
}

/// Where an option applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Only where checkpoints are chosen from a run.
    Run,
    /// Where there is a run, or snapshots of averages of one.
    RunOrAverages,
    Any,
}

/// Every name of an element type.
const DTYPE_NAMES: [&str; OutputDtype::NAMES.len()] = {
    let mut names = [""; OutputDtype::NAMES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = OutputDtype::NAMES[i].0;
        i += 1;
    }
    names
};

const OPTIONS: &[(&str, OptionKind, Scope)] = &[
    ("last", OptionKind::Count, Scope::Run),
    ("count", OptionKind::Count, Scope::Run),
    ("interval_steps", OptionKind::Count, Scope::Run),
    ("interval_tokens", OptionKind::Count, Scope::Run),
    ("duration_steps", OptionKind::Count, Scope::Run),
    ("duration_tokens", OptionKind::Count, Scope::Run),
    ("end_step", OptionKind::Count, Scope::RunOrAverages),
    ("end_tokens", OptionKind::Count, Scope::RunOrAverages),
    ("from_step", OptionKind::Count, Scope::Run),
    ("to_step", OptionKind::Count, Scope::Run),
    ("every", OptionKind::Count, Scope::Run),
    ("steps", OptionKind::CountList, Scope::Run),
    ("tokens_per_step", OptionKind::Count, Scope::Run),
    ("log", OptionKind::Text, Scope::Run),
    ("log_columns", OptionKind::TextList, Scope::Run),
    ("log_every", OptionKind::Count, Scope::Run),
    ("stable", OptionKind::Text, Scope::Run),
    ("checkpoint_pattern", OptionKind::Text, Scope::Any),
    ("scheme", OptionKind::Text, Scope::Any),
    ("alpha", OptionKind::Number, Scope::Any),
    ("floor", OptionKind::Number, Scope::Any),
    ("sigma_rel", OptionKind::Number, Scope::Any),
    ("coefficients", OptionKind::NumberList, Scope::Any),
    ("normalize", OptionKind::Flag, Scope::Any),
    ("allow_sum", OptionKind::Flag, Scope::Any),
    ("order", OptionKind::Text, Scope::Any),
    ("rule", OptionKind::Text, Scope::Any),
    ("base", OptionKind::Text, Scope::Any),
    ("density", OptionKind::NumberList, Scope::Any),
    ("lambda", OptionKind::Number, Scope::Any),
    ("seed", OptionKind::Count, Scope::Any),
    ("gamma", OptionKind::Number, Scope::Any),
    ("epsilon", OptionKind::Number, Scope::Any),
    ("convention", OptionKind::Choice(&["paper", "mergekit"]), Scope::Any),
    ("divide", OptionKind::Choice(&["yes", "no"]), Scope::Any),
    ("rescale", OptionKind::Choice(&["none", "inverse", "l1"]), Scope::Any),
    ("dtype", OptionKind::Choice(&DTYPE_NAMES), Scope::Any),
    ("format", OptionKind::Choice(&FORMAT_CHOICES), Scope::Any),
    ("optimizer", OptionKind::Choice(&["drop", "newest", "average"]), Scope::Any),
    ("out_shard_size", OptionKind::Size, Scope::Any),
    ("non_float", OptionKind::Choice(&["error", "newest"]), Scope::Any),
    ("router", OptionKind::Choice(&["average", "newest"]), Scope::Any),
    ("allow_config", OptionKind::TextList, Scope::Any),
    ("drop", OptionKind::TextList, Scope::Any),
    ("take_newest", OptionKind::TextList, Scope::Any),
    ("code", OptionKind::Flag, Scope::Any),
    ("allow_non_finite", OptionKind::Flag, Scope::Any),
    ("digest", OptionKind::Choice(&["blake3", "xxh3", "none"]), Scope::Any),
    ("side_files_from", OptionKind::Text, Scope::Any),
    ("no_model_card", OptionKind::Flag, Scope::Any),
    ("to_huggingface", OptionKind::Flag, Scope::Any),
    ("hf_assets", OptionKind::Text, Scope::Any),
];

/// All keys of the top level: the header, the sources and the options above.
static TOP: Level = Level {
    name: "the top level",
    keys: &[
        "kind",
        "version",
        "run",
        "checkpoints",
        "from_averages",
        "last",
        "count",
        "interval_steps",
        "interval_tokens",
        "duration_steps",
        "duration_tokens",
        "end_step",
        "end_tokens",
        "from_step",
        "to_step",
        "every",
        "steps",
        "tokens_per_step",
        "log",
        "log_columns",
        "log_every",
        "stable",
        "checkpoint_pattern",
        "scheme",
        "alpha",
        "floor",
        "sigma_rel",
        "coefficients",
        "normalize",
        "allow_sum",
        "order",
        "rule",
        "base",
        "density",
        "lambda",
        "seed",
        "gamma",
        "epsilon",
        "convention",
        "divide",
        "rescale",
        "dtype",
        "format",
        "optimizer",
        "out_shard_size",
        "non_float",
        "router",
        "allow_config",
        "drop",
        "take_newest",
        "code",
        "allow_non_finite",
        "digest",
        "side_files_from",
        "no_model_card",
        "to_huggingface",
        "hf_assets",
    ],
};
static CHECKPOINT: Level = Level { name: "`checkpoints[]`", keys: &["path", "coefficient"] };
static LEVELS: [&Level; 2] = [&TOP, &CHECKPOINT];

/// Whether a key of the top level belongs to this dialect.
pub(super) fn is_native_key(key: &str) -> bool {
    TOP.keys.contains(&key.replace('-', "_").as_str())
}

/// Whether the keys of the top level are the header, the sources and every option.
#[cfg(test)]
pub(super) fn keys_agree() -> bool {
    let first = ["kind", "version", "run", "checkpoints", "from_averages"];
    TOP.keys.iter().copied().eq(first.into_iter().chain(OPTIONS.iter().map(|(name, ..)| *name)))
}

/// Reads a tree as a native recipe.
pub(super) fn read_native(text: &str, root: &Node) -> Result<Recipe, RecipeError> {
    let mut checker = Checker::new(text, &LEVELS, Dashes::AsUnderscores);
    let top = checker.fields("the recipe", root, &TOP);
    check_header(&mut checker, &top);
    let sources = read_sources(&mut checker, &top, root.place);
    let (is_run, is_averages) = match &sources {
        None => (true, true),
        Some(sources) => (matches!(sources, RecipeSources::Run { .. }), matches!(sources, RecipeSources::Averages(_))),
    };
    let mut options = Vec::new();
    for (name, kind, scope) in OPTIONS {
        let Some(entry) = top.get(name) else { continue };
        let is_idle = match scope {
            Scope::Any => false,
            Scope::Run => !is_run,
            Scope::RunOrAverages => !is_run && !is_averages,
        };
        if is_idle {
            let other = if top.get("checkpoints").is_some() { "checkpoints" } else { "from_averages" };
            checker.report(entry.key_place, RecipeFault::Conflict { key: name, other });
        }
        if let Some(values) = read_option(&mut checker, name, *kind, entry) {
            options.push(RecipeOption { name, values });
        }
    }
    // A flag that is off is the same as none.
    options.retain(|option| option.values.first().is_none_or(|value| value != "false"));
    let scheme = read_scheme(&mut checker, &top, sources.as_ref());
    if let (Some(entry), Some(order)) = (top.get("order"), options.iter().find(|option| option.name == "order"))
        && let Err(error) = order.values.concat().parse::<CoefficientOrder>()
    {
        checker.report(entry.node.place, RecipeFault::Scheme(error));
    }
    let sources = sources.unwrap_or(RecipeSources::Checkpoints(Vec::new()));
    let dialect = RecipeDialect::Native;
    checker.finish(Recipe { dialect, sources, options, scheme, input_dtype: None, notices: Vec::new() })
}

fn check_header(checker: &mut Checker<'_>, top: &Fields<'_>) {
    if let Some(entry) = top.get("kind") {
        checker.choice("kind", &entry.node, &[RECIPE_KIND]);
    }
    if let Some(entry) = top.get("version") {
        let version = checker.text_or_number("version", &entry.node);
        if version.as_ref().is_some_and(|version| version != RECIPE_VERSION) {
            let value = super::show(&version.unwrap_or_default());
            let fault = RecipeFault::UnknownValue { key: "version", value, choices: &[RECIPE_VERSION] };
            checker.report(entry.node.place, fault);
        }
    }
}

fn read_sources(checker: &mut Checker<'_>, top: &Fields<'_>, place: Place) -> Option<RecipeSources> {
    let given: Vec<(&'static str, &Entry)> = ["run", "checkpoints", "from_averages"]
        .into_iter()
        .filter_map(|key| top.get(key).map(|entry| (key, entry)))
        .collect();
    match given.as_slice() {
        [] => {
            // Of a misspelt key only that is said.
            if !checker.has_problems() {
                let key = "run` or `checkpoints";
                checker.report(place, RecipeFault::MissingKey { key, level: "a recipe" });
            }
            None
        }
        [(key, entry)] => read_source(checker, key, entry),
        [(other, _), (key, entry), ..] => {
            checker.report(entry.key_place, RecipeFault::Conflict { key, other });
            None
        }
    }
}

fn read_source(checker: &mut Checker<'_>, key: &'static str, entry: &Entry) -> Option<RecipeSources> {
    match key {
        "run" => checker.text(key, &entry.node).map(|path| RecipeSources::Run { path }),
        "checkpoints" => read_checkpoints(checker, entry).map(RecipeSources::Checkpoints),
        _ => {
            const EXPECTED: &str = "a list of `SIGMA=RUN`";
            let items = checker.list(key, EXPECTED, &entry.node)?;
            let mut runs = Vec::with_capacity(items.len());
            for item in items {
                let text = checker.text(key, item)?;
                let Some((sigma_rel, run)) = text.split_once('=').filter(|(_, run)| !run.is_empty()) else {
                    checker.wrong_scalar(key, EXPECTED, item, &text);
                    return None;
                };
                match sigma_rel.parse::<Ratio>() {
                    Ok(sigma_rel) => runs.push((sigma_rel, run.to_owned())),
                    Err(error) => checker.report(item.place, RecipeFault::Scheme(error.into())),
                }
            }
            Some(RecipeSources::Averages(runs))
        }
    }
}

fn read_checkpoints(checker: &mut Checker<'_>, entry: &Entry) -> Option<Vec<RecipeCheckpoint>> {
    let items = checker.list("checkpoints", "a list of paths, or of tables with `path`", &entry.node)?;
    let mut checkpoints = Vec::with_capacity(items.len());
    for item in items {
        if !matches!(item.value, super::tree::NodeValue::Table(_)) {
            let path = checker.text("checkpoints", item)?;
            checkpoints.push(RecipeCheckpoint { path, coefficient: None });
            continue;
        }
        let fields = checker.fields("checkpoints", item, &CHECKPOINT);
        let coefficient = fields.get("coefficient").and_then(|entry| checker.ratio("coefficient", &entry.node));
        match fields.get("path") {
            Some(entry) => {
                let path = checker.text("path", &entry.node)?;
                checkpoints.push(RecipeCheckpoint { path, coefficient });
            }
            None => checker.report(item.place, RecipeFault::MissingKey { key: "path", level: CHECKPOINT.name }),
        }
    }
    let n_given = checkpoints.iter().filter(|checkpoint| checkpoint.coefficient.is_some()).count();
    if n_given != 0 && n_given != checkpoints.len() && !checker.has_problems() {
        let without = items.iter().zip(&checkpoints).find(|(_, checkpoint)| checkpoint.coefficient.is_none());
        let place = without.map_or(entry.key_place, |(item, _)| item.place);
        let level = "every checkpoint, or none,";
        checker.report(place, RecipeFault::MissingKey { key: "coefficient", level });
    }
    Some(checkpoints)
}

fn read_option(checker: &mut Checker<'_>, name: &'static str, kind: OptionKind, entry: &Entry) -> Option<Vec<String>> {
    let node = &entry.node;
    let one = |value: Option<String>| value.map(|value| vec![value]);
    match kind {
        OptionKind::Text => one(checker.text(name, node)),
        OptionKind::Count => one(checker.count(name, node)),
        OptionKind::Number => one(checker.ratio(name, node).map(|ratio| ratio.to_string())),
        OptionKind::Size => one(read_size(checker, name, node)),
        OptionKind::Choice(choices) => one(checker.choice(name, node, choices)),
        OptionKind::Flag => one(checker.flag(name, node).map(|value| value.to_string())),
        OptionKind::TextList => {
            let items = checker.list(name, "a list of texts", node)?;
            items.iter().map(|item| checker.text(name, item)).collect()
        }
        OptionKind::CountList => {
            let items = checker.list(name, "a list of counts", node)?;
            items.iter().map(|item| checker.count(name, item)).collect()
        }
        OptionKind::NumberList => {
            let items = checker.list(name, "a list of numbers, oldest checkpoint first", node)?;
            items.iter().map(|item| checker.ratio(name, item).map(|ratio| ratio.to_string())).collect()
        }
    }
}

fn read_size(checker: &mut Checker<'_>, name: &'static str, node: &Node) -> Option<String> {
    let text = checker.text_or_number(name, node)?;
    if parse_size(&text).is_err() {
        checker.wrong_scalar(name, "a size such as 5GB, 5GiB or a number of bytes", node, &text);
        return None;
    }
    Some(text)
}

/// The scheme, built here so that its errors show the line they come from. Numbers that do not read were reported
/// by their own readers.
fn read_scheme(checker: &mut Checker<'_>, top: &Fields<'_>, sources: Option<&RecipeSources>) -> Option<Scheme> {
    // The coefficients of a rule belong to its experts: they may have any sum.
    if checker.has_problems() || top.get("rule").is_some() {
        return None;
    }
    let mut ratio = |key| top.get(key).and_then(|entry| checker.ratio(key, &entry.node));
    let (alpha, floor, sigma_rel) = (ratio("alpha"), ratio("floor"), ratio("sigma_rel"));
    let listed = top.get("coefficients").and_then(|entry| {
        let items = checker.list("coefficients", "a list of numbers", &entry.node)?;
        items.iter().map(|item| checker.ratio("coefficients", item)).collect::<Option<Vec<_>>>()
    });
    let beside = sources.and_then(RecipeSources::coefficients);
    if let (Some(_), Some(entry)) = (&beside, top.get("coefficients")) {
        checker.report(entry.key_place, RecipeFault::Conflict { key: "coefficients", other: "coefficient" });
        return None;
    }
    let is_normalized = top.get("normalize").and_then(|entry| checker.flag("normalize", &entry.node));
    let is_allowed = top.get("allow_sum").and_then(|entry| checker.flag("allow_sum", &entry.node)) == Some(true);
    let coefficients = beside.or(listed);
    // A sum other than 1 is checked where the plan is made, because options beside the recipe may allow it.
    let sum_rule = match is_normalized {
        Some(true) => SumRule::DivideBySum,
        _ if is_allowed || coefficients.is_some() => SumRule::AsGiven,
        _ => SumRule::MustBeOne,
    };
    let name = match top.get("scheme") {
        Some(entry) => Some(checker.text("scheme", &entry.node)?),
        None if coefficients.is_some() => Some("custom".to_owned()),
        None if alpha.is_some() || floor.is_some() || sigma_rel.is_some() => Some("sma".to_owned()),
        None if is_normalized == Some(true) || is_allowed => Some("sma".to_owned()),
        None => None,
    }?;
    let n_coefficients = coefficients.as_ref().map(Vec::len);
    let scheme = Scheme::parse(&name, SchemeParameters { alpha, floor, sigma_rel, coefficients, sum_rule });
    let checked = scheme.and_then(|scheme| match (sources, n_coefficients) {
        (Some(RecipeSources::Checkpoints(checkpoints)), Some(n)) if n != checkpoints.len() => {
            Err(SchemeError::CountMismatch { n_coefficients: n, n_checkpoints: checkpoints.len() })
        }
        _ => Ok(scheme),
    });
    match checked {
        Ok(scheme) => Some(scheme),
        Err(error) => {
            checker.report(place_of_error(top, &error), RecipeFault::Scheme(error));
            None
        }
    }
}

fn place_of_error(top: &Fields<'_>, error: &SchemeError) -> Place {
    let key = match error {
        SchemeError::AlphaOutOfRange { .. } => "alpha",
        SchemeError::FloorOutOfRange { .. } => "floor",
        SchemeError::SigmaRelOutOfRange { .. } => "sigma_rel",
        SchemeError::CountMismatch { .. } | SchemeError::AllZero => "coefficients",
        SchemeError::SumZero => "normalize",
        SchemeError::ParameterUnused { parameter, .. } | SchemeError::ParameterTwice { parameter, .. } => {
            if *parameter == "sigma-rel" { "sigma_rel" } else { parameter }
        }
        _ => "scheme",
    };
    let keys = [key, "scheme", "coefficients", "checkpoints"];
    keys.iter().find_map(|key| top.get(key)).map_or(Place { line: 1, column: 1, n_chars: 1 }, |entry| {
        let is_value = entry.node.place.line == entry.key_place.line;
        if is_value { entry.node.place } else { entry.key_place }
    })
}

/// The recipe as TOML text that reads back as the same recipe.
pub(super) fn write_native(recipe: &Recipe) -> String {
    let mut text = format!("kind = {}\nversion = {RECIPE_VERSION}\n\n", quote(RECIPE_KIND));
    if let Some(dtype) = recipe.input_dtype {
        let name = dtype.name().to_lowercase();
        text.push_str(&format!("# the sources must not change when they are cast to {name}\n"));
    }
    match &recipe.sources {
        RecipeSources::Run { path } => text.push_str(&format!("run = {}\n", quote(path))),
        RecipeSources::Averages(runs) => {
            let runs = runs.iter().map(|(sigma_rel, run)| quote(&format!("{sigma_rel}={run}")));
            text.push_str(&format!("from_averages = [{}]\n", runs.collect::<Vec<_>>().join(", ")));
        }
        RecipeSources::Checkpoints(checkpoints) => {
            text.push_str("checkpoints = [\n");
            for RecipeCheckpoint { path, coefficient } in checkpoints {
                let path = quote(path);
                text.push_str(&match coefficient {
                    Some(coefficient) => {
                        format!("  {{ path = {path}, coefficient = {} }},\n", bare_number(&coefficient.to_string()))
                    }
                    None => format!("  {{ path = {path} }},\n"),
                });
            }
            text.push_str("]\n");
        }
    }
    for option in &recipe.options {
        let Some((_, kind, _)) = OPTIONS.iter().find(|(name, ..)| *name == option.name) else { continue };
        let show = |value: &String| match kind {
            OptionKind::Flag => value.clone(),
            OptionKind::Count | OptionKind::CountList | OptionKind::Number | OptionKind::NumberList => {
                bare_number(value)
            }
            _ => quote(value),
        };
        let values: Vec<String> = option.values.iter().map(show).collect();
        let is_list = matches!(kind, OptionKind::TextList | OptionKind::CountList | OptionKind::NumberList);
        let value = if is_list { format!("[{}]", values.join(", ")) } else { values.concat() };
        text.push_str(&format!("{} = {value}\n", option.name));
    }
    text
}

/// A decimal number as TOML writes it; anything else in quotes.
fn bare_number(text: &str) -> String {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
    if is_number(whole) && is_number(decimals) && !has_leading_zero { text.to_owned() } else { quote(text) }
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

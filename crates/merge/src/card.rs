//! The README.md of an output: what it was made from, so that the folder explains itself.

use std::fmt::Write;

use thalweg_tensor::counted;

use crate::plan::{CONVERT_SCHEME, OutputPlan};
use crate::rule::PlanRule;

pub(crate) const CARD_NAME: &str = "README.md";

/// A model card in Markdown: scheme, checkpoints, coefficients, and the paper.
pub fn model_card(plan: &OutputPlan, tool: &str) -> String {
    let mut card = String::new();
    // Writing to a String cannot fail.
    let is_conversion = plan.scheme == CONVERT_SCHEME;
    let n = plan.mean.as_ref().map_or(plan.sources.len(), |mean| mean.checkpoints.len());
    let (tag, title, what) = match (is_conversion, n) {
        (true, _) => ("", "Converted checkpoint", "The tensors of one checkpoint in other files.".to_owned()),
        (false, 1) => ("- merge\n", "Merged checkpoint", "One checkpoint, multiplied by a coefficient.".to_owned()),
        (false, n) => {
            ("- merge\n", "Merged checkpoint", format!("Weighted average of {n} checkpoints of one training run."))
        }
    };
    let (tag, title, what) = match &plan.rule {
        None => (tag, title, what),
        Some(rule) => ("- merge\n", "Merged experts", describe_rule(plan, rule)),
    };
    let _ = write!(
        card,
        "---\ntags:\n{tag}- thalweg\n---\n\n# {title}\n\n{what} Every element is rounded once.\n\nScheme: `{}`. \
         Made by {tool}; `thalweg verify` checks this folder against its receipt, `thalweg.json`.\n\n| step | tokens | \
         coefficient | checkpoint |\n|---|---|---|---|\n",
        plan.scheme,
    );
    // A mean of kept sums is a mean of checkpoints.
    let of_mean = plan.mean.as_ref().map(|_| 1.0 / f64::from(u32::try_from(n).unwrap_or(u32::MAX)));
    let coefficients = plan.sources.iter().map(|source| source.coefficient);
    let coefficients: Vec<f64> = of_mean.map_or_else(|| coefficients.collect(), |share| vec![share; n]);
    for (source, coefficient) in plan.checkpoints().iter().zip(coefficients) {
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        // The last two parts of the path say which run and checkpoint; the rest is private.
        let parts: Vec<_> = source.path.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
        let name = parts.into_iter().rev().collect::<Vec<_>>().join("/");
        let name: String = name.chars().filter(|c| !c.is_control() && !matches!(c, '|' | '`')).collect();
        let (step, tokens) = (number(source.step), number(source.tokens));
        let _ = writeln!(card, "| {step} | {tokens} | {coefficient} | `{name}` |");
    }
    if let Some(rule) = &plan.rule {
        let entry = rule.kind.entry();
        let _ = write!(card, "\n{}: `{}` ({}).\n", entry.name, entry.equation, entry.source);
        return card;
    }
    let sum = if plan.mean.is_some() { "1" } else { plan.sum.as_str() };
    let scales = if sum == "1" { "" } else { ", which scales the model" };
    let _ = write!(card, "\nThe coefficients sum to {sum}{scales}.\n");
    if !is_conversion {
        card.push_str(
            "\nMerging checkpoints of the constant-learning-rate phase can replace annealing: Li et al. 2025, *Model \
             Merging in Pre-training of Large Language Models* (arXiv 2505.12082).\n",
        );
    }
    card
}

/// What a rule merged.
fn describe_rule(plan: &OutputPlan, rule: &PlanRule) -> String {
    let n_experts = rule.experts(plan.sources.len()).count();
    let base = if rule.base.is_some() { " with their base" } else { "" };
    format!("{} merged{base} by the rule `{}`.", counted(n_experts, "expert"), plan.scheme)
}

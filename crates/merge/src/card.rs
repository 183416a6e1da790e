//! The README.md of an output: what it was made from, so that the folder explains itself.

use std::fmt::Write;

use crate::plan::OutputPlan;

/// A model card in Markdown: scheme, checkpoints, coefficients, and the paper.
pub fn model_card(plan: &OutputPlan, tool: &str) -> String {
    let mut card = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        card,
        "---\ntags:\n- merge\n- thalweg\n---\n\n# Merged checkpoint\n\nWeighted average of {} checkpoints of one \
         training run, every element correctly rounded once.\n\nScheme: `{}`. Made by {tool}; `thalweg verify` checks this \
         folder against its receipt, `thalweg.json`.\n\n| step | tokens | coefficient | checkpoint |\n|---|---|---|---|\n",
        plan.sources.len(),
        plan.scheme,
    );
    for source in &plan.sources {
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        // The last two parts of the path say which run and checkpoint; the rest is private.
        let parts: Vec<_> = source.path.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
        let name = parts.into_iter().rev().collect::<Vec<_>>().join("/");
        let name: String = name.chars().filter(|c| !c.is_control() && !matches!(c, '|' | '`')).collect();
        let (step, tokens) = (number(source.step), number(source.tokens));
        let _ = writeln!(card, "| {step} | {tokens} | {} | `{name}` |", source.coefficient);
    }
    let _ = write!(
        card,
        "\nThe coefficients sum to {}{}.\n",
        plan.sum,
        if plan.sum == "1" { "" } else { ", which scales the model" }
    );
    card.push_str(
        "\nMerging checkpoints of the constant-learning-rate phase stands in for annealing: Li et al. 2025, *Model \
         Merging in Pre-training of Large Language Models* (arXiv 2505.12082).\n",
    );
    card
}

//! What other programs found, compared: `thalweg eval --results`, and the results of `--eval-command`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_eval::external::{
    ExternalComparison, ExternalResults, ExternalScore, POWER, Pairing, Verdict, adjust_results, compare_results,
    find_results, read_results_file,
};
use thalweg_study::hub_results::write_hub_results;
use thalweg_study::text::or_dash;

use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::{Messages, with_fields};

/// Reads and compares results; `card` is the folder of the model that the last ones are about.
pub(crate) fn run(paths: &[PathBuf], card: Option<&Path>, world: &World<'_>) -> Result<Outcome, Error> {
    let all = paths.iter().map(|path| open(path, world)).collect::<Result<Vec<_>, _>>()?;
    for (path, found) in paths.iter().zip(&all) {
        tell_refused(path, found, world.messages);
    }
    let written = match (card, all.last()) {
        (Some(model), Some(last)) => Some(write_hub_results(&*world.storage, model, last)?),
        _ => None,
    };
    let outcome = tell_results(paths, &all, world);
    if let Some(path) = written {
        world.note(format!("the results are in `{}` for the Hugging Face Hub", path.display()));
    }
    Ok(outcome)
}

fn open(path: &Path, world: &World<'_>) -> Result<ExternalResults, Error> {
    let file = find_results(&*world.storage, path)?.ok_or_else(|| {
        Error::usage_with_hint(
            format!("`{}` has no results", path.display()),
            "give a file of results, or the folder that the evaluator wrote",
        )
    })?;
    Ok(read_results_file(&*world.storage, &file)?)
}

/// Notes which scores cannot be used, and which have no items. The others are kept.
pub(crate) fn tell_refused(path: &Path, found: &ExternalResults, messages: &Messages) {
    for refused in &found.refused {
        messages.note(format!("`{}`: `{}` is left out: {}", path.display(), refused.task, refused.why));
    }
    for note in &found.notes {
        messages.note(format!("`{}`: {note}", path.display()));
    }
}

/// Prints the scores of each, and the gains of all others over the first.
pub(crate) fn tell_results(paths: &[PathBuf], all: &[ExternalResults], world: &World<'_>) -> Outcome {
    let Some((first, others)) = all.split_first() else { return Outcome::Done };
    let mut compared: Vec<Vec<ExternalComparison>> = others.iter().map(|other| compare_results(first, other)).collect();
    adjust_results(&mut compared.iter_mut().flatten().collect::<Vec<_>>());
    world.answer(&document(paths, all, &compared), &text(paths, all, &compared))
}

fn document(paths: &[PathBuf], all: &[ExternalResults], compared: &[Vec<ExternalComparison>]) -> Value {
    let (mut scores, mut refused, mut comparisons) = (Vec::new(), Vec::new(), Vec::new());
    for (path, found) in paths.iter().zip(all) {
        let row = |score| with_fields(json!({"checkpoint": path}), score);
        scores.extend(found.scores.iter().map(row));
        refused
            .extend(found.refused.iter().map(|one| json!({"checkpoint": path, "task": one.task, "reason": one.why})));
    }
    for (path, found) in paths.iter().skip(1).zip(compared) {
        comparisons.extend(found.iter().map(|one| {
            let n_left_out = match one.pairing {
                Pairing::ByItem { n_left_out } => Some(n_left_out),
                Pairing::Unpaired => None,
            };
            let how = json!({
                "paired": n_left_out.is_some(), "n_left_out": n_left_out,
                "verdict": one.verdict().map(|verdict| verdict.to_string()),
            });
            with_fields(with_fields(json!({"a": paths[0], "b": path}), one), &how)
        }));
    }
    json!({
        "kind": "thalweg-eval", "version": 1, "scores": scores, "refused": refused, "power": POWER,
        "comparisons": comparisons,
    })
}

fn text(paths: &[PathBuf], all: &[ExternalResults], compared: &[Vec<ExternalComparison>]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (path, found) in paths.iter().zip(all) {
        let _ =
            writeln!(text, "{}\n  {:<32} {:>10} {:>10} {:>7}", path.display(), "task", "value", "std. err.", "items");
        found.scores.iter().for_each(|score| text.push_str(&row(score)));
    }
    for (path, found) in paths.iter().skip(1).zip(compared) {
        let (a, b) = (paths[0].display(), path.display());
        let _ = writeln!(text, "\ngain of {b}\nover {a} (positive is better)");
        let head = ("task", "gain", "95 % interval", "detectable", "items", "verdict");
        let _ =
            writeln!(text, "  {:<32} {:>10}  {:<20} {:>10} {:>10}  {}", head.0, head.1, head.2, head.3, head.4, head.5);
        found.iter().for_each(|one| text.push_str(&comparison_row(one)));
    }
    if compared.iter().flatten().any(|one| one.smallest_difference.is_some()) {
        text.push_str(
            "\nVerdicts use p < 0.05 after Holm's adjustment. Detectable is the smallest true difference that such a\n\
             comparison would find 80 % of the time.\n",
        );
    }
    text
}

fn row(score: &ExternalScore) -> String {
    let error = or_dash(score.standard_error, |error| format!("{error:.4}"));
    let n = or_dash(score.n, |n| n.to_string());
    format!("  {:<32} {:>10.4} {error:>10} {n:>7}\n", score.task, score.value)
}

fn comparison_row(one: &ExternalComparison) -> String {
    let interval = or_dash(one.interval_95, |[low, high]| format!("[{low:+.4}, {high:+.4}]"));
    let smallest = or_dash(one.smallest_difference, |smallest| format!("{smallest:.4}"));
    let items = match (one.pairing, one.n) {
        (Pairing::ByItem { .. }, Some(n)) => n.to_string(),
        _ => "not paired".to_owned(),
    };
    let verdict = or_dash(one.verdict().as_ref(), Verdict::to_string);
    format!("  {:<32} {:>+10.4}  {interval:<20} {smallest:>10} {items:>10}  {verdict}\n", one.task, one.gain)
}

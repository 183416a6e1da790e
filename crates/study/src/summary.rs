//! The report as a short table for a terminal.

use std::fmt::Write;

use crate::report::{GainVerdict, Report, Role, ScoredModel, Split};
use crate::verdict::{find_verdict, headline_merge};

/// The answer and the rows behind it: raw, the best window of each scheme by the text that decided, annealed.
pub fn summary_text(report: &Report) -> String {
    let verdict = find_verdict(report);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:<30} {:>10} {:>12}   {:<22}", "model", "test loss", "gain", "95 % interval");
    for model in rows(report) {
        let _ = writeln!(text, "{}", row(report, model));
    }
    let _ = writeln!(text, "\n{}. {}", verdict.word, verdict.merge);
    if let Some(anneal) = verdict.anneal {
        let _ = writeln!(text, "{anneal}");
    }
    text
}

fn rows(report: &Report) -> Vec<&ScoredModel> {
    let mut rows: Vec<&ScoredModel> = report.model(&report.baseline).into_iter().collect();
    let mut best: Vec<&ScoredModel> = Vec::new();
    let deciding = report.choice.as_ref().map_or(Split::Test, |choice| choice.by);
    let loss = |model: &ScoredModel| model.score(deciding).map_or(f64::INFINITY, |score| score.nll_nats);
    let scheme = |model: &ScoredModel| model.merge.as_ref().map(|merge| merge.scheme.clone());
    let end = headline_merge(report).map_or(0, |model| model.step);
    for model in report.models.iter().filter(|model| model.role == Role::Merged && model.step == end) {
        match best.iter_mut().find(|known| scheme(known) == scheme(model)) {
            Some(known) if loss(model) < loss(known) => *known = model,
            Some(_) => {}
            None => best.push(model),
        }
    }
    rows.extend(best);
    rows.extend(report.of_role(Role::Annealed).last().copied());
    rows
}

fn row(report: &Report, model: &ScoredModel) -> String {
    let loss = model.score(Split::Test).map_or_else(|| "-".to_owned(), |score| format!("{:.4}", score.nll_nats));
    let is_chosen = report.choice.as_ref().is_some_and(|choice| choice.model == model.name);
    let name = if is_chosen { format!("{} *", model.name) } else { model.name.clone() };
    let Some(gain) = report.gain(&model.name, &report.baseline, Split::Test) else {
        return format!("{name:<30} {loss:>10} {:>12}", "-");
    };
    let word = match gain.verdict() {
        GainVerdict::Better => "better",
        GainVerdict::Worse => "worse",
        GainVerdict::Undecided => "within noise",
    };
    let [low, high] = gain.interval_95;
    format!("{name:<30} {loss:>10} {:>+12.4}   {low:+.4} to {high:+.4}  {word}", gain.gain_nats)
}

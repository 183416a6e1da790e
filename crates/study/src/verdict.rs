//! The answer in one sentence, from the record alone.

use crate::report::{Gain, GainVerdict, Report, Role, ScoredModel, Split};

/// What the page says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Three or four words.
    pub(crate) word: String,
    /// Merge against raw, with interval, documents and seeds.
    pub(crate) merge: String,
    /// Anneal against raw and merge, if there was one.
    pub(crate) anneal: Option<String>,
}

/// The merge that the report is about: the chosen one, or the last merge of the newest window.
pub(crate) fn headline_merge(report: &Report) -> Option<&ScoredModel> {
    let chosen = report.choice.as_ref().and_then(|choice| report.model(&choice.model));
    chosen.or_else(|| report.of_role(Role::Merged).last().copied())
}

/// The end of the anneal.
pub(crate) fn annealed_model(report: &Report) -> Option<&ScoredModel> {
    report.of_role(Role::Annealed).last().copied()
}

/// What came out, in words that hold no more than the numbers do.
pub(crate) fn find_verdict(report: &Report) -> Verdict {
    let merged = headline_merge(report);
    let gain = merged.and_then(|merged| report.gain(&merged.name, &report.baseline, Split::Test));
    let (Some(merged), Some(gain)) = (merged, gain) else {
        return Verdict { word: "Nothing was compared".to_owned(), merge: String::new(), anneal: None };
    };
    let n_sources = merged.merge.as_ref().map_or(0, |merge| merge.sources.len());
    let scheme = merged.merge.as_ref().map_or("", |merge| merge.scheme.as_str());
    let average = format!("The average of the newest {n_sources} checkpoints ({scheme})");
    let (word, does) = match gain.verdict() {
        GainVerdict::Better => ("Merging helps", format!("{average} lowers the test loss of the newest one by")),
        GainVerdict::Worse => ("Merging hurts here", format!("{average} changes the test loss of the newest one by")),
        GainVerdict::Undecided => {
            ("No difference beyond noise", format!("{average} changes the test loss of the newest one by"))
        }
    };
    let amount = if gain.verdict() == GainVerdict::Better { show_amount(gain) } else { show_change(gain) };
    let merge =
        format!("{does} {amount} nats a token ({}; {} documents, 1 seed).", show_interval(gain), gain.n_documents);
    Verdict { word: word.to_owned(), merge, anneal: anneal_sentence(report, merged, gain) }
}

fn anneal_sentence(report: &Report, merged: &ScoredModel, merge_gain: &Gain) -> Option<String> {
    let annealed = annealed_model(report)?;
    let run = report.anneal.as_ref()?;
    let gain = report.gain(&annealed.name, &report.baseline, Split::Test)?;
    let n_steps = run.end_step.saturating_sub(run.fork_step);
    let mut text = format!(
        "A real anneal ({}, {n_steps} steps from step {}) gains {} over the same checkpoint ({}).",
        run.curve,
        run.fork_step,
        show_signed_amount(gain),
        show_interval(gain)
    );
    match report.gain(&annealed.name, &merged.name, Split::Test) {
        None => {}
        Some(lead) if lead.verdict() == GainVerdict::Better => {
            text.push_str(&format!(" It is ahead of the merge by {} ({})", show_amount(lead), show_interval(lead)));
            if merge_gain.verdict() == GainVerdict::Better && gain.verdict() == GainVerdict::Better {
                let share = merge_gain.gain_nats / gain.gain_nats * 100.0;
                text.push_str(&format!(
                    ": the merge brings {share:.0} % of what the anneal brings, with no further training"
                ));
            }
            text.push('.');
        }
        Some(lead) if lead.verdict() == GainVerdict::Worse => {
            let ahead = turned(lead);
            let (amount, interval) = (show_amount(&ahead), show_interval(&ahead));
            text.push_str(&format!(" The merge is ahead of it by {amount} ({interval})."));
        }
        Some(lead) => {
            let (amount, interval) = (show_gain(lead), show_interval(lead));
            text.push_str(&format!(" Its lead over the merge, {amount}, is within noise ({interval})."));
        }
    }
    Some(text)
}

fn decimals(gain: &Gain) -> usize {
    decimals_of(gain.interval_95)
}

/// Decimals that leave two figures of the interval's half width.
pub(crate) fn decimals_of([low, high]: [f64; 2]) -> usize {
    let half = (high - low).abs() / 2.0;
    let places = if half.is_finite() && half > 0.0 { 1.0 - half.log10().floor() } else { 4.0 };
    [2u8, 3, 4, 5].into_iter().find(|&n| places <= f64::from(n)).unwrap_or(6).into()
}

/// A gain with its sign: `+0.0412`.
pub(crate) fn show_gain(gain: &Gain) -> String {
    format!("{:+.*}", decimals(gain), gain.gain_nats)
}

/// The interval: `95 % interval +0.036 to +0.047`.
pub(crate) fn show_interval(gain: &Gain) -> String {
    let n = decimals(gain);
    let [low, high] = gain.interval_95;
    format!("95 % interval {low:+.n$} to {high:+.n$}")
}

/// The same comparison, judged from the other side.
fn turned(gain: &Gain) -> Gain {
    let [low, high] = gain.interval_95;
    Gain { gain_nats: -gain.gain_nats, interval_95: [-high, -low], ..gain.clone() }
}

/// An amount, with its sign only where it is a loss.
fn show_signed_amount(gain: &Gain) -> String {
    if gain.gain_nats < 0.0 { show_gain(gain) } else { show_amount(gain) }
}

/// A gain as a change of loss, where less is better.
fn show_change(gain: &Gain) -> String {
    format!("{:+.*}", decimals(gain), -gain.gain_nats)
}

fn show_amount(gain: &Gain) -> String {
    format!("{:.*}", decimals(gain), gain.gain_nats.abs())
}

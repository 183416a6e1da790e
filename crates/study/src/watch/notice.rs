//! Which events of a watched run are worth a message: a spike of the loss, and a new best score.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use thalweg_tensor::counted;

use super::WatchRequest;
use super::record::{ANNEALED_SCHEME, RAW_SCHEME, WatchEvent, WatchRow};
use crate::record::{ForecastRow, ScoreRow, SpikeRow};

/// One message, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Notice {
    /// Always `thalweg-notice`.
    pub kind: &'static str,
    /// Always 1.
    pub version: u64,
    /// What happened.
    pub event: NoticeEvent,
    /// A sentence for people; chat programs show a field of this name.
    pub text: String,
    /// The run's folder.
    pub run: String,
    /// The watcher's folder.
    pub folder: String,
    /// When it was noticed, in seconds since 1970-01-01 UTC.
    pub unix_seconds: u64,
    /// The spike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spike: Option<SpikeRow>,
    /// Steps of the checkpoints that are proposed to resume from, once the run has not recovered by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recovery: Vec<u64>,
    /// The model that is best now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<NewBest>,
    /// The forecast that reaches the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crossing: Option<TargetCrossing>,
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeEvent {
    /// The training loss has a spike.
    Spike,
    /// A merge or a raw checkpoint scores better than all before it.
    NewBest,
    /// The forecast of an anneal reaches the target.
    ForecastTarget,
}

/// A forecast that reaches the target, where the one before it did not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetCrossing {
    /// What was asked for.
    pub target: f64,
    /// The forecast.
    pub forecast: ForecastRow,
}

impl TargetCrossing {
    /// Whether the newest of `rows` is a forecast that reaches `target` by its first score, after one that did not, or
    /// as the first.
    pub fn find(rows: &[WatchRow], target: f64) -> Option<Self> {
        let reaches = |one: &ForecastRow| if one.higher_is_better { one.value >= target } else { one.value <= target };
        let mut firsts = rows.iter().rev().filter(|row| row.event == WatchEvent::Forecast);
        let newest = firsts.next()?;
        let forecast = newest.forecasts.first()?;
        // A forecast of an earlier end that came late is not told.
        let is_newest = rows.iter().all(|row| row.event != WatchEvent::Forecast || row.end_step <= newest.end_step);
        let before = firsts.filter_map(|row| row.forecasts.first()).max_by_key(|one| one.end_step);
        let is_new = is_newest && reaches(forecast) && !before.is_some_and(reaches);
        is_new.then(|| Self { target, forecast: forecast.clone() })
    }
}

/// The model that is best now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewBest {
    /// Name of the merge's folder, or of the raw checkpoint.
    pub name: String,
    /// The scheme, or `raw`.
    pub scheme: String,
    /// Checkpoints in the window.
    pub n_checkpoints: usize,
    /// The step at which it ends.
    pub end_step: u64,
    /// Its score.
    pub score: ScoreRow,
    /// The best value before; nothing for the first.
    pub before: Option<f64>,
}

/// The best values so far, by suite, task and measure.
#[derive(Debug, Default)]
pub struct Bests {
    values: BTreeMap<(String, String, String), f64>,
}

impl Bests {
    /// Those of a record.
    pub fn of(rows: &[WatchRow]) -> Self {
        let mut bests = Self::default();
        for score in rows.iter().filter(is_of_run).flat_map(|row| &row.scores) {
            bests.improve(score);
        }
        bests
    }

    /// Takes the scores of one end. The best model by the first measure, if it is better than all before: one message
    /// for each end is enough.
    pub fn take(&mut self, scored: &[WatchRow]) -> Option<NewBest> {
        let first = scored.iter().filter(is_of_run).find_map(|row| row.scores.first()).map(key_of)?;
        let mut found: Option<NewBest> = None;
        for row in scored.iter().filter(is_of_run) {
            for score in &row.scores {
                let Some(before) = self.improve(score) else { continue };
                if key_of(score) == first {
                    // Within an end, what counts is the best before it.
                    let before = found.take().map_or(before, |earlier| earlier.before);
                    let WatchRow { name, scheme, n_checkpoints, end_step, .. } = row.clone();
                    found = Some(NewBest { name, scheme, n_checkpoints, end_step, score: score.clone(), before });
                }
            }
        }
        found
    }

    /// The value before, if this one is better.
    fn improve(&mut self, score: &ScoreRow) -> Option<Option<f64>> {
        let before = self.values.get(&key_of(score)).copied();
        let is_better = |before: f64| if score.higher_is_better { score.value > before } else { score.value < before };
        if !score.value.is_finite() || !before.is_none_or(is_better) {
            return None;
        }
        self.values.insert(key_of(score), score.value);
        Some(before)
    }
}

/// A checkpoint that was annealed elsewhere is not the run's best.
fn is_of_run(row: &&WatchRow) -> bool {
    row.scheme != ANNEALED_SCHEME
}

fn key_of(score: &ScoreRow) -> (String, String, String) {
    (score.suite.clone(), score.task.clone(), score.measure.clone())
}

impl Notice {
    fn new(event: NoticeEvent, text: String, request: &WatchRequest, unix_seconds: u64) -> Self {
        let shown = |path: &Path| path.display().to_string();
        let (run, folder) = (shown(&request.run), shown(&request.folder));
        let (spike, recovery, best, crossing) = (None, Vec::new(), None, None);
        let kind = "thalweg-notice";
        Self { kind, version: 1, event, text, run, folder, unix_seconds, spike, recovery, best, crossing }
    }

    /// A spike, with the checkpoints to resume from if the run has not recovered.
    pub fn of_spike(spike: &SpikeRow, recovery: &[u64], request: &WatchRequest, unix_seconds: u64) -> Self {
        let state = match (spike.end, recovery.len()) {
            (Some(end), _) => format!("it recovered at step {end}"),
            (None, 0) => "it has not recovered yet".to_owned(),
            (None, n) => {
                let steps: Vec<String> = recovery.iter().map(u64::to_string).collect();
                let steps = steps.join(", ");
                format!("it has not recovered yet; {} to resume from: {steps}", counted(n, "checkpoint"))
            }
        };
        let (onset, signal) = (spike.onset, &spike.signal);
        let text = format!("{}: spike of the {signal} at step {onset}; {state}", request.run.display());
        let recovery = if spike.end.is_none() { recovery.to_vec() } else { Vec::new() };
        Self { spike: Some(spike.clone()), recovery, ..Self::new(NoticeEvent::Spike, text, request, unix_seconds) }
    }

    /// A new best.
    pub fn of_best(best: NewBest, request: &WatchRequest, unix_seconds: u64) -> Self {
        let NewBest { scheme, n_checkpoints, end_step, score, before, .. } = &best;
        let model = if scheme == RAW_SCHEME { RAW_SCHEME.to_owned() } else { format!("{scheme} of {n_checkpoints}") };
        let before = before.map_or_else(String::new, |before| format!(", before {before:.4}"));
        let text = format!(
            "{}: new best at step {end_step}: {model}: {} {} {:.4}{before}",
            request.run.display(),
            score.task,
            score.measure,
            score.value
        );
        Self { best: Some(best), ..Self::new(NoticeEvent::NewBest, text, request, unix_seconds) }
    }
}

impl Notice {
    /// A forecast that reaches the target.
    pub fn of_crossing(crossing: TargetCrossing, request: &WatchRequest, unix_seconds: u64) -> Self {
        let TargetCrossing { target, forecast } = &crossing;
        let [low, high] = forecast.interval_80;
        let text = format!(
            "{}: if annealed at step {}, the run would reach {} {} {:.4} (80 %: {low:.4} to {high:.4}), and the target is {target}",
            request.run.display(),
            forecast.end_step,
            forecast.task,
            forecast.measure,
            forecast.value
        );
        let notice = Self::new(NoticeEvent::ForecastTarget, text, request, unix_seconds);
        Self { crossing: Some(crossing), ..notice }
    }
}

/// Spikes that were not known: none of those before has a step in common with them.
pub(super) fn new_spikes(before: &[SpikeRow], now: &[SpikeRow]) -> Vec<SpikeRow> {
    let last = |spike: &SpikeRow| spike.end.unwrap_or(u64::MAX);
    let is_known = |spike: &&SpikeRow| before.iter().any(|old| old.onset <= last(spike) && spike.onset <= last(old));
    now.iter().filter(|spike| !is_known(spike)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spike(onset: u64, end: Option<u64>) -> SpikeRow {
        SpikeRow { onset, peak: onset + 1, end, signal: "loss".to_owned() }
    }

    #[test]
    fn a_spike_whose_bounds_moved_is_not_a_new_one() {
        let before = [spike(100, Some(120)), spike(300, None)];
        let now = [spike(98, Some(130)), spike(200, Some(210)), spike(305, Some(350))];
        assert_eq!(new_spikes(&before, &now), [spike(200, Some(210))]);
        assert_eq!(new_spikes(&[], &now).len(), 3);
    }

    fn scored(name: &str, values: &[(f64, bool)]) -> WatchRow {
        let scores: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(i, (value, higher))| {
                serde_json::json!({"suite": "s", "task": format!("t{i}"), "measure": "m", "value": value, "standard_error": null,
                    "n": 1, "higher_is_better": higher})
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "kind": "thalweg-watch", "version": 1, "event": "scored", "end_step": 1, "name": name, "scheme": "sma",
            "n_checkpoints": 2, "steps": [1], "digest": null, "unix_seconds": 0, "scores": scores,
        }))
        .unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_best_of_an_end_by_the_first_measure_is_told_once() {
        let mut bests = Bests::of(&[scored("old", &[(2.0, false), (0.5, true)])]);
        let told = |bests: &mut Bests, rows: &[WatchRow]| bests.take(rows).map(|best| (best.name, best.before));
        let rows = [scored("a", &[(1.9, false), (0.6, true)]), scored("b", &[(1.8, false), (0.4, true)])];
        assert_eq!(told(&mut bests, &rows), Some(("b".to_owned(), Some(2.0))));
        assert_eq!(told(&mut bests, &rows), None, "nothing is better than before");
        assert_eq!(told(&mut bests, &[scored("c", &[(1.85, false), (0.9, true)])]), None, "the second measure alone");
        assert_eq!(told(&mut bests, &[scored("d", &[(f64::MIN, false)])]), Some(("d".to_owned(), Some(1.8))));
        let mut higher = Bests::default();
        assert_eq!(told(&mut higher, &[scored("e", &[(0.1, true)])]), Some(("e".to_owned(), None)));
        assert_eq!(told(&mut higher, &[scored("f", &[(0.05, true)])]), None);
    }
}

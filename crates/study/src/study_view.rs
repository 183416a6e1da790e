//! What the page, the table and the answer ask of a [`StudyRecord`]: its measures, who was chosen, and the order of
//! trials.

use thalweg_tensor::{counted, shell_path, shell_word};

use crate::record::{AnnealRun, ForecastRow, GainRow, ScoreRow, StudyRecord, SuiteRow, TrialRow};
use crate::values::unique;

/// Measures that get pictures; a table holds all of them.
pub(crate) const MAX_METRICS: usize = 6;

/// One measured thing: a suite's task by one measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metric<'a> {
    pub(crate) suite: &'a str,
    pub(crate) task: &'a str,
    pub(crate) measure: &'a str,
    pub(crate) higher_is_better: bool,
}

impl<'a> Metric<'a> {
    fn of(score: &'a ScoreRow) -> Self {
        let ScoreRow { suite, task, measure, higher_is_better, .. } = score;
        Self { suite, task, measure, higher_is_better: *higher_is_better }
    }

    /// The score of it, if there is one.
    pub(crate) fn find(self, scores: &[ScoreRow]) -> Option<&ScoreRow> {
        let is_it = |score: &&ScoreRow| Metric::of(score) == self && score.value.is_finite();
        scores.iter().find(is_it)
    }

    /// Smaller is better, whatever the direction of the measure.
    pub(crate) fn badness(self, value: f64) -> f64 {
        if self.higher_is_better { -value } else { value }
    }

    /// As an axis and a list name it.
    pub(crate) fn label(self) -> String {
        format!("{}, {} (suite {})", self.task, measure_words(self.measure), self.suite)
    }
}

/// A measure in words.
pub(crate) fn measure_words(measure: &str) -> &str {
    match measure {
        "nats_per_token" => "nats per token",
        "bits_per_byte" => "bits per byte",
        "acc" => "accuracy",
        "acc_norm" => "accuracy by length",
        "nats_in_spans" => "nats in spans",
        "nats_outside" => "nats outside spans",
        other => other,
    }
}

/// A record with what is found in it once.
#[derive(Debug)]
pub(crate) struct StudyView<'a> {
    pub(crate) record: &'a StudyRecord,
    /// Every measured thing, the one that the answer is about first.
    pub(crate) metrics: Vec<Metric<'a>>,
}

impl<'a> StudyView<'a> {
    /// Whether there is a spike from which the run has not recovered.
    pub(crate) fn needs_recovery(&self) -> bool {
        !self.record.recovery.is_empty() || self.record.spikes.iter().any(|spike| spike.end.is_none())
    }

    pub(crate) fn new(record: &'a StudyRecord) -> Self {
        let raws = record.raws.iter().chain(&record.annealed).flat_map(|raw| &raw.scores);
        let scores = record.trials.iter().flat_map(|trial| &trial.scores).chain(raws);
        let metrics = unique(scores.map(Metric::of));
        let mut view = Self { record, metrics };
        if let Some(first) = view.default_metric() {
            // Stable, so that the rest keep the order of the record.
            view.metrics.sort_by_key(|metric| *metric != first);
        }
        view
    }

    /// What was chosen by, on text that decided nothing; else what was chosen by; else what was forecast.
    fn default_metric(&self) -> Option<Metric<'a>> {
        let reported = || self.reporting_metric();
        let forecast = || {
            let forecast = self.record.forecasts.first()?;
            let is_it = |metric: &&Metric<'a>| metric.task == forecast.task && metric.measure == forecast.measure;
            self.metrics.iter().find(is_it).copied()
        };
        reported().or_else(|| self.deciding_metric()).or_else(forecast).or_else(|| self.metrics.first().copied())
    }

    /// What the choice was made by.
    pub(crate) fn deciding_metric(&self) -> Option<Metric<'a>> {
        let choice = self.record.choice.as_ref()?;
        let is_it = |metric: &&Metric<'a>| {
            metric.suite == choice.suite && metric.task == choice.task && metric.measure == choice.measure
        };
        self.metrics.iter().find(is_it).copied()
    }

    /// The chosen measure on a suite that decided nothing: the same task if it has it, else its first with that
    /// measure.
    pub(crate) fn reporting_metric(&self) -> Option<Metric<'a>> {
        let choice = self.record.choice.as_ref()?;
        let others = || {
            let is_other = |metric: &&Metric<'a>| {
                metric.suite != choice.suite
                    && metric.measure == choice.measure
                    && self.role(metric.suite) != Some("selection")
            };
            self.metrics.iter().filter(is_other).copied()
        };
        others().find(|metric| metric.task == choice.task).or_else(|| others().next())
    }

    /// Measures that get pictures.
    pub(crate) fn pictured(&self) -> &[Metric<'a>] {
        &self.metrics[..self.metrics.len().min(MAX_METRICS)]
    }

    pub(crate) fn suite(&self, name: &str) -> Option<&'a SuiteRow> {
        self.record.suites.iter().find(|suite| suite.name == name)
    }

    fn role(&self, suite: &str) -> Option<&'a str> {
        self.suite(suite)?.role.as_deref()
    }

    /// Whether a suite only reports: then it ranks nothing and calls nothing best.
    pub(crate) fn is_reporting(&self, metric: Metric<'_>) -> bool {
        self.role(metric.suite) == Some("report")
    }

    pub(crate) fn chosen(&self) -> Option<&'a TrialRow> {
        let choice = self.record.choice.as_ref()?;
        self.record.trials.iter().find(|trial| trial.name == choice.trial)
    }

    pub(crate) fn is_chosen(&self, trial: &TrialRow) -> bool {
        self.record.choice.as_ref().is_some_and(|choice| choice.trial == trial.name)
    }

    /// Trials that have the metric, best first: by what decided if something was chosen, else by the metric itself.
    pub(crate) fn ranked(&self, metric: Metric<'a>) -> Vec<(usize, &'a TrialRow, &'a ScoreRow)> {
        let by = self.deciding_metric().unwrap_or(metric);
        let mut rows: Vec<(f64, (usize, &'a TrialRow, &'a ScoreRow))> = Vec::new();
        for (i, trial) in self.record.trials.iter().enumerate() {
            if let Some(score) = metric.find(&trial.scores) {
                let badness = by.find(&trial.scores).map_or(f64::INFINITY, |score| by.badness(score.value));
                rows.push((badness, (i, trial, score)));
            }
        }
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        rows.into_iter().map(|row| row.1).collect()
    }

    /// Merges with a score that end where the chosen one does, or else at the newest end, in the order of the record.
    pub(crate) fn at_the_end(&self, metric: Metric<'a>) -> Vec<EndTrial<'a>> {
        let newest = || self.record.trials.iter().map(|trial| trial.end_step).max();
        let Some(end) = self.chosen().map(|trial| trial.end_step).or_else(newest) else { return Vec::new() };
        let trials = self.record.trials.iter().filter(|trial| trial.end_step == end);
        trials.filter_map(|trial| Some(EndTrial { trial, score: metric.find(&trial.scores)? })).collect()
    }

    /// The newest raw checkpoint with a score.
    pub(crate) fn newest_raw(&self, metric: Metric<'a>) -> Option<(u64, &'a ScoreRow)> {
        let scored = self.record.raws.iter().filter_map(|raw| Some((raw.step, metric.find(&raw.scores)?)));
        scored.max_by_key(|raw| raw.0)
    }

    /// The chosen merge, or else the best of those that end last.
    pub(crate) fn newest_merge(&self, metric: Metric<'a>) -> Option<(&'a TrialRow, &'a ScoreRow)> {
        if let Some(trial) = self.chosen() {
            return Some((trial, metric.find(&trial.scores)?));
        }
        let scored = || self.record.trials.iter().filter_map(|trial| Some((trial, metric.find(&trial.scores)?)));
        let last = scored().map(|(trial, _)| trial.end_step).max()?;
        let at_the_end = scored().filter(|(trial, _)| trial.end_step == last);
        at_the_end.min_by(|a, b| metric.badness(a.1.value).total_cmp(&metric.badness(b.1.value)))
    }

    /// What the anneal that was run scores at its end.
    pub(crate) fn real_anneal(
        &self,
        find: impl FnOnce(&'a [ScoreRow]) -> Option<&'a ScoreRow>,
    ) -> Option<(&'a AnnealRun, &'a ScoreRow)> {
        let run = self.record.anneal.as_ref()?;
        let end = self.record.annealed.iter().find(|one| one.step == run.end_step)?;
        Some((run, find(&end.scores)?))
    }

    pub(crate) fn forecasts_of(&self, metric: Metric<'a>) -> impl Iterator<Item = &'a ForecastRow> {
        let is_it = move |one: &&ForecastRow| one.task == metric.task && one.measure == metric.measure;
        self.record.forecasts.iter().filter(is_it)
    }

    /// The forecast of the newest anneal that was not run.
    pub(crate) fn open_forecast(&self, metric: Metric<'a>) -> Option<&'a ForecastRow> {
        self.forecasts_of(metric).filter(|one| one.truth.is_none()).max_by_key(|one| one.end_step)
    }

    /// Training tokens of a step near this one, where they are known.
    pub(crate) fn tokens_per_step(&self, near: u64) -> Option<f64> {
        let known = || self.record.checkpoints.iter().filter_map(|one| Some((one.step, one.tokens?)));
        let (step, tokens) = known().filter(|one| one.0 <= near).max_by_key(|one| one.0)?;
        let before = known().filter(|one| one.0 < step).max_by_key(|one| one.0).unwrap_or((0, 0));
        let per_step = (tokens as f64 - before.1 as f64) / (step - before.0).max(1) as f64;
        (per_step > 0.0).then_some(per_step)
    }

    /// Training tokens behind a checkpoint, where they are known.
    pub(crate) fn tokens_at(&self, step: u64) -> Option<u64> {
        self.record.checkpoints.iter().find(|one| one.step == step)?.tokens
    }

    /// The last step that anything but a forecast knows.
    pub(crate) fn last_step(&self) -> u64 {
        let record = self.record;
        let scored = record.raws.iter().chain(&record.annealed).map(|raw| raw.step);
        let trials = record.trials.iter().map(|trial| trial.end_step);
        let training = record.training.iter().map(|point| point.step);
        let checkpoints = record.checkpoints.iter().map(|checkpoint| checkpoint.step);
        let forecasts = record.forecasts.iter().map(|forecast| forecast.end_step);
        scored.chain(trials).chain(training).chain(checkpoints).chain(forecasts).max().unwrap_or(0)
    }
}

/// A merge that ends at the step in question, with one of its scores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndTrial<'a> {
    pub(crate) trial: &'a TrialRow,
    pub(crate) score: &'a ScoreRow,
}

/// A window in words: `sma of 8, every 60 steps, to step 1440`.
pub(crate) fn window_words(trial: &TrialRow) -> String {
    let every = match (trial.interval_steps, trial.interval_tokens) {
        (_, Some(tokens)) => format!(", every {} tokens", crate::text::show_whole(tokens)),
        (Some(steps), None) if trial.n_checkpoints > 1 => format!(", every {}", counted(steps, "step")),
        _ => String::new(),
    };
    format!("{} of {}{every}, to step {}", trial.scheme, trial.n_checkpoints, trial.end_step)
}

/// The line that makes a trial again.
pub(crate) fn merge_command(run_path: &str, trial: &TrialRow) -> String {
    let window = match trial.interval_steps {
        Some(steps) if trial.n_checkpoints > 1 => {
            format!("--end-step {} --count {} --interval-steps {steps}", trial.end_step, trial.n_checkpoints)
        }
        _ => {
            let steps: Vec<String> = trial.sources.iter().map(|source| source.step.to_string()).collect();
            format!("--steps {}", steps.join(","))
        }
    };
    let scheme = if trial.scheme.starts_with("custom") {
        let coefficients: Vec<String> = trial.sources.iter().map(|source| source.coefficient.to_string()).collect();
        format!("custom --coefficients {}", coefficients.join(","))
    } else {
        shell_word(&trial.scheme)
    };
    format!("thalweg merge {} {window} --scheme {scheme} -o {}", shell_path(run_path), shell_path(&trial.name))
}

/// A gain with its sign and as many decimals as its interval deserves: `+0.0412`.
pub(crate) fn show_gain_row(gain: GainRow) -> String {
    format!("{:+.*}", gain_decimals(gain), gain.value)
}

/// `95 % interval +0.036 to +0.047`, or that there is none.
pub(crate) fn show_gain_interval(gain: GainRow) -> String {
    let n = gain_decimals(gain);
    gain.interval_95
        .map_or_else(|| "no interval".to_owned(), |[low, high]| format!("95 % interval {low:+.n$} to {high:+.n$}"))
}

/// Decimals that leave two figures of the interval's half width.
pub(crate) fn decimals_of([low, high]: [f64; 2]) -> usize {
    let half = (high - low).abs() / 2.0;
    let places = if half.is_finite() && half > 0.0 { 1.0 - half.log10().floor() } else { 4.0 };
    [2u8, 3, 4, 5].into_iter().find(|&n| places <= f64::from(n)).unwrap_or(6).into()
}

/// Decimals that all rows of a table share.
pub(crate) fn shared_decimals(gains: impl Iterator<Item = GainRow>) -> usize {
    gains.map(gain_decimals).max().unwrap_or(4)
}

fn gain_decimals(gain: GainRow) -> usize {
    gain.interval_95.map_or(4, decimals_of)
}

/// What a gain and its interval say, in a table.
pub(crate) fn gain_word(gain: GainRow) -> &'static str {
    match gain.interval_95 {
        Some([low, _]) if low > 0.0 => "better",
        Some([_, high]) if high < 0.0 => "worse",
        Some(_) => "within noise",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::MergeSource;
    use crate::text::first_digits;

    fn trial(interval_steps: Option<u64>, scheme: &str) -> TrialRow {
        let source = |step, coefficient| MergeSource { step, coefficient };
        TrialRow {
            name: "a trial".to_owned(),
            plan_digest: "blake3:0123456789abcdef".to_owned(),
            end_step: 300,
            n_checkpoints: 2,
            interval_steps,
            interval_tokens: None,
            scheme: scheme.to_owned(),
            path: None,
            params_digest: None,
            sources: vec![source(100, -0.5), source(300, 1.5)],
            scores: Vec::new(),
        }
    }

    #[test]
    fn a_command_names_the_window_exactly_and_survives_a_shell() {
        let even = merge_command("runs/my run", &trial(Some(200), "ema:0.2"));
        let expected =
            "thalweg merge 'runs/my run' --end-step 300 --count 2 --interval-steps 200 --scheme ema:0.2 -o 'a trial'";
        assert_eq!(even, expected);
        let uneven = merge_command("it's", &trial(None, "custom"));
        let expected = "thalweg merge 'it'\\''s' --steps 100,300 --scheme custom --coefficients -0.5,1.5 -o 'a trial'";
        assert_eq!(uneven, expected);
    }

    #[test]
    fn digests_are_cut_and_not_their_names() {
        assert_eq!(first_digits("blake3:0123456789abcdef", 8), "01234567");
        assert_eq!(first_digits("xyz", 8), "xyz");
    }
}

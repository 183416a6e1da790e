//! What a study found, in a sentence or two, from its record alone.

use thalweg_tensor::counted;

use crate::explain::geometry_answer;
use crate::record::{ForecastRow, GainRow, ProposalRow, ScoreRow, StudyRecord, TrialRow};
use crate::study_view::{StudyView, gain_word, measure_words, show_gain_interval, show_gain_row, window_words};

/// What comes first on a study's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StudyAnswer {
    /// A few words.
    pub(crate) word: String,
    /// Sentences with numbers.
    pub(crate) sentences: Vec<String>,
    /// What qualifies them.
    pub(crate) note: Option<String>,
}

/// The answer as plain text, for a terminal.
///
/// # Example
/// ```
/// let record = thalweg_study::record::StudyRecord::new("A study", "runs/mine", "thalweg sweep runs/mine -o sweep");
/// assert_eq!(thalweg_study::study_answer::answer_text(&record), "Nothing was scored.");
/// ```
pub fn answer_text(record: &StudyRecord) -> String {
    let answer = find_answer(&StudyView::new(record));
    let rest = answer.sentences.into_iter().chain(answer.note);
    std::iter::once(format!("{}.", answer.word)).chain(rest).collect::<Vec<_>>().join(" ")
}

/// The first words of it, such as `Merging helps by 0.144 nats per token`.
pub fn answer_word(record: &StudyRecord) -> String {
    find_answer(&StudyView::new(record)).word
}

/// The words hold no more than the numbers do.
pub(crate) fn find_answer(view: &StudyView<'_>) -> StudyAnswer {
    let record = view.record;
    let mut words: Vec<String> = Vec::new();
    let mut sentences = Vec::new();
    let mut note = None;
    if let Some(trial) = view.chosen() {
        let (score, is_reported) = headline_score(view, trial);
        words.push(choice_word(score));
        sentences.push(choice_sentence(view, trial, score, is_reported));
        sentences.extend(score.and_then(|score| anneal_sentence(view, score)));
        note = Some(choice_note(is_reported));
    }
    if let Some((trial, score)) = watched_merge(view) {
        words.push(choice_word(Some(score)));
        sentences.push(watched_sentence(trial, score));
        note = watched_note(view, trial);
    }
    if let Some(forecast) = told_forecast(view) {
        words.push(forecast_word(forecast));
        let n_alike = if record.is_watched { 1 } else { record.forecasts.len() };
        sentences.push(forecast_sentence(forecast, n_alike));
    }
    if let Some(proposal) = &record.proposal {
        words.push(proposal_word(proposal));
        sentences.push(proposal_sentence(proposal));
    }
    if let Some((word, sentence)) = recovery_words(record) {
        words.push(word);
        sentences.push(sentence);
    }
    if let Some(geometry) = &record.geometry {
        let (word, said) = geometry_answer(geometry);
        words.push(word);
        sentences.extend(said);
    }
    if words.is_empty() && record.is_watched {
        words.push(format!("{} so far", thalweg_tensor::counted(record.trials.len(), "merge")));
        let newest = record.trials.iter().map(|trial| trial.end_step).max();
        sentences.extend(newest.map(|step| format!("The newest ends at step {step}. Nothing was scored.")));
    }
    if words.is_empty() {
        let (n_trials, n_raws) = (record.trials.len(), record.raws.len());
        words.push(if n_trials + n_raws == 0 { "Nothing was scored" } else { "Nothing was chosen" }.to_owned());
        if n_trials + n_raws > 0 {
            sentences.push(format!(
                "{} and {} were scored.",
                thalweg_tensor::counted(n_trials, "merge"),
                thalweg_tensor::counted(n_raws, "raw checkpoint")
            ));
        }
    }
    StudyAnswer { word: words.swap_remove(0), sentences, note }
}

/// The chosen trial's score on text that decided nothing, if there is one; else on what decided.
fn headline_score<'a>(view: &StudyView<'a>, trial: &'a TrialRow) -> (Option<&'a ScoreRow>, bool) {
    let reported = view.reporting_metric().and_then(|metric| metric.find(&trial.scores));
    let decided = || view.deciding_metric().and_then(|metric| metric.find(&trial.scores));
    (reported.or_else(decided), reported.is_some())
}

/// Of a run that is watched: the best merge at the newest end that was scored.
fn watched_merge<'a>(view: &StudyView<'a>) -> Option<(&'a TrialRow, &'a ScoreRow)> {
    let metric = view.metrics.first().copied().filter(|_| view.record.is_watched && view.record.choice.is_none())?;
    view.newest_merge(metric)
}

fn watched_sentence(trial: &TrialRow, score: &ScoreRow) -> String {
    let better = if score.higher_is_better { "more is better" } else { "less is better" };
    let gain = score.gain.map_or_else(String::new, |gain| {
        format!(
            ", a gain of {} over the raw checkpoint there ({}; n = {})",
            show_gain_row(gain),
            show_gain_interval(gain),
            score.n
        )
    });
    let what = format!("{} on `{}`, {better}", measure_words(&score.measure), score.task);
    format!(
        "At step {}, {} of {} scores {:.4} ({what}){gain}.",
        trial.end_step, trial.scheme, trial.n_checkpoints, score.value
    )
}

fn watched_note(view: &StudyView<'_>, trial: &TrialRow) -> Option<String> {
    let n = view.metrics.first().map_or(0, |metric| view.at_the_end(*metric).len());
    let is_newest = view.record.trials.iter().all(|other| other.end_step <= trial.end_step);
    let flatters = (n > 1)
        .then(|| format!("It is the best of {n} windows by these scores, which makes it look better than it is."));
    if is_newest { flatters } else { Some("Newer merges wait for their scores.".to_owned()) }
}

/// The forecast that a reader asks about: of a run that is watched, the one whose anneal was not run.
fn told_forecast<'a>(view: &StudyView<'a>) -> Option<&'a ForecastRow> {
    let open = || view.metrics.first().and_then(|metric| view.open_forecast(*metric));
    if view.record.is_watched { open() } else { view.record.forecasts.first() }
}

fn choice_word(score: Option<&ScoreRow>) -> String {
    match score.and_then(|score| score.gain).map(gain_word) {
        Some("better") => "Merging helps",
        Some("worse") => "Merging hurts here",
        Some("within noise") => "No difference beyond noise",
        _ => "A window was chosen",
    }
    .to_owned()
}

fn choice_sentence(view: &StudyView<'_>, trial: &TrialRow, score: Option<&ScoreRow>, is_reported: bool) -> String {
    let n_candidates = view.record.choice.as_ref().map_or(0, |choice| choice.n_candidates);
    let suite = view.record.choice.as_ref().map_or("", |choice| choice.suite.as_str());
    let first = format!("Best of {n_candidates} by suite `{suite}`: {}.", window_words(trial));
    let Some(score) = score else { return first };
    let on = if is_reported { format!("On suite `{}`", score.suite) } else { "There".to_owned() };
    let better = if score.higher_is_better { "more is better" } else { "less is better" };
    let what = format!("{} on `{}`, {better}", measure_words(&score.measure), score.task);
    match score.gain {
        Some(gain) => format!(
            "{first} {on} it scores {:.4} ({what}), a gain of {} over the newest raw checkpoint ({}; n = {}).",
            score.value,
            show_gain_row(gain),
            show_gain_interval(gain),
            score.n
        ),
        None => format!("{first} {on} it scores {:.4}{} ({what}, n = {}).", score.value, show_error(score), score.n),
    }
}

/// What the real anneal gains over the same checkpoint, and whether it is ahead of the merge.
fn anneal_sentence(view: &StudyView<'_>, merged: &ScoreRow) -> Option<String> {
    let is_it =
        |score: &&ScoreRow| score.suite == merged.suite && score.task == merged.task && score.measure == merged.measure;
    let (run, annealed) = view.real_anneal(|scores| scores.iter().find(is_it))?;
    let gain = annealed.gain?;
    let mut text = format!(
        "A real anneal ({}, {} from step {}) gains {} over the same checkpoint ({}).",
        run.curve,
        counted(run.end_step.saturating_sub(run.fork_step), "step"),
        run.fork_step,
        show_gain_row(gain),
        show_gain_interval(gain)
    );
    let Some(lead) = annealed.gain_over_chosen else { return Some(text) };
    let shown = |lead: GainRow| format!("{} ({})", show_gain_row(lead), show_gain_interval(lead));
    match gain_word(lead) {
        "better" => {
            text.push_str(&format!(" It is ahead of the merge by {}", shown(lead)));
            let is_clear = |gain: GainRow| gain_word(gain) == "better";
            if let Some(merge) = merged.gain.filter(|merge| is_clear(*merge) && is_clear(gain)) {
                let share = merge.value / gain.value * 100.0;
                text.push_str(&format!(
                    ": the merge achieves {share:.0} % of the anneal's gain, with no further training"
                ));
            }
            text.push('.');
        }
        "worse" => text.push_str(&format!(" The merge is ahead of it by {}.", shown(turned(lead)))),
        _ => text.push_str(&format!(" Its lead over the merge, {}, is within noise.", shown(lead))),
    }
    Some(text)
}

/// The same comparison, judged from the other side.
fn turned(gain: GainRow) -> GainRow {
    GainRow { value: -gain.value, interval_95: gain.interval_95.map(|[low, high]| [-high, -low]) }
}

fn show_error(score: &ScoreRow) -> String {
    score.standard_error.map_or_else(String::new, |error| format!(" ± {error:.4}"))
}

fn choice_note(is_reported: bool) -> String {
    if is_reported {
        "The window was chosen on a different suite from the one reported here."
    } else {
        "The window is reported on the same suite that chose it, which makes the best of many look better than it is."
    }
    .to_owned()
}

fn forecast_word(forecast: &ForecastRow) -> String {
    match forecast.truth {
        Some(truth) if holds(forecast.interval_95, truth) => "The forecast held".to_owned(),
        Some(_) => "The forecast missed".to_owned(),
        None => format!("An anneal would reach {:.4}", forecast.value),
    }
}

fn holds([low, high]: [f64; 2], value: f64) -> bool {
    value >= low && value <= high
}

fn forecast_sentence(forecast: &ForecastRow, n_forecasts: usize) -> String {
    let ForecastRow { curve, anneal_steps, end_step, value, task, raw, .. } = forecast;
    let n = crate::study_view::decimals_of(forecast.interval_95);
    let ([low_80, high_80], [low_95, high_95]) = (forecast.interval_80, forecast.interval_95);
    let mut text = format!(
        "A {curve} anneal of {} that ends at step {end_step} is forecast to reach {value:.n$} {} on \
         `{task}` (80 % interval {low_80:.n$} to {high_80:.n$}; 95 % interval {low_95:.n$} to {high_95:.n$}); the newest \
         raw checkpoint has {raw:.n$}.",
        counted(*anneal_steps, "step"),
        measure_words(&forecast.measure)
    );
    if let Some(truth) = forecast.truth {
        let off = value - truth;
        let place = if holds(forecast.interval_95, truth) { "inside" } else { "outside" };
        text.push_str(&format!(
            " It reached {truth:.n$}: the forecast is off by {off:+.n$}, {place} the 95 % interval."
        ));
    }
    if n_forecasts > 1 {
        text.push_str(&format!(" It is the first of {n_forecasts} forecasts."));
    }
    text
}

fn proposal_word(proposal: &ProposalRow) -> String {
    match proposal.n_checkpoints {
        0 => "No window is proposed".to_owned(),
        n => format!("Merge {}", counted(n, "checkpoint")),
    }
}

fn proposal_sentence(proposal: &ProposalRow) -> String {
    let ProposalRow { n_checkpoints, n_interval_95: [low, high], interval_steps, scheme, rests_on } = proposal;
    if *n_checkpoints == 0 {
        return format!("No window is proposed: {rests_on}.");
    }
    format!(
        "The fitted model proposes {scheme} of {}, {} apart (95 % interval {low} to {high} checkpoints); it is based on \
         {rests_on}.",
        counted(*n_checkpoints, "checkpoint"),
        counted(*interval_steps, "step")
    )
}

fn recovery_words(record: &StudyRecord) -> Option<(String, String)> {
    let unhealed = record.spikes.iter().filter(|spike| spike.end.is_none());
    let began = unhealed.min_by_key(|spike| spike.onset).map_or_else(String::new, |spike| {
        format!("The run did not recover from the spike at step {} ({}). ", spike.onset, spike.signal)
    });
    let mut steps = record.recovery.clone();
    steps.sort_unstable();
    let list: Vec<String> = steps.iter().map(u64::to_string).collect();
    let (word, what) = match list.as_slice() {
        [] if began.is_empty() => return None,
        [] => return Some(("The run did not recover from a spike".to_owned(), began.trim_end().to_owned())),
        [only] => (format!("Resume from step {only}"), format!("step {only} is the only checkpoint to resume from")),
        many => (
            format!("Resume from a merge of {} checkpoints", many.len()),
            format!("the start point is the average of steps {}", many.join(", ")),
        ),
    };
    let sentence = format!("{began}{}.", capital(&what));
    Some((word, sentence))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A gain in a table: value with as many decimals as the other rows, word.
pub(crate) fn gain_cell(gain: Option<GainRow>, decimals: usize) -> (String, &'static str) {
    gain.map_or_else(|| ("-".to_owned(), ""), |gain| (format!("{:+.decimals$}", gain.value), gain_word(gain)))
}

//! The run in a few numbers: the newest checkpoint, its merge, a real anneal if there is one, what an anneal from here
//! would reach, and what it would cost; then how earlier forecasts fared.

use thalweg_tensor::counted;

use super::open_metric;
use crate::markup::Markup;
use crate::record::{ForecastRow, ScoreRow, TrialRow};
use crate::study_view::{Metric, StudyView, decimals_of, gain_word, show_gain_row};
use crate::text::{show_count, show_whole};

pub(super) fn write_headline(page: &mut Markup, view: &StudyView<'_>) {
    for (i, metric) in view.pictured().iter().enumerate() {
        let (now, merged, annealed) =
            (view.newest_raw(*metric), view.newest_merge(*metric), view.open_forecast(*metric));
        let truth = view.real_anneal(|scores| metric.find(scores));
        let n_tiles = [now.is_some(), merged.is_some(), annealed.is_some(), truth.is_some()];
        let n_tiles = n_tiles.into_iter().filter(|is_there| *is_there).count();
        if n_tiles < 2 {
            continue;
        }
        open_metric(page, i);
        page.element("ul").attr("class", "figures").open();
        if let Some((step, score)) = now {
            write_tile(
                page,
                ("now", "raw"),
                &format!("{:.4}", score.value),
                &[show_noise(score), show_place(view, step)],
            );
        }
        if let Some((trial, score)) = merged {
            write_tile(page, ("merged", "merged"), &format!("{:.4}", score.value), &merge_words(trial, score));
        }
        if let Some((run, score)) = truth {
            let fork = format!("{}, from step {} to {}", run.curve, run.fork_step, run.end_step);
            let value = format!("{:.4}", score.value);
            write_tile(page, ("really annealed", "annealed"), &value, &[fork, gain_words(score)]);
        }
        if let Some(forecast) = annealed {
            let n = decimals_of(forecast.interval_95);
            let words = |name: &str, [low, high]: [f64; 2]| format!("{name}: {low:.n$}\u{a0}to\u{a0}{high:.n$}");
            let words = [words("80 %", forecast.interval_80), words("95 %", forecast.interval_95)];
            write_tile(page, ("if annealed now", "forecast"), &format!("{:.4}", forecast.value), &words);
            let (cost, words) = cost_of(view, forecast);
            write_tile(page, ("saved by not annealing", "annealed"), &cost, &words);
        }
        page.close();
        write_calibration(page, view, *metric);
        page.close();
    }
}

fn write_tile(page: &mut Markup, (name, class): (&str, &str), value: &str, words: &[String]) {
    page.element("li").attr("class", format!("tile-{class}")).open();
    page.element("span").filled(name);
    page.element("b").filled(value);
    for line in words.iter().filter(|line| !line.is_empty()) {
        page.element("span").filled(line);
    }
    page.close();
}

fn show_noise(score: &ScoreRow) -> String {
    score.standard_error.map_or_else(String::new, |error| format!("± {error:.4}, n = {}", score.n))
}

fn show_place(view: &StudyView<'_>, step: u64) -> String {
    let tokens =
        view.tokens_at(step).map_or_else(String::new, |tokens| format!(", {}\u{a0}tokens", show_whole(tokens)));
    format!("step {step}{tokens}")
}

fn merge_words(trial: &TrialRow, score: &ScoreRow) -> [String; 2] {
    [format!("{} of {}, to step {}", trial.scheme, trial.n_checkpoints, trial.end_step), gain_words(score)]
}

fn gain_words(score: &ScoreRow) -> String {
    score.gain.map_or_else(String::new, |gain| {
        let word = gain_word(gain);
        let word = if word.is_empty() { String::new() } else { format!(", {word}") };
        format!("gain {}{word}", show_gain_row(gain))
    })
}

/// What the anneal would train on: tokens, where the run tells how many a step has.
fn cost_of(view: &StudyView<'_>, forecast: &ForecastRow) -> (String, [String; 2]) {
    let fork = forecast.end_step.saturating_sub(forecast.anneal_steps);
    let anneal = format!("a {} anneal of {}", forecast.curve, counted(forecast.anneal_steps, "step"));
    match view.tokens_per_step(fork) {
        Some(per_step) => (show_count(per_step * forecast.anneal_steps as f64), ["tokens".to_owned(), anneal]),
        None => (show_whole(forecast.anneal_steps), ["steps".to_owned(), anneal]),
    }
}

/// How many real anneals were where their forecasts said.
fn write_calibration(page: &mut Markup, view: &StudyView<'_>, metric: Metric<'_>) {
    let known: Vec<(&ForecastRow, f64)> =
        view.forecasts_of(metric).filter_map(|forecast| Some((forecast, forecast.truth?))).collect();
    if known.is_empty() {
        return;
    }
    let within = |interval: fn(&ForecastRow) -> [f64; 2]| {
        known.iter().filter(|(forecast, truth)| (interval(forecast)[0]..=interval(forecast)[1]).contains(truth)).count()
    };
    let (n, n_80, n_95) = (known.len(), within(|one| one.interval_80), within(|one| one.interval_95));
    let text = format!(
        "Calibration so far: {n_80} of {} within the 80 % interval of the forecast, {n_95} within the 95 % interval.",
        thalweg_tensor::counted(n, "real anneal")
    );
    page.element("p").attr("class", "note calibration").filled(text);
}

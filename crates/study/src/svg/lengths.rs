//! Window length against score: one line for each scheme, raw and annealed as rules across.

use super::scale::span_of;
use super::study_marks::describe_trial;
use super::{Chart, ChartAxis, ChartPoint, Mark, Series};
use crate::record::RawRow;
use crate::study_view::{EndTrial, Metric, StudyView};
use crate::values::unique;

/// Classes of the schemes' lines, in the order in which schemes appear.
pub(crate) const SCHEME_CLASSES: [&str; 6] = ["scheme-1", "scheme-2", "scheme-3", "scheme-4", "scheme-5", "scheme-6"];

/// The score over the number of checkpoints, for merges that end at one step.
pub(crate) fn chart_of_lengths(view: &StudyView<'_>, metric: Metric<'_>, trials: &[EndTrial<'_>]) -> Chart {
    let end = trials.first().map_or(0, |one| one.trial.end_step);
    let rule = |(name, rows): (&'static str, &[RawRow])| {
        let score = metric.find(&rows.iter().find(|row| row.step == end)?.scores)?;
        Some((name.to_owned(), name, score.value))
    };
    let rules = [("raw", view.record.raws.as_slice()), ("annealed", view.record.annealed.as_slice())];
    let rules: Vec<_> = rules.into_iter().filter_map(rule).collect();
    let values = trials.iter().map(|one| one.score.value).chain(rules.iter().map(|rule| rule.2));
    let series = |(scheme, class): (&str, &'static str)| {
        let mut of_scheme: Vec<&EndTrial<'_>> = trials.iter().filter(|one| one.trial.scheme == scheme).collect();
        of_scheme.sort_by_key(|one| one.trial.n_checkpoints);
        let point = |one: &&EndTrial<'_>| {
            let title = describe_trial(one.trial, one.score);
            ChartPoint::new(one.trial.n_checkpoints as f64, one.score.value, title)
        };
        Series::new(scheme, class, of_scheme.iter().map(point).collect()).with_line().with_marks(Mark::Diamond)
    };
    let schemes = unique(trials.iter().map(|one| one.trial.scheme.as_str()));
    Chart {
        label: "Window length against score".to_owned(),
        y_title: metric.label(),
        x_title: "checkpoints in the window",
        axis: ChartAxis::Doubling,
        y_range: Some(span_of(values, 0.08)),
        series: schemes.into_iter().zip(SCHEME_CLASSES).map(series).collect(),
        rules,
    }
}

//! Selections: from options to the window of a run.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use thalweg_merge::plan::SourceRef;
use thalweg_storage::hub::repository_of_folder;
use thalweg_tensor::{shell_path, shell_word};
use thalweg_trajectory::{
    Extent, Spike, Step, Trajectory, WindowEnd, WindowSpec, describe_phases, lasting_spike, select_window,
};

use super::Resolver;
use super::values::{parse_positive, parse_whole};
use crate::Error;
use crate::select::source_ref;

/// Which checkpoints of a run. Ways of asking that exclude each other are an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Args)]
#[command(next_help_heading = "Selection of checkpoints")]
pub struct Selection {
    /// The newest N finished checkpoints
    #[arg(long, value_name = "N", value_parser = parse_whole::<usize>)]
    pub last: Option<usize>,
    /// N checkpoints, with --interval-steps or --interval-tokens
    #[arg(long, value_name = "N", value_parser = parse_whole::<usize>)]
    pub count: Option<usize>,
    /// Steps between neighbours
    #[arg(long, value_name = "V", value_parser = parse_whole::<u64>, conflicts_with = "interval_tokens")]
    pub interval_steps: Option<u64>,
    /// Tokens between neighbours
    #[arg(long, value_name = "V", value_parser = parse_whole::<u64>)]
    pub interval_tokens: Option<u64>,
    /// All checkpoints of the last D steps, including the one D steps before the end
    #[arg(long, value_name = "D", value_parser = parse_whole::<u64>, conflicts_with = "duration_tokens")]
    pub duration_steps: Option<u64>,
    /// All checkpoints of the last D tokens, including the one D tokens before the end
    #[arg(long, value_name = "D", value_parser = parse_whole::<u64>)]
    pub duration_tokens: Option<u64>,
    /// End at this step [default: the newest]
    #[arg(long, value_name = "S", value_parser = parse_whole::<u64>, conflicts_with = "end_tokens")]
    pub end_step: Option<u64>,
    /// End at this many tokens
    #[arg(long, value_name = "T", value_parser = parse_whole::<u64>)]
    pub end_tokens: Option<u64>,
    /// Start at this step
    #[arg(long, value_name = "S", value_parser = parse_whole::<u64>)]
    pub from_step: Option<u64>,
    /// Up to this step
    #[arg(long, value_name = "S", value_parser = parse_whole::<u64>)]
    pub to_step: Option<u64>,
    /// Every K-th checkpoint, counting back from the newest
    #[arg(long, value_name = "K", value_parser = parse_positive::<usize>)]
    pub every: Option<usize>,
    /// Exactly these steps
    #[arg(long, value_name = "S,S,...", value_parser = parse_whole::<u64>, value_delimiter = ',')]
    pub steps: Vec<u64>,
}

impl Selection {
    /// Whether nothing was said about which checkpoints are wanted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The options that say it on a command line, each with a space before it.
    fn options(&self) -> String {
        let fields = serde_json::to_value(self).unwrap_or_default();
        let option = |(name, value): (&String, &Value)| {
            // Steps are a list, which a command line has without brackets and empty not at all.
            let value = value.to_string();
            let value = Some(value.trim_matches(['[', ']'])).filter(|value| !value.is_empty() && *value != "null")?;
            Some(format!(" --{} {value}", name.replace('_', "-")))
        };
        fields.as_object().into_iter().flatten().filter_map(option).collect()
    }

    fn end(&self) -> WindowEnd {
        Extent::given(self.end_step, self.end_tokens).map_or(WindowEnd::Newest, WindowEnd::At)
    }

    /// What the options mean; two ways of asking at once are an error.
    fn window_spec(&self) -> Result<WindowSpec, Error> {
        let interval = Extent::given(self.interval_steps, self.interval_tokens);
        let duration = Extent::given(self.duration_steps, self.duration_tokens);
        let asked = [
            ("--last", self.last.is_some()),
            ("--every", self.every.is_some()),
            ("--steps", !self.steps.is_empty()),
            ("--from-step or --to-step", self.from_step.is_some() || self.to_step.is_some()),
            ("a duration", duration.is_some()),
            ("an interval", interval.is_some()),
        ];
        let asked: Vec<&str> = asked.iter().filter(|(_, is_asked)| *is_asked).map(|(name, _)| *name).collect();
        if let [first, second, ..] = asked.as_slice() {
            return Err(Error::request(format!("{first} and {second} both choose checkpoints: give only one")));
        }
        let end = self.end();
        if let Some(n_checkpoints) = self.last {
            return Ok(WindowSpec::Last { n_checkpoints, end });
        }
        if let Some(k) = self.every {
            return Ok(WindowSpec::Every { k, n_checkpoints: self.count, end });
        }
        if !self.steps.is_empty() {
            return Ok(WindowSpec::Steps(self.steps.iter().map(|step| Step(*step)).collect()));
        }
        if let Some(duration) = duration {
            return Ok(WindowSpec::Duration { duration, n_checkpoints: self.count, end });
        }
        match (self.count, interval) {
            (Some(n_checkpoints), Some(interval)) => Ok(WindowSpec::Count { n_checkpoints, interval, end }),
            (Some(_), None) => Err(Error::request_with_hint(
                "`--count` needs to know how far apart the checkpoints are",
                "add `--interval-steps` or `--interval-tokens`; `--last N` takes the newest N, however far apart",
            )),
            (None, Some(_)) => {
                Err(Error::request_with_hint("an interval also needs a number of checkpoints", "add `--count N`"))
            }
            (None, None) => self.range_or_all(end),
        }
    }

    fn range_or_all(&self, end: WindowEnd) -> Result<WindowSpec, Error> {
        let step = |count: Option<u64>| count.map(Step);
        if self.from_step.is_some() || self.to_step.is_some() {
            return Ok(WindowSpec::Range { from: step(self.from_step), to: step(self.to_step), at_least_apart: None });
        }
        match end {
            WindowEnd::Newest => Err(Error::request_with_hint(
                "which checkpoints of the run?",
                "for example `--last 10`, or `--count 10 --interval-tokens 8B`; `--every 1` takes all",
            )),
            WindowEnd::At(_) => {
                Err(Error::request_with_hint("an end also needs a start", "add `--last N` or `--count N`"))
            }
        }
    }
}

impl Resolver<'_> {
    /// The window that is asked for, oldest first; passes notes about it.
    ///
    /// # Errors
    /// `Request` where the options contradict each other; `Trajectory` where the run does not have it.
    pub fn select(&self, trajectory: &Trajectory, selection: &Selection) -> Result<Vec<SourceRef>, Error> {
        use thalweg_trajectory::Error::{LongerThanRun, NoCheckpointAt, NotFetched, TooFew};
        let window = select_window(trajectory, &selection.window_spec()?).map_err(|error| {
            let folder = trajectory.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match (&error, repository_of_folder(folder)) {
                (TooFew { .. } | NoCheckpointAt { .. } | LongerThanRun { .. }, Some(repository)) => {
                    let command = format!("thalweg fetch {}{}", shell_word(&repository), selection.options());
                    Error::from(NotFetched { source: Box::new(error), command })
                }
                _ => error.into(),
            }
        })?;
        window.notes().iter().for_each(|note| self.note(note));
        if !selection.steps.is_sorted() {
            self.note("the checkpoints are ordered by step, oldest first, not in the order of `--steps`");
        }
        if let Some(newest) = window.checkpoints().last() {
            self.warn_of_spike(trajectory, newest.step);
        }
        Ok(window.checkpoints().iter().map(source_ref).collect())
    }

    /// Notes what the phases and the spikes of a run say about checkpoints that were not selected from it.
    pub(crate) fn note_window(&self, trajectory: &Trajectory, (first, newest): (Step, Step)) {
        describe_phases(trajectory, first, newest).iter().for_each(|note| self.note(note));
        self.warn_of_spike(trajectory, newest);
    }

    /// Notes that a window ends within a spike, before the run has recovered from it.
    fn warn_of_spike(&self, trajectory: &Trajectory, newest: Step) {
        if let Some(spike) = spike_at(trajectory, newest) {
            self.note(describe_spike("the window holds", spike, trajectory));
        }
    }

    /// Notes the spikes that windows which end at these steps hold, each once.
    pub(crate) fn warn_of_spikes(&self, trajectory: &Trajectory, newest: impl Iterator<Item = Step>) {
        let mut ends: BTreeMap<Step, (Step, Step)> = BTreeMap::new();
        for step in newest {
            let Some(spike) = spike_at(trajectory, step) else { continue };
            let (first, last) = ends.entry(spike.onset).or_insert((step, step));
            (*first, *last) = ((*first).min(step), (*last).max(step));
        }
        for (onset, (first, last)) in ends {
            let Some(spike) = trajectory.spikes().iter().find(|spike| spike.onset == onset) else { continue };
            let which = match first == last {
                true => format!("the windows that end at step {first} hold"),
                false => format!("the windows that end at steps {first} to {last} hold"),
            };
            self.note(describe_spike(&which, spike, trajectory));
        }
    }
}

/// The spike that a window which ends at a step holds, if the run has not recovered from it by then.
fn spike_at(trajectory: &Trajectory, newest: Step) -> Option<&Spike> {
    trajectory.log().and_then(|log| lasting_spike(log, trajectory.spikes(), newest))
}

/// `which` says what holds it.
fn describe_spike(which: &str, spike: &Spike, trajectory: &Trajectory) -> String {
    let what = match spike.end {
        Some(end) => format!("the loss recovers only at step {end}"),
        None => "it did not recover".to_owned(),
    };
    let (onset, signal, run) = (spike.onset, spike.signal, shell_path(trajectory.path()));
    format!(
        "{which} an unhealed spike: onset at step {onset}, seen in the {signal}, {what}; `thalweg recover {run}` proposes \
         checkpoints before it"
    )
}

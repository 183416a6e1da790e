//! What a run has, as lines below an error.

use crate::{Extent, Step, Tokens};

/// What exists, for an error to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    /// Steps and tokens of the finished checkpoints.
    pub finished: Vec<(Step, Option<Tokens>)>,
    /// Steps and reasons of the others.
    pub unusable: Vec<(Step, String)>,
}

/// How many of a list a message shows.
const MAX_SHOWN: usize = 12;

impl Available {
    /// Lines that say what exists, and what is nearest to a place.
    pub fn describe(&self, wanted: Option<Extent>) -> Vec<String> {
        let mut lines = vec![self.describe_finished()];
        if let Some(wanted) = wanted {
            lines.extend(self.describe_nearest(wanted));
        }
        for (step, reason) in self.unusable.iter().rev().take(3) {
            lines.push(format!("step {step} cannot be used: {reason}"));
        }
        lines
    }

    fn describe_finished(&self) -> String {
        let show = |(step, tokens): &(Step, Option<Tokens>)| match tokens {
            Some(tokens) => format!("{step} ({tokens} tokens)"),
            None => step.to_string(),
        };
        let n = self.finished.len();
        let gaps: Vec<u64> =
            self.finished.windows(2).filter_map(|two| Some(two.last()?.0.0 - two.first()?.0.0)).collect();
        let is_even = gaps.windows(2).all(|two| two.first() == two.last());
        match (&self.finished[..], gaps.first()) {
            ([], _) => "there is no finished checkpoint".to_owned(),
            ([only], _) => format!("there is 1 finished checkpoint, step {}", show(only)),
            ([first, .., last], Some(gap)) if is_even && n > 3 => {
                format!("there are {n} finished checkpoints, steps {} to {}, every {gap}", show(first), show(last))
            }
            _ if n <= MAX_SHOWN => {
                let all: Vec<String> = self.finished.iter().map(show).collect();
                format!("there are {n} finished checkpoints, steps {}", all.join(", "))
            }
            _ => {
                let half = MAX_SHOWN / 2;
                let first: Vec<String> = self.finished.iter().take(half).map(show).collect();
                let last: Vec<String> = self.finished.iter().skip(n - half).map(show).collect();
                format!("there are {n} finished checkpoints, steps {}, ..., {}", first.join(", "), last.join(", "))
            }
        }
    }

    fn describe_nearest(&self, wanted: Extent) -> Option<String> {
        let places = self.finished.iter().filter_map(|(step, tokens)| match wanted {
            Extent::Steps(_) => Some((step.0, *step, *tokens)),
            Extent::Tokens(_) => Some((tokens.as_ref()?.0, *step, *tokens)),
        });
        let places: Vec<(u64, Step, Option<Tokens>)> = places.collect();
        let below = places.iter().rfind(|(place, ..)| *place < wanted.amount());
        let above = places.iter().find(|(place, ..)| *place > wanted.amount());
        let near: Vec<String> = [below, above]
            .into_iter()
            .flatten()
            .map(|(_, step, tokens)| match tokens {
                Some(tokens) => format!("step {step} ({tokens} tokens)"),
                None => format!("step {step}"),
            })
            .collect();
        (!near.is_empty()).then(|| format!("nearest: {}", near.join(" and ")))
    }
}

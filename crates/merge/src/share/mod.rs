//! One merge by many processes: each does a share of the work alone, in one stage, and a last step publishes.
//!
//! # How it works
//!
//! A share is some of the units that the engine cuts the work into (`unit`). Which share does which unit is a function
//! of the tensors, the output's layout and the number of shares alone (`division`). Every share writes its units at
//! their places in the files of the output's stage, and notes them in a separate journal. When all are on the medium
//! it leaves a record (`record`), by which a later process sees that the share is done.
//!
//! The last step (`finish`) reads the journals of all shares, reads back every unit and compares it with its digest,
//! merges again what was lost, and then does what one process does at its end. So the output has the same bytes.
//!
//! # Who keeps whom away
//!
//! Shares hold the stage's lock together, and each one a lock for its number. The last step, and a merge by one
//! process, take the stage's lock alone. Without locks, two processes with the same share write the same bytes to the
//! same places; their journal may be torn, and then the share counts as missing.

mod division;
mod finish;
mod names;
mod record;
mod run;
mod stage;

pub use finish::{Finished, MissingShares, finish_shares};
pub use run::{ShareOutcome, ShareState, execute_share};

pub(crate) use names::is_share_name;

/// Most shares of one merge: lists of their numbers stay small.
pub const MAX_SHARES: usize = 1 << 20;

/// Share number `index` of `count`, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    index: usize,
    count: usize,
}

impl Share {
    /// `None` unless `index` is below `count`, and `count` at most [`MAX_SHARES`].
    ///
    /// # Example
    /// ```
    /// use thalweg_merge::share::Share;
    ///
    /// assert_eq!(Share::new(2, 8).map(|share| share.to_string()).as_deref(), Some("2/8"));
    /// assert_eq!(Share::new(8, 8), None);
    /// ```
    pub fn new(index: usize, count: usize) -> Option<Self> {
        (index < count && count <= MAX_SHARES).then_some(Self { index, count })
    }

    /// Its number, counted from 0.
    pub fn index(self) -> usize {
        self.index
    }

    /// How many shares there are.
    pub fn count(self) -> usize {
        self.count
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// Numbers of shares as job schedulers take them: `2,5-7`.
///
/// # Example
/// ```
/// assert_eq!(thalweg_merge::share::array_expression(&[2, 5, 6, 7]), "2,5-7");
/// assert_eq!(thalweg_merge::share::array_expression(&[0, 1]), "0-1");
/// ```
pub fn array_expression(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let shown = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(shown).collect::<Vec<_>>().join(",")
}

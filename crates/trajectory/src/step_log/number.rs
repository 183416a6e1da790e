//! Numbers as logs write them.

/// How people and libraries write a missing value.
pub(super) const ABSENT: [&str; 7] = ["", "NA", "N/A", "n/a", "null", "None", "-"];

/// A number as it was written: whole ones stay exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LogNumber {
    Whole(u64),
    Real(f64),
}

impl LogNumber {
    /// Reads a number in decimal, NaN and infinities as Python and others write them.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(whole) = text.parse() {
            return Some(Self::Whole(whole));
        }
        text.parse().ok().map(Self::Real)
    }

    pub(super) fn real(self) -> f64 {
        match self {
            Self::Whole(n) => n as f64,
            Self::Real(x) => x,
        }
    }

    /// The number if it is whole: data frames write steps as `1000.0`.
    pub(super) fn whole(self) -> Option<u64> {
        match self {
            Self::Whole(n) => Some(n),
            Self::Real(x) => {
                let fits = (0.0..9.0e15).contains(&x) && x.fract() == 0.0;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range, just checked")]
                fits.then_some(x as u64)
            }
        }
    }
}

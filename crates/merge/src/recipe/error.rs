//! What is wrong with a recipe, and where.

use std::fmt;

use super::tree::Place;
use crate::scheme::SchemeError;

/// Problems that are shown before the rest is counted.
const MAX_SHOWN: usize = 10;
/// Characters of a line that are shown.
const MAX_LINE_CHARS: usize = 100;

/// Everything that is wrong with a recipe, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeError {
    /// At least one.
    pub problems: Vec<RecipeProblem>,
}

/// One thing that is wrong, with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeProblem {
    /// What is wrong.
    pub fault: RecipeFault,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line's text, as far as it is shown, safe to print.
    pub excerpt: String,
    /// Where the marks under the excerpt begin, and how many there are, in characters.
    pub marks: (usize, usize),
}

/// Kinds of problems.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeFault {
    /// No TOML, no YAML, or more of it than is read.
    #[error("{message}")]
    Syntax {
        /// What the reader of the format says.
        message: String,
    },
    /// The document is too long, too deep or has too many values.
    #[error("the recipe has more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much is read.
        limit: usize,
    },
    /// A key that means nothing here.
    #[error("unknown key `{key}` at {level}")]
    UnknownKey {
        /// The key, safe to print.
        key: String,
        /// Where it is.
        level: &'static str,
        /// The key that looks most like it.
        nearest: Option<&'static str>,
        /// Where a key of this name is known.
        belongs: Option<&'static str>,
    },
    /// A key that appears twice in one table.
    #[error("key `{key}` is given twice in one table")]
    DuplicateKey {
        /// The key, safe to print.
        key: String,
    },
    /// A key that must be there.
    #[error("{level} needs `{key}`")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// Where it should be.
        level: &'static str,
    },
    /// A value of another type.
    #[error("`{key}` must be {expected}, {found} found")]
    WrongType {
        /// The key.
        key: String,
        /// What it takes.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// A word that is not among those a key takes.
    #[error("`{key}` cannot be `{value}`")]
    UnknownValue {
        /// The key.
        key: &'static str,
        /// The value, safe to print.
        value: String,
        /// What it can be.
        choices: &'static [&'static str],
    },
    /// Two keys that exclude each other.
    #[error("`{key}` cannot be given with `{other}`")]
    Conflict {
        /// The later key.
        key: &'static str,
        /// The other one.
        other: &'static str,
    },
    /// Something that the recipe's program can do and this one cannot.
    #[error("{what} is not supported: {why}")]
    NotSupported {
        /// The thing.
        what: String,
        /// A sentence that says what to do.
        why: &'static str,
    },
    /// The scheme or the coefficients cannot be used.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
}

impl RecipeFault {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { belongs: Some(place), key, .. } => Some(format!("`{key}` belongs at {place}")),
            Self::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownValue { value, choices, .. } => {
                match thalweg_tensor::nearest_name(value, choices.iter().copied()) {
                    Some(nearest) => Some(format!("did you mean `{nearest}`?")),
                    None => Some(format!("one of {}", choices.join(", "))),
                }
            }
            Self::Scheme(error) => error.hint(),
            _ => None,
        }
    }
}

impl RecipeProblem {
    pub(super) fn new(text: &str, place: Place, fault: RecipeFault) -> Self {
        let line_text = text.split('\n').nth(place.line.saturating_sub(1)).unwrap_or("").trim_end();
        let first = if place.column > MAX_LINE_CHARS { place.column - MAX_LINE_CHARS / 2 } else { 1 };
        // Each character becomes one character, so that the marks stay under what they mean.
        let show = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let excerpt: String = line_text.chars().skip(first - 1).take(MAX_LINE_CHARS).map(show).collect();
        let n_left = (excerpt.chars().count() + 1).saturating_sub(place.column + 1 - first).max(1);
        Self {
            fault,
            line: place.line,
            column: place.column,
            excerpt,
            marks: (place.column + 1 - first, place.n_chars.clamp(1, n_left)),
        }
    }
}

impl fmt::Display for RecipeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let margin = " ".repeat(self.line.to_string().len());
        let (first, n_marks) = self.marks;
        writeln!(f, "line {}, column {}: {}", self.line, self.column, self.fault)?;
        writeln!(f, "  {} | {}", self.line, self.excerpt)?;
        write!(f, "  {margin} | {}{}", " ".repeat(first.saturating_sub(1)), "^".repeat(n_marks))
    }
}

impl RecipeError {
    /// What to do next, where there is something and the text of the error does not say it yet.
    pub fn hint(&self) -> Option<String> {
        match self.problems.as_slice() {
            [only] => only.fault.hint(),
            _ => None,
        }
    }
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.problems.as_slice() {
            return only.fmt(f);
        }
        write!(f, "{} errors found", self.problems.len())?;
        for problem in self.problems.iter().take(MAX_SHOWN) {
            write!(f, "\n{problem}")?;
            if let Some(hint) = problem.fault.hint() {
                write!(f, "\n  {hint}")?;
            }
        }
        match self.problems.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            n_more => write!(f, "\nand {n_more} more"),
        }
    }
}

impl std::error::Error for RecipeError {}

//! A pattern that says where in a checkpoint's name the step is, for names that thalweg does not know.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thalweg_checkpoint::strip_file_end;

use crate::Step;
use crate::checkpoint_name::CheckpointName;
use crate::text_error::TextError;

/// The longest name that file systems allow: a longer pattern is a mistake.
const MAX_PATTERN_BYTES: usize = 255;
const PLACEHOLDER: &str = "{step}";

/// A pattern of checkpoint names, such as `step{step}-unsharded`: `{step}` matches the digits of the step, `*`
/// matches any text.
///
/// # Example
/// ```
/// use thalweg_trajectory::{NamePattern, Step};
///
/// let pattern: NamePattern = "gpt-*-step_{step}-*".parse()?;
/// assert_eq!(pattern.parse_name("gpt-7b-step_1000-of_9000").map(|name| name.step), Some(Step(1000)));
/// assert_eq!(pattern.parse_name("gpt-7b-step_1000"), None);
/// assert!("step".parse::<NamePattern>().is_err());
/// # Ok::<(), thalweg_trajectory::TextError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    before: String,
    after: String,
}

impl NamePattern {
    /// What a name says if all of it matches the pattern. The digits are never part of a longer number.
    pub fn parse_name(&self, name: &str) -> Option<CheckpointName> {
        let mut rest = 0;
        while let Some(start) = name.get(rest..)?.find(|c: char| c.is_ascii_digit()).map(|at| rest + at) {
            let tail = name.get(start..)?;
            let end = start + tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
            let digits = name.get(start..end)?;
            if matches_glob(&self.before, name.get(..start)?) && matches_glob(&self.after, name.get(end..)?) {
                let step = Step(digits.parse().ok()?);
                return Some(CheckpointName::plain(step));
            }
            rest = end;
        }
        None
    }

    /// The pattern of names like this one, whose last number equal to `step` is the step.
    pub(crate) fn of_name(name: &str, step: Step) -> Option<Self> {
        let name = strip_file_end(name).unwrap_or(name);
        let mut runs = name.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        let digits = runs.rfind(|digits| digits.parse() == Ok(step.0))?;
        let (before, after) = name.rsplit_once(digits)?;
        let pattern: Self = format!("{before}{PLACEHOLDER}{after}").parse().ok()?;
        pattern.parse_name(name).filter(|said| said.step == step).map(|_| pattern)
    }

    /// The pattern that most of these names match, with the number in them that grows fastest as the step; `None` if no
    /// two of them differ in numbers alone.
    pub(crate) fn suggest(names: &[&str]) -> Option<Self> {
        let mut groups: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
        for name in names {
            let words = name.split(|c: char| c.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
            groups.entry(words).or_default().push(name);
        }
        let group = groups.into_values().filter(|group| group.len() > 1).max_by_key(Vec::len)?;
        let numbers = |name: &str| -> Vec<u64> {
            let runs = name.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
            runs.map(|run| run.parse().unwrap_or(u64::MAX)).collect()
        };
        let all: Vec<Vec<u64>> = group.iter().map(|name| numbers(name)).collect();
        let n_numbers = all.first()?.len();
        let spread = |i: usize| {
            let column = || all.iter().filter_map(|one| one.get(i).copied());
            Some(column().max()? - column().min()?)
        };
        let step = (0..n_numbers).filter(|i| spread(*i) > Some(0)).max_by_key(|i| spread(*i))?;
        // Numbers that vary beside the step, such as a loss, may be anything.
        let name = group.first()?;
        let (mut pattern, mut rest, mut number) = (String::new(), *name, 0);
        while let Some(c) = rest.chars().next() {
            let is_digit = c.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(rest.len());
            let (part, tail) = rest.split_at(end);
            pattern.push_str(match is_digit {
                true if number == step => PLACEHOLDER,
                true if spread(number) > Some(0) => "*",
                _ => part,
            });
            number += usize::from(is_digit);
            rest = tail;
        }
        let pattern: Self = pattern.parse().ok()?;
        group.iter().all(|name| pattern.parse_name(name).is_some()).then_some(pattern)
    }
}

impl FromStr for NamePattern {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let bad = |reason: &'static str| TextError::BadPattern { text: text.to_owned(), reason };
        if text.len() > MAX_PATTERN_BYTES || text.contains(['/', '\0']) {
            return Err(bad("it matches a single name, so it must be at most 255 bytes long and contain no `/`"));
        }
        let (before, after) = text.split_once(PLACEHOLDER).ok_or_else(|| bad("it lacks `{step}`"))?;
        if after.contains(PLACEHOLDER) {
            return Err(bad("it contains `{step}` twice"));
        }
        if [before, after].iter().any(|part| part.contains(['{', '}'])) {
            return Err(bad("`{step}` is its only placeholder; `*` matches anything"));
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PLACEHOLDER}{}", self.before, self.after)
    }
}

/// Whether all of `text` matches `pattern`, in which `*` matches any text. Backtracks only to the last `*`, so that a
/// hostile pattern costs at most the product of the lengths.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, t));
                p += 1;
            }
            Some(byte) if text.get(t) == Some(byte) => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((star, taken)) = last_star else { return false };
                last_star = Some((star, taken + 1));
                (p, t) = (star + 1, taken + 1);
            }
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(pattern: &str, name: &str) -> Option<u64> {
        pattern.parse::<NamePattern>().unwrap().parse_name(name).map(|name| name.step.0)
    }

    #[test]
    fn the_whole_name_matches_or_none() {
        assert_eq!(step("step{step}-unsharded", "step1000-unsharded"), Some(1000));
        assert_eq!(step("step{step}-unsharded", "step1000-unsharded-old"), None);
        assert_eq!(step("step{step}-unsharded", "my-step1000-unsharded"), None);
        assert_eq!(step("{step}", "000300"), Some(300));
        assert_eq!(step("a{step}", "a"), None);
        assert_eq!(step("step{step}", "step99999999999999999999"), None);
    }

    #[test]
    fn digits_are_whole_numbers_and_stars_are_anything() {
        assert_eq!(step("step_10{step}", "step_100"), None);
        assert_eq!(step("run7-*-s{step}*", "run7-b64-s2000"), Some(2000));
        assert_eq!(step("*-it{step}-*", "v2-it5-x9"), Some(5));
        assert_eq!(step("*{step}", "epoch3-77"), Some(77));
        assert_eq!(step("ü*{step}ü", "üx5ü"), Some(5));
        let hostile = "*a".repeat(100) + "{step}";
        assert_eq!(step(&hostile, &("a".repeat(99) + "b1")), None);
    }

    #[test]
    fn a_name_gives_the_pattern_of_its_like() {
        let pattern = |name: &str, step| NamePattern::of_name(name, Step(step)).map(|pattern| pattern.to_string());
        assert_eq!(pattern("step1000-hf", 1000).as_deref(), Some("step{step}-hf"));
        assert_eq!(pattern("iter_0001000", 1000).as_deref(), Some("iter_{step}"));
        assert_eq!(pattern("epoch_3_step_10.safetensors", 10).as_deref(), Some("epoch_3_step_{step}"));
        assert_eq!(pattern("step_10.pt", 10).as_deref(), Some("step_{step}"));
        assert_eq!(pattern("final", 10), None);
    }

    #[test]
    fn other_patterns_are_refused() {
        for text in ["", "step", "{step}{step}", "step{steps}", "{step}/x", "{epoch}-{step}", &"x".repeat(300)] {
            assert!(text.parse::<NamePattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_suggested_where_names_differ_in_numbers() {
        let check = |names: &[&str], pattern: Option<&str>| {
            assert_eq!(NamePattern::suggest(names).map(|found| found.to_string()).as_deref(), pattern, "{names:?}");
        };
        check(&["0000100_adapters", "0000200_adapters", "config"], Some("{step}_adapters"));
        check(&["run7-at100-x", "run7-at200-x"], Some("run7-at{step}-x"));
        check(&["e1_u900_l3.5", "e2_u1800_l3.4"], Some("e*_u{step}_l3.*"));
        check(&["model-a", "model-b"], None);
        check(&["only100"], None);
        check(&["{x}1", "{x}2"], None);
        check(&[], None);
    }
}

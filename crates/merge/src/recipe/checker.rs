//! Reads typed values out of a tree and gathers what is wrong with them.
//!
//! A reader that finds a wrong value reports it and returns none, so that one pass finds every problem.

use super::error::{RecipeError, RecipeFault, RecipeProblem};
use super::show;
use super::tree::{Entry, Node, NodeValue, Place, ScalarKind};
use crate::{NumberError, Ratio};
use thalweg_tensor::{nearest_name, parse_count};

/// More problems than this are not looked for.
const MAX_PROBLEMS: usize = 100;

const WITHOUT_ZERO: &str = "a number without a leading zero, which YAML 1.1 takes for base 8 and YAML 1.2 does not";

/// Whether a whole number of YAML means something else to one of its versions, as `010` does.
fn has_leading_zero(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A table of a recipe: its position and its keys.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
}

/// Whether `out-dtype` may be written for `out_dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dashes {
    AsUnderscores,
    Distinct,
}

/// The known entries of a table.
pub(super) struct Fields<'n> {
    entries: Vec<(&'static str, &'n Entry)>,
}

impl<'n> Fields<'n> {
    pub(super) fn get(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|(known, _)| *known == key).map(|(_, entry)| *entry)
    }

    /// The entry, unless its value is null.
    pub(super) fn get_set(&self, key: &str) -> Option<&'n Entry> {
        self.get(key).filter(|entry| entry.node.value != NodeValue::Null)
    }
}

pub(super) struct Checker<'a> {
    text: &'a str,
    levels: &'static [&'static Level],
    dashes: Dashes,
    problems: Vec<RecipeProblem>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(text: &'a str, levels: &'static [&'static Level], dashes: Dashes) -> Self {
        Self { text, levels, dashes, problems: Vec::new() }
    }

    pub(super) fn report(&mut self, place: Place, fault: RecipeFault) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(RecipeProblem::new(self.text, place, fault));
        }
    }

    /// `value` if nothing was wrong, else every problem in the order of the text.
    pub(super) fn finish<T>(mut self, value: T) -> Result<T, RecipeError> {
        if self.problems.is_empty() {
            return Ok(value);
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(RecipeError { problems: self.problems })
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// The table's entries by their known names; every other key is reported.
    pub(super) fn fields<'n>(&mut self, key: &str, node: &'n Node, level: &'static Level) -> Fields<'n> {
        let mut fields = Fields { entries: Vec::new() };
        let NodeValue::Table(entries) = &node.value else {
            self.wrong_type(key, "a table", node);
            return fields;
        };
        for entry in entries {
            if self.problems.len() >= MAX_PROBLEMS {
                break;
            }
            let known = level.keys.iter().copied().find(|known| self.matches(&entry.key, known));
            match known {
                Some(known) if fields.get(known).is_some() => {
                    self.report(entry.key_place, RecipeFault::DuplicateKey { key: show(&entry.key) });
                }
                Some(known) => fields.entries.push((known, entry)),
                None => self.unknown_key(entry, level),
            }
        }
        fields
    }

    fn matches(&self, key: &str, known: &str) -> bool {
        key == known || self.dashes == Dashes::AsUnderscores && key.replace('-', "_") == known
    }

    fn unknown_key(&mut self, entry: &Entry, level: &'static Level) {
        let home = self.levels.iter().find(|other| other.keys.iter().any(|known| self.matches(&entry.key, known)));
        let fault = RecipeFault::UnknownKey {
            key: show(&entry.key),
            level: level.name,
            nearest: nearest_name(&entry.key, level.keys.iter().copied()),
            belongs: home.map(|home| home.name),
        };
        self.report(entry.key_place, fault);
    }

    pub(super) fn wrong_type(&mut self, key: &str, expected: &'static str, node: &Node) {
        let fault = RecipeFault::WrongType { key: show(key), expected, found: node.describe().to_owned() };
        self.report(node.place, fault);
    }

    pub(super) fn wrong_scalar(&mut self, key: &str, expected: &'static str, node: &Node, text: &str) {
        let fault = RecipeFault::WrongType { key: show(key), expected, found: format!("`{}`", show(text)) };
        self.report(node.place, fault);
    }

    pub(super) fn text(&mut self, key: &str, node: &Node) -> Option<String> {
        match &node.value {
            NodeValue::Scalar { text, kind: ScalarKind::Plain | ScalarKind::Quoted } if !text.is_empty() => {
                Some(text.clone())
            }
            NodeValue::Scalar { text, kind: ScalarKind::Plain | ScalarKind::Quoted } => {
                self.wrong_scalar(key, "text", node, text);
                None
            }
            _ => {
                self.wrong_type(key, "text", node);
                None
            }
        }
    }

    /// An exact number, written as a number or as text.
    pub(super) fn ratio(&mut self, key: &str, node: &Node) -> Option<Ratio> {
        match &node.value {
            NodeValue::Scalar { text, kind: ScalarKind::Plain } if has_leading_zero(text) => {
                self.wrong_scalar(key, WITHOUT_ZERO, node, text);
                None
            }
            NodeValue::Scalar { text, kind: ScalarKind::Plain | ScalarKind::Quoted | ScalarKind::Number } => text
                .parse()
                .map_err(|error: NumberError| self.report(node.place, RecipeFault::Scheme(error.into())))
                .ok(),
            _ => {
                self.wrong_type(key, "a number", node);
                None
            }
        }
    }

    /// A count in any form that the command line takes, returned as it was written.
    pub(super) fn count(&mut self, key: &str, node: &Node) -> Option<String> {
        const EXPECTED: &str = "a count such as 2000, 4B or 1.5k";
        match &node.value {
            NodeValue::Scalar { text, kind: ScalarKind::Plain } if has_leading_zero(text) => {
                self.wrong_scalar(key, WITHOUT_ZERO, node, text);
                None
            }
            NodeValue::Scalar { text, kind: ScalarKind::Plain | ScalarKind::Quoted | ScalarKind::Number } => {
                let is_count = parse_count(text).is_ok();
                if !is_count {
                    self.wrong_scalar(key, EXPECTED, node, text);
                }
                is_count.then(|| text.clone())
            }
            _ => {
                self.wrong_type(key, EXPECTED, node);
                None
            }
        }
    }

    /// Text or a number, as it was written.
    pub(super) fn text_or_number(&mut self, key: &str, node: &Node) -> Option<String> {
        match &node.value {
            NodeValue::Scalar { text, kind: ScalarKind::Number } => Some(text.clone()),
            _ => self.text(key, node),
        }
    }

    pub(super) fn flag(&mut self, key: &str, node: &Node) -> Option<bool> {
        const EXPECTED: &str = "true or false";
        match &node.value {
            // YAML 1.1, which many tools still speak, has these words.
            NodeValue::Scalar { text, kind: ScalarKind::Plain | ScalarKind::Bool } => {
                match text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "on" => Some(true),
                    "false" | "no" | "off" => Some(false),
                    _ => {
                        self.wrong_scalar(key, EXPECTED, node, text);
                        None
                    }
                }
            }
            _ => {
                self.wrong_type(key, EXPECTED, node);
                None
            }
        }
    }

    pub(super) fn choice(
        &mut self,
        key: &'static str,
        node: &Node,
        choices: &'static [&'static str],
    ) -> Option<String> {
        let text = self.text(key, node)?;
        if choices.contains(&text.as_str()) {
            return Some(text);
        }
        self.report(node.place, RecipeFault::UnknownValue { key, value: show(&text), choices });
        None
    }

    pub(super) fn list<'n>(&mut self, key: &str, expected: &'static str, node: &'n Node) -> Option<&'n [Node]> {
        match &node.value {
            NodeValue::List(items) if !items.is_empty() => Some(items),
            NodeValue::List(_) => {
                let fault = RecipeFault::WrongType { key: show(key), expected, found: "an empty list".to_owned() };
                self.report(node.place, fault);
                None
            }
            _ => {
                self.wrong_type(key, expected, node);
                None
            }
        }
    }
}

//! Other names for tensors, so that checkpoints of different programs can be compared and merged.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thalweg_tensor::{TensorCatalog, TensorEntry, display_name, match_pattern};

/// A name map: the first rule that fits a name renames it; other names stay. No two tensors may get the same name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RenameMap(pub Vec<RenameRule>);

/// Names that fit `from` become `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameRule {
    /// A name, in which each `*` matches any number of characters.
    pub from: String,
    /// The new name, in which each `*` is what the `*` with the same number in `from` matches.
    pub to: String,
}

/// Two tensors that would get one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tensors `{}` and `{}` would both be called `{}`", display_name(first), display_name(second), display_name(to))]
pub struct NameCollision {
    /// The name of one tensor.
    pub first: String,
    /// That of the other one.
    pub second: String,
    /// The new name of both.
    pub to: String,
}

/// A catalog of tensors, each given with its old name.
pub(crate) fn renamed_catalog(tensors: Vec<(&str, TensorEntry)>) -> Result<TensorCatalog, NameCollision> {
    let mut old_names: BTreeMap<&str, &str> = BTreeMap::new();
    for (old, entry) in &tensors {
        if let Some(first) = old_names.insert(&entry.name, old) {
            let (first, second, to) = (first.to_owned(), (*old).to_owned(), entry.name.to_string());
            return Err(NameCollision { first, second, to });
        }
    }
    // Names that differ are all that a catalog asks for.
    let collision = |name: Box<str>| NameCollision { first: String::new(), second: String::new(), to: name.into() };
    TensorCatalog::new(tensors.into_iter().map(|(_, entry)| entry).collect()).map_err(collision)
}

/// Why a name map is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenameError {
    /// A line that is not a rule.
    #[error("line {line} is not a rule: `FROM -> TO` expected, `{}` found", display_name(found))]
    NotARule {
        /// Its number, from 1.
        line: usize,
        /// Its text.
        found: String,
    },
    /// More `*` on the right than on the left.
    #[error("line {line}: `{}` has more `*` than `{}`", display_name(to), display_name(from))]
    TooManyStars {
        /// Its number, from 1.
        line: usize,
        /// The left side.
        from: String,
        /// The right side.
        to: String,
    },
    /// Two tensors with one new name.
    #[error(transparent)]
    Collision(#[from] NameCollision),
}

impl FromStr for RenameMap {
    type Err = RenameError;

    /// Reads one rule on each line, `FROM -> TO`. Empty lines are ignored, and so is what follows a `#`.
    fn from_str(text: &str) -> Result<Self, RenameError> {
        let mut rules = Vec::new();
        for (line, full) in (1..).zip(text.lines()) {
            let rule = full.split('#').next().unwrap_or_default().trim();
            if rule.is_empty() {
                continue;
            }
            let sides = rule.split_once("->").map(|(from, to)| (from.trim(), to.trim()));
            let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
            let Some((from, to)) = sides.filter(|(from, to)| is_name(from) && is_name(to)) else {
                return Err(RenameError::NotARule { line, found: full.trim().to_owned() });
            };
            let (from, to) = (from.to_owned(), to.to_owned());
            if to.matches('*').count() > from.matches('*').count() {
                return Err(RenameError::TooManyStars { line, from, to });
            }
            rules.push(RenameRule { from, to });
        }
        Ok(Self(rules))
    }
}

impl fmt::Display for RenameMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|rule| writeln!(f, "{} -> {}", rule.from, rule.to))
    }
}

impl RenameRule {
    /// The new name of a tensor; `None` if the rule does not fit.
    pub fn apply(&self, name: &str) -> Option<String> {
        let mut matched = match_pattern(&self.from, name)?.into_iter();
        let mut parts = self.to.split('*');
        let mut renamed = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            renamed.push_str(matched.next().unwrap_or_default());
            renamed.push_str(part);
        }
        Some(renamed)
    }
}

impl RenameMap {
    /// Whether no name changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same tensors under their new names, and the `from` of each rule that fits none.
    ///
    /// # Errors
    /// `Collision`.
    ///
    /// # Example
    /// ```
    /// use thalweg_checkpoint::RenameMap;
    ///
    /// let map: RenameMap = "layers.*.wq -> model.layers.*.q_proj".parse()?;
    /// assert_eq!(map.0[0].apply("layers.3.wq").as_deref(), Some("model.layers.3.q_proj"));
    /// # Ok::<(), thalweg_checkpoint::RenameError>(())
    /// ```
    pub fn rename(&self, catalog: &TensorCatalog) -> Result<(TensorCatalog, Vec<String>), RenameError> {
        let mut is_used = vec![false; self.0.len()];
        let mut entries = Vec::with_capacity(catalog.entries().len());
        for entry in catalog.entries() {
            let found = self.0.iter().enumerate().find_map(|(i, rule)| Some((i, rule.apply(&entry.name)?)));
            let name = match found {
                Some((i, name)) => {
                    is_used[i] = true;
                    name
                }
                None => entry.name.to_string(),
            };
            entries.push((&*entry.name, TensorEntry { name: name.into(), ..entry.clone() }));
        }
        let idle = self.0.iter().zip(is_used).filter(|(_, is_used)| !is_used).map(|(rule, _)| rule.from.clone());
        Ok((renamed_catalog(entries)?, idle.collect()))
    }
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::{Dtype, Shape};

    use super::*;

    fn catalog(names: &[&str]) -> TensorCatalog {
        let entry = |name: &&str| TensorEntry {
            name: (*name).into(),
            dtype: Dtype::F32,
            shape: Shape::new([0]),
            pieces: Box::default(),
        };
        TensorCatalog::new(names.iter().map(entry).collect()).unwrap()
    }

    fn renamed(map: &str, names: &[&str]) -> Result<(Vec<String>, Vec<String>), RenameError> {
        let (catalog, idle) = map.parse::<RenameMap>()?.rename(&catalog(names))?;
        Ok((catalog.entries().iter().map(|entry| entry.name.to_string()).collect(), idle))
    }

    #[test]
    fn the_first_rule_that_fits_renames() {
        let map = "# a comment\nmodel.* -> *\n\n  a.*.w -> b.*.w  # more\na.* -> c.*\n";
        let (names, idle) = renamed(map, &["a.0.w", "a.x", "model.y", "z"]).unwrap();
        assert_eq!(names, ["b.0.w", "c.x", "y", "z"]);
        assert!(idle.is_empty());
        assert_eq!(renamed("q.* -> r.*", &["a"]).unwrap(), (vec!["a".to_owned()], vec!["q.*".to_owned()]));
        assert_eq!(map.parse::<RenameMap>().unwrap().to_string(), "model.* -> *\na.*.w -> b.*.w\na.* -> c.*\n");
    }

    #[test]
    fn what_is_not_one_to_one_is_refused() {
        for (map, names, words) in [
            ("a -> b", &["a", "b"][..], "tensors `a` and `b` would both be called `b`"),
            ("* -> x", &["a", "b"], "would both be called `x`"),
            ("a b", &[], "line 1 is not a rule"),
            ("\na ->", &[], "line 2 is not a rule"),
            ("a c -> b", &[], "line 1 is not a rule"),
            ("a.* -> b.*.*", &[], "line 1: `b.*.*` has more `*` than `a.*`"),
        ] {
            let error = renamed(map, names).unwrap_err().to_string();
            assert!(error.contains(words), "{map}: {error}");
        }
    }
}

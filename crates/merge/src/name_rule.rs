//! The rule of `--rename` that gives the tensors of some sources the names that others have.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_checkpoint::RenameRule;

/// The rule that removes `word` from names: at their beginning, after a dot, or anywhere. `None` where none leaves
/// exactly the names of `without`.
pub(crate) fn removing_rule(word: &str, with: &[&str], without: &[&str]) -> Option<String> {
    let rules = [(format!("{word}*"), "*"), (format!("*.{word}*"), "*.*"), (format!("*{word}*"), "**")];
    let mut rules = rules.into_iter().map(|(from, to)| RenameRule { from, to: to.to_owned() });
    rules.find(|rule| leads_to(rule, with, without)).as_ref().map(show)
}

/// What is left of two names, each with its last dot, in front of the longest end that they share.
fn beginnings<'a>(a: &'a str, b: &'a str) -> Option<(&'a str, &'a str)> {
    let ends = a.match_indices('.').map(|(at, _)| at + 1);
    ends.into_iter().find_map(|at| {
        let begin = b.strip_suffix(&a[at..])?;
        begin.ends_with('.').then_some((&a[..at], begin))
    })
}

fn leads_to(rule: &RenameRule, names: &[&str], wanted: &[&str]) -> bool {
    let renamed: Option<BTreeSet<String>> = names.iter().map(|name| rule.apply(name)).collect();
    renamed.is_some_and(|names| names.len() == wanted.len() && wanted.iter().all(|name| names.contains(*name)))
}

fn show(rule: &RenameRule) -> String {
    format!("{} -> {}", rule.from, rule.to)
}

/// The rule that replaces the beginning of names that are only in some sources by that of names only in others, where
/// the tensors that are missing fall into these two sets. Each comes with the sources that have it and that lack it.
pub(crate) fn replacing_rule<'a>(
    missing: impl Iterator<Item = (&'a str, &'a [String], &'a [String])>,
) -> Option<String> {
    let mut sets: BTreeMap<(&[String], &[String]), Vec<&str>> = BTreeMap::new();
    for (tensor, present, absent) in missing {
        sets.entry((present, absent)).or_default().push(tensor);
    }
    let mut sets = sets.into_iter();
    let (Some(((a_has, a_lacks), a)), Some(((b_has, b_lacks), b)), None) = (sets.next(), sets.next(), sets.next())
    else {
        return None;
    };
    // One tensor on each side may as well be two different tensors.
    if (a_has, a_lacks) != (b_lacks, b_has) || a.len() != b.len() || a.len() < 2 {
        return None;
    }
    // Without their beginnings, the first name of one set may be any name of the other.
    b.iter().find_map(|name| {
        let (from, to) = beginnings(a.first()?, name)?;
        let rule = RenameRule { from: format!("{from}*"), to: format!("{to}*") };
        leads_to(&rule, &a, &b).then(|| show(&rule))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_rule_that_leads_to_the_names_is_chosen() {
        let rule = |word, with: &[&str], without: &[&str]| removing_rule(word, with, without);
        assert_eq!(rule("m.", &["m.a", "m.b"], &["a", "b"]).as_deref(), Some("m.* -> *"));
        assert_eq!(rule("m.", &["l.m.a", "k.m.b"], &["l.a", "k.b"]).as_deref(), Some("*.m.* -> *.*"));
        assert_eq!(rule("m.", &["l.m.a", "m.b"], &["l.a", "b"]).as_deref(), Some("*m.* -> **"));
        assert_eq!(rule("m.", &["m.l.m.a"], &["l.a"]), None);
    }

    #[test]
    fn beginnings_are_replaced_by_one_rule_or_none() {
        let (one, two) = (["one".to_owned()], ["two".to_owned()]);
        let rule = |first: &[&str], second: &[&str]| {
            let first = first.iter().map(|name| (*name, &one[..], &two[..]));
            replacing_rule(first.chain(second.iter().map(|name| (*name, &two[..], &one[..]))))
        };
        assert_eq!(rule(&["a.x.w", "a.y.w"], &["b.c.x.w", "b.c.y.w"]).as_deref(), Some("a.* -> b.c.*"));
        assert_eq!(rule(&["a.x.w", "a.y.w"], &["b.x.w", "c.y.w"]), None);
        assert_eq!(rule(&["a.x.w"], &["b.y.w"]), None);
        assert_eq!(rule(&["a.x.w"], &[]), None);
    }
}

//! Patterns for names of tensors, as `--drop` and `--take-newest` take them: `*` is the only wildcard.

use thalweg_tensor::match_pattern;

/// Whether `name` fits `pattern`, in which `*` matches any number of characters, including dots and none at all.
///
/// # Example
/// ```
/// use thalweg_merge::pattern::name_fits;
///
/// assert!(name_fits("*.inv_freq", "model.layers.0.rotary.inv_freq"));
/// assert!(!name_fits("*.inv_freq", "model.layers.0.rotary.inv_freq.scale"));
/// assert!(name_fits("lm_head.weight", "lm_head.weight"));
/// ```
pub fn name_fits(pattern: &str, name: &str) -> bool {
    match_pattern(pattern, name).is_some()
}

/// Whether `name` fits any of the patterns.
pub(crate) fn fits_any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| name_fits(pattern, name))
}

/// Patterns that cover `names`: the name itself, or `*.LAST` for several with the same last part.
///
/// A pattern may match other names too. `others` says whether it matches one that it must not.
pub(crate) fn patterns_for(names: &[&str], others: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut patterns: Vec<String> = Vec::new();
    for &name in names {
        if fits_any(&patterns, name) {
            continue;
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        let wide = format!("*.{last}");
        let covers_many = names.iter().filter(|other| name_fits(&wide, other)).count() > 1;
        patterns.push(if covers_many && !others(&wide) { wide } else { name.to_owned() });
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_anything_and_every_other_character_itself() {
        for (pattern, name, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "a.b", true),
            ("a*", "a", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("a*a", "a", false),
            ("*.b.*", "x.b.y", true),
            ("*.b.*", "x.b", false),
            ("*aab", "aaab", true),
            ("*a*a*", "xaya", true),
            ("*a*a*", "xay", false),
            ("layers.?", "layers.1", false),
            ("é*", "é.weight", true),
        ] {
            assert_eq!(name_fits(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn several_names_of_one_kind_make_one_pattern() {
        let names = ["l.0.inv_freq", "l.1.inv_freq", "scale"];
        assert_eq!(patterns_for(&names, &|_| false), ["*.inv_freq", "scale"]);
        assert_eq!(patterns_for(&names, &|_| true), names);
    }
}

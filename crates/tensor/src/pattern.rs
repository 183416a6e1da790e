//! Patterns for names of tensors: `*` is the only wildcard, and matches any number of characters, dots included.

/// What each `*` of a pattern matches in `name`; `None` if the name does not fit.
///
/// Each `*` but the last takes as little as possible.
///
/// # Example
/// ```
/// use thalweg_tensor::match_pattern;
///
/// assert_eq!(match_pattern("layers.*.attn.*", "layers.7.attn.wq"), Some(vec!["7", "wq"]));
/// assert_eq!(match_pattern("layers.*.attn.*", "layers.7.mlp.wq"), None);
/// assert_eq!(match_pattern("head", "head"), Some(vec![]));
/// ```
pub fn match_pattern<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let Some((first, rest)) = pattern.split_once('*') else { return (pattern == name).then(Vec::new) };
    let mut name = name.strip_prefix(first)?;
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    let mut matched = Vec::with_capacity(parts.len() + 1);
    // Matching each part as early as possible leaves the most room for those after it.
    for part in parts {
        let at = name.find(part)?;
        matched.push(&name[..at]);
        name = &name[at + part.len()..];
    }
    matched.push(name.strip_suffix(last)?);
    Some(matched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_star_has_its_text() {
        let check = |pattern, name, expected: Option<&[&str]>| {
            assert_eq!(match_pattern(pattern, name).as_deref(), expected, "{pattern} {name}");
        };
        check("*", "", Some(&[""]));
        check("a*c*", "abcd", Some(&["b", "d"]));
        check("*.*", "a.b.c", Some(&["a", "b.c"]));
        check("a*a", "a", None);
        check("**x", "abx", Some(&["", "ab"]));
    }
}

//! The known name that a mistyped one most likely means.

/// Longer input is not a typing error.
const MAX_NAME_BYTES: usize = 64;

/// The candidate closest to `name`, if any is close enough to be worth a question. Ties go to the earlier one.
///
/// # Example
/// ```
/// assert_eq!(thalweg_tensor::nearest_name("streide", ["stride", "start"]), Some("stride"));
/// assert_eq!(thalweg_tensor::nearest_name("colour", ["stride", "start"]), None);
/// ```
pub fn nearest_name<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let fold = |text: &str| text.to_lowercase().replace('_', "-");
    let name = fold(name);
    let mut best: Option<(usize, &str)> = None;
    let mut completed = None;
    for candidate in candidates {
        let folded = fold(candidate);
        let n_chars = name.chars().count().max(folded.chars().count());
        // Insertions, deletions, replacements and exchanges of neighbours.
        let distance = strsim::osa_distance(&name, &folded);
        let is_close = distance <= (n_chars / 3).max(1) && distance < n_chars;
        if is_close && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
        if completed.is_none() && name.len() >= 3 && folded.starts_with(&name) {
            completed = Some(candidate);
        }
    }
    best.map(|(_, candidate)| candidate).or(completed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_name() {
        let names =
            ["sma", "wma", "ema", "ema-normalised", "decay:linear", "decay:cosine", "power-ema", "coefficients"];
        for (typed, meant) in [
            ("SMA", Some("sma")),
            ("ema-normalized", Some("ema-normalised")),
            ("ema_normalised", Some("ema-normalised")),
            ("decay:linaer", Some("decay:linear")),
            ("decay", Some("decay:linear")),
            ("power_ema", Some("power-ema")),
            ("coefs", None),
            ("coef", Some("coefficients")),
            ("coefficient", Some("coefficients")),
            ("slerp", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest_name(typed, names), meant, "{typed}");
        }
        assert_eq!(nearest_name(&"a".repeat(1 << 20), names), None);
    }
}

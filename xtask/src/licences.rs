//! Every dependency must be had under a permissive licence.

use serde_json::Value;

use crate::metadata::{packages, text};

const ALLOWED: [&str; 15] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "BSL-1.0",
    "Unlicense",
    // For data: asks only that its text goes with copies of the data. The list of Mozilla's certificate authorities is
    // under it, which no program for Linux contains.
    "CDLA-Permissive-2.0",
];

/// Names of packages that no allowed licence covers.
pub(crate) fn check(metadata: &Value) -> Result<(), String> {
    let refused: Vec<String> = packages(metadata)
        .filter(|package| !package["source"].is_null())
        .filter(|package| !is_allowed(text(package, "license")))
        .map(|package| {
            let licence = text(package, "license");
            format!("{} {} ({licence:?})", text(package, "name"), text(package, "version"))
        })
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(format!("no permissive licence: {}", refused.join(", "))) }
}

/// Whether an SPDX expression can be met by allowed licences: `OR` needs one side, `AND` both.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let mut words = Words { rest: expression.trim() };
    let allowed = words.alternatives();
    allowed && words.rest.is_empty()
}

struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    fn take(&mut self, word: &str) -> bool {
        let after = self.rest.strip_prefix(word);
        if let Some(after) = after {
            self.rest = after.trim_start();
        }
        after.is_some()
    }

    fn alternatives(&mut self) -> bool {
        let mut allowed = self.conjunction();
        while self.take("OR ") {
            allowed |= self.conjunction();
        }
        allowed
    }

    fn conjunction(&mut self) -> bool {
        let mut allowed = self.one();
        while self.take("AND ") {
            allowed &= self.one();
        }
        allowed
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let allowed = self.alternatives();
            return self.take(")") && allowed;
        }
        let ends = [" OR ", " AND ", ")"].iter().filter_map(|end| self.rest.find(end));
        let end = ends.min().unwrap_or(self.rest.len());
        let (licence, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        ALLOWED.contains(&licence.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_or_not() {
        for allowed in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR GPL-2.0) AND ISC",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for refused in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC", "LGPL-3.0-only"] {
            assert!(!is_allowed(refused), "{refused}");
        }
    }
}

//! A waived difference between configs or tokenizers: the key, with the values that a person has seen.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thalweg_tensor::shell_word;

/// A key whose difference was waived. It covers only the listed values: another value is another difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigWaiver {
    /// The key, nested ones with dots.
    pub key: String,
    /// The values that may differ between sources; `null` for a missing key.
    pub values: Vec<Value>,
}

impl ConfigWaiver {
    /// Whether this waives a difference of `key` among `values`.
    pub(crate) fn covers<'a>(&self, key: &str, values: impl IntoIterator<Item = &'a Option<Value>>) -> bool {
        self.key == key
            && values.into_iter().all(|value| {
                let value = value.as_ref().unwrap_or(&Value::Null);
                self.values.iter().any(|known| thalweg_checkpoint::is_same_value(known, value))
            })
    }

    /// The option that gives this waiver on a command line, quoted for a shell.
    pub(crate) fn as_option(&self) -> String {
        format!("--allow-config {}", shell_word(&self.to_string()))
    }
}

impl fmt::Display for ConfigWaiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(Value::to_string).collect();
        write!(f, "{}={}", self.key, values.join(","))
    }
}

/// What is wrong with the text of a waiver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaiverError {
    /// A key without values.
    #[error(
        "`{text}` does not say which values may differ: write `KEY=VALUE,VALUE`, such as `rope_theta=10000.0,500000.0`"
    )]
    NoValues {
        /// The text.
        text: String,
    },
    /// Values that are not JSON.
    #[error("the values of `{key}` are not JSON values separated by commas: {reason}")]
    BadValues {
        /// The key.
        key: String,
        /// Why not.
        reason: String,
    },
}

impl FromStr for ConfigWaiver {
    type Err = WaiverError;

    fn from_str(text: &str) -> Result<Self, WaiverError> {
        let no_values = || WaiverError::NoValues { text: thalweg_tensor::display_name(text) };
        let (key, values) = text.split_once('=').ok_or_else(no_values)?;
        if key.is_empty() || values.trim().is_empty() {
            return Err(no_values());
        }
        let bad = |error: serde_json::Error| WaiverError::BadValues {
            key: thalweg_tensor::display_name(key),
            reason: error.to_string(),
        };
        let values = serde_json::from_str(&format!("[{values}]")).map_err(bad)?;
        Ok(Self { key: key.to_owned(), values })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_waiver_reads_back_and_covers_its_values_alone() {
        let waiver: ConfigWaiver = "rope_theta=10000.0,500000.0".parse().unwrap();
        assert_eq!(waiver.to_string().parse(), Ok(waiver.clone()));
        let pair = |a: Value, b: Value| [Some(a), Some(b)];
        assert!(waiver.covers("rope_theta", &pair(json!(10000), json!(5e5))));
        assert!(!waiver.covers("rope_theta", &pair(json!(10000), json!(1e6))));
        assert!(!waiver.covers("rope_scaling", &pair(json!(10000), json!(5e5))));
        assert!(!waiver.covers("rope_theta", &[Some(json!(10000)), None]));
        let missing: ConfigWaiver = "sliding_window=null,[4096,1]".parse().unwrap();
        assert!(missing.covers("sliding_window", &[Some(json!([4096, 1])), None]));
        assert_eq!(missing.as_option(), "--allow-config 'sliding_window=null,[4096,1]'");
    }

    #[test]
    fn a_waiver_without_values_is_refused() {
        for text in ["rope_theta", "rope_theta=", "=1"] {
            assert!(matches!(text.parse::<ConfigWaiver>(), Err(WaiverError::NoValues { .. })), "{text}");
        }
        assert!(matches!("a=b".parse::<ConfigWaiver>(), Err(WaiverError::BadValues { .. })));
    }
}

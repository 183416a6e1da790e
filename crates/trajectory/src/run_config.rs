//! `thalweg.toml` in a run folder: what the run's owner says where names and logs do not.
//!
//! Four keys, all optional: `tokens_per_step = 4194304`, `stable = [2000, 17000]`, `log = "train.jsonl"` or a list,
//! `checkpoint_pattern = "step{step}-unsharded"`.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use thalweg_storage::Storage;

use crate::text_error::TextError;
use crate::{Error, NamePattern, StableRange, Step, TokensPerStep};

/// The name of the file.
pub const RUN_CONFIG_NAME: &str = "thalweg.toml";
const MAX_RUN_CONFIG_BYTES: u64 = 1 << 20;

/// What a `thalweg.toml` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunConfig {
    /// Tokens in each step.
    pub tokens_per_step: Option<TokensPerStep>,
    /// First and last step of the stable phase.
    pub stable: Option<StableRange>,
    /// The files and folders of the step log, relative to the run folder.
    pub logs: Vec<String>,
    /// Which names are checkpoints, and where the step is in them.
    pub checkpoint_pattern: Option<NamePattern>,
}

/// A number, or text with a suffix such as `"4M"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(u64),
    Text(String),
}

impl Number {
    fn read<T: std::str::FromStr<Err = TextError>>(self) -> Result<T, String> {
        let text = match self {
            Self::Whole(n) => n.to_string(),
            Self::Text(text) => text,
        };
        text.parse().map_err(|error: TextError| error.to_string())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    tokens_per_step: Option<Number>,
    stable: Option<[Number; 2]>,
    log: Option<Logs>,
    checkpoint_pattern: Option<String>,
}

/// One log, or one for each start of the run.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Logs {
    One(String),
    Several(Vec<String>),
}

/// Reads the text of a `thalweg.toml`.
///
/// # Errors
/// What is wrong, with line and column where the text itself is at fault.
///
/// # Example
/// ```
/// use thalweg_trajectory::run_config::parse_run_config;
///
/// let config = parse_run_config("tokens_per_step = \"4M\"\nstable = [2000, 17000]\n")?;
/// assert_eq!(config.tokens_per_step, Some(thalweg_trajectory::TokensPerStep(4_000_000)));
/// # Ok::<(), String>(())
/// ```
pub fn parse_run_config(text: &str) -> Result<RunConfig, String> {
    let raw: RawConfig = toml::from_str(text).map_err(|error| describe_toml_error(text, &error))?;
    let stable = match raw.stable {
        Some([from, to]) => {
            let range = StableRange { from: from.read::<Step>()?, to: to.read::<Step>()? };
            if range.from > range.to {
                return Err(format!("`stable` ends at step {} before it begins at step {}", range.to, range.from));
            }
            Some(range)
        }
        None => None,
    };
    let tokens_per_step = raw.tokens_per_step.map(Number::read).transpose()?;
    let logs = match raw.log {
        None => Vec::new(),
        Some(Logs::One(log)) => vec![log],
        Some(Logs::Several(logs)) if logs.is_empty() => return Err("`log` is empty".to_owned()),
        Some(Logs::Several(logs)) => logs,
    };
    if logs.iter().any(|log| log.trim().is_empty()) {
        return Err("`log` is empty".to_owned());
    }
    let checkpoint_pattern = raw.checkpoint_pattern.map(|text| text.parse::<NamePattern>());
    let checkpoint_pattern = checkpoint_pattern.transpose().map_err(|error| error.to_string())?;
    Ok(RunConfig { tokens_per_step, stable, logs, checkpoint_pattern })
}

fn describe_toml_error(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', ", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return message };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{message} (line {line}, column {column})")
}

/// Reads the `thalweg.toml` of a run folder, if there is one.
///
/// # Errors
/// `RunConfig` with what is wrong; `Storage`.
pub(crate) fn read_run_config(storage: &Arc<dyn Storage>, run: &Path) -> Result<Option<RunConfig>, Error> {
    let path = run.join(RUN_CONFIG_NAME);
    let bytes = match storage.read_file(&path, MAX_RUN_CONFIG_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned());
    match text.and_then(|text| parse_run_config(&text)) {
        Ok(config) => Ok(Some(config)),
        Err(message) => Err(Error::RunConfig { path, message }),
    }
}

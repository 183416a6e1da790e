//! Keywords of Python as requests: the names are the options of the command line, the values become text.
//!
//! Knows no option by itself: `thalweg_study::request` has the list and says what each means.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};
use thalweg_checkpoint::{Params, ReadOptions, RenameError, RenameMap};
use thalweg_merge::Ratio;
use thalweg_study::request::{GivenModel, MergeRequest, OPTION_NAMES, read_rename_map};
use thalweg_tensor::{nearest_name, parse_count};

use crate::error::{Failure, Result};
use crate::session::Session;

/// A checkpoint, alone or with its coefficient: a number, a `Fraction`, or text such as `"3/2"`.
#[derive(Debug)]
pub(crate) enum SourceArgument {
    /// Alone.
    Path(PathBuf),
    /// With its coefficient.
    Weighed(PathBuf, Py<PyAny>),
}

/// Other names for tensors: a dict, or a file with one rule on each line.
#[derive(Debug, FromPyObject)]
pub(crate) enum RenameArgument {
    /// A file.
    File(PathBuf),
    /// From names to names; `*` matches anything.
    Rules(Vec<(String, String)>),
    /// The same as a dict.
    Dict(std::collections::BTreeMap<String, String>),
}

/// How checkpoints are read: `key`, `params` and `rename`.
pub(crate) fn read_options(
    session: &Session,
    (key, params, rename): (Option<String>, Option<String>, Option<RenameArgument>),
) -> Result<ReadOptions> {
    let params = match params.as_deref() {
        None => None,
        Some("module") => Some(Params::Module),
        Some("master") => Some(Params::Master),
        Some(other) => {
            return Err(Failure::usage_with_hint(
                format!("`params={other:?}` is not known"),
                "write `\"module\"` or `\"master\"`",
            ));
        }
    };
    let rename = match rename {
        None => RenameMap::default(),
        Some(RenameArgument::File(path)) => read_rename_map(&*session.storage, &path)?,
        Some(RenameArgument::Rules(rules)) => rename_map(rules)?,
        Some(RenameArgument::Dict(rules)) => rename_map(rules)?,
    };
    Ok(ReadOptions { key, params, rename, ..ReadOptions::default() })
}

fn rename_map(rules: impl IntoIterator<Item = (String, String)>) -> Result<RenameMap> {
    let lines: Vec<String> = rules.into_iter().map(|(from, to)| format!("{from} -> {to}")).collect();
    lines.join("\n").parse().map_err(|error: RenameError| Failure::usage(format!("`rename`: {error}")))
}

/// The request that a run or sources mean, with the options of Python's keywords.
pub(crate) fn merge_request(
    run: Option<PathBuf>,
    sources: Option<Vec<SourceArgument>>,
    options: Option<&Bound<'_, PyDict>>,
) -> Result<MergeRequest> {
    let mut request = MergeRequest { inputs: run.into_iter().collect(), ..MergeRequest::default() };
    for source in sources.unwrap_or_default() {
        request.models.push(match source {
            SourceArgument::Path(path) => GivenModel { path, coefficient: None },
            SourceArgument::Weighed(path, coefficient) => {
                let coefficient = Python::attach(|py| parse_coefficient(&path, coefficient.bind(py)))?;
                GivenModel { path, coefficient: Some(coefficient) }
            }
        });
    }
    for (name, value) in options.into_iter().flatten() {
        // `lambda` is a word of the language, so its keyword has an underscore.
        let name: String = name.extract()?;
        let name = name.strip_suffix('_').unwrap_or(&name).to_owned();
        if !OPTION_NAMES.contains(&name.as_str()) {
            return Err(unknown_option(&name));
        }
        if !value.is_none() {
            let mut values = values_of(&value)?;
            if name == "dtype" {
                // `torch.bfloat16` prints itself with its module.
                values.iter_mut().for_each(|value| *value = value.trim_start_matches("torch.").to_owned());
            }
            request.set_option(&name, &values)?;
        }
    }
    Ok(request)
}

fn unknown_option(name: &str) -> Failure {
    let what = format!("there is no option `{name}` for merges");
    match nearest_name(name, OPTION_NAMES) {
        Some(nearest) => Failure::usage_with_hint(what, format!("did you mean `{nearest}`?")),
        None => Failure::usage(what),
    }
}

fn parse_coefficient(path: &Path, coefficient: &Bound<'_, PyAny>) -> Result<Ratio> {
    let text = coefficient.str()?.to_string();
    text.parse().map_err(|error| {
        let path = path.display();
        Failure::usage_with_hint(
            format!("the coefficient `{text}` of `{path}`: {error}"),
            "write a number, a fraction as text such as `\"3/2\"`, or a `fractions.Fraction`",
        )
    })
}

/// The values of an option as text: one, or those of a sequence. A dict has its items as `NAME=VALUE`.
fn values_of(value: &Bound<'_, PyAny>) -> Result<Vec<String>> {
    if let Ok(dict) = value.cast::<PyDict>() {
        let item = |(name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
            Ok(format!("{}={}", text_of(&name)?, text_of(&value)?))
        };
        return dict.iter().map(item).collect();
    }
    // Lists, tuples, ranges, arrays; not sets, which have no order.
    let is_sequence = value.hasattr("__getitem__")? && !value.is_instance_of::<PyString>();
    match value.try_iter() {
        Ok(items) if is_sequence => items.map(|item| text_of(&item?)).collect(),
        // A number, or an array without dimensions.
        _ => Ok(vec![text_of(value)?]),
    }
}

fn text_of(value: &Bound<'_, PyAny>) -> Result<String> {
    match value.cast::<PyBool>() {
        Ok(flag) => Ok(flag.is_true().to_string()),
        Err(_) => Ok(value.str()?.to_string()),
    }
}

/// Values as text.
pub(crate) fn texts(values: Option<Vec<Bound<'_, PyAny>>>) -> Result<Option<Vec<String>>> {
    let text = |value: Bound<'_, PyAny>| Ok(value.str()?.to_string());
    values.map(|values| values.into_iter().map(text).collect()).transpose()
}

/// Counts such as 2000 or "8B".
pub(crate) fn whole_numbers(keyword: &str, values: Option<Vec<Bound<'_, PyAny>>>) -> Result<Vec<u64>> {
    let refuse = |text: &str, why| Failure::usage(format!("`{keyword}`: `{text}`: {why}, such as 2000, 2K or 8B"));
    let values = texts(values)?.unwrap_or_default();
    values.iter().map(|text| parse_count(text).map_err(|why| refuse(text, why))).collect()
}

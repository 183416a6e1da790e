//! What other commands found, for the page of a study: a table from the JSON document that each of them prints.
//!
//! Reads laws of merging, searches for mixtures and their validation, curves of forgetting, and extrapolations. A
//! number that is missing is shown as a dash.

use std::path::Path;

use serde_json::Value;
use thalweg_storage::Storage;

use crate::Error;

/// The largest document that is read.
const MAX_BYTES: u64 = 64 << 20;
/// Rows of a table that are shown.
const MAX_ROWS: usize = 500;

/// A part of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its heading.
    pub title: &'static str,
    /// What was found, in a sentence or two.
    pub lead: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Cells by row.
    pub rows: Vec<Vec<String>>,
}

/// Reads what `law merge`, `mix search`, `mix validate`, `forget curve` or `extrapolate` printed with `--json`.
///
/// # Errors
/// `Request` for anything else; `Storage`.
pub fn read_attachment(storage: &dyn Storage, path: &Path) -> Result<Attachment, Error> {
    let bytes = storage.read_file(path, MAX_BYTES)?;
    let refuse = |what: String| {
        Error::request_with_hint(
            format!("`{}` cannot be shown on a page: {what}", path.display()),
            "give what `law merge`, `mix search`, `mix validate`, `forget curve` or `extrapolate` prints with `--json`",
        )
    };
    let document: Value = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    let kind = document["kind"].as_str().unwrap_or_default();
    let mut found = match kind {
        "thalweg-merge-law" => law(&document),
        "thalweg-mix-search" => mixture(&document),
        "thalweg-mix-validation" => validation(&document),
        "thalweg-forget-curve" => forgetting(&document),
        "thalweg-extrapolation" => extrapolation(&document),
        _ => return Err(refuse(format!("its kind is `{}`", thalweg_tensor::display_name(kind)))),
    };
    found.rows.truncate(MAX_ROWS);
    Ok(found)
}

fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn rows_of<'a>(document: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    document[key].as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_owned(), str::to_owned)
}

/// A whole number, or one with four digits after the point.
fn number(value: &Value) -> String {
    match (value.as_u64(), value.as_f64()) {
        (Some(n), _) => n.to_string(),
        (None, Some(x)) => format!("{x:.4}"),
        (None, None) => "-".to_owned(),
    }
}

/// A number with four digits, whole or not.
fn real(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |x| format!("{x:.4}"))
}

/// The reason why nothing can be predicted or written, as a sentence to follow another one.
fn refusal(document: &Value) -> String {
    document["refusal"].as_str().map_or_else(String::new, |why| format!(" No: {why}."))
}

fn law(document: &Value) -> Attachment {
    let lead = format!(
        "{}: L = {}, A = {}, b = {}.{}",
        text(&document["formula"]),
        real(&document["l_inf"]),
        real(&document["a"]),
        real(&document["b"]),
        refusal(document)
    );
    let measured = rows_of(document, "points").map(|row| {
        vec![number(&row["k"]), number(&row["n_merges"]), real(&row["loss"]), real(&row["sd"]), real(&row["fitted"])]
    });
    let predicted = rows_of(document, "predictions")
        .map(|row| vec![number(&row["k"]), "-".to_owned(), real(&row["measured"]), "-".to_owned(), real(&row["loss"])]);
    Attachment {
        title: "Law of merging",
        lead,
        columns: columns(&["models merged", "merges", "mean loss", "deviation", "law"]),
        rows: measured.chain(predicted).collect(),
    }
}

fn mixture(document: &Value) -> Attachment {
    let range = |value: &Value| format!("{} to {}", real(&value[0]), real(&value[2]));
    let rows = rows_of(document, "region").map(|row| {
        vec![
            text(&row["component"]),
            real(&row["coefficient"]),
            real(&row["data_share"]),
            range(&row["data_share_quantiles"]),
        ]
    });
    Attachment {
        title: "Mixture of training data",
        lead: format!(
            "The mean of the region that {} merged mixtures point at; the range says how flat the optimum is.",
            number(&document["n_trials"])
        ),
        columns: columns(&["data set", "coefficient", "data share", "range of the share"]),
        rows: rows.collect(),
    }
}

fn validation(document: &Value) -> Attachment {
    let rows = rows_of(document, "rows").map(|row| {
        vec![
            text(&row["measure"]),
            number(&row["n"]),
            real(&row["spearman"]),
            real(&row["top_quartile_spearman"]),
            real(&row["recovery"]),
        ]
    });
    Attachment {
        title: "Merged mixtures against real runs",
        lead: format!("{} mixtures have both a merge and a run.", number(&document["n_matched"])),
        columns: columns(&["score", "mixtures", "rank correlation", "of the best quarter", "merge over run"]),
        rows: rows.collect(),
    }
}

fn forgetting(document: &Value) -> Attachment {
    const MEASURES: [&str; 4] = ["m_ex", "m_in", "ppl_ent", "ppl"];
    let row = |row: &Value| {
        let model = row["window"].as_str().unwrap_or("checkpoint").to_owned();
        let values = MEASURES.iter().map(|measure| real(&row["values"][measure]));
        [number(&row["step"]), model].into_iter().chain(values).chain([real(&row["retention"])]).collect()
    };
    Attachment {
        title: "What is forgotten",
        lead: "Recall of entities of earlier data by checkpoints, and by merges that end at them.".to_owned(),
        columns: columns(&["step", "model", "M_ex", "M_in", "PPL_ent", "PPL", "retention"]),
        rows: rows_of(document, "rows").map(row).collect(),
    }
}

fn extrapolation(document: &Value) -> Attachment {
    let line = &document["line"];
    let lead = format!(
        "{} means of {} checkpoints: {}. The first component takes {} of the variance; of a random walk, {}.{}",
        number(&document["n_points"]),
        number(&document["window"]),
        text(&line["verdict"]),
        real(&line["component_shares"][0]),
        real(&line["random_walk_shares"][0]),
        refusal(document)
    );
    let rows = rows_of(document, "candidates")
        .map(|row| vec![real(&row["alpha"]), real(&row["gain"]), real(&row["gain_standard_error"])]);
    Attachment {
        title: "Step along the line of merged checkpoints",
        lead,
        columns: columns(&["step in lags", "gain over the mean of the same length", "its error"]),
        rows: rows.collect(),
    }
}

//! Losses against the number of experts: one JSON object on each line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thalweg_eval::external::quote_python_numbers;
use thalweg_storage::Storage;
use thalweg_tensor::{display_name, parse_count};

use crate::Error;
use crate::document::{DocumentKind, Lines};
use crate::values::mean;

/// The lines that `law curve` writes.
pub(crate) const CURVE: DocumentKind = DocumentKind::new("a curve of losses", "thalweg-merge-curve", 1);

/// The most lines that are read.
const MAX_RECORDS: usize = 1_000_000;
/// Numbers from here on are counts of parameters; smaller ones are billions.
const LEAST_COUNT: f64 = 1e5;
const BILLION: f64 = 1e9;

/// Spellings of each column, in lower case.
const K_NAMES: [&str; 8] =
    ["k", "n_experts", "num_experts", "experts", "n_checkpoints", "checkpoints", "count", "n_merged"];
const LOSS_NAMES: [&str; 9] =
    ["loss", "nll", "ce", "cross_entropy", "mean_loss", "eval_loss", "nll_nats", "nats_per_token", "value"];
const SUBSET_NAMES: [&str; 5] = ["subset", "members", "models", "combination", "subset_id"];
const DOMAIN_NAMES: [&str; 4] = ["domain", "task", "dataset", "set"];
const SEED_NAMES: [&str; 3] = ["seed", "run", "replicate"];
const SIZE_NAMES: [&str; 5] = ["n", EXACT_SIZE, "params", "size", "model_size"];
/// The name under which a whole number is a count of parameters however small, as `law curve` writes it.
const EXACT_SIZE: &str = "n_params";
const POOL_NAMES: [&str; 3] = ["pool", "m", "pool_size"];

/// A line as `law curve` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurveRecord {
    /// Always `thalweg-merge-curve`.
    pub kind: String,
    /// Always 1.
    pub version: u64,
    /// Models that were averaged; 0 is the base.
    pub k: u32,
    /// Which ones, by their places in the command.
    pub subset: Vec<usize>,
    /// Models in the pool.
    pub pool: usize,
    /// Task and measure.
    pub domain: String,
    /// What the average scored, lower is better.
    pub loss: f64,
    /// Parameters, where they are known.
    #[serde(default, alias = "n", skip_serializing_if = "Option::is_none")]
    pub n_params: Option<u64>,
}

/// A model that may be part of a subset, as the file names it.
pub type Member = String;

/// One merge of k models and what it scored on each domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Models that were merged.
    pub k: u32,
    /// Parameters in billions, where the file has sizes.
    pub n_billions: Option<f64>,
    /// Losses in the order of [`Curve::domains`].
    pub losses: Vec<f64>,
}

impl Unit {
    /// Mean over the domains.
    pub(crate) fn macro_loss(&self) -> f64 {
        mean(&self.losses)
    }
}

/// All losses of a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve {
    /// Domains by name; one without a name where the file has none.
    pub domains: Vec<String>,
    /// Merges, by size and k.
    pub units: Vec<Unit>,
    /// Losses of the base (k = 0), by size.
    pub bases: Vec<Unit>,
    /// Models to choose from, where the file says.
    pub pool: Option<u32>,
}

/// A line that was read.
struct Row {
    line: usize,
    k: u32,
    loss: f64,
    subset: Option<String>,
    members: Vec<Member>,
    domain: String,
    seed: String,
    n_billions: Option<f64>,
    pool: Option<u32>,
}

/// Reads losses, one JSON object per line; blank lines are skipped.
///
/// # Errors
/// `LineForm` with the line for what is not a record, for a loss that is not finite, and for a merge that was scored
/// twice or not on all domains.
///
/// # Example
/// ```
/// let curve = thalweg_study::law::read_curve("{\"k\": 1, \"loss\": 2.5}\n{\"k\": 2, \"loss\": 2.25}\n")?;
/// assert_eq!((curve.units.len(), curve.units[1].k), (2, 2));
/// # Ok::<(), thalweg_study::Error>(())
/// ```
pub fn read_curve(text: &str) -> Result<Curve, Error> {
    curve_of(&Lines::of_text("the curve", text))
}

/// Reads a file of losses.
///
/// # Errors
/// `Request` where it is not text or has no records; `LineForm`; `Storage`.
pub fn read_curve_file(storage: &dyn Storage, path: &Path) -> Result<Curve, Error> {
    /// The largest file of losses.
    const MAX_BYTES: u64 = 256 << 20;
    curve_of(&Lines::of_file(storage, path, MAX_BYTES)?)
}

fn curve_of(lines: &Lines) -> Result<Curve, Error> {
    let rows = lines.read(MAX_RECORDS, LINE_HINT, read_row)?;
    if rows.is_empty() {
        return Err(Error::request_with_hint("the curve has no records", RECORD_HINT));
    }
    gather(&rows).map_err(|(line, what)| lines.fault(line, what, LINE_HINT))
}

/// What a record looks like.
const RECORD_HINT: &str =
    "write one JSON object on each line, such as {\"k\": 4, \"loss\": 2.31}; `thalweg law curve` writes such files";

const LINE_HINT: &str =
    "each line is one loss, such as {\"k\": 4, \"loss\": 2.31}, with `subset`, `domain`, `seed` and `n` as needed";

fn read_row(line: usize, text: &str) -> Result<Row, String> {
    let value: Value =
        serde_json::from_slice(&quote_python_numbers(text.as_bytes())).map_err(|error| error.to_string())?;
    if let Some(what) = CURVE.fault_of_any_line(&value) {
        return Err(what);
    }
    let Value::Object(object) = value else { return Err("it is not a JSON object".to_owned()) };
    let columns = Columns { object: object.iter().map(|(name, value)| (name.to_lowercase(), value)).collect() };
    let k = columns.find(&K_NAMES);
    let k = k.ok_or_else(|| format!("it has no `k`; its keys are {}", shown_keys(&object)))?;
    let k =
        whole(k.1).ok_or_else(|| format!("`{}` is {}, not a whole number from 0 to {}", k.0, shown(k.1), u32::MAX))?;
    let loss = columns.find(&LOSS_NAMES);
    let loss = loss.ok_or_else(|| format!("it has no `loss`; its keys are {}", shown_keys(&object)))?;
    let finite = loss.1.as_f64().filter(|loss| loss.is_finite());
    let number = finite.ok_or_else(|| format!("`{}` is {}, not a finite number", loss.0, shown(loss.1)))?;
    let text_of = |names: &[&str]| columns.find(names).map(|(_, value)| plain(value));
    let size = columns.find(&SIZE_NAMES).filter(|(_, value)| !value.is_null());
    let n_billions = size.map(|(name, value)| {
        billions(name, value).ok_or_else(|| format!("`{name}` is {}, not a number of parameters", shown(value)))
    });
    Ok(Row {
        line,
        k,
        loss: number,
        subset: text_of(&SUBSET_NAMES),
        members: columns.find(&SUBSET_NAMES).map(|(_, value)| members(value)).unwrap_or_default(),
        domain: text_of(&DOMAIN_NAMES).unwrap_or_default(),
        seed: text_of(&SEED_NAMES).unwrap_or_default(),
        n_billions: n_billions.transpose()?,
        pool: columns.find(&POOL_NAMES).and_then(|(_, value)| whole(value)),
    })
}

/// The keys of an object in lower case.
struct Columns<'a> {
    object: BTreeMap<String, &'a Value>,
}

impl<'a> Columns<'a> {
    /// The first of some names that is there.
    fn find<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &'a Value)> {
        names.iter().find_map(|name| Some((*name, *self.object.get(*name)?)))
    }
}

/// A count; pandas writes whole numbers as `4.0` in a column with missing values.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number in the range of the type")]
fn whole(value: &Value) -> Option<u32> {
    let is_whole = |number: &f64| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number);
    value.as_f64().filter(is_whole).map(|number| number as u32)
}

fn billions(name: &str, value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(text) => parse_count(text).ok()? as f64,
        value => value.as_f64()?,
    };
    let is_count = value.is_string() || (name == EXACT_SIZE && value.is_u64());
    let scaled = if number >= LEAST_COUNT || is_count { number / BILLION } else { number };
    (scaled.is_finite() && scaled > 0.0).then_some(scaled)
}

/// A text without the quotes of JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn members(value: &Value) -> Vec<Member> {
    value.as_array().map(|list| list.iter().map(plain).collect()).unwrap_or_default()
}

fn shown(value: &Value) -> String {
    let text: String = plain(value).chars().take(40).collect();
    format!("`{}`", display_name(&text))
}

fn shown_keys(object: &Map<String, Value>) -> String {
    let keys: Vec<String> = object.keys().take(8).map(|key| format!("`{}`", display_name(key))).collect();
    if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
}

/// What tells one merge from another: size, k, seed, subset, and a count where the subset is not named.
type UnitKey = (Option<u64>, u32, String, String, usize);

/// Brings the losses of one merge on several domains together.
fn gather(rows: &[Row]) -> Result<Curve, (usize, String)> {
    let domains: BTreeSet<&str> = rows.iter().map(|row| row.domain.as_str()).collect();
    let domains: Vec<String> = domains.into_iter().map(str::to_owned).collect();
    let mut unnamed: BTreeMap<(Option<u64>, u32, &str, &str), usize> = BTreeMap::new();
    let mut found: BTreeMap<UnitKey, (usize, Vec<Option<f64>>)> = BTreeMap::new();
    for row in rows {
        let size = row.n_billions.map(f64::to_bits);
        let place = match row.subset {
            Some(_) => 0,
            None => {
                let seen = unnamed.entry((size, row.k, &row.seed, &row.domain)).or_default();
                *seen += 1;
                *seen
            }
        };
        let key = (size, row.k, row.seed.clone(), row.subset.clone().unwrap_or_default(), place);
        let unit = found.entry(key).or_insert_with(|| (row.line, vec![None; domains.len()]));
        let domain = domains.binary_search(&row.domain).unwrap_or(0);
        if unit.1[domain].replace(row.loss).is_some() {
            let subset = display_name(row.subset.as_deref().unwrap_or_default());
            let what = format!("the subset `{subset}` at k = {} appears twice", row.k);
            return Err((row.line, what));
        }
    }
    let mut curve = Curve { domains, pool: pool_of(rows), ..Curve::default() };
    for ((size, k, ..), (line, losses)) in found {
        let missing = losses.iter().position(Option::is_none);
        if let Some(missing) = missing {
            let domain = display_name(&curve.domains[missing]);
            let what = format!("its merge of {k} has no loss on `{domain}`, but others do");
            return Err((line, what));
        }
        let unit = Unit { k, n_billions: size.map(f64::from_bits), losses: losses.into_iter().flatten().collect() };
        if k == 0 { curve.bases.push(unit) } else { curve.units.push(unit) }
    }
    Ok(curve)
}

/// Models that there are: as a line says, or as many as subsets name.
fn pool_of(rows: &[Row]) -> Option<u32> {
    let said = rows.iter().filter_map(|row| row.pool).max();
    let named: BTreeSet<&Member> = rows.iter().flat_map(|row| &row.members).collect();
    said.or_else(|| u32::try_from(named.len()).ok().filter(|n| *n > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        read_curve(text).unwrap_err().to_string()
    }

    #[test]
    fn the_usual_spellings_are_read() {
        let texts = [
            r#"{"k": 2, "loss": 1.5, "n": 7}"#,
            r#"{"k": 2, "loss": 1.5, "n_params": 7000000000}"#,
            r#"{"K": 2, "Loss": 1.5, "N": 7e9}"#,
            r#"{"n_experts": 2, "nll": 1.5, "size": "7B"}"#,
            r#"{"experts": 2, "ce": 1.5, "n_params": 7000000000}"#,
        ];
        for text in texts {
            let curve = read_curve(text).unwrap();
            let expected = Unit { k: 2, n_billions: Some(7.0), losses: vec![1.5] };
            assert_eq!(curve.units, [expected], "{text}");
        }
    }

    #[test]
    fn losses_of_one_merge_on_several_domains_are_brought_together() {
        let text = r#"
            {"k": 1, "subset": [0], "domain": "code", "loss": 2}
            {"k": 1, "subset": [1], "domain": "code", "loss": 3}
            {"k": 1, "subset": [1], "domain": "algebra", "loss": 5}
            {"k": 1, "subset": [0], "domain": "algebra", "loss": 4}
            {"k": 0, "subset": [], "domain": "code", "loss": 9}
            {"k": 0, "subset": [], "domain": "algebra", "loss": 9}
        "#;
        let curve = read_curve(text).unwrap();
        assert_eq!(curve.domains, ["algebra", "code"]);
        let losses: Vec<_> = curve.units.iter().map(|unit| unit.losses.as_slice()).collect();
        assert_eq!(losses, [[4.0, 2.0], [5.0, 3.0]]);
        assert_eq!((curve.units[0].macro_loss(), curve.bases.len(), curve.pool), (3.0, 1, Some(2)));
        // Without names of subsets the losses of a domain are paired in the order of the lines.
        let plain: String = text.lines().map(|line| line.replace("\"subset\"", "\"note\"") + "\n").collect();
        let losses: Vec<Vec<f64>> = read_curve(&plain).unwrap().units.into_iter().map(|unit| unit.losses).collect();
        assert_eq!(losses, [[5.0, 2.0], [4.0, 3.0]]);
    }

    #[test]
    fn what_is_not_a_loss_is_refused_with_its_line() {
        assert_eq!(
            refused("{\"k\": 1, \"loss\": 1}\n{\"k\": 2, \"loss\": NaN}"),
            "the curve, line 2: `loss` is `NaN`, not a finite number"
        );
        assert!(refused(r#"{"k": 1, "loss": -Infinity}"#).contains("`-Infinity`, not a finite number"));
        assert!(refused(r#"{"k": 1, "loss": "low"}"#).contains("`low`, not a finite number"));
        assert!(refused(r#"{"k": 1.5, "loss": 2}"#).contains("`k` is `1.5`, not a whole number"));
        assert!(refused(r#"{"k": -1, "loss": 2}"#).contains("not a whole number"));
        assert!(refused(r#"{"k": 4294967296, "loss": 2}"#).contains("not a whole number from 0 to 4294967295"));
        assert!(refused("{\"k\": 1, \"loss\"}").ends_with("line 1: expected `:` at column 16"));
        assert!(refused(r#"{"loss": 2, "step": 1}"#).contains("it has no `k`; its keys are `loss`, `step`"));
        assert!(refused(r#"{"k": 2}"#).contains("it has no `loss`"));
        assert_eq!(
            refused(r#"{"kind": "thalweg-merge-curve", "version": 2, "k": 1, "loss": 2}"#),
            "the curve, line 1: it is `thalweg-merge-curve` version 2, not `thalweg-merge-curve` version 1"
        );
        assert!(
            refused(r#"{"kind": "thalweg-mix-trial", "version": 1, "k": 1, "loss": 2}"#)
                .contains("`thalweg-mix-trial`")
        );
        assert!(read_curve(r#"{"kind": "average", "k": 1, "loss": 2}"#).is_ok());
        assert!(refused("[1, 2]").contains("it is not a JSON object"));
        assert!(refused(r#"{"k": 1, "loss": 2, "n": "seven"}"#).contains("not a number of parameters"));
        assert_eq!(refused("\n\n"), "the curve has no records");
    }

    #[test]
    fn a_merge_that_is_scored_twice_or_in_part_is_refused() {
        let twice = "{\"k\": 1, \"subset\": \"a\", \"loss\": 1}\n{\"k\": 1, \"subset\": \"a\", \"loss\": 2}";
        assert_eq!(refused(twice), "the curve, line 2: the subset `a` at k = 1 appears twice");
        let part = "{\"k\": 1, \"domain\": \"x\", \"loss\": 1}\n{\"k\": 2, \"domain\": \"y\", \"loss\": 2}";
        assert_eq!(refused(part), "the curve, line 1: its merge of 1 has no loss on `y`, but others do");
    }
}

//! Results in any of the forms, told apart by what is in them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use thalweg_tensor::display_name;

use super::items::TaskItems;
use super::results::{ExternalResults, attach, check_usable, sorted};
use super::score::{ExternalScore, RefusedScore, Row, finite_value, known_direction, quote_python_numbers};
use super::{core_table, every_eval, harness, olmo};
use crate::Error;

/// Reads results in any of the forms.
///
/// NaN and infinities are read in the spelling of Python. As a standard error they mean that there is none; as a value
/// they are refused.
///
/// # Errors
/// `ResultsForm` for anything else, `ResultsInvalid` if no score is usable.
///
/// # Example
/// ```
/// let list = br#"[{"task": "piqa", "value": 0.7, "stderr": NaN, "n": 1838, "higher_is_better": true}]"#;
/// let results = thalweg_eval::external::read_results(list, std::path::Path::new("out.json"))?;
/// assert_eq!((results.scores[0].task.as_str(), results.scores[0].standard_error), ("piqa", None));
/// # Ok::<(), thalweg_eval::Error>(())
/// ```
pub fn read_results(bytes: &[u8], path: &Path) -> Result<ExternalResults, Error> {
    read_with(bytes, path, |_, _| Ok(BTreeMap::new()))
}

/// Reads results with the items that `more` finds for them, beside those that the results hold.
pub(super) fn read_with(
    bytes: &[u8],
    path: &Path,
    more: impl FnOnce(&Value, &ExternalResults) -> Result<BTreeMap<String, TaskItems>, Error>,
) -> Result<ExternalResults, Error> {
    let invalid = |what: String| Error::ResultsForm { path: path.to_owned(), what };
    let bytes = thalweg_storage::skip_mark(bytes);
    let mut results;
    let mut items = BTreeMap::new();
    if core_table::is_table(bytes) {
        results = sorted(core_table::scores(bytes));
    } else {
        let document: Value =
            serde_json::from_slice(&quote_python_numbers(bytes)).map_err(|error| invalid(not_json(bytes, &error)))?;
        results = sorted(rows_of(&document).map_err(invalid)?);
        results.datasets = harness::datasets(&document);
        items = harness::own_items(&document).map_err(invalid)?;
        items.extend(more(&document, &results)?);
    }
    check_usable(&results, path)?;
    attach(&mut results, items);
    Ok(results)
}

/// What a file that is not JSON is instead.
fn not_json(bytes: &[u8], error: &serde_json::Error) -> String {
    const MAX_CHARS: usize = 40;
    let (first, rest) = bytes.split_at_checked(4 * MAX_CHARS).unwrap_or((bytes, &[]));
    let text = String::from_utf8_lossy(first);
    let text = text.trim();
    if text.is_empty() && rest.is_empty() {
        return "it is not JSON: it is empty".to_owned();
    }
    let begin: String = text.chars().take(MAX_CHARS).collect();
    let cut = if begin.len() < text.len() || !rest.is_empty() { "..." } else { "" };
    let place = format!("line {}, column {}", error.line(), error.column());
    format!("it is not JSON (at {place}): it begins with `{}{cut}`", display_name(&begin))
}

fn rows_of(document: &Value) -> Result<Vec<Row>, String> {
    match document {
        Value::Array(rows) => rows.iter().enumerate().map(|(i, row)| plain_row(i, row)).collect(),
        _ if document["results"].is_object() => Ok(harness::scores(document)),
        _ if document["evaluation_results"].is_array() => Ok(every_eval::scores(document)),
        _ if document["eval_metrics"]["icl"].is_object() => Ok(core_table::dclm_scores(document)),
        _ if document["tasks"].is_array() => olmo::scores(document),
        _ => Err("a list of scores, or an object with `results`, expected".to_owned()),
    }
}

fn plain_row(i: usize, row: &Value) -> Result<Row, String> {
    let task = row["task"].as_str().ok_or_else(|| format!("entry {i} has no `task`"))?;
    if let Some(why) = row["refused"].as_str() {
        return Ok(Err(RefusedScore { task: task.to_owned(), why: why.to_owned() }));
    }
    let metric = task.rsplit('/').next().unwrap_or(task);
    let higher = row["higher_is_better"].as_bool().or_else(|| known_direction(metric));
    let higher = higher.ok_or_else(|| format!("`{task}` has no `higher_is_better`"))?;
    let value = row.get("value").ok_or_else(|| format!("`{task}` has no `value`"))?;
    let value = finite_value(task, value);
    Ok(value.map(|value| ExternalScore {
        task: task.to_owned(),
        value,
        standard_error: row["stderr"].as_f64(),
        n: row["n"].as_u64(),
        higher_is_better: higher,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external::unpaired_gain;

    const HARNESS: &str = r#"{
        "results": {
            "arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.4, "acc_norm_stderr,none": "N/A"},
            "wikitext": {"alias": "wikitext", "word_perplexity,none": 12.5, "word_perplexity_stderr,none": "N/A"},
            "gsm8k": {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.02, "exact_match,flexible-extract": 0.5}
        },
        "higher_is_better": {"arc_easy": {"acc": true, "acc_norm": true}, "wikitext": {"word_perplexity": false}},
        "n-samples": {"arc_easy": {"original": 2376, "effective": 100}}
    }"#;

    fn read(text: &str) -> Result<ExternalResults, String> {
        read_results(text.as_bytes(), Path::new("r.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_harness_form_is_read() {
        let scores = read(HARNESS).unwrap().scores;
        let names: Vec<&str> = scores.iter().map(|score| score.task.as_str()).collect();
        let expected = [
            "arc_easy/acc",
            "arc_easy/acc_norm",
            "wikitext/word_perplexity",
            "gsm8k/exact_match,strict-match",
            "gsm8k/exact_match,flexible-extract",
        ];
        assert_eq!(names, expected);
        assert_eq!((scores[0].standard_error, scores[0].n), (Some(0.01), Some(100)));
        assert_eq!((scores[1].standard_error, scores[2].higher_is_better), (None, false));
        assert_eq!((scores[3].value, scores[3].standard_error, scores[3].n), (0.25, Some(0.02), None));
    }

    #[test]
    fn data_sets_are_known_by_their_names_at_the_hub() {
        let text = r#"{"results": {"a": {"acc,none": 0.5}, "b": {"acc,none": 0.5}},
            "configs": {"a": {"dataset_path": "allenai/ai2_arc"}, "b": {"dataset_path": "json"}}}"#;
        let [found] = &read(text).unwrap().datasets[..] else { panic!() };
        assert_eq!((found.task.as_str(), found.dataset.as_str()), ("a", "allenai/ai2_arc"));
    }

    #[test]
    fn results_of_nan_alone_name_task_and_value_in_every_form() {
        for (text, task) in [
            (r#"{"results": {"a": {"acc,none": NaN}}}"#, "a/acc"),
            (r#"{"results": {"a": {"alias": "a", "acc": NaN}}}"#, "a/acc"),
            (r#"[{"task": "b", "value": NaN, "higher_is_better": true}]"#, "b"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(&format!("`{task}`: its value is NaN")), "{said}");
        }
    }

    #[test]
    fn what_is_not_json_is_shown_with_how_it_begins_and_an_entry_to_copy() {
        for (text, said) in [
            ("", "it is not JSON: it is empty"),
            (" \n", "it is not JSON: it is empty"),
            ("acc: 0.71\n", "it is not JSON (at line 1, column 1): it begins with `acc: 0.71`"),
            ("[{\"task\": ", "it is not JSON (at line 1, column 10): it begins with `[{\"task\":`"),
            ("\u{1b}[31mred", "it is not JSON (at line 1, column 1): it begins with `\\u{1b}[31mred`"),
        ] {
            let error = read_results(text.as_bytes(), Path::new("r.json")).unwrap_err();
            assert_eq!(error.to_string(), format!("results `r.json`: {said}"));
            let hint = error.hint().unwrap();
            let entry = hint.split('`').nth(1).unwrap();
            assert_eq!(read(entry).map(|results| results.scores.len()), Ok(1), "{hint}");
        }
        let long = read(&"x".repeat(1000)).unwrap_err();
        assert!(long.ends_with(&format!("`{}...`", "x".repeat(40))), "{long}");
    }

    #[test]
    fn what_is_missing_is_said() {
        let wrong = |text: &str| read(text).unwrap_err();
        assert_eq!(wrong("[]"), "results `r.json`: it has no usable score");
        assert_eq!(wrong("3"), "results `r.json`: a list of scores, or an object with `results`, expected");
        assert_eq!(wrong(r#"[{"task": "a", "value": 1}]"#), "results `r.json`: `a` has no `higher_is_better`");
        let unknown = r#"{"results": {"a": {"zeal,none": 1.0}}}"#;
        let said = "results `r.json`: it has no usable score; `a/zeal`: it is unknown whether higher is better";
        assert_eq!(wrong(unknown), said);
        let nan = r#"{"results": {"a": {"acc,none": NaN}}}"#;
        assert_eq!(wrong(nan), "results `r.json`: it has no usable score; `a/acc`: its value is NaN, not a number");
    }

    #[test]
    fn a_score_given_twice_is_used_only_if_both_agree_and_a_negative_error_is_refused() {
        let row = |task: &str, value: f64, error: f64| {
            format!(r#"{{"task": "{task}", "value": {value}, "stderr": {error}, "higher_is_better": true}}"#)
        };
        let rows =
            [row("a", 1.0, 0.5), row("b", 1.0, 0.5), row("a", 2.0, 0.5), row("b", 1.0, 0.5), row("c", 1.0, -0.5)];
        let results = read(&format!("[{}]", rows.join(","))).unwrap();
        assert_eq!(results.scores.iter().map(|score| score.task.as_str()).collect::<Vec<_>>(), ["b"]);
        let refused: Vec<_> = results.refused.iter().map(|one| (one.task.as_str(), one.why.as_str())).collect();
        let twice = ("a", "it is given twice, as 1 and as 2");
        assert_eq!(refused, [("c", "its standard error is -0.5, which is negative"), twice]);
        // Nothing that items say makes up for it.
        assert!(read(&format!("[{}, {}]", row("a", 1.0, 0.0), row("a", 2.0, 0.0))).is_err());
    }

    #[test]
    fn a_standard_error_that_is_not_a_number_is_none_and_a_bad_value_spoils_no_other() {
        let text = r#"{"results": {
            "a": {"acc,none": 0.5, "acc_stderr,none": NaN},
            "b": {"acc,none": NaN, "acc_stderr,none": NaN},
            "c": {"acc,none": 0.25, "acc_stderr,none": Infinity},
            "d": {"perplexity,none": Infinity},
            "e": {"perplexity,none": -Infinity},
            "f": {"acc,none": null},
            "g": {"acc,none": "N/A"},
            "h": {"zeal,none": 1.0}
        }}"#;
        let results = read(text).unwrap();
        let scores: Vec<_> = results.scores.iter().map(|s| (s.task.as_str(), s.value, s.standard_error)).collect();
        assert_eq!(scores, [("a/acc", 0.5, None), ("c/acc", 0.25, None)]);
        let refused: Vec<String> = results.refused.iter().map(|one| format!("{}: {}", one.task, one.why)).collect();
        let expected = [
            "b/acc: its value is NaN, not a number",
            "d/perplexity: its value is Infinity, not a number",
            "e/perplexity: its value is -Infinity, not a number",
            "f/acc: its value is null, not a number",
            "g/acc: its value is N/A, not a number",
            "h/zeal: it is unknown whether higher is better",
        ];
        assert_eq!(refused, expected);
        let plain = r#"[{"task": "x", "value": 1, "stderr": NaN, "higher_is_better": true},
                        {"task": "y", "value": NaN, "higher_is_better": true}]"#;
        let results = read(plain).unwrap();
        assert_eq!((results.scores[0].standard_error, results.refused[0].task.as_str()), (None, "y"));
    }

    #[test]
    fn words_in_texts_stay_as_they_are() {
        let quote = |text: &str| String::from_utf8(quote_python_numbers(text.as_bytes())).unwrap();
        assert_eq!(quote(r#"{"NaN \" NaN": [NaN,-Infinity, 1]}"#), r#"{"NaN \" NaN": ["NaN","-Infinity", 1]}"#);
        assert_eq!(quote(r#""a\\" NaN"#), r#""a\\" "NaN""#);
        assert_eq!(quote("\"\\"), "\"\\");
    }

    #[test]
    fn gains_point_to_the_better() {
        let score = |value, higher_is_better| ExternalScore {
            task: "t".into(),
            value,
            standard_error: Some(0.3),
            n: None,
            higher_is_better,
        };
        let (gain, _) = unpaired_gain(&score(1.0, false), &score(0.5, false));
        assert!((gain - 0.5).abs() < 1e-12, "{gain}");
        let (gain, interval) =
            unpaired_gain(&score(1.0, true), &ExternalScore { standard_error: Some(0.4), ..score(2.0, true) });
        let [low, high] = interval.unwrap();
        assert!(
            (gain - 1.0).abs() < 1e-12 && (high - 1.979_981_992).abs() < 1e-8 && (low - 0.020_018_008).abs() < 1e-8
        );
    }
}

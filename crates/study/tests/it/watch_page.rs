//! A watcher's record as a study: what is current, in numbers, and where each merge comes from.

use serde_json::{Value, json};
use thalweg_study::page::{render_live, render_study};
use thalweg_study::record::{ForecastRow, StudyRecord};
use thalweg_study::study_answer::answer_text;
use thalweg_study::watch::{WatchRow, study_of_watch};

use crate::study_sample::whole;

fn row(event: &str, end: u64, (scheme, n): (&str, u64), digest: &str, scores: &Value) -> WatchRow {
    let steps: Vec<u64> = (1..=n).map(|i| end - (n - i) * 100).collect();
    let name = if scheme == "raw" { format!("step-{end}") } else { format!("step{end:07}-n{n}-{scheme}") };
    serde_json::from_value(json!({
        "kind": "thalweg-watch", "version": 1, "event": event, "end_step": end, "name": name, "scheme": scheme,
        "n_checkpoints": n, "steps": steps, "end_tokens": end * 1_000, "digest": digest, "unix_seconds": 1, "scores": scores,
    }))
    .unwrap()
}

fn score(value: f64, gain: Option<f64>) -> Value {
    let gain = gain.map(|gain| json!({"value": gain, "interval_95": [gain - 0.01, gain + 0.01]}));
    json!([{
        "suite": "choose", "task": "text", "measure": "nats_per_token", "value": value, "standard_error": 0.012, "n": 60,
        "higher_is_better": false, "gain": gain,
    }])
}

/// Two ends; the newer one was made again after a roll-back and is not scored yet.
fn rows() -> Vec<WatchRow> {
    let none = json!([]);
    vec![
        row("merged", 400, ("wma", 4), "blake3:01", &none),
        row("merged", 400, ("sma", 4), "blake3:02", &none),
        row("scored", 400, ("raw", 1), "blake3:03", &score(2.05, None)),
        row("scored", 400, ("wma", 4), "blake3:01", &score(2.01, Some(0.04))),
        row("scored", 400, ("sma", 4), "blake3:02", &score(2.02, Some(0.03))),
        row("merged", 500, ("wma", 4), "blake3:04", &none),
        row("scored", 500, ("wma", 4), "blake3:04", &score(1.0, Some(1.0))),
        row("merged", 500, ("wma", 4), "blake3:05", &none),
    ]
}

#[test]
fn a_record_is_a_study_of_what_is_current() {
    let study = study_of_watch(&rows(), None);
    let named: Vec<(&str, usize)> = study.trials.iter().map(|one| (&*one.name, one.scores.len())).collect();
    assert_eq!(
        named,
        [("step0000400-n4-sma", 1), ("step0000400-n4-wma", 1), ("step0000500-n4-wma", 0)],
        "the scores of a merge that was made again are not those of its successor"
    );
    let wma = &study.trials[2];
    let sources: Vec<(u64, f64)> = wma.sources.iter().map(|one| (one.step, one.coefficient)).collect();
    assert_eq!(sources, [(200, 0.1), (300, 0.2), (400, 0.3), (500, 0.4)]);
    assert_eq!((wma.params_digest.as_deref(), wma.interval_steps), (Some("blake3:05"), Some(100)));
    assert_eq!(
        (study.raws.len(), study.raws[0].step, study.raws[0].params_digest.as_deref()),
        (1, 400, Some("blake3:03"))
    );
    let tokens: Vec<(u64, Option<u64>)> = study.checkpoints.iter().map(|one| (one.step, one.tokens)).collect();
    assert_eq!(tokens, [(100, None), (200, None), (300, None), (400, Some(400_000)), (500, Some(500_000))]);
}

#[test]
fn the_answer_is_about_the_newest_scored_end_and_says_what_waits() {
    let study = study_of_watch(&rows(), None);
    insta::assert_snapshot!(answer_text(&study), @"Merging helps. At step 400, wma of 4 scores 2.0100 (nats per token on `text`, less is better), a gain of +0.040 over the raw checkpoint there (95 % interval +0.030 to +0.050; n = 60). Newer merges wait for their scores.");
    let scored = study_of_watch(&rows()[..5], None);
    assert!(
        answer_text(&scored)
            .ends_with("It is the best of 2 windows by these scores, which makes it look better than it is.")
    );
    let merged: Vec<WatchRow> = rows().into_iter().filter(|row| row.scores.is_empty()).collect();
    let merged = study_of_watch(&merged, None);
    assert_eq!(answer_text(&merged), "3 merges so far. The newest ends at step 500. Nothing was scored.");
    assert!(render_study(&merged).contains("step0000500-n4-wma"));
    assert_eq!(answer_text(&study_of_watch(&[], None)), "0 merges so far.");
}

#[test]
fn the_head_of_the_page_has_now_merged_annealed_and_the_calibration_so_far() {
    let mut run = StudyRecord::new("A run, watched", "runs/mine", "thalweg watch");
    run.checkpoints = study_of_watch(&rows(), None).checkpoints;
    let forecast = |end_step, value: f64, truth| ForecastRow {
        task: "text".to_owned(),
        end_step,
        anneal_steps: 200,
        value,
        interval_80: [value - 0.01, value + 0.01],
        interval_95: [value - 0.02, value + 0.02],
        truth,
        ..whole().forecasts[0].clone()
    };
    run.forecasts = vec![
        forecast(300, 2.0, Some(2.005)),
        forecast(350, 1.9, Some(1.885)),
        forecast(380, 1.9, Some(1.8)),
        forecast(600, 1.95, None),
    ];
    let page = render_live(&study_of_watch(&rows(), Some(run))).page;
    for words in [
        "<span>now</span><b>2.0500</b>",
        "<span>merged</span><b>2.0100</b><span>wma of 4, to step 400</span><span>gain +0.040, better</span>",
        "<span>if annealed now</span><b>1.9500</b><span>80 %: 1.940\u{a0}to\u{a0}1.960</span><span>95 %: 1.930\u{a0}to\u{a0}1.970</span>",
        "<span>saved by not annealing</span><b>200k</b><span>tokens</span>",
        "Calibration so far: 1 of 3 real anneals within the 80 % interval of the forecast, 2 within the 95 % interval.",
    ] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
}

#[test]
fn a_hostile_record_is_only_text() {
    let mut rows = rows();
    rows[0].name = "</main><script>alert(1)</script>".to_owned();
    rows[0].scheme = "\"><img src=x>".to_owned();
    rows[1].steps = (0..100_000).collect();
    rows[1].scheme = "ema:0.2".to_owned();
    rows[2].end_step = u64::MAX;
    let live = render_live(&study_of_watch(&rows, None));
    assert!(!live.page.contains("<script>alert") && !live.page.contains("<img"));
    assert_eq!(live.page.matches("<script").count(), 1);
}

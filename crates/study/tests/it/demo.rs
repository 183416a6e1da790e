//! The demo from end to end, at a size that means nothing.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thalweg_merge::context::{Limits, RunContext};
use thalweg_storage::{LocalStorage, Storage};
use thalweg_study::Error;
use thalweg_study::demo::{DemoSize, DemoSpec, DemoWatcher, run_demo};
use thalweg_study::record::{ScoreRow, StudyRecord};
use thalweg_study::surroundings::Surroundings;
use thalweg_tensor::kernel::Simd;

/// Asks for a stop once a share of the work is done.
struct Stop<'a> {
    at: f64,
    interrupt: &'a AtomicBool,
}

impl DemoWatcher for Stop<'_> {
    fn on_progress(&self, _stage: &str, share_done: f64, _detail: &str) {
        if share_done >= self.at {
            self.interrupt.store(true, Ordering::Relaxed);
        }
    }
    fn on_note(&self, _text: &str) {}
}

fn demo(folder: &Path, n_threads: usize, stop_at: f64) -> Result<StudyRecord, Error> {
    let interrupt = AtomicBool::new(false);
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let limits = Limits { n_threads: NonZeroUsize::new(n_threads).unwrap(), memory_bytes: 1 << 30, simd: Simd::Auto };
    let around = Surroundings::new(storage, limits);
    let run = RunContext { interrupt: &interrupt, ..around.run() };
    let spec = DemoSpec { folder: folder.to_owned(), seed: 3, size: DemoSize::Tiny };
    run_demo(&spec, "thalweg demo".to_owned(), &Stop { at: stop_at, interrupt: &interrupt }, &run)
}

#[test]
fn a_demo_tells_what_it_found_and_goes_on_to_the_same_record_after_every_stop() {
    let (whole, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let record = demo(whole.path(), 1, 2.0).unwrap();
    // 24 steps scored every 8; the anneal from 16 to 24; four schemes of two lengths; windows along the run.
    assert_eq!((record.raws.len(), record.annealed.len()), (3, 1));
    let at_end = || record.trials.iter().filter(|trial| trial.end_step == 24);
    assert_eq!(at_end().count(), 8);
    let choice = record.choice.as_ref().unwrap();
    assert_eq!((choice.suite.as_str(), choice.n_candidates), ("validation", 8));
    let find = |scores: &[ScoreRow], suite: &str| -> ScoreRow {
        let is_it = |score: &&ScoreRow| score.suite == suite && score.measure == "nats_per_token";
        scores.iter().find(is_it).unwrap().clone()
    };
    let chosen = at_end().find(|trial| trial.name == choice.trial).unwrap();
    let best = find(&chosen.scores, "validation").value;
    assert!(at_end().all(|other| best <= find(&other.scores, "validation").value), "the lowest validation loss");
    let along = record.trials.iter().filter(|trial| trial.end_step < 24);
    assert!(along.clone().count() > 0);
    for trial in along {
        assert_eq!((&trial.scheme, trial.n_checkpoints), (&chosen.scheme, chosen.n_checkpoints), "the chosen form");
    }
    let raw = record.raws.iter().find(|raw| raw.step == 24).unwrap();
    let [raw, merged, annealed] =
        [&raw.scores, &chosen.scores, &record.annealed[0].scores].map(|scores| find(scores, "test"));
    let close = |gain: f64, difference: f64| assert!((gain - difference).abs() < 1e-9, "{gain} {difference}");
    close(merged.gain.unwrap().value, raw.value - merged.value);
    close(annealed.gain.unwrap().value, raw.value - annealed.value);
    close(annealed.gain_over_chosen.unwrap().value, merged.value - annealed.value);
    let anneal = record.anneal.as_ref().unwrap();
    assert_eq!((anneal.fork_step, anneal.end_step, anneal.training.len()), (16, 24, 8));
    let record = std::fs::read(whole.path().join("study.json")).unwrap();
    for stop_at in [0.2, 0.5, 0.7, 0.9] {
        match demo(stopped.path(), 2, stop_at) {
            Err(error) => assert!(error.is_interrupt(), "{error}"),
            Ok(_) => panic!("nothing stopped at {stop_at}"),
        }
        assert!(!stopped.path().join("study.json").exists());
    }
    demo(stopped.path(), 1, 2.0).unwrap();
    let text = |bytes: &[u8], folder: &Path| {
        // Plans name the run's folder, and so do their digests and one command.
        let text = String::from_utf8(bytes.to_vec()).unwrap().replace(&*folder.to_string_lossy(), "DEMO");
        // What came from the cache cost nothing the second time.
        let differs = ["plan_digest", "bytes_read", "n_evaluations", "n_tokens"];
        text.lines().filter(|line| !differs.iter().any(|key| line.contains(key))).collect::<Vec<_>>().join("\n")
    };
    let again = std::fs::read(stopped.path().join("study.json")).unwrap();
    assert!(text(&record, whole.path()) == text(&again, stopped.path()), "an interrupted demo has another record");
}

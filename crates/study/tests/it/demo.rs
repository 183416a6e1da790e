//! The demo from end to end, at a size that means nothing.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thalweg_checkpoint::CheckpointPool;
use thalweg_merge::context::{Limits, RunContext, Unwatched};
use thalweg_storage::{LocalStorage, Storage};
use thalweg_study::demo::{DemoSize, DemoSpec, DemoWatcher, run_demo};
use thalweg_study::report::{Role, Split};
use thalweg_study::{Error, Report};
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

fn demo(folder: &Path, n_threads: usize, stop_at: f64) -> Result<Report, Error> {
    let interrupt = AtomicBool::new(false);
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let limits = Limits { n_threads: NonZeroUsize::new(n_threads).unwrap(), memory_bytes: 1 << 30, simd: Simd::Auto };
    let pool = CheckpointPool::new(&storage);
    let (host, progress, tool) = (&Unwatched, &Unwatched, "test");
    let run = RunContext { storage, pool: &pool, host, progress, interrupt: &interrupt, limits, tool };
    let spec = DemoSpec { folder: folder.to_owned(), seed: 3, size: DemoSize::Tiny };
    run_demo(&spec, &Stop { at: stop_at, interrupt: &interrupt }, &run)
}

#[test]
fn a_demo_tells_what_it_found_and_goes_on_to_the_same_record_after_every_stop() {
    let (whole, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let report = demo(whole.path(), 1, 2.0).unwrap();
    let count = |role: Role| report.models.iter().filter(|model| model.role == role).count();
    // 24 steps scored every 8; the anneal from 16 to 24; four schemes of two lengths; windows along the run.
    assert_eq!((count(Role::Raw), count(Role::Annealed)), (3, 1));
    let at_end = report.models.iter().filter(|model| model.role == Role::Merged && model.step == 24);
    assert_eq!(at_end.count(), 8);
    let choice = report.choice.as_ref().unwrap();
    let loss = |name: &str, split| report.model(name).and_then(|m| m.score(split)).map(|score| score.nll_nats);
    let best = loss(&choice.model, Split::Validation).unwrap();
    let candidates = report.models.iter().filter_map(|model| loss(&model.name, Split::Validation));
    assert!(candidates.clone().all(|other| best <= other), "the choice has the lowest validation loss");
    assert_eq!(candidates.count(), 8, "only merges at the end are looked at on validation text");
    let gain = report.gain(&choice.model, &report.baseline, Split::Test).unwrap();
    let difference = loss(&report.baseline, Split::Test).unwrap() - loss(&choice.model, Split::Test).unwrap();
    assert!((gain.gain_nats - difference).abs() < 1e-9, "{} {difference}", gain.gain_nats);
    let record = std::fs::read(whole.path().join("report.json")).unwrap();
    for stop_at in [0.2, 0.5, 0.7, 0.9] {
        match demo(stopped.path(), 2, stop_at) {
            Err(error) => assert!(error.is_interrupt(), "{error}"),
            Ok(_) => panic!("nothing stopped at {stop_at}"),
        }
        assert!(!stopped.path().join("report.json").exists());
    }
    demo(stopped.path(), 1, 2.0).unwrap();
    let text = |bytes: &[u8], folder: &Path| {
        // Plans name the run's folder, and so do their digests and one command.
        let text = String::from_utf8(bytes.to_vec()).unwrap().replace(&*folder.to_string_lossy(), "DEMO");
        text.lines().filter(|line| !line.contains("plan_digest")).collect::<Vec<_>>().join("\n")
    };
    let again = std::fs::read(stopped.path().join("report.json")).unwrap();
    assert!(text(&record, whole.path()) == text(&again, stopped.path()), "an interrupted demo has another record");
}

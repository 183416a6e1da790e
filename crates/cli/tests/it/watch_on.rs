//! A watcher beside a trainer: it is killed and restarted, checkpoints are pruned, the run is rolled back, scoring is
//! slow. What it leaves is what an undisturbed watcher leaves.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::kill::signal;
use crate::support::{program, run};
use crate::watch::{SOURCE_BYTES, checkpoint, make_run, receipt, record, save};

/// A watcher that is running.
pub(crate) struct Beside {
    child: Child,
    out: PathBuf,
    /// Standard output and error, as they come: nothing waits for a full pipe.
    said: [Said; 2],
    listeners: Vec<JoinHandle<()>>,
}

type Said = Arc<Mutex<String>>;

/// Reads what a program says until it ends.
fn listen(mut pipe: impl Read + Send + 'static) -> (Said, JoinHandle<()>) {
    let said = Said::default();
    let heard = Arc::clone(&said);
    let thread = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut piece) {
            heard.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    });
    (said, thread)
}

impl Beside {
    pub(crate) fn start(run_path: &Path, out: &Path, more: &[&str]) -> Self {
        let mut command = program();
        command.arg("watch").arg(run_path).arg("-o").arg(out).args(["--poll", "20ms", "--heartbeat", "20ms"]);
        let mut child = command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, one) = listen(child.stdout.take().unwrap());
        let (stderr, two) = listen(child.stderr.take().unwrap());
        Self { child, out: out.to_owned(), said: [stdout, stderr], listeners: vec![one, two] }
    }

    /// Waits until something holds, and fails if it never does.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Path) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds(&self.out) {
            assert!(Instant::now() < end, "never: {what}");
            assert!(self.child.try_wait().unwrap().is_none(), "it ended before: {what}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn until_recorded(&mut self, names: &[&str]) {
        self.until(&format!("{names:?}"), |out| {
            let text = std::fs::read_to_string(out.join("watch.jsonl")).unwrap_or_default();
            names.iter().all(|name| text.contains(&format!("\"name\":\"{name}\"")))
        });
    }

    /// Waits until a note or a heartbeat says something.
    pub(crate) fn until_said(&mut self, words: &str) {
        let stderr = Arc::clone(&self.said[1]);
        self.until(words, |_| stderr.lock().unwrap().contains(words));
    }

    /// Ctrl-C: exit code, standard output and error.
    pub(crate) fn stop(self) -> (Option<i32>, String, String) {
        self.send(Signal::INT);
        self.ended()
    }

    pub(crate) fn send(&self, sent: Signal) {
        signal(&self.child, sent);
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self) -> (Option<i32>, String, String) {
        let end = Instant::now() + Duration::from_secs(60);
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                None => {
                    self.child.kill().unwrap();
                    panic!("it did not end: {}", self.said[1].lock().unwrap());
                }
            }
        };
        self.listeners.into_iter().for_each(|listener| listener.join().unwrap());
        let [stdout, stderr] = self.said.map(|said| said.lock().unwrap().clone());
        (status.code(), stdout, stderr)
    }

    pub(crate) fn kill(mut self) {
        signal(&self.child, Signal::KILL);
        self.child.wait().unwrap();
    }
}

fn once(run_path: &Path, out: &Path, more: &[&str]) {
    let (run_path, out) = (run_path.to_str().unwrap(), out.to_str().unwrap());
    let output = run(&[&["watch", run_path, "-o", out, "--once", "-q"], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a record says of merges, without the digests of files that differ.
fn merges(out: &Path) -> BTreeSet<String> {
    record(out).into_iter().filter(|line| line.contains("\"merged\"")).collect()
}

#[test]
fn checkpoints_are_merged_as_they_come_and_ctrl_c_leaves_everything_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    let windows = ["--windows", "sma:2,wma:3"];
    let mut beside = Beside::start(&run_path, &out, &windows);
    beside.until_recorded(&["step0000200-n2-sma", "step0000300-n3-wma"]);
    save(&run_path, 400, 4);
    beside.until_recorded(&["step0000400-n2-sma", "step0000400-n3-wma"]);
    let (code, stdout, stderr) = beside.stop();
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stdout.contains("step 400: merged sma of 2, wma of 3\n"), "{stdout}");
    assert!(
        stderr.contains("4 finished checkpoints, the newest at step 400; 5 merges are current; nothing new for"),
        "{stderr}"
    );
    let expected = scratch.path().join("expected");
    once(&run_path, &expected, &windows);
    assert_eq!(record(&out), record(&expected));
}

#[test]
fn a_watcher_killed_again_and_again_leaves_the_record_of_an_undisturbed_one() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 2), scratch.path().join("out"));
    let windows = ["--windows", "sma:2,ema:0.3:2"];
    for step in 3..8 {
        let mut beside = Beside::start(&run_path, &out, &windows);
        save(&run_path, 100 * step, step);
        // At a moment that differs each time: before the merge, within it, before the record, after it.
        let name = format!("step{:07}-n2-sma", 100 * step);
        match step % 4 {
            0 => {}
            1 => beside.until("a stage", |out| {
                out.join(format!("{name}.thalweg-partial")).exists() || out.join(&name).exists()
            }),
            2 => beside.until("a merge", |out| out.join(&name).join("thalweg.json").exists()),
            _ => beside.until_recorded(&[&name]),
        }
        beside.kill();
    }
    let mut beside = Beside::start(&run_path, &out, &windows);
    // It may find all of it recorded, and must have begun before it can be told to stop.
    beside.until_said("watching");
    beside.until_recorded(&["step0000700-n2-sma", "step0000700-n2-ema-0.3"]);
    beside.stop();
    let expected = scratch.path().join("expected");
    once(&run_path, &expected, &windows);
    assert_eq!(record(&out), record(&expected));
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("thalweg-partial")), "{left:?}");
}

#[test]
fn held_checkpoints_outlast_the_trainers_pruning_and_are_let_go_of_later() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 4), scratch.path().join("out"));
    let complete = make_run(&scratch.path().join("complete"), 6);
    for run in [&run_path, &complete] {
        std::fs::write(run.join("thalweg.toml"), "tokens_per_step = 1000\n").unwrap();
    }
    let windows = ["--windows", "sma:4", "--hold"];
    let mut beside = Beside::start(&run_path, &out, &windows);
    beside.until_recorded(&["step0000400-n4-sma"]);
    for step in [5, 6] {
        // The trainer keeps one.
        (1..step).for_each(|old| drop(std::fs::remove_file(checkpoint(&run_path, 100 * old))));
        save(&run_path, 100 * step, step);
        beside.until_recorded(&[&format!("step{:07}-n4-sma", 100 * step)]);
    }
    beside.until("old links are gone", |out| !out.join("held/step_200.safetensors").exists());
    let (_, _, stderr) = beside.stop();
    let expected = scratch.path().join("expected");
    once(&complete, &expected, &["--windows", "sma:4"]);
    assert_eq!(merges(&out), merges(&expected), "{stderr}");
    for step in [400, 500, 600] {
        let name = format!("step{step:07}-n4-sma/model.safetensors");
        assert!(std::fs::read(out.join(&name)).unwrap() == std::fs::read(expected.join(&name)).unwrap(), "{name}");
    }
    let held: BTreeSet<String> = std::fs::read_dir(out.join("held"))
        .unwrap()
        .map(|one| one.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(held, BTreeSet::from([300, 400, 500, 600].map(|step| format!("step_{step}.safetensors"))));
    // What is read from a link is known as well as what is in the run.
    let sources = receipt(&out.join("step0000600-n4-sma"))["plan"]["sources"].clone();
    let tokens: Vec<_> = sources.as_array().unwrap().iter().map(|source| source["tokens"].as_u64()).collect();
    assert_eq!(tokens, [300_000, 400_000, 500_000, 600_000].map(Some));
}

#[test]
fn what_is_held_is_merged_before_it_is_let_go_of() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    let windows = ["--windows", "sma:3", "--hold"];
    once(&run_path, &out, &windows);
    // While the watcher is away, three checkpoints come and the trainer keeps only those.
    for step in [4, 5, 6] {
        save(&run_path, 100 * step, step);
        std::fs::remove_file(checkpoint(&run_path, 100 * (step - 3))).unwrap();
    }
    once(&run_path, &out, &windows);
    for (name, steps) in [("step0000400-n3-sma", [200, 300, 400]), ("step0000500-n3-sma", [300, 400, 500])] {
        let found = receipt(&out.join(name));
        let found: Vec<u64> =
            found["plan"]["sources"].as_array().unwrap().iter().map(|one| one["step"].as_u64().unwrap()).collect();
        assert_eq!(found, steps, "{name}");
    }
    let held = std::fs::read_dir(out.join("held")).unwrap().count();
    assert_eq!(held, 3, "those of the newest window");
}

#[test]
fn without_hold_it_says_what_vanished_and_keeps_what_was_merged() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 4), scratch.path().join("out"));
    let mut beside = Beside::start(&run_path, &out, &["--windows", "sma:3"]);
    beside.until_recorded(&["step0000400-n3-sma"]);
    let before = receipt(&out.join("step0000400-n3-sma"))["digest"].clone();
    std::fs::remove_file(checkpoint(&run_path, 300)).unwrap();
    save(&run_path, 500, 5);
    beside.until_recorded(&["step0000500-n3-sma"]);
    let (_, _, stderr) = beside.stop();
    assert!(
        stderr.contains("step 300 disappeared: the newest windows reach further back; `--hold` keeps checkpoints"),
        "{stderr}"
    );
    assert_eq!(receipt(&out.join("step0000400-n3-sma"))["digest"], before, "a worse window does not replace it");
    let steps: Vec<u64> = receipt(&out.join("step0000500-n3-sma"))["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|source| source["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [200, 400, 500], "as `merge --last 3` would");
}

#[test]
fn a_run_that_has_not_begun_is_waited_for_and_the_wrong_folder_is_told_from_an_idle_one() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (scratch.path().join("run"), scratch.path().join("out"));
    let mut beside = Beside::start(&run_path, &out, &["--windows", "sma:2"]);
    beside.until("a lock", |out| out.join("watch.lock").exists());
    std::fs::create_dir(&run_path).unwrap();
    std::fs::write(run_path.join("notes.txt"), "nothing yet").unwrap();
    (1..4).for_each(|step| save(&run_path, 100 * step, step));
    beside.until_recorded(&["step0000300-n2-sma"]);
    let (code, _, stderr) = beside.stop();
    assert_eq!(code, Some(130));
    assert!(stderr.contains("merges are current; nothing new for"), "{stderr}");
    let wrong = scratch.path().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    std::fs::write(wrong.join("notes.txt"), "not a run").unwrap();
    let mut beside = Beside::start(&wrong, &scratch.path().join("out-2"), &["--windows", "sma:2"]);
    beside.until("a lock", |out| out.join("watch.lock").exists());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        std::thread::yield_now();
    }
    let (_, _, stderr) = beside.stop();
    assert!(
        stderr.contains("\nwaiting: `") && stderr.contains("is not a run folder: it holds `notes.txt`"),
        "{stderr}"
    );
}

/// A command that scores by how long it takes: it waits while the file `hold` exists.
fn evaluator(scratch: &Path) -> String {
    let script = scratch.join("score.sh");
    let text = "while [ -e \"$(dirname \"$0\")/hold\" ]; do sleep 0.05; done\n\
                echo \"$1\" >> \"$(dirname \"$0\")/calls\"\n\
                echo '[{\"task\": \"t\", \"value\": 1.5, \"higher_is_better\": false}]' > \"$2\"\n";
    std::fs::write(&script, text).unwrap();
    format!("sh {} {{checkpoint}} {{out}}", script.display())
}

fn calls(scratch: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(scratch.join("calls")).unwrap_or_default();
    text.lines().map(|line| line.rsplit('/').next().unwrap().to_owned()).collect()
}

fn n_scored(out: &Path) -> usize {
    let text = std::fs::read_to_string(out.join("watch.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.contains("\"scored\"")).count()
}

#[test]
fn the_newest_is_scored_first_old_ends_never_and_merges_do_not_wait() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 4), scratch.path().join("out"));
    let command = evaluator(scratch.path());
    let options = ["--windows", "sma:2", "--eval-command", &command];
    let mut beside = Beside::start(&run_path, &out, &options);
    beside.until("the newest is scored", |out| n_scored(out) == 2);
    assert_eq!(calls(scratch.path()), ["step_400.safetensors", "step0000400-n2-sma"]);
    // While scoring hangs, merging continues. The newest end is scored next, then the one that was skipped.
    std::fs::write(scratch.path().join("hold"), "").unwrap();
    for step in [5, 6, 7] {
        save(&run_path, 100 * step, step);
        beside.until_recorded(&[&format!("step{:07}-n2-sma", 100 * step)]);
    }
    std::fs::remove_file(scratch.path().join("hold")).unwrap();
    beside.until("all are scored", |out| n_scored(out) == 8);
    let (_, stdout, stderr) = beside.stop();
    let merges: Vec<String> = calls(scratch.path()).into_iter().filter(|name| name.contains("sma")).collect();
    assert_eq!(merges, ["step0000400-n2-sma", "step0000500-n2-sma", "step0000700-n2-sma", "step0000600-n2-sma"]);
    assert!(stderr.contains("ends are waiting for scores, the newest first"), "{stderr}");
    assert!(stdout.contains("step 700: sma of 2: t value 1.5000, gain +0.0000"), "{stdout}");
    // TensorBoard's curves have the same scores.
    let events = std::fs::read(out.join("tensorboard/events.out.tfevents.0.thalweg")).unwrap();
    let columns = "loss=merged/sma-2/t/value".parse().unwrap();
    let log = thalweg_trajectory::parse_event_file(&events, &columns).unwrap();
    let curve: Vec<(u64, f64)> = log.losses().map(|(step, value)| (step.0, value)).collect();
    assert_eq!(curve, [400, 500, 600, 700].map(|step| (step, 1.5)));
    // Another watcher scores nothing again.
    let n_calls = calls(scratch.path()).len();
    once(&run_path, &out, &options);
    assert_eq!(calls(scratch.path()).len(), n_calls);
    save(&run_path, 800, 8);
    once(&run_path, &out, &options);
    assert_eq!(n_scored(&out), 10);
}

#[test]
fn an_evaluator_that_fails_keeps_no_merge_from_being_made() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 3), scratch.path().join("out"));
    let options = ["--windows", "sma:2", "--eval-command", "echo rubbish > {out} # {checkpoint}"];
    let mut beside = Beside::start(&run_path, &out, &options);
    beside.until_recorded(&["step0000300-n2-sma"]);
    save(&run_path, 400, 4);
    beside.until_recorded(&["step0000400-n2-sma"]);
    let (code, _, stderr) = beside.stop();
    assert_eq!((code, n_scored(&out)), (Some(130), 0), "{stderr}");
}

#[test]
fn a_roll_back_beside_a_watcher_is_noticed() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 5), scratch.path().join("out"));
    let mut beside = Beside::start(&run_path, &out, &["--windows", "sma:2"]);
    beside.until_recorded(&["step0000500-n2-sma"]);
    let old = receipt(&out.join("step0000400-n2-sma"))["digest"].clone();
    let new_digest = |name: &'static str, old: serde_json::Value| {
        move |out: &Path| {
            let bytes = std::fs::read(out.join(name).join("thalweg.json")).unwrap_or_default();
            let now: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
            now.is_some_and(|now| now["digest"] != old)
        }
    };
    save(&run_path, 300, 1003);
    let old_300 = receipt(&out.join("step0000300-n2-sma"))["digest"].clone();
    beside.until("step 300 is merged again", new_digest("step0000300-n2-sma", old_300));
    assert_eq!(receipt(&out.join("step0000400-n2-sma"))["digest"], old, "step 400 is of the run before");
    save(&run_path, 400, 1004);
    beside.until("step 400 is merged again", new_digest("step0000400-n2-sma", old));
    let (_, _, stderr) = beside.stop();
    assert!(stderr.contains("step 300 was rewritten; steps 400 to 500 are from before the rollback"), "{stderr}");
}

#[test]
fn ends_that_move_with_the_newest_are_refused_and_the_hint_works() {
    let scratch = tempfile::tempdir().unwrap();
    let run_path = make_run(scratch.path(), 4);
    let (run_text, out) = (run_path.to_str().unwrap(), scratch.path().join("out"));
    let refused = run(&["watch", run_text, "--windows", "sma:2", "--ends", "every:200", "-o", out.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("hint: `--every STEPS`"));
    let mut beside = Beside::start(&run_path, &out, &["--windows", "sma:2", "--every", "200"]);
    beside.until_recorded(&["step0000200-n2-sma", "step0000400-n2-sma"]);
    beside.stop();
    assert!(!out.join("step0000300-n2-sma").exists());
}

#[test]
fn what_the_next_window_needs_is_prepared_while_the_watcher_waits() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 4), scratch.path().join("out"));
    let mut beside = Beside::start(&run_path, &out, &["--windows", "sma:4", "--prepare"]);
    beside.until("a sum is prepared", |out| {
        let text = std::fs::read_to_string(out.join("prepared/n4-sma.json"));
        text.is_ok_and(|text| !text.contains("\"sources\":[]"))
    });
    save(&run_path, 500, 5);
    beside.until_recorded(&["step0000500-n4-sma"]);
    beside.stop();
    let expected = scratch.path().join("expected");
    once(&run_path, &expected, &["--windows", "sma:4"]);
    let [found, expected] = [&out, &expected].map(|folder| receipt(&folder.join("step0000500-n4-sma")));
    assert_eq!(found["digest"], expected["digest"]);
    assert_eq!(found["bytes_read"], SOURCE_BYTES);
}

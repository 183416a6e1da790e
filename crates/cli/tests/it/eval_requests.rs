//! Scores that a worker gives, by the files of torchtitan's evaluation workers; and commands that hang.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use thalweg_checkpoint::{ReadOptions, open_checkpoint_with};
use thalweg_storage::{LocalStorage, Storage};

use crate::support::{root, run};
use crate::watch::{checkpoint, make_run, save};
use crate::watch_on::Beside;

/// A command that scores 1.5 whatever the model.
const SCORE: &str = r#"echo '[{"task":"t","value":1.5,"stderr":0.1,"n":10,"higher_is_better":false}]'"#;

fn score(more: &str) -> String {
    format!("{more} : {{checkpoint}}; {SCORE} > {{out}}")
}

/// Folders with a request, by step; those without a result.
fn requests(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.join("eval_request.json").exists()).collect();
    found.sort_by_key(|path| {
        path.file_name().unwrap().to_str().unwrap().split('-').nth(1).unwrap().parse::<u64>().unwrap()
    });
    found
}

fn open_requests(folder: &Path) -> Vec<PathBuf> {
    requests(folder).into_iter().filter(|path| !path.join("eval_result.json").exists()).collect()
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Does what a request says, as torchtitan's worker does.
fn work(folder: &Path) {
    let request = read(folder.join("eval_request.json"));
    let words: Vec<&str> = request["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let env = request["env"].as_object().unwrap().iter().map(|(name, value)| (name, value.as_str().unwrap()));
    let output = Command::new(words[0]).args(&words[1..]).envs(env).current_dir("/").output().unwrap();
    std::fs::write(folder.join("launch.log"), [output.stdout, output.stderr].concat()).unwrap();
    answer(folder, output.status.code().unwrap_or(-15));
}

fn answer(folder: &Path, return_code: i32) {
    let result = json!({"return_code": return_code, "started_at": 1795912345.25, "finished_at": 1795912349.5});
    std::fs::write(folder.join("eval_result.json.tmp"), format!("{result:#}")).unwrap();
    std::fs::rename(folder.join("eval_result.json.tmp"), folder.join("eval_result.json")).unwrap();
}

/// A worker that takes the lowest step first, until no request is left and none will come.
struct Worker {
    is_dead: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Worker {
    fn start(folder: &Path) -> Self {
        let (folder, is_dead) = (folder.to_owned(), Arc::new(AtomicBool::new(false)));
        let dies = Arc::clone(&is_dead);
        let thread = std::thread::spawn(move || {
            let mut n_done = 0;
            while !dies.load(Ordering::Relaxed) {
                match open_requests(&folder).first() {
                    Some(request) => {
                        work(request);
                        n_done += 1;
                    }
                    None if folder.join("_TRAINING_COMPLETE").exists() => break,
                    None => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            n_done
        });
        Self { is_dead, thread }
    }

    fn die(self) {
        self.is_dead.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

struct Place {
    scratch: tempfile::TempDir,
    run_path: PathBuf,
    out: PathBuf,
    evals: PathBuf,
}

impl Place {
    fn new(n: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (run_path, out, evals) =
            (make_run(scratch.path(), n), scratch.path().join("out"), scratch.path().join("evals"));
        Self { scratch, run_path, out, evals }
    }

    fn watch(&self, command: &str, more: &[&str]) -> Beside {
        let evals = self.evals.to_str().unwrap();
        let options = ["--windows", "sma:2", "--eval-command", command, "--eval-requests", evals];
        Beside::start(&self.run_path, &self.out, &[&options, more].concat())
    }

    /// Exit code, the document, and standard error.
    fn once(&self, command: &str, more: &[&str]) -> (i32, Value, String) {
        let [run_path, out, evals] = [&self.run_path, &self.out, &self.evals].map(|path| path.to_str().unwrap());
        let fixed = ["watch", run_path, "-o", out, "--once", "--json", "--windows", "sma:2"];
        let scoring = ["--eval-command", command, "--eval-requests", evals];
        let output = run(&[fixed.as_slice(), &scoring, more].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), stderr)
    }

    fn scored(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.out.join("watch.jsonl")).unwrap_or_default();
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.filter(|row| row["event"] == "scored").collect()
    }

    fn scored_ends(&self) -> Vec<u64> {
        let merges = self.scored().into_iter().filter(|row| row["scheme"] != "raw");
        merges.map(|row| row["end_step"].as_u64().unwrap()).collect()
    }
}

#[test]
fn requests_have_the_form_of_torchtitans_and_their_results_are_scores() {
    let place = Place::new(3);
    let done = place.scratch.path().join("done");
    let mut beside = place.watch(&score(""), &["--until", done.to_str().unwrap()]);
    beside.until("both models of the newest end are asked about", |_| requests(&place.evals).len() == 2);
    let asked = requests(&place.evals);
    let merge = asked.iter().find(|path| path.to_str().unwrap().contains("step-300-sma-2-")).unwrap();
    let raw = asked.iter().find(|path| path.to_str().unwrap().contains("step-300-raw-")).unwrap();
    let merged = place.out.canonicalize().unwrap().join("step0000300-n2-sma");
    assert_eq!(
        read(merge.join("checkpoint_manifest.json")),
        json!({"evaluation_step": 300, "source_steps": [200, 300], "checkpoint_dir": merged})
    );
    assert_eq!(read(raw.join("checkpoint_manifest.json"))["source_steps"], json!([300]));
    let request = read(merge.join("eval_request.json"));
    assert_eq!(request["env"], json!({}));
    assert_eq!((&request["command"][0], &request["command"][1]), (&json!("sh"), &json!("-c")));
    let worker = Worker::start(&place.evals);
    beside.until("it is scored", |_| place.scored().len() == 2);
    save(&place.run_path, 400, 4);
    beside.until("the next end is scored", |_| place.scored_ends() == [300, 400]);
    assert_eq!(place.scored()[3]["scores"][0]["gain"]["value"], 0.0);
    // The last checkpoint and the end of the run come together.
    save(&place.run_path, 500, 5);
    std::fs::write(&done, "").unwrap();
    let (code, _, stderr) = beside.ended();
    assert_eq!((code, place.scored_ends()), (Some(0), vec![300, 400, 500]), "{stderr}");
    assert_eq!(worker.thread.join().unwrap(), 6, "the worker was told to end");
}

#[test]
fn a_watcher_that_is_killed_asks_for_nothing_twice() {
    let place = Place::new(2);
    let mut beside = place.watch(&score(""), &["--hold"]);
    beside.until("requests", |_| requests(&place.evals).len() == 2);
    beside.kill();
    let written = |path: &PathBuf| std::fs::metadata(path.join("eval_request.json")).unwrap().modified().unwrap();
    let before: Vec<_> = requests(&place.evals).iter().map(|path| (path.clone(), written(path))).collect();
    requests(&place.evals).iter().for_each(|path| work(path));
    let (code, document, stderr) = place.once(&score(""), &[]);
    assert_eq!((code, document["scored"].as_array().unwrap().len()), (0, 2), "{stderr}");
    let after: Vec<_> = requests(&place.evals).iter().map(|path| (path.clone(), written(path))).collect();
    assert_eq!(before, after);
}

#[test]
fn merges_do_not_wait_for_a_worker_that_died_and_the_next_one_scores_the_newest_end_first() {
    let place = Place::new(2);
    let worker = Worker::start(&place.evals);
    let mut beside = place.watch(&score(""), &[]);
    beside.until("the first end is scored", |_| place.scored_ends() == [200]);
    worker.die();
    for step in [3, 4, 5] {
        save(&place.run_path, 100 * step, step);
        beside.until_recorded(&[&format!("step{:07}-n2-sma", 100 * step)]);
    }
    assert_eq!(place.scored_ends(), [200]);
    let worker = Worker::start(&place.evals);
    beside.until("all are scored", |_| place.scored_ends().len() == 4);
    let (_, _, stderr) = beside.stop();
    worker.die();
    assert_eq!(place.scored_ends(), [200, 300, 500, 400]);
    assert!(stderr.contains("2 requests in `") && stderr.contains("but no worker has started"), "{stderr}");
}

#[test]
fn a_late_or_torn_result_is_taken_once_it_is_whole_and_others_do_not_wait() {
    let place = Place::new(2);
    let mut beside = place.watch(&score(""), &["--eval-timeout", "300ms"]);
    beside.until("requests", |_| requests(&place.evals).len() == 2);
    let first = requests(&place.evals);
    let torn = |path: &PathBuf| std::fs::write(path.join("eval_result.json"), "{\"return_code\": 0, \"star").unwrap();
    first.iter().for_each(torn);
    beside.until_said("its result is incomplete; they will be taken once they arrive");
    save(&place.run_path, 300, 3);
    beside.until("the next end is asked about", |_| requests(&place.evals).len() == 4);
    open_requests(&place.evals).iter().for_each(|path| work(path));
    beside.until("the next end is scored", |_| place.scored_ends() == [300]);
    first.iter().for_each(|path| work(path));
    beside.until("the late end is scored", |_| place.scored_ends() == [300, 200]);
    beside.stop();
}

#[test]
fn a_command_that_fails_is_said_with_a_way_to_have_it_again_that_works() {
    let place = Place::new(2);
    let worker = Worker::start(&place.evals);
    let broken = place.scratch.path().join("broken");
    std::fs::write(&broken, "").unwrap();
    let command = score(&format!("[ ! -e {} ] || exit 3;", broken.display()));
    let (code, document, stderr) = place.once(&command, &[]);
    assert_eq!(
        (code, document["unscored"].as_array().unwrap().len(), document["outputs"].as_array().unwrap().len()),
        (2, 2, 1)
    );
    assert!(stderr.contains("ended with code 3") && stderr.contains("eval_result.json` to have it redone"), "{stderr}");
    std::fs::remove_file(&broken).unwrap();
    assert_eq!(place.once(&command, &[]).0, 2, "the answer is still there");
    for path in requests(&place.evals) {
        std::fs::remove_file(path.join("eval_result.json")).unwrap();
    }
    let (code, document, stderr) = place.once(&command, &[]);
    assert_eq!((code, document["scored"].as_array().unwrap().len()), (0, 2), "{stderr}");
    worker.die();
}

#[test]
fn results_that_cannot_be_read_or_are_missing_are_said() {
    for (command, said) in [
        (": {checkpoint} {out}", "succeeded for `"),
        ("echo rubbish > {out} # {checkpoint}", "/results`: it is not JSON"),
        ("echo '[]' > {request}/results_2026.json # {checkpoint}", "results_2026.json`: it has no usable score"),
        ("kill -9 $$ # {checkpoint} {out}", "ended with code -15"),
    ] {
        let place = Place::new(2);
        let worker = Worker::start(&place.evals);
        let (exit, document, stderr) = place.once(command, &[]);
        worker.die();
        assert_eq!((exit, document["unscored"].as_array().unwrap().len()), (2, 2), "{command}: {stderr}");
        assert!(stderr.contains(said), "{command}: {stderr}");
        assert!(stderr.contains("hint: rerun the command"), "{command}: {stderr}");
    }
    let place = Place::new(2);
    for (command, missing) in
        [("score {checkpoint}", "{out}"), ("score {out}", "{checkpoint}"), ("score {request}", "{checkpoint}")]
    {
        let (code, _, stderr) = place.once(command, &[]);
        assert!(code == 2 && stderr.contains(&format!("the command has no `{missing}`")), "{stderr}");
    }
}

/// The first block of docs/watch.md that begins with this line.
fn documented(first_line: &str) -> String {
    let text = std::fs::read_to_string(root().join("docs/watch.md")).unwrap();
    let indented = text.lines().skip_while(|line| line.trim() != first_line);
    indented.take_while(|line| line.starts_with("    ")).map(|line| format!("{}\n", &line[4..])).collect()
}

#[test]
fn the_worker_of_the_documentation_works() {
    let place = Place::new(3);
    let (script, done) = (place.scratch.path().join("worker.py"), place.scratch.path().join("done"));
    let code = documented("import json, os, pathlib, subprocess, sys, time");
    assert!((10..=16).contains(&code.lines().count()), "{code}");
    std::fs::write(&script, code.replace("time.sleep(5)", "time.sleep(0.02)")).unwrap();
    let Ok(mut worker) = Command::new("python3").arg(&script).arg(&place.evals).spawn() else {
        eprintln!("skipped: there is no python3");
        return;
    };
    std::fs::write(&done, "").unwrap();
    let beside = place.watch(&score(""), &["--until", done.to_str().unwrap()]);
    let (code, _, stderr) = beside.ended();
    assert_eq!((code, place.scored_ends()), (Some(0), vec![300]), "{stderr}");
    assert!(worker.wait().unwrap().success());
}

#[test]
fn a_command_that_hangs_is_ended_with_all_that_it_started_and_the_next_ends_are_scored() {
    let place = Place::new(2);
    let (pid, mended) = (place.scratch.path().join("pid"), place.scratch.path().join("mended"));
    let hang = format!(
        "case {{checkpoint}} in *n2*) test -e {} || {{ sleep 1000 & echo $! > {}; wait; }};; esac;",
        mended.display(),
        pid.display()
    );
    let command = score(&hang);
    let options = ["--windows", "sma:2", "--eval-command", &command, "--eval-timeout", "200ms"];
    let mut beside = Beside::start(&place.run_path, &place.out, &options);
    beside.until_said("`step0000200-n2-sma` is not scored: the command took longer than 0.2 s");
    let is_gone = || {
        let process = std::fs::read_to_string(&pid).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    beside.until("what the command started has ended", |_| is_gone());
    assert_eq!(place.scored().len(), 1, "the raw checkpoint has its score");
    save(&place.run_path, 300, 3);
    beside.until_recorded(&["step0000300-n2-sma"]);
    beside.until("the next end is tried", |_| place.scored().len() == 2);
    beside.stop();
    let (run_path, out) = (place.run_path.to_str().unwrap(), place.out.to_str().unwrap());
    let fixed = ["watch", run_path, "-o", out, "--once", "--windows", "sma:2", "--eval-timeout", "5s"];
    std::fs::write(&mended, "").unwrap();
    let again = run(&[fixed.as_slice(), &["--eval-command", &command]].concat());
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(place.scored_ends(), [300, 200], "more time, or a repaired command, scores them");
}

#[test]
fn a_link_leaves_a_checkpoint_what_it_was() {
    let place = Place::new(1);
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new());
    let path = checkpoint(&place.run_path, 100);
    let identity = || open_checkpoint_with(&storage, &path, &ReadOptions::default()).unwrap().identity();
    let before = identity();
    std::fs::hard_link(&path, place.scratch.path().join("held")).unwrap();
    assert_eq!(identity(), before);
    save(&place.run_path, 100, 2);
    assert_ne!(identity(), before);
}

#[test]
fn eval_ends_a_command_that_hangs() {
    let place = Place::new(1);
    let path = checkpoint(&place.run_path, 100);
    let command = score("sleep 1000;");
    let began = std::time::Instant::now();
    let output = run(&["eval", path.to_str().unwrap(), "--eval-command", &command, "--eval-timeout", "100ms"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("the command took longer than 0.1 s for `"), "{stderr}");
    assert!(output.status.code() == Some(2) && began.elapsed() < Duration::from_secs(60));
}

/// Whether these tests were started so that they, and all that they start, survive the end of a terminal.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
}

fn check_that_a_stop_ends_the_command(signals: &[Signal]) {
    let place = Place::new(2);
    let pid = place.scratch.path().join("pid");
    let command = score(&format!("sleep 1000 & echo $! > {}.new; mv {0}.new {0}; wait;", pid.display()));
    let mut beside = Beside::start(&place.run_path, &place.out, &["--windows", "sma:2", "--eval-command", &command]);
    beside.until("the command runs", |_| pid.exists());
    let process = std::fs::read_to_string(&pid).unwrap();
    signals.iter().for_each(|signal| beside.send(*signal));
    let (code, _, _) = beside.ended();
    assert_eq!(code, Some(130));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[test]
fn a_stop_ends_a_command_that_hangs() {
    check_that_a_stop_ends_the_command(&[Signal::INT]);
}

#[test]
fn the_end_of_the_terminal_ends_a_command_that_hangs_though_it_is_told_twice() {
    // Under `nohup` nothing ends: there is nothing to wait for.
    if cfg!(target_os = "linux") && !ignores_hangup() {
        check_that_a_stop_ends_the_command(&[Signal::HUP, Signal::HUP]);
    }
}

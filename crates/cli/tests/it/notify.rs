//! Messages of a watcher: what they say, and what becomes of those that are not accepted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use thalweg_testkit::Scratch;

use crate::support::{check, run};
use crate::watch::{make_run, save};

/// A web hook that gives these answers in turn; what was posted, with its target.
fn hook(answers: &'static [&'static str]) -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hooks/x?y=1", listener.local_addr().unwrap());
    let (send, posted) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let message = read_post(&stream);
            (&stream).write_all(answer.as_bytes()).unwrap();
            if send.send(message).is_err() {
                return;
            }
        }
    });
    (url, posted)
}

fn read_post(stream: &TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0);
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head.lines().next().unwrap().to_owned(), serde_json::from_slice(&body).unwrap())
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
const GONE: &str = "HTTP/1.1 410 Gone\r\n\r\n";

/// Merges and scores the newest end; returns standard error.
fn watch(run_path: &Path, out: &Path, value: f64, more: &[&str]) -> String {
    let row = format!(r#"[{{"task":"text","value":{value},"stderr":0.01,"n":10,"higher_is_better":false}}]"#);
    // One evaluator for all: what it finds is in a file.
    let found = out.with_extension("found");
    std::fs::write(&found, row).unwrap();
    let command = format!(": {{checkpoint}}; cp {} {{out}}", found.display());
    let (run_path, out) = (run_path.to_str().unwrap(), out.to_str().unwrap());
    let fixed = ["watch", run_path, "-o", out, "--once", "-q", "--windows", "sma:2", "--eval-command", &command];
    let quiet = if more.contains(&"-v") {
        fixed.iter().filter(|word| **word != "-q").copied().collect()
    } else {
        fixed.to_vec()
    };
    let output = run(&[quiet.as_slice(), more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_new_best_is_told_once_and_again_until_it_is_taken() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 2), scratch.path().join("out"));
    let (url, posted) = hook(&[BUSY, OK]);
    watch(&run_path, &out, 1.5, &["--notify", &url]);
    let refused = posted.recv_timeout(Duration::from_secs(30)).unwrap();
    let (head, body) = posted.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(refused.1, body, "the same message again");
    assert_eq!(head, "POST /hooks/x?y=1 HTTP/1.1");
    assert_eq!(
        (&body["kind"], &body["version"], &body["event"]),
        (&"thalweg-notice".into(), &1.into(), &"new-best".into())
    );
    assert_eq!(body["best"]["score"]["value"], 1.5);
    assert!(body["text"].as_str().unwrap().ends_with(": new best at step 200: raw: text value 1.5000"), "{body}");

    // A worse end and a restart are not told; the next better one is, by the command.
    save(&run_path, 300, 3);
    let told = scratch.path().join("told");
    let command = format!("cat >> {}", told.display());
    watch(&run_path, &out, 1.6, &["--notify-command", &command]);
    watch(&run_path, &out, 1.6, &["--notify-command", &command]);
    assert!(!told.exists());
    save(&run_path, 400, 4);
    watch(&run_path, &out, 1.25, &["--notify-command", &command]);
    let lines: Vec<Value> =
        std::fs::read_to_string(&told).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["best"]["before"], &lines[0]["best"]["end_step"]), (&1.5.into(), &400.into()));
}

#[test]
fn what_a_hook_refuses_for_good_is_said_and_not_tried_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 2), scratch.path().join("out"));
    let (url, posted) = hook(&[GONE]);
    let begun = Instant::now();
    let said = watch(&run_path, &out, 1.5, &["--notify", &url, "-v"]);
    posted.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(said.contains("a notice could not be sent: http://127.0.0.1:") && said.contains(" answers 410"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_spike_that_was_not_there_before_is_told_with_what_to_resume_from() {
    let scratch = tempfile::tempdir().unwrap();
    let run_path = make_run(scratch.path(), 4);
    let (out, told) = (scratch.path().join("out"), scratch.path().join("told"));
    let line = |step: u64, loss: f64| {
        format!("{{\"step\":{step},\"loss\":{loss},\"grad_norm\":0.5,\"learning_rate\":0.001}}\n")
    };
    let calm = |step: u64| 2.0 + 0.01 * ((step * 7919 % 101) as f64 / 101.0 - 0.5);
    let mut log: String = (1..=330).map(|step| line(step, calm(step))).collect();
    std::fs::write(run_path.join("log.jsonl"), &log).unwrap();
    let command = format!("cat >> {}", told.display());
    let more = ["--notify-command", &command];
    watch(&run_path, &out, 1.5, &more);
    let n_before = std::fs::read_to_string(&told).unwrap().lines().count();
    assert_eq!(n_before, 1, "the first score is the best");
    log.extend((331..=400).map(|step| line(step, calm(step) + 3.0)));
    std::fs::write(run_path.join("log.jsonl"), &log).unwrap();
    watch(&run_path, &out, 1.5, &more);
    watch(&run_path, &out, 1.5, &more);
    let text = std::fs::read_to_string(&told).unwrap();
    let spikes: Vec<Value> = text.lines().skip(n_before).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(spikes.len(), 1, "told once: {text}");
    assert_eq!((&spikes[0]["event"], &spikes[0]["spike"]["onset"]), (&"spike".into(), &331.into()));
    assert_eq!(spikes[0]["spike"]["end"], Value::Null);
    assert!(spikes[0]["recovery"].as_array().unwrap().iter().all(|step| step.as_u64().unwrap() < 331));
    assert!(spikes[0]["text"].as_str().unwrap().contains("at step 331; it has not recovered yet"), "{}", spikes[0]);
}

#[test]
fn a_hook_that_hangs_does_not_hold_up_merges() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 2), scratch.path().join("out"));
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", deaf.local_addr().unwrap());
    let row = r#"[{"task":"text","value":1.5,"stderr":0.01,"n":10,"higher_is_better":false}]"#;
    let scoring = format!(": {{checkpoint}}; echo '{row}' > {{out}}");
    let more = ["--windows", "sma:2", "--eval-command", &scoring, "--notify", &url];
    let mut beside = crate::watch_on::Beside::start(&run_path, &out, &more);
    beside.until_recorded(&["step0000200-n2-sma"]);
    // The connection is taken by the system, and no answer ever comes.
    let (_stream, _) = deaf.accept().unwrap();
    save(&run_path, 300, 3);
    beside.until_recorded(&["step0000300-n2-sma"]);
    beside.kill();
}

#[test]
fn addresses_that_cannot_work_are_refused_with_what_does() {
    let scratch = Scratch::new();
    let watch = "watch run --windows sma:2 -o out --notify";
    check(
        &scratch,
        &format!("{watch} https://hooks.example/x"),
        2,
        &["sent over plain HTTP", "--notify-command 'curl -sSf --json @-"],
    );
    check(&scratch, &format!("{watch} hooks.example"), 2, &["is not an address; write http://HOST[:PORT]/PATH"]);
}

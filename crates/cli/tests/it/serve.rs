//! The page of a study over HTTP: what is served, to whom, and what never is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use thalweg_testkit::Scratch;

use crate::kill::signal;
use crate::support::{check, program, run};
use crate::watch::{make_run, save};

/// A server that is running.
pub(crate) struct Serving {
    child: Child,
    pub(crate) url: String,
    pub(crate) at: SocketAddr,
}

impl Serving {
    pub(crate) fn start(folder: &Path, more: &[&str]) -> Self {
        Self::with(folder, &[&["--port", "0"], more].concat())
    }

    pub(crate) fn at_port(folder: &Path, port: &str) -> Self {
        Self::with(folder, &["--port", port])
    }

    fn with(folder: &Path, more: &[&str]) -> Self {
        let mut command = program();
        command.arg("serve").arg(folder).arg("--json").args(more);
        Self::of(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Reads the line that says where it serves.
    fn of(mut child: Child) -> Self {
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let document: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let url = document["url"].as_str().unwrap().to_owned();
        let at = url.trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
        Self { child, url, at }
    }

    fn ask(&self, request: &str) -> Reply {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Reply { head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.at))
    }

    fn get_with(&self, path: &str, header: &str) -> Reply {
        self.ask(&format!("GET {path} HTTP/1.1\r\n{header}\r\n\r\n"))
    }

    /// The events of a page.
    fn events(&self, path: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
        BufReader::new(stream)
    }

    /// Ctrl-C: the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        signal(&self.child, Signal::INT);
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status.code(),
                None if Instant::now() > end => return None,
                None => std::thread::yield_now(),
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Reply {
    head: String,
    pub(crate) body: String,
}

impl Reply {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

fn next_revision(events: &mut BufReader<TcpStream>) -> String {
    loop {
        let mut line = String::new();
        assert!(events.read_line(&mut line).unwrap() > 0, "the events ended");
        if let Some(revision) = line.trim_end().strip_prefix("data: ") {
            return revision.to_owned();
        }
    }
}

/// A watcher's folder with a merge of two.
pub(crate) fn watched(scratch: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (run_path, out) = (make_run(scratch, 2), scratch.join("studies").join("merged"));
    bring_up_to_date(&run_path, &out);
    (run_path, out)
}

pub(crate) fn bring_up_to_date(run_path: &Path, out: &Path) {
    let (run_path, out) = (run_path.to_str().unwrap(), out.to_str().unwrap());
    let output = run(&["watch", run_path, "-o", out, "--once", "-q", "--windows", "sma:2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_page_is_served_with_its_parts_and_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, out) = watched(scratch.path());
    let serving = Serving::start(&out, &[]);
    let page = serving.get("/");
    assert_eq!(page.status(), 200);
    assert!(page.body.contains("step0000200-n2-sma") && page.body.contains("href=\"page.css\""), "{}", page.body);
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe") && !policy.contains("http"));
    let content = serving.get("/content");
    assert!(page.body.contains(&content.body) && page.body.contains(content.header("Revision").unwrap()));
    assert!(serving.get("/page.js").body.contains("EventSource") && serving.get("/page.css").body.contains("--ground"));
    let saved = serving.get("/saved");
    assert!(saved.header("Content-Disposition").unwrap().starts_with("attachment"));
    assert!(saved.body.starts_with("<!DOCTYPE html>") && !saved.body.contains("page.css"));
    let head = serving.ask("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((head.status(), head.body.as_str()), (200, ""));
    let hidden = [
        "/watch.jsonl",
        "/step0000200-n2-sma/model.safetensors",
        "/step0000200-n2-sma/",
        "/../run/step_100.safetensors",
        "/%2e%2e/run/",
        "/%2e%2e%2frun/",
        "//",
        "/./",
        "/%00/",
        "/saved/",
        "/events/x",
        "/..%2f..%2fetc%2fpasswd",
    ];
    for path in hidden {
        assert_eq!(serving.get(path).status(), 404, "{path}");
    }
    assert_eq!(serving.ask("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n").status(), 405);
    assert_eq!(serving.ask("rubbish\r\n\r\n").status(), 400);
    assert_eq!(serving.get_with("/", &format!("Host: localhost\r\nX: {}", "y".repeat(40_000))).status(), 431);
    assert_eq!(serving.stop(), Some(0));
}

#[test]
fn requests_that_name_another_host_are_refused_until_it_is_allowed() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, out) = watched(scratch.path());
    let serving = Serving::start(&out, &[]);
    for host in ["evil.example", "127.0.0.1.evil.example:80", "192.168.0.1"] {
        let refused = serving.get_with("/content", &format!("Host: {host}"));
        assert_eq!(refused.status(), 403, "{host}");
        let name = host.split(':').next().unwrap();
        assert!(refused.body.contains(&format!("--allow-host {name}\n")) && !refused.body.contains("sma"));
        let allowing = Serving::start(&out, &["--allow-host", name]);
        assert_eq!(allowing.get_with("/content", &format!("Host: {host}")).status(), 200, "the hint works");
    }
    assert_eq!(serving.get_with("/", "Host: [::1]:1").status(), 200);
    assert_eq!(serving.get_with("/", "Host: localhost:4840").status(), 200);
    assert_eq!(serving.get_with("/", "Accept: */*").status(), 403, "without a host");
}

#[test]
fn an_address_that_others_reach_needs_a_token() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, out) = watched(scratch.path());
    let file = scratch.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    // A test must not listen on a network interface, so it uses loopback.
    for more in [vec!["--token"], vec!["--token-file", file.to_str().unwrap()]] {
        let serving = Serving::start(&out, &more);
        let (_, token) = serving.url.split_once("/?token=").unwrap();
        if more.len() == 2 {
            assert_eq!(token, "0123456789abcdef");
        }
        assert_eq!(serving.get("/").status(), 401);
        assert_eq!(serving.get("/events").status(), 401);
        assert_eq!(serving.get(&format!("/?token={token}x")).status(), 401);
        let moved = serving.get(&format!("/?token={token}"));
        assert_eq!((moved.status(), moved.header("Location")), (303, Some("./")));
        let cookie = moved.header("Set-Cookie").unwrap();
        assert!(cookie.contains("HttpOnly"));
        let cookie = cookie.split(';').next().unwrap();
        assert_eq!(serving.get_with("/", &format!("Host: cluster.example\r\nCookie: a=b; {cookie}")).status(), 200);
        assert_eq!(serving.get_with("/saved", &format!("Authorization: Bearer {token}")).status(), 200);
    }
    std::fs::write(&file, "short\n").unwrap();
    let output = run(&["serve", out.to_str().unwrap(), "--token-file", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let hint = text.split("make one with `").nth(1).unwrap().split('`').next().unwrap();
    assert!(std::process::Command::new("sh").args(["-c", hint]).status().unwrap().success(), "{hint}");
    let serving = Serving::start(&out, &["--token-file", file.to_str().unwrap()]);
    assert_eq!(serving.get("/").status(), 401, "the hint works");
}

#[test]
fn events_tell_of_a_change_and_again_after_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = watched(scratch.path());
    let serving = Serving::start(&out, &[]);
    let mut events = serving.events("/events");
    let first = next_revision(&mut events);
    assert_eq!(serving.get("/content").header("Revision"), Some(&*first));
    save(&run_path, 300, 3);
    bring_up_to_date(&run_path, &out);
    let second = loop {
        let next = next_revision(&mut events);
        if serving.get("/content").body.contains("step0000300-n2-sma") {
            break next;
        }
    };
    assert_ne!(first, second);
    assert_eq!(serving.stop(), Some(0), "open pages do not hold it up");
    let mut end = String::new();
    let _ = events.read_to_string(&mut end);
    let again = Serving::start(&out, &[]);
    let last = again.get("/content").header("Revision").unwrap().to_owned();
    assert_eq!(next_revision(&mut again.events("/events")), last, "the same content has the same revision");
}

#[test]
fn a_folder_of_studies_has_a_page_with_links_to_them() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, out) = watched(scratch.path());
    let studies = out.parent().unwrap();
    std::fs::rename(&out, studies.join("the merges #1")).unwrap();
    // A link leads elsewhere, and so does a record that is one.
    let (elsewhere, _) = (scratch.path().join("elsewhere"), ());
    watched(&elsewhere);
    std::os::unix::fs::symlink(elsewhere.join("studies/merged"), studies.join("linked")).unwrap();
    std::fs::create_dir(studies.join("of-a-link")).unwrap();
    let record = elsewhere.join("studies/merged/watch.jsonl");
    std::os::unix::fs::symlink(record, studies.join("of-a-link/watch.jsonl")).unwrap();
    let serving = Serving::start(studies, &[]);
    let index = serving.get("/").body;
    assert!(index.contains("href=\"the%20merges%20%231/\"") && index.contains("1 study."), "{index}");
    assert!(!index.contains("linked") && !index.contains("of-a-link"));
    assert_eq!(serving.get("/linked/").status(), 404);
    let redirect = serving.get("/the%20merges%20%231");
    assert_eq!((redirect.status(), redirect.header("Location")), (303, Some("the%20merges%20%231/")));
    assert!(serving.get("/the%20merges%20%231/").body.contains("step0000200-n2-sma"));
    next_revision(&mut serving.events("/the%20merges%20%231/events"));
    next_revision(&mut serving.events("/events"));
}

#[test]
fn a_watcher_serves_its_page_from_the_first_moment_on() {
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (scratch.path().join("run"), scratch.path().join("out"));
    let mut command = program();
    command.arg("watch").arg(&run_path).arg("-o").arg(&out).args(["--windows", "sma:1", "--poll", "20ms"]);
    let command = command.args(["--json", "--serve=0"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let serving = Serving::of(command.spawn().unwrap());
    assert!(serving.get("/").body.contains("Nothing is recorded yet."));
    let mut events = serving.events("/events");
    save(&run_path, 100, 1);
    while !serving.get("/content").body.contains("step0000100-n1-sma") {
        next_revision(&mut events);
    }
    assert_eq!(serving.stop(), Some(130));
}

#[test]
fn what_cannot_be_served_is_said() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path().join("empty")).unwrap();
    check(&scratch, "serve empty", 2, &["`empty` holds no `study.json` and no `watch.jsonl`", "thalweg demo"]);
    check(&scratch, "serve missing", 2, &["`missing` is not a folder"]);
    std::fs::create_dir(scratch.path().join("damaged")).unwrap();
    std::fs::write(scratch.path().join("damaged/study.json"), "{}").unwrap();
    check(&scratch, "serve damaged", 2, &["missing field `kind`"]);
    check(&scratch, "watch r --windows sma:2 -o w --once --serve", 2, &["cannot be used with"]);
    check(&scratch, "watch r --windows sma:2 -o w --token", 2, &["nothing is served without `--serve`"]);
    check(&scratch, "watch r --windows sma:2 -o w --serve=x", 2, &["`x` is not a port"]);
    let (_, out) = watched(scratch.path());
    let serving = Serving::start(&out, &[]);
    let taken = format!("serve studies/merged --port {}", serving.at.port());
    check(&scratch, &taken, 2, &["cannot listen at 127.0.0.1:", "`--port 0` takes any that is free"]);
    check(&scratch, "serve studies/merged --bind 192.0.2.1", 2, &["cannot listen at 192.0.2.1:", "`--bind` takes"]);
}

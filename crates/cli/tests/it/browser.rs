//! The live page in a real browser: it updates by itself, survives a restart of its server, and works by keyboard and
//! on a phone.
//!
//! Chromium is spoken to over two pipes, so that no client of its protocol is needed. Where there is none, the test
//! says so and ends.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::report::report_with_sections;
use crate::serve::Serving;
use crate::support::run;
use crate::watch::{make_run, save};

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// The browser reads messages from descriptor 3 and writes them to 4.
const LAUNCH: &str = r#"exec "$0" --headless --no-sandbox --disable-gpu --remote-debugging-pipe "--user-data-dir=$1" about:blank 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null"#;

struct Browser {
    child: Child,
    to: ChildStdin,
    answers: Receiver<Value>,
    n_calls: u64,
    session: Option<String>,
    /// What the page complained of.
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None` where no browser is installed.
    fn start() -> Option<Self> {
        let is_there = |name: &&&str| {
            let found = Command::new("sh").args(["-c", "command -v \"$0\"", name]).stdout(Stdio::null()).status();
            found.is_ok_and(|status| status.success())
        };
        let name = BROWSERS.iter().find(is_there)?;
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", LAUNCH, name]).arg(profile.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut from = BufReader::new(child.stdout.take().unwrap());
        let (send, answers) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while from.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                if send.send(serde_json::from_slice(&message).unwrap_or(Value::Null)).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let to = child.stdin.take().unwrap();
        let (n_calls, session, complaints) = (0, None, Vec::new());
        let mut browser = Self { child, to, answers, n_calls, session, complaints, _profile: profile };
        let targets = browser.call("Target.getTargets", json!({}));
        let page = targets["targetInfos"].as_array().unwrap().iter().find(|one| one["type"] == "page").unwrap();
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        ["Page.enable", "Runtime.enable", "Log.enable"].iter().for_each(|method| drop(browser.call(method, json!({}))));
        Some(browser)
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.n_calls += 1;
        let mut message = json!({"id": self.n_calls, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.answers.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("{method}"));
            self.listen(&answer);
            if answer["id"] == self.n_calls {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// Keeps exceptions, refusals by the page's policy, and whatever is written to the console.
    fn listen(&mut self, event: &Value) {
        let entry = &event["params"]["entry"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled") => self.complaints.push(event.to_string()),
            // While the server is away, requests fail.
            Some("Log.entryAdded") if entry["source"] != "network" => self.complaints.push(event.to_string()),
            _ => {}
        }
    }

    fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    ///
    /// What it asks for may not be there yet: a page that is loading has no parts.
    fn until(&mut self, expression: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        let patient = format!("(() => {{ try {{ return {expression}; }} catch {{ return false; }} }})()");
        while self.value(&patient) != json!(true) {
            assert!(Instant::now() < end, "never: {expression}; {}", self.value("document.body?.innerText"));
            std::thread::yield_now();
        }
    }

    fn press(&mut self, key: &str) {
        let text = if key == "Enter" { json!("\r") } else { Value::Null };
        for kind in ["keyDown", "keyUp"] {
            let code = match key {
                "Enter" => 13,
                "Escape" => 27,
                "ArrowRight" => 39,
                _ => 9,
            };
            let mut event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && text.is_string() {
                event["text"] = text.clone();
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    fn width(&mut self, width: u32) {
        let metrics = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }
}

/// Holds the page against the rules of axe-core, light and dark, where `THALWEG_AXE` names its script: `.ci/run` gets
/// it from npm.
fn audit(browser: &mut Browser, place: &str) {
    let Some(path) = std::env::var_os("THALWEG_AXE") else { return };
    let script = std::fs::read_to_string(path).unwrap();
    assert_eq!(browser.value(&format!("{script}; typeof axe")), json!("object"));
    // What is shown about a mark while it has the focus is outside of all landmarks; what is folded is not looked at.
    browser
        .value("document.activeElement.blur(); document.querySelectorAll('details').forEach(part => part.open = true)");
    for scheme in ["light", "dark"] {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        browser.call("Emulation.setEmulatedMedia", json!({"features": [feature]}));
        let broken = browser.value(
            "axe.run(document).then(found => found.violations.map(rule => rule.id + ': ' + rule.nodes.map(node => node.target.join(' ')).join(', ')))",
        );
        assert_eq!(broken, json!([]), "{place}, {scheme}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Merges and scores the newest end of a run.
fn score(run_path: &Path, out: &Path) {
    let (run_path, out) = (run_path.to_str().unwrap(), out.to_str().unwrap());
    let row = r#"[{"task":"text","value":1.25,"stderr":0.01,"n":10,"higher_is_better":false}]"#;
    let command = format!(": {{checkpoint}}; echo '{row}' > {{out}}");
    let windows = ["--windows", "sma:2,wma:2", "--eval-command", &command];
    let output = run(&[&["watch", run_path, "-o", out, "--once", "-q"], windows.as_slice()].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The pictures of what other commands found fit every width: nothing scrolls sideways, no label leaves its picture.
fn check_sections(browser: &mut Browser, scratch: &Path) {
    let folder = scratch.join("sections");
    std::fs::create_dir(&folder).unwrap();
    report_with_sections(&folder);
    browser.call("Page.navigate", json!({"url": format!("file://{}", folder.join("report.html").display())}));
    browser.until("document.querySelector('.charts') !== null && document.querySelector('footer') !== null");
    let outside =
        "[...document.querySelectorAll('svg text')].filter(text => text.getClientRects().length > 0).filter(text => {
        const [own, all] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
        return own.left < all.left - 1 || own.right > all.right + 1 || own.bottom > all.bottom + 1;
    }).map(text => text.textContent)";
    for width in [1280, 768, 390] {
        browser.width(width);
        browser.until(&format!("document.documentElement.scrollWidth <= {width}"));
        assert_eq!(browser.value(outside), json!([]), "{width} px");
        audit(browser, &format!("sections at {width} px"));
    }
}

/// A page that is being loaded has no body, and no content, for a moment.
const STATE: &str = "document.querySelector('main') !== null && document.body.getAttribute('data-live')";

#[test]
fn the_page_follows_the_record_survives_a_restart_and_works_by_keyboard() {
    let Some(mut browser) = Browser::start() else {
        println!("skipped: the_page_follows_the_record_survives_a_restart_and_works_by_keyboard: no Chromium");
        return;
    };
    if std::env::var_os("THALWEG_AXE").is_none() {
        println!("skipped: the audit of the page: THALWEG_AXE does not name axe.min.js");
    }
    let scratch = tempfile::tempdir().unwrap();
    let (run_path, out) = (make_run(scratch.path(), 2), scratch.path().join("out"));
    score(&run_path, &out);
    let serving = Serving::start(&out, &[]);
    let port = serving.at.port().to_string();
    browser.width(1280);
    browser.call("Page.navigate", json!({"url": serving.url}));
    browser.until(&format!("{STATE} === 'on' && document.querySelector('main').innerText.includes('to step 200')"));

    // The page changes in place: what was opened stays open, and nothing is loaded again.
    browser.value("window.mark = 1; document.querySelector('details').open = true");
    save(&run_path, 300, 3);
    score(&run_path, &out);
    browser.until("document.querySelector('main').innerText.includes('At step 300')");
    browser.until("window.mark === 1 && document.querySelector('details').open");

    // Along the marks of the picture with the arrow keys, and into what is known of one.
    browser.value("document.querySelector('.chart .mark[tabindex=\"0\"]').focus()");
    let focused = "document.activeElement.getAttribute('data-w')";
    for _ in 0..8 {
        if browser.value(focused).is_string() {
            break;
        }
        browser.press("ArrowRight");
    }
    assert!(browser.value(focused).is_string(), "no merge was reached");
    browser.until("!document.getElementById('tip').hidden");
    browser.press("Enter");
    browser.until(
        "document.getElementById('facts').open && document.getElementById('facts').innerText.includes('blake3:')",
    );
    browser.until("/0.5000|0.6667/.test(document.getElementById('facts').innerText)");
    browser.press("Escape");
    browser.until("!document.getElementById('facts').open");

    assert_eq!(serving.stop(), Some(0));
    browser.until(&format!("{STATE} === 'off'"));
    save(&run_path, 400, 4);
    score(&run_path, &out);
    let again = Serving::at_port(&out, &port);
    browser.until(&format!("{STATE} === 'on' && document.querySelector('main').innerText.includes('At step 400')"));
    browser.until("window.mark === 1");

    for width in [1280, 390] {
        browser.width(width);
        browser.until(&format!("document.documentElement.scrollWidth <= {width}"));
        audit(&mut browser, &format!("the live page at {width} px"));
    }
    // The page as one file works from a disk, without its server.
    let saved = scratch.path().join("saved.html");
    std::fs::write(&saved, again.get("/saved").body).unwrap();
    drop(again);
    browser.call("Page.navigate", json!({"url": format!("file://{}", saved.display())}));
    browser.until(
        "document.querySelector('main').innerText.includes('At step 400') && document.querySelector('.copy') !== null",
    );
    audit(&mut browser, "the saved page");
    check_sections(&mut browser, scratch.path());
    assert_eq!(browser.complaints, Vec::<String>::new());
}

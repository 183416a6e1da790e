//! Messages about a run, sent to a web hook or piped to a command, by a thread that the watcher never waits for.
//!
//! Messages are sent over plain HTTP. A command such as `curl` sends them to `https`.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Scope;
use std::time::Duration;

use thalweg_study::watch::Notice;

use crate::host::World;
use crate::messages::Messages;

/// Messages that wait.
const MAX_WAITING: usize = 64;
/// Seconds before each further attempt.
const WAITS: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
const CONNECT_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(15);
const MAX_ANSWER_BYTES: usize = 16 << 10;

/// An address of the form `http://HOST[:PORT][/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HookUrl {
    /// As in the `Host` header.
    authority: String,
    host: String,
    port: u16,
    target: String,
}

impl FromStr for HookUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is not an address; write http://HOST[:PORT]/PATH");
        if text.starts_with("https://") {
            return Err(format!(
                "`{text}`: messages are sent over plain HTTP; use `--notify-command 'curl -sSf --json @- {text}'` to send them with curl"
            ));
        }
        let rest = text.strip_prefix("http://").ok_or_else(refuse)?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if authority.is_empty() || authority.contains('@') || !is_plain(authority) || !is_plain(path) {
            return Err(refuse());
        }
        let after_bracket = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority.rfind(':').filter(|at| *at >= after_bracket) {
            Some(at) => (&authority[..at], authority[at + 1..].parse().map_err(|_| refuse())?),
            None => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(refuse());
        }
        let target = path.split('#').next().unwrap_or("/").to_owned();
        Ok(Self { authority: authority.to_owned(), host, port, target })
    }
}

/// Where messages go.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Hook(HookUrl),
    /// A shell command that gets the message on standard input.
    Command(String),
}

/// Passes messages to the thread that sends them.
#[derive(Debug)]
pub(crate) struct Notifier<'a> {
    waiting: SyncSender<String>,
    messages: &'a Messages,
}

impl<'a> Notifier<'a> {
    /// `None` where nothing is to be sent. The thread ends once the notifier is dropped and all messages were tried.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        targets: Vec<Target>,
        world: &'scope World<'a>,
    ) -> Option<Self>
    where
        'a: 'scope,
    {
        if targets.is_empty() {
            return None;
        }
        let (waiting, bodies) = sync_channel(MAX_WAITING);
        scope.spawn(move || deliver_all(&bodies, &targets, world));
        Some(Self { waiting, messages: world.messages })
    }

    /// Never waits: a message is dropped with a note if too many are queued.
    pub(crate) fn send(&self, notice: &Notice) {
        let Ok(body) = serde_json::to_string(notice) else { return };
        if let Err(TrySendError::Full(_)) = self.waiting.try_send(body) {
            self.messages
                .note(format!("a notice is dropped because {MAX_WAITING} are already waiting: {}", notice.text));
        }
    }
}

fn deliver_all(bodies: &Receiver<String>, targets: &[Target], world: &World<'_>) {
    while let Ok(body) = bodies.recv() {
        for target in targets {
            if let Err(why) = deliver(&body, target, world) {
                world.note(format!("a notice could not be sent: {why}"));
            }
        }
    }
}

/// Tries again while that may help and no stop was asked for.
fn deliver(body: &str, target: &Target, world: &World<'_>) -> Result<(), String> {
    let mut waits = WAITS.iter();
    loop {
        let failed = match attempt(body, target) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        match waits.next() {
            Some(seconds) if failed.may_pass && !world.is_stopping() => world.sleep(*seconds),
            _ => return Err(failed.why),
        }
    }
}

struct Failed {
    why: String,
    /// Whether another attempt may succeed.
    may_pass: bool,
}

fn attempt(body: &str, target: &Target) -> Result<(), Failed> {
    let later = |why: String| Failed { why, may_pass: true };
    match target {
        Target::Command(command) => run_command(command, body).map_err(later),
        Target::Hook(url) => {
            let status = post(url, body).map_err(|error| later(format!("http://{}: {error}", url.authority)))?;
            match status {
                200..=299 => Ok(()),
                // The other side is busy, or broken for now.
                408 | 429 | 500..=599 => Err(later(format!("http://{} answers {status}", url.authority))),
                _ => Err(Failed { why: format!("http://{} answers {status}", url.authority), may_pass: false }),
            }
        }
    }
}

fn run_command(command: &str, body: &str) -> Result<(), String> {
    let mut child = Command::new("sh");
    child.arg("-c").arg(command).stdin(Stdio::piped()).stdout(std::io::stderr());
    let mut child = child.spawn().map_err(|error| format!("the shell `sh` cannot be started: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read is judged by its exit code.
        let _ = stdin.write_all(format!("{body}\n").as_bytes());
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{command}` failed: {status}")),
        Err(error) => Err(format!("`{command}`: {error}")),
    }
}

/// The status of the answer.
fn post(url: &HookUrl, body: &str) -> std::io::Result<u16> {
    let other = |what: &str| std::io::Error::other(what.to_owned());
    let mut connected = Err(other("the host name has no address"));
    for address in (url.host.as_str(), url.port).to_socket_addrs()? {
        connected = TcpStream::connect_timeout(&address, CONNECT_TIME);
        if connected.is_ok() {
            break;
        }
    }
    let mut stream = connected?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: thalweg/{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        url.target,
        url.authority,
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        // The status is known before all headers are.
        let parsed = response.parse(&answer);
        match (parsed, response.code) {
            (_, Some(code)) => return Ok(code),
            (Err(_), None) => return Err(other("the answer is not HTTP")),
            _ if answer.len() > MAX_ANSWER_BYTES => return Err(other("the answer is too long")),
            _ => {}
        }
        match stream.read(&mut piece)? {
            0 => return Err(other("the connection ended before an answer came")),
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_a_port_and_a_path() {
        let parse = |text: &str| text.parse::<HookUrl>().map(|url| (url.host, url.port, url.target));
        let url = |host: &str, port, target: &str| Ok((host.to_owned(), port, target.to_owned()));
        assert_eq!(parse("http://hook.example"), url("hook.example", 80, "/"));
        assert_eq!(parse("http://127.0.0.1:8065/hooks/x?y=1#z"), url("127.0.0.1", 8065, "/hooks/x?y=1"));
        assert_eq!(parse("http://[::1]:9/a"), url("::1", 9, "/a"));
        for text in [
            "",
            "hook.example",
            "http://",
            "http://:80/",
            "http://a:99999/",
            "http://u:p@a/",
            "http://a/b c",
            "ftp://a",
        ] {
            assert!(parse(text).unwrap_err().contains("is not an address"), "{text}");
        }
        assert!(
            parse("https://hook.example/x")
                .unwrap_err()
                .contains("--notify-command 'curl -sSf --json @- https://hook.example/x'")
        );
    }
}

//! A small HTTP server for pages that stay open: GET and HEAD, one request for each connection, and server-sent
//! events. It changes nothing and serves no files.
//!
//! It limits the size of a head and the time it may take. `tiny_http` 0.12, the usual choice, limits neither, and it is
//! of 2022.

mod answer;
mod guard;
pub(crate) mod open;
mod request;
mod site;

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use thalweg_study::page::{CONTENT_NAME, EVENTS_NAME, LIVE_SCRIPT, LIVE_STYLE, SAVED_NAME, SCRIPT_NAME, STYLE_NAME};

use self::answer::{Answer, begin_events, send_event};
use self::guard::Verdict;
pub(crate) use self::guard::{Guard, MIN_TOKEN_CHARS, make_token};
use self::request::{Fault, Request, read_request};
use self::site::Place;
pub(crate) use self::site::{Site, Waits};
use crate::error::Error;

/// The port that is tried first, if none is asked for.
pub(crate) const DEFAULT_PORT: u16 = 4840;
/// Open connections at a time, most of them pages waiting for updates.
const MAX_CONNECTIONS: usize = 200;
/// A client that accepts no bytes for this long is treated as disconnected.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// How often a comment is sent, so that proxies keep the connection open and closed ones are noticed.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Bytes that are read of a request that is refused.
const MAX_REST_BYTES: u64 = 1 << 20;
/// How often records are checked while a page is open.
const TICK: Duration = Duration::from_millis(400);

/// Where a server listens, and to whom.
#[derive(Debug)]
pub(crate) struct ServeOptions {
    pub(crate) address: IpAddr,
    /// `None` tries [`DEFAULT_PORT`], then any.
    pub(crate) port: Option<u16>,
    pub(crate) token: Option<String>,
    /// Names accepted in `Host`, in addition to those of this machine.
    pub(crate) hosts: Vec<String>,
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Server {
    site: Arc<Site>,
    /// The page's address, with the token if there is one.
    pub(crate) url: String,
}

impl Server {
    /// Listens and answers on its own threads.
    pub(crate) fn start(site: Site, options: ServeOptions) -> Result<Self, Error> {
        let listener = listen(options.address, options.port)?;
        let at = listener.local_addr().map_err(|error| cannot_listen(options.address, options.port, &error))?;
        let token = options.token.as_ref().map_or_else(String::new, |token| format!("?token={token}"));
        let url = format!("http://{}/{token}", shown_address(at));
        let site = Arc::new(site);
        let shared = Arc::new(Shared {
            site: Arc::clone(&site),
            guard: Guard::new(options.token, options.hosts, at.port()),
            n_connections: AtomicUsize::new(0),
        });
        let ticking = Arc::clone(&site);
        std::thread::spawn(move || {
            while !ticking.is_closed() {
                std::thread::sleep(TICK);
                ticking.tick();
            }
        });
        std::thread::spawn(move || accept_all(&listener, &shared));
        Ok(Self { site, url })
    }

    pub(crate) fn site(&self) -> &Site {
        &self.site
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its threads end with the process, at the latest.
        self.site.close();
    }
}

fn listen(address: IpAddr, port: Option<u16>) -> Result<TcpListener, Error> {
    let bound = match port {
        Some(port) => TcpListener::bind((address, port)),
        None => TcpListener::bind((address, DEFAULT_PORT)).or_else(|_| TcpListener::bind((address, 0))),
    };
    bound.map_err(|error| cannot_listen(address, port, &error))
}

fn cannot_listen(address: IpAddr, port: Option<u16>, error: &std::io::Error) -> Error {
    let at = SocketAddr::new(address, port.unwrap_or(0));
    let what = format!("cannot listen at {at}: {}", thalweg_storage::error::describe_io_error(error));
    match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => Error::usage_with_hint(
            what,
            "`--bind` takes an address of this machine: 127.0.0.1, or 0.0.0.0 for all of them",
        ),
        _ => Error::usage_with_hint(what, "choose another port; `--port 0` takes any that is free"),
    }
}

/// An address to type into a browser.
fn shown_address(at: SocketAddr) -> String {
    if at.ip().is_unspecified() {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        return format!("{name}:{}", at.port());
    }
    at.to_string()
}

#[derive(Debug)]
struct Shared {
    site: Arc<Site>,
    guard: Guard,
    n_connections: AtomicUsize,
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.site.is_closed() {
            return;
        }
        let Ok(mut stream) = stream else {
            // Most likely there are no free file descriptors: wait for some.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let _ = stream.set_write_timeout(Some(WRITE_TIME));
        if shared.n_connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            let _ = Answer::text(503, "too many connections\n").send(&mut stream, false);
            shared.n_connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let own = Arc::clone(shared);
        std::thread::spawn(move || {
            // A failed answer affects only the client that asked.
            let _ = serve(&mut stream, &own);
            own.n_connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn serve(stream: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    let request = match read_request(stream) {
        Ok(request) => request,
        Err(Fault::Gone) => return Ok(()),
        Err(Fault::Malformed) => return refuse(stream, 400, "not a request for a page\n"),
        Err(Fault::TooLong) => return refuse(stream, 431, "the request is too long\n"),
        Err(Fault::Method) => return refuse(stream, 405, "this server only shows pages\n"),
    };
    let answer = match shared.guard.judge(&request) {
        Verdict::Welcome => match answer(&request, &shared.site) {
            Ok(answer) => answer,
            Err(Events(name)) => return serve_events(stream, &shared.site, &name, request.is_head),
        },
        Verdict::MoveToken(cookie) => Answer::redirect("./").with("Set-Cookie", cookie),
        Verdict::NoToken => {
            Answer::text(401, "This page needs a token: open the address that was printed when the server started.\n")
        }
        Verdict::WrongHost(host) => Answer::text(403, wrong_host(&host)),
    };
    answer.send(stream, request.is_head)
}

/// Answers a request that was not read to its end. The rest is taken too: otherwise the system would cut the connection
/// off before the answer has arrived.
fn refuse(stream: &mut TcpStream, status: u16, text: &str) -> std::io::Result<()> {
    Answer::text(status, text).send(stream, false)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    std::io::copy(&mut stream.take(MAX_REST_BYTES), &mut std::io::sink())?;
    Ok(())
}

fn wrong_host(host: &str) -> String {
    let name = host.split(':').next().unwrap_or("");
    let is_name = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if name.is_empty() || !name.chars().all(is_name) {
        return "The request does not name a host.\n".to_owned();
    }
    format!(
        "This page is available only on this machine. To reach it as {name}, restart the server with --allow-host {name}\n"
    )
}

/// The page whose updates are requested.
struct Events(String);

fn answer(request: &Request, site: &Site) -> Result<Answer, Events> {
    let nowhere = || Answer::text(404, "there is no such page\n");
    let (name, part) = match site.find(&request.path) {
        Place::Page(name, part) => (name, part),
        // The segment as it came has no slash in it, so this stays below the page.
        Place::Slash(_) => return Ok(Answer::redirect(&format!("{}/", request.path.trim_start_matches('/')))),
        Place::Nowhere => return Ok(nowhere()),
    };
    Ok(match part.as_str() {
        EVENTS_NAME => return Err(Events(name)),
        STYLE_NAME => Answer::new("text/css; charset=utf-8", LIVE_STYLE),
        SCRIPT_NAME => Answer::new("text/javascript; charset=utf-8", LIVE_SCRIPT),
        SAVED_NAME => match site.saved(&name) {
            Ok(page) => Answer::new("text/html; charset=utf-8", page)
                .with("Content-Disposition", "attachment; filename=\"report.html\""),
            Err(error) => Answer::text(404, format!("{error}\n")),
        },
        _ => match site.page(&name) {
            None => nowhere(),
            Some(page) if part == CONTENT_NAME => {
                Answer::new("text/html; charset=utf-8", page.content.clone()).with("Revision", page.revision.clone())
            }
            Some(page) => Answer::new("text/html; charset=utf-8", page.page.clone()),
        },
    })
}

/// Sends the revision of a page, and each later one, until the client disconnects or the server stops.
fn serve_events(stream: &mut TcpStream, site: &Site, name: &str, is_head: bool) -> std::io::Result<()> {
    begin_events(stream)?;
    if is_head {
        return Ok(());
    }
    let _listening = site.listen();
    let mut seen: Option<String> = None;
    while !site.is_closed() {
        match site.next_revision(name, seen.as_deref(), ALIVE_EVERY) {
            Some(revision) => {
                send_event(stream, &format!("data: {revision}\n\n"))?;
                seen = Some(revision);
            }
            None => send_event(stream, ": alive\n\n")?,
        }
    }
    Ok(())
}

//! A server that speaks as much of a model hub as a client of thalweg uses, and that can be told to fail.
//!
//! The routes are those of huggingface.co as `huggingface_hub` 2.4.0 asks for them: `api/models/NAME/refs`,
//! `api/models/NAME/tree/REV` in pages with a `Link`, `NAME/resolve/REV/PATH` with a redirect to a second server for
//! large files. It listens on the loopback alone, keeps everything in memory, and remembers every request.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

use crate::web::{self, WebRequest, parameter};

/// Files of this size and above are large: they have a SHA-256, and their content is at the second server.
const LARGE_BYTES: usize = 500;

/// What goes wrong with one answer of a hub.
#[derive(Debug, Clone)]
pub enum HubServerFault {
    /// This status, with these headers, such as `Retry-After: 1`.
    Status(u16, &'static str),
    /// The connection is closed after this many bytes of the body.
    CutBody(usize),
    /// Another body.
    Body(Vec<u8>),
    /// A redirect to this address.
    Redirect(String),
    /// The range is ignored: the whole content, with status 200.
    NoRange,
    /// Headers beside the usual ones, and before them.
    Header(&'static str),
}

#[derive(Debug, Default)]
struct State {
    /// By repository and name: the commit.
    refs: BTreeMap<(String, String), String>,
    /// By commit and path.
    files: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    faults: VecDeque<(String, HubServerFault)>,
    seen: Vec<String>,
    page: usize,
    token: Option<String>,
    gated: bool,
    content: Option<SocketAddr>,
}

/// A running hub; it stops when it is dropped.
#[derive(Debug)]
pub struct HubServer {
    address: SocketAddr,
    content: SocketAddr,
    state: Arc<Mutex<State>>,
    stops: Arc<AtomicBool>,
}

impl Default for HubServer {
    fn default() -> Self {
        Self::start()
    }
}

impl HubServer {
    /// An empty hub.
    pub fn start() -> Self {
        let (state, stops) = (Arc::new(Mutex::new(State { page: 1000, ..State::default() })), Arc::default());
        let shared = Arc::clone(&state);
        let address = web::listen(move |stream| serve(stream, &shared), &stops);
        let shared = Arc::clone(&state);
        // Another port is another server: what is meant for the hub alone must not arrive here.
        let content = web::listen(move |stream| serve(stream, &shared), &stops);
        let server = Self { address, content, state, stops };
        server.state().content = Some(content);
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its address, as `HF_ENDPOINT` takes it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address of the server with the content of large files, without a scheme.
    pub fn content_host(&self) -> String {
        self.content.to_string()
    }

    /// Puts every file of a local folder into a revision of a repository; returns the commit.
    pub fn put_folder(&self, repository: &str, revision: &str, folder: &Path) -> String {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
        self.put(repository, revision, files)
    }

    /// Puts files into a revision; returns the commit.
    pub fn put(&self, repository: &str, revision: &str, files: BTreeMap<String, Vec<u8>>) -> String {
        let mut state = self.state();
        let commit = git_digest(format!("{repository} {revision} {files:?}").as_bytes());
        state.refs.insert((repository.to_owned(), revision.to_owned()), commit.clone());
        state.files.insert(commit.clone(), files);
        commit
    }

    /// Answers only requests with this token.
    pub fn require_token(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// Answers that terms must be accepted.
    pub fn gate(&self) {
        self.state().gated = true;
    }

    /// Answers the next request whose path and query contain `what` by a fault.
    pub fn fail_next(&self, what: &str, fault: HubServerFault) {
        self.state().faults.push_back((what.to_owned(), fault));
    }

    /// Answers listings in pages of so many files.
    pub fn use_pages_of(&self, n_files: usize) {
        self.state().page = n_files;
    }

    /// The heads of the requests since the last call.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().seen)
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        web::stop(self.address, &self.stops);
        web::stop(self.content, &self.stops);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_digest(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, headers: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: headers.into(), body: body.into() }
    }

    fn error(status: u16, code: &str) -> Self {
        let named = if code.is_empty() { String::new() } else { format!("X-Error-Code: {code}\r\n") };
        Self::new(status, named, "{\"error\":\"no\"}")
    }
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>) {
    let Ok(reading) = stream.try_clone() else { return };
    let mut reader = BufReader::new(reading);
    while let Some(request) = web::read_request(&mut reader) {
        let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        guard.seen.push(request.head.clone());
        let target = web::unescape(&request.target);
        let at = guard.faults.iter().position(|(what, _)| target.contains(what.as_str()));
        let fault = at.and_then(|at| guard.faults.remove(at)).map(|(_, fault)| fault);
        let mut answer = match &fault {
            Some(HubServerFault::Status(status, headers)) => Answer::new(*status, format!("{headers}\r\n"), "{}"),
            Some(HubServerFault::Redirect(to)) => Answer::new(302, format!("Location: {to}\r\n"), ""),
            _ => answer_to(&guard, &request, matches!(fault, Some(HubServerFault::NoRange))),
        };
        drop(guard);
        let mut n_bytes = answer.body.len();
        match fault {
            Some(HubServerFault::Body(body)) => (n_bytes, answer.body) = (body.len(), body),
            Some(HubServerFault::CutBody(n)) => n_bytes = n.min(n_bytes),
            Some(HubServerFault::Header(header)) => answer.headers = format!("{header}\r\n{}", answer.headers),
            _ => {}
        }
        let (status, headers, length) = (answer.status, &answer.headers, answer.body.len());
        let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n");
        let body = if request.method == "HEAD" { &[][..] } else { &answer.body[..n_bytes] };
        if stream.write_all(&[head.as_bytes(), body].concat()).is_err() || n_bytes < length {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn answer_to(state: &State, request: &WebRequest, ignores_range: bool) -> Answer {
    let path = web::unescape(request.target.split('?').next().unwrap_or_default());
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    if let ["content", commit, rest @ ..] = &*parts {
        let Some(bytes) = state.files.get(*commit).and_then(|files| files.get(&rest.join("/"))) else {
            return Answer::error(404, "");
        };
        return content(bytes, request, ignores_range, "");
    }
    let given = request.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if state.token.as_deref().is_some_and(|token| given != Some(token)) {
        return if given.is_some() { Answer::error(401, "") } else { Answer::error(401, "RepoNotFound") };
    }
    let known = |org: &str, name: &str| {
        let repository = format!("{org}/{name}");
        state.refs.keys().any(|(of, _)| *of == repository).then_some(repository)
    };
    match &*parts {
        ["api", "models", org, name, rest @ ..] => {
            let Some(repository) = known(org, name) else { return Answer::error(401, "RepoNotFound") };
            match rest {
                ["refs"] => list_refs(state, &repository),
                _ if state.gated => Answer::error(403, "GatedRepo"),
                ["tree", revision] => list_tree(state, &repository, revision, request),
                // What `snapshot_download` asks for first.
                ["revision", revision] => match commit_of(state, &repository, revision) {
                    Some(commit) => json_answer("", &json!({"id": repository, "sha": commit, "siblings": []})),
                    None => Answer::error(404, "RevisionNotFound"),
                },
                _ => Answer::error(404, ""),
            }
        }
        [org, name, "resolve", revision, rest @ ..] => {
            let Some(repository) = known(org, name) else { return Answer::error(401, "RepoNotFound") };
            if state.gated {
                return Answer::error(403, "GatedRepo");
            }
            let Some(commit) = commit_of(state, &repository, revision) else {
                return Answer::error(404, "RevisionNotFound");
            };
            resolve(state, &commit, &rest.join("/"), request, ignores_range)
        }
        _ => Answer::error(404, ""),
    }
}

fn json_answer(headers: &str, value: &Value) -> Answer {
    Answer::new(200, format!("Content-Type: application/json\r\n{headers}"), value.to_string())
}

fn commit_of(state: &State, repository: &str, revision: &str) -> Option<String> {
    let named = state.refs.get(&(repository.to_owned(), revision.to_owned())).cloned();
    named.or_else(|| state.files.contains_key(revision).then(|| revision.to_owned()))
}

fn list_refs(state: &State, repository: &str) -> Answer {
    let refs = state.refs.iter().filter(|((of, _), _)| of == repository);
    let (tags, branches): (Vec<_>, Vec<_>) = refs.partition(|((_, name), _)| name.starts_with('v'));
    let list = |kind: &str, refs: Vec<(&(String, String), &String)>| -> Vec<Value> {
        let of = |((_, name), commit): (&(String, String), &String)| json!({"name": name, "ref": format!("refs/{kind}/{name}"), "targetCommit": commit});
        refs.into_iter().map(of).collect()
    };
    json_answer("", &json!({"branches": list("heads", branches), "converts": [], "tags": list("tags", tags)}))
}

fn list_tree(state: &State, repository: &str, revision: &str, request: &WebRequest) -> Answer {
    let Some(commit) = commit_of(state, repository, revision) else { return Answer::error(404, "RevisionNotFound") };
    let after = parameter(&request.query, "cursor").unwrap_or_default();
    let files = state.files.get(&commit).into_iter().flatten().filter(|(path, _)| **path > after);
    let of = |(path, bytes): (&String, &Vec<u8>)| {
        let (oid, size) = (git_digest(bytes), bytes.len());
        match size >= LARGE_BYTES {
            true => {
                let lfs = json!({"oid": hex(digest(&SHA256, bytes).as_ref()), "size": size, "pointerSize": 130});
                json!({"type": "file", "path": path, "oid": oid, "size": size, "lfs": lfs})
            }
            false => json!({"type": "file", "path": path, "oid": oid, "size": size}),
        }
    };
    let mut entries: Vec<Value> = files.clone().take(state.page).map(of).collect();
    let next = files.clone().nth(state.page.saturating_sub(1)).filter(|_| files.count() > state.page);
    if after.is_empty() {
        entries.push(json!({"type": "directory", "path": "a-folder", "oid": "0".repeat(40), "size": 0}));
    }
    let link = next.map_or_else(String::new, |(path, _)| {
        let host = request.headers.get("host").cloned().unwrap_or_default();
        let place = request.target.split('?').next().unwrap_or_default();
        format!("Link: <http://{host}{place}?recursive=true&cursor={path}>; rel=\"next\"\r\n")
    });
    json_answer(&link, &Value::Array(entries))
}

fn resolve(state: &State, commit: &str, path: &str, request: &WebRequest, ignores_range: bool) -> Answer {
    let Some(bytes) = state.files.get(commit).and_then(|files| files.get(path)) else {
        return Answer::error(404, "EntryNotFound");
    };
    let about = format!("X-Repo-Commit: {commit}\r\n");
    if bytes.len() < LARGE_BYTES {
        return content(bytes, request, ignores_range, &format!("{about}ETag: \"{}\"\r\n", git_digest(bytes)));
    }
    let (tag, size, host) = (hex(digest(&SHA256, bytes).as_ref()), bytes.len(), state.content.unwrap());
    let large = format!("X-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {size}\r\n");
    let to = format!("Location: http://{host}/content/{commit}/{path}?X-Signature=of-the-content-network\r\n");
    Answer::new(302, format!("{about}{large}{to}"), "")
}

fn content(bytes: &[u8], request: &WebRequest, ignores_range: bool, headers: &str) -> Answer {
    let range = request.headers.get("range").and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
    let Some((start, end)) = range.filter(|_| !ignores_range) else { return Answer::new(200, headers, bytes) };
    let (start, n_bytes) = (start.parse().unwrap_or(0), bytes.len());
    let end = end.parse::<usize>().map_or(n_bytes, |last| (last + 1).min(n_bytes));
    if start >= n_bytes {
        return Answer::error(416, "");
    }
    let range = format!("Content-Range: bytes {start}-{}/{n_bytes}\r\n", end - 1);
    Answer::new(206, format!("{headers}{range}"), &bytes[start..end])
}

//! A server that speaks as much of S3 as a client of thalweg uses, and that can be told to fail.
//!
//! It listens on the loopback alone, keeps everything in memory, checks no signature, and remembers every request.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::web::{self, Headers, parameter};

/// What goes wrong with one answer.
#[derive(Debug, Clone)]
pub enum ServerFault {
    /// This status with this XML code, and `Retry-After` if it is not 0.
    Status(u16, &'static str, u64),
    /// The connection is closed after this many bytes of the body.
    CutBody(usize),
    /// The connection is closed without an answer.
    Close,
    /// Fewer bytes than the range, with the length that they have.
    ShortRange,
    /// More bytes than the range, with the length that they have.
    LongRange,
    /// The range is ignored: the whole object, with status 200.
    NoRange,
    /// The second half of the body comes later.
    SlowBody(Duration),
    /// The answer comes later.
    Late(Duration),
    /// The request is handled later, even if the client has gone.
    Held(Duration),
    /// The object is replaced before it is answered for.
    Replaced(Vec<u8>),
}

/// A request, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    /// `GET`, `PUT` and so on.
    pub method: String,
    /// The key, without the bucket.
    pub key: String,
    /// What follows `?`.
    pub query: String,
    /// The whole head.
    pub head: String,
}

#[derive(Debug, Clone)]
struct Stored {
    bytes: Arc<Vec<u8>>,
    tag: String,
}

#[derive(Debug, Default)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Stored>>,
    uploads: BTreeMap<String, (String, BTreeMap<usize, Vec<u8>>)>,
    faults: VecDeque<(String, ServerFault)>,
    seen: Vec<SeenRequest>,
    n_made: u64,
    page: usize,
    gate: Option<Gate>,
}

/// What keeps answers back.
#[derive(Debug)]
struct Gate {
    n_wanted: usize,
    n_held: usize,
    most_held: usize,
    was_given_up: bool,
}

impl Gate {
    const LOOK_EVERY: Duration = Duration::from_millis(1);
    const MOST_LOOKS: usize = 10_000;

    fn hold(&mut self) {
        self.n_held += 1;
        self.most_held = self.most_held.max(self.n_held);
    }

    fn is_open(&self) -> bool {
        self.most_held >= self.n_wanted || self.was_given_up
    }
}

/// A running server; it stops when it is dropped.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stops: Arc<AtomicBool>,
}

impl Default for S3Server {
    fn default() -> Self {
        Self::start()
    }
}

impl S3Server {
    /// A server with an empty bucket `bucket`.
    pub fn start() -> Self {
        let mut state = State { page: 1000, ..State::default() };
        state.buckets.insert("bucket".to_owned(), BTreeMap::new());
        let (state, stops) = (Arc::new(Mutex::new(state)), Arc::default());
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stops));
        let address = web::listen(move |stream| serve(stream, &shared), &stopped);
        Self { address, state, stops }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its address, as `AWS_ENDPOINT_URL` takes it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The variables by which a client finds it.
    pub fn variables(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", "AKIATESTKEYOFTHALWEG".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret-of-thalweg-tests".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// Puts an object.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.state().store(key, bytes.to_vec());
    }

    /// Puts every file of a local folder below `prefix`.
    pub fn put_folder(&self, folder: &std::path::Path, prefix: &str) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let key = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
            match entry.path().is_dir() {
                true => self.put_folder(&entry.path(), &key),
                false => self.put(&key, &std::fs::read(entry.path()).unwrap()),
            }
        }
    }

    /// The bytes of an object.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        Some(self.state().buckets.get("bucket")?.get(key)?.bytes.to_vec())
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.state().buckets["bucket"].keys().cloned().collect()
    }

    /// Uploads in parts that were begun and neither completed nor aborted.
    pub fn n_open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// Answers the next request whose method and key, as `GET run/x`, begins with `what` by a fault.
    pub fn fail_next(&self, what: &str, fault: ServerFault) {
        self.state().faults.push_back((what.to_owned(), fault));
    }

    /// Answers no more requests by faults.
    pub fn forget_faults(&self) {
        self.state().faults.clear();
    }

    /// Forgets every upload in parts that was begun, as a rule of the bucket may.
    pub fn lose_uploads(&self) {
        self.state().uploads.clear();
    }

    /// Keeps all answers with parts of objects back until this many are kept back at once, for about 10 s at most.
    pub fn hold_until_at_once(&self, n_requests: usize) {
        self.state().gate = Some(Gate { n_wanted: n_requests, n_held: 0, most_held: 0, was_given_up: false });
    }

    /// Most requests that were kept back at once.
    pub fn take_most_at_once(&self) -> usize {
        self.state().gate.take().map_or(0, |gate| gate.most_held)
    }

    /// Answers listings in pages of this many names.
    pub fn use_pages_of(&self, n_names: usize) {
        self.state().page = n_names;
    }

    /// The requests since the last call.
    pub fn take_requests(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut self.state().seen)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        web::stop(self.address, &self.stops);
    }
}

impl State {
    fn store(&mut self, key: &str, bytes: Vec<u8>) -> String {
        self.n_made += 1;
        let tag = format!("\"{:032x}\"", self.n_made);
        let stored = Stored { bytes: Arc::new(bytes), tag: tag.clone() };
        self.buckets.entry("bucket".to_owned()).or_default().insert(key.to_owned(), stored);
        tag
    }

    fn take_fault(&mut self, request: &SeenRequest) -> Option<ServerFault> {
        let what = format!("{} {}?{}", request.method, request.key, request.query);
        let at = self.faults.iter().position(|(start, _)| what.starts_with(start.as_str()))?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn xml(status: u16, text: &str) -> Self {
        Self { status, headers: "Content-Type: application/xml\r\n".to_owned(), body: text.as_bytes().to_vec() }
    }

    fn error(status: u16, code: &str) -> Self {
        let secret = "<AWSAccessKeyId>AKIATESTKEYOFTHALWEG</AWSAccessKeyId>";
        Self::xml(status, &format!("<Error><Code>{code}</Code><Message>no</Message>{secret}</Error>"))
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let _ = stream.set_nodelay(true);
    let Ok(reading) = stream.try_clone() else { return };
    let mut reader = BufReader::new(reading);
    while let Some((request, headers, body)) = read_request(&mut reader) {
        let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        guard.seen.push(request.clone());
        let fault = guard.take_fault(&request);
        if headers.contains_key("range") {
            guard = pass_gate(guard, state);
        }
        if let Some(ServerFault::Held(wait)) = &fault {
            drop(guard);
            thread::sleep(*wait);
            guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(ServerFault::Replaced(bytes)) = &fault {
            guard.store(&request.key, bytes.clone());
        }
        let bucket = request.head.split_whitespace().nth(1).unwrap_or_default();
        let bucket = bucket.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default().to_owned();
        let mut answer = match &fault {
            Some(ServerFault::Status(status, code, _)) => Answer::error(*status, code),
            fault => {
                let mut headers = headers;
                if matches!(fault, Some(ServerFault::NoRange)) {
                    headers.remove("range");
                }
                answer_to(&mut guard, &bucket, &request, &headers, body)
            }
        };
        drop(guard);
        match &fault {
            Some(ServerFault::Close) => return,
            Some(ServerFault::Late(wait)) => thread::sleep(*wait),
            Some(ServerFault::Status(_, _, wait)) if *wait > 0 => {
                let _ = write!(answer.headers, "Retry-After: {wait}\r\n");
            }
            Some(ServerFault::ShortRange) => {
                answer.body.pop();
            }
            Some(ServerFault::LongRange) => answer.body.push(0),
            _ => {}
        }
        if !send(stream, &request, &answer, &fault) {
            return;
        }
    }
}

/// Waits until the gate is open.
fn pass_gate<'a>(mut guard: MutexGuard<'a, State>, state: &'a Mutex<State>) -> MutexGuard<'a, State> {
    if let Some(gate) = &mut guard.gate {
        gate.hold();
    }
    let mut n_looks = 0;
    while guard.gate.as_ref().is_some_and(|gate| !gate.is_open()) {
        drop(guard);
        thread::sleep(Gate::LOOK_EVERY);
        guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        n_looks += 1;
        if let Some(gate) = guard.gate.as_mut().filter(|_| n_looks == Gate::MOST_LOOKS) {
            gate.was_given_up = true;
        }
    }
    if let Some(gate) = &mut guard.gate {
        gate.n_held = gate.n_held.saturating_sub(1);
    }
    guard
}

fn send(mut stream: &TcpStream, request: &SeenRequest, answer: &Answer, fault: &Option<ServerFault>) -> bool {
    let is_head = request.method == "HEAD";
    let length = if answer.headers.contains("Content-Length") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", answer.body.len())
    };
    let head = format!("HTTP/1.1 {} X\r\n{}{length}\r\n", answer.status, answer.headers);
    let mut sent = stream.write_all(head.as_bytes()).is_ok();
    if !is_head {
        let n_bytes = match fault {
            Some(ServerFault::CutBody(n_bytes)) => *n_bytes,
            _ => answer.body.len(),
        };
        let part = &answer.body[..n_bytes.min(answer.body.len())];
        let (first, second) = match fault {
            Some(ServerFault::SlowBody(_)) => part.split_at(part.len() / 2),
            _ => (part, &part[part.len()..]),
        };
        sent = sent && stream.write_all(first).is_ok();
        if let Some(ServerFault::SlowBody(wait)) = fault {
            thread::sleep(*wait);
        }
        sent = sent && stream.write_all(second).is_ok();
        if part.len() < answer.body.len() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return false;
        }
    }
    sent
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(SeenRequest, Headers, Vec<u8>)> {
    let request = web::read_request(reader)?;
    let path = request.target.split('?').next().unwrap_or_default().trim_start_matches('/');
    let key = web::unescape(path.split_once('/').map_or("", |(_, key)| key));
    let seen = SeenRequest { method: request.method, key, query: request.query, head: request.head };
    Some((seen, request.headers, request.body))
}

fn answer_to(state: &mut State, bucket: &str, request: &SeenRequest, headers: &Headers, body: Vec<u8>) -> Answer {
    if !state.buckets.contains_key(bucket) {
        return Answer::error(404, "NoSuchBucket");
    }
    let upload_id = parameter(&request.query, "uploadId");
    match (request.method.as_str(), upload_id) {
        ("GET", _) if request.key.is_empty() => list(state, &request.query),
        ("GET" | "HEAD", _) => read(state, &request.key, headers),
        ("PUT", Some(id)) => {
            let part = parameter(&request.query, "partNumber").and_then(|text| text.parse().ok()).unwrap_or(0);
            match state.uploads.get_mut(&id) {
                Some((_, parts)) => {
                    parts.insert(part, body);
                    Answer { status: 200, headers: format!("ETag: \"{part}\"\r\n"), body: Vec::new() }
                }
                None => Answer::error(404, "NoSuchUpload"),
            }
        }
        ("PUT", None) => {
            let tag = state.store(&request.key, body);
            Answer { status: 200, headers: format!("ETag: {tag}\r\n"), body: Vec::new() }
        }
        ("POST", Some(id)) => match state.uploads.remove(&id) {
            Some((key, parts)) => {
                let tag = state.store(&key, parts.into_values().flatten().collect());
                Answer::xml(
                    200,
                    &format!("<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"),
                )
            }
            None => Answer::error(404, "NoSuchUpload"),
        },
        ("POST", None) if request.query.starts_with("delete") => {
            let text = String::from_utf8_lossy(&body).into_owned();
            let mut answer = String::from("<DeleteResult>");
            for part in text.split("<Key>").skip(1) {
                let key = part.split("</Key>").next().unwrap_or_default().to_owned();
                state.buckets.entry(bucket.to_owned()).or_default().remove(&key);
                let _ = write!(answer, "<Deleted><Key>{key}</Key></Deleted>");
            }
            answer.push_str("</DeleteResult>");
            Answer::xml(200, &answer)
        }
        ("POST", None) => {
            state.n_made += 1;
            let id = format!("upload-{}", state.n_made);
            state.uploads.insert(id.clone(), (request.key.clone(), BTreeMap::new()));
            Answer::xml(
                200,
                &format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
            )
        }
        ("DELETE", Some(id)) => match state.uploads.remove(&id) {
            Some(_) => Answer { status: 204, headers: String::new(), body: Vec::new() },
            None => Answer::error(404, "NoSuchUpload"),
        },
        ("DELETE", None) => {
            state.buckets.entry(bucket.to_owned()).or_default().remove(&request.key);
            Answer { status: 204, headers: String::new(), body: Vec::new() }
        }
        _ => Answer::error(405, "MethodNotAllowed"),
    }
}

const MODIFIED: (&str, &str) = ("Sun, 01 Nov 2026 10:00:00 GMT", "2026-11-01T10:00:00.000Z");

fn read(state: &State, key: &str, headers: &Headers) -> Answer {
    let Some(stored) = state.buckets["bucket"].get(key) else { return Answer::error(404, "NoSuchKey") };
    if headers.get("if-match").is_some_and(|tag| *tag != stored.tag) {
        return Answer::error(412, "PreconditionFailed");
    }
    let n_bytes = stored.bytes.len();
    let about = format!("ETag: {}\r\nLast-Modified: {}\r\nAccept-Ranges: bytes\r\n", stored.tag, MODIFIED.0);
    let range = headers.get("range").and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
    let Some((start, end)) = range else { return Answer { status: 200, headers: about, body: stored.bytes.to_vec() } };
    let start: usize = start.parse().unwrap_or(0);
    let end = end.parse::<usize>().map_or(n_bytes, |last| (last + 1).min(n_bytes));
    if start >= n_bytes {
        return Answer::error(416, "InvalidRange");
    }
    let headers = format!("{about}Content-Range: bytes {start}-{}/{n_bytes}\r\n", end - 1);
    Answer { status: 206, headers, body: stored.bytes[start..end].to_vec() }
}

fn list(state: &State, query: &str) -> Answer {
    let prefix = parameter(query, "prefix").unwrap_or_default();
    let delimiter = parameter(query, "delimiter").unwrap_or_default();
    let after = parameter(query, "continuation-token").unwrap_or_default();
    let (mut text, mut n_names, mut next) = (String::from("<ListBucketResult>"), 0, None);
    let mut folders: Vec<String> = Vec::new();
    for (key, stored) in state.buckets["bucket"].range(prefix.clone()..) {
        let Some(rest) = key.strip_prefix(&prefix) else { break };
        if *key <= after && !after.is_empty() {
            continue;
        }
        if n_names == state.page {
            text.push_str("<IsTruncated>true</IsTruncated>");
            break;
        }
        next = Some(key.clone());
        match rest.split_once('/').filter(|_| !delimiter.is_empty()) {
            Some((name, _)) => {
                let folder = format!("{prefix}{name}/");
                if folders.last() != Some(&folder) {
                    folders.push(folder);
                }
            }
            None => {
                n_names += 1;
                let (tag, size) = (&stored.tag, stored.bytes.len());
                let _ = write!(
                    text,
                    "<Contents><Key>{key}</Key><LastModified>{}</LastModified><ETag>{tag}</ETag><Size>{size}</Size>\
                     </Contents>",
                    MODIFIED.1
                );
            }
        }
    }
    if text.ends_with("<IsTruncated>true</IsTruncated>") {
        let _ = write!(text, "<NextContinuationToken>{}</NextContinuationToken>", next.unwrap_or_default());
    }
    for folder in folders {
        let _ = write!(text, "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
    }
    text.push_str("</ListBucketResult>");
    Answer::xml(200, &text)
}

//! The little of HTTP that servers for tests share. They listen on the loopback alone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

pub(crate) type Headers = BTreeMap<String, String>;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct WebRequest {
    pub(crate) method: String,
    /// Path and query, escaped.
    pub(crate) target: String,
    pub(crate) query: String,
    pub(crate) head: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

/// Serves each connection by a thread until `stops` is set; returns the address.
pub(crate) fn listen(serve: impl Fn(&TcpStream) + Send + Sync + 'static, stops: &Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (serve, stopped) = (Arc::new(serve), Arc::clone(stops));
    thread::spawn(move || {
        for stream in listener.incoming() {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            let (Ok(stream), serve) = (stream, Arc::clone(&serve)) else { continue };
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                serve(&stream);
            });
        }
    });
    address
}

/// Stops what [`listen`] started.
pub(crate) fn stop(address: SocketAddr, stops: &AtomicBool) {
    stops.store(true, Ordering::Relaxed);
    // The thread that accepts wakes up and ends.
    let _ = TcpStream::connect(address);
}

pub(crate) fn read_request(reader: &mut BufReader<TcpStream>) -> Option<WebRequest> {
    let mut head = String::new();
    loop {
        let before = head.len();
        reader.read_line(&mut head).ok().filter(|&n| n > 0)?;
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let mut lines = head.lines();
    let mut first = lines.next()?.split_whitespace();
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let query = target.split_once('?').map_or("", |(_, query)| query).to_owned();
    Some(WebRequest { method, target, query, head, headers, body })
}

pub(crate) fn unescape(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, more @ ..] = rest {
        let code = more.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| unescape(value))
}

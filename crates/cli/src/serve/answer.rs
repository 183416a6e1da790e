//! An answer as it goes over the wire. Every one closes its connection and carries the policy of the page.

use std::io::Write;
use std::net::TcpStream;

/// The page loads what its own server gives, runs no script but the server's file, and is shown in no frame of another
/// site.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    kind: &'static str,
    body: String,
    more: Vec<(&'static str, String)>,
}

impl Answer {
    pub(super) fn new(kind: &'static str, body: impl Into<String>) -> Self {
        Self { status: 200, kind, body: body.into(), more: Vec::new() }
    }

    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, ..Self::new("text/plain; charset=utf-8", body) }
    }

    /// To a place that is given relative to this one.
    pub(super) fn redirect(to: &str) -> Self {
        Self::text(303, "").with("Location", to)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.more.push((name, value.into()));
        self
    }

    pub(super) fn send(&self, stream: &mut TcpStream, is_head: bool) -> std::io::Result<()> {
        let mut text = head(self.status, self.kind);
        text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        for (name, value) in &self.more {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        if !is_head {
            text.push_str(&self.body);
        }
        stream.write_all(text.as_bytes())?;
        stream.flush()
    }
}

fn head(status: u16, kind: &str) -> String {
    let reason = match status {
        200 => "OK",
        303 => "See Other",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "",
    };
    let allow = if status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {reason}\r\n{allow}Content-Type: {kind}\r\nContent-Security-Policy: {POLICY}\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n"
    )
}

/// Begins a stream of events, which ends with its connection.
pub(super) fn begin_events(stream: &mut TcpStream) -> std::io::Result<()> {
    // Without the last header nginx and some proxies of notebooks would hold events back.
    let head = format!("{}X-Accel-Buffering: no\r\n\r\nretry: 1000\n\n", head(200, "text/event-stream"));
    send_event(stream, &head)
}

pub(super) fn send_event(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

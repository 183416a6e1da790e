//! The head of a request: read within limits, parsed by `httparse`. Bodies are never read.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A browser's head has one or two kilobytes, with the cookies of other services on the machine several.
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 100;
/// The time in which the whole head must arrive.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Whether only the head of the answer is wanted.
    pub(super) is_head: bool,
    /// Path without its query, as it came.
    pub(super) path: String,
    /// Query without the question mark.
    pub(super) query: String,
    pub(super) host: Option<String>,
    pub(super) cookies: String,
    /// The token of `Authorization: Bearer`.
    pub(super) bearer: Option<String>,
}

/// Why a request gets no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection closed or timed out, so no answer can be sent.
    Gone,
    /// It is not a request that this server understands.
    Malformed,
    TooLong,
    /// It wants to change something.
    Method,
}

pub(super) fn read_request(stream: &mut TcpStream) -> Result<Request, Fault> {
    let until = Instant::now() + HEAD_TIME;
    let mut head = Vec::new();
    let mut piece = [0; 2048];
    loop {
        if let Some(request) = parse_head(&head)? {
            return Ok(request);
        }
        if head.len() > MAX_HEAD_BYTES {
            return Err(Fault::TooLong);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return Err(Fault::Gone);
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return Err(Fault::Gone),
            Ok(n) => head.extend_from_slice(&piece[..n]),
        }
    }
}

/// The request, once its head is complete.
fn parse_head(bytes: &[u8]) -> Result<Option<Request>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let status = head.parse(bytes).map_err(|error| match error {
        httparse::Error::TooManyHeaders => Fault::TooLong,
        _ => Fault::Malformed,
    })?;
    if status.is_partial() {
        return Ok(None);
    }
    let is_head = match head.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Fault::Method),
    };
    let target = head.path.filter(|target| target.starts_with('/')).ok_or(Fault::Malformed)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let all = |name: &str| {
        let is_it = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        let values = head.headers.iter().filter(is_it).filter_map(|header| std::str::from_utf8(header.value).ok());
        values.map(|value| value.trim().to_owned()).collect::<Vec<_>>()
    };
    // With two `Host` headers, a proxy may have checked the other one.
    let hosts = all("host");
    let host = match hosts.as_slice() {
        [] => None,
        [host] => Some(host.clone()),
        _ => return Err(Fault::Malformed),
    };
    let bearer = all("authorization").into_iter().find_map(|value| value.strip_prefix("Bearer ").map(str::to_owned));
    let (path, query) = (path.to_owned(), query.to_owned());
    Ok(Some(Request { is_head, path, query, host, cookies: all("cookie").join("; "), bearer }))
}

/// A segment of a path as the name that it means; `None` where it means none.
pub(super) fn percent_decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_once_it_is_complete() {
        let text = b"GET /a/b?token=x HTTP/1.1\r\nHOST: localhost:1\r\nCookie: a=1\r\ncookie: b=2\r\n\r\n";
        for n in 0..text.len() {
            assert_eq!(parse_head(&text[..n]), Ok(None), "{n}");
        }
        let request = parse_head(text).unwrap().unwrap();
        assert_eq!((&*request.path, &*request.query, request.is_head), ("/a/b", "token=x", false));
        assert_eq!((request.host.as_deref(), &*request.cookies), (Some("localhost:1"), "a=1; b=2"));
    }

    #[test]
    fn what_is_not_a_request_for_a_page_is_refused() {
        let parse = |text: &str| parse_head(text.as_bytes()).unwrap_err();
        assert_eq!(parse("POST / HTTP/1.1\r\nHost: x\r\n\r\n"), Fault::Method);
        assert_eq!(parse("GET http://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n"), Fault::Malformed);
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"), Fault::Malformed);
        assert_eq!(parse("\u{16}\u{3}\u{1}"), Fault::Malformed);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(parse(&many), Fault::TooLong);
    }

    #[test]
    fn percent_signs_mean_bytes() {
        assert_eq!(percent_decode("a%20b%2Fc").as_deref(), Some("a b/c"));
        assert_eq!(["%", "%2", "%zz", "%ff"].map(percent_decode), [None, None, None, None]);
    }
}

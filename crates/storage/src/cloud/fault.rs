//! What an object store's error means: the kind, the words, and whether to try again.
//!
//! Bodies of answers are never shown whole: they may repeat the request with its keys.

use std::error::Error as StdError;
use std::io;
use std::path::Path;

use object_store::Error as StoreError;

use crate::error::{Error, RemoteFault};

/// An error of a store, sorted.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// There is no such object.
    NotFound,
    /// The object is not the one that was asked for.
    Changed,
    Remote(RemoteFault),
}

impl Fault {
    pub(super) fn new(fault: RemoteFault, what: impl Into<String>) -> Self {
        Self { kind: FaultKind::Remote(fault), what: what.into() }
    }

    pub(super) fn changed() -> Self {
        Self { kind: FaultKind::Changed, what: String::new() }
    }

    pub(super) fn interrupted() -> Self {
        Self::new(RemoteFault::Interrupted, "interrupted")
    }

    pub(super) fn of(error: &StoreError) -> Self {
        let text = chain_text(error);
        let status = status_in(&text);
        let code = code_in(&text);
        let fault = |fault| {
            let what = describe(&text, status, code);
            Self::new(fault, what)
        };
        let is_code = |codes: &[&str]| code.is_some_and(|code| codes.contains(&code));
        if is_code(&["NoSuchBucket", "ContainerNotFound", "InvalidBucketName"])
            || text.contains("specified bucket does not exist")
        {
            return fault(RemoteFault::NoBucket);
        }
        if is_code(&["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"])
            || text.contains("token has expired")
        {
            return fault(RemoteFault::Expired);
        }
        if is_code(&[
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "AuthFailure",
            "AuthenticationFailed",
        ]) || status == Some(401)
            || LACKS_CREDENTIALS.iter().any(|part| text.contains(part))
        {
            return fault(RemoteFault::NoCredentials);
        }
        if text.contains("non-partial response") {
            return Self::new(RemoteFault::Unsupported, "it does not support range requests");
        }
        match error {
            StoreError::NotFound { .. } => Self { kind: FaultKind::NotFound, what: String::new() },
            StoreError::Precondition { .. } => Self::changed(),
            StoreError::PermissionDenied { .. } => fault(RemoteFault::Denied),
            StoreError::Unauthenticated { .. } => fault(RemoteFault::NoCredentials),
            StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => fault(RemoteFault::Unsupported),
            _ => fault(match status {
                Some(403) => RemoteFault::Denied,
                Some(405 | 501) => RemoteFault::Unsupported,
                Some(408 | 429 | 500..) => RemoteFault::Busy,
                Some(_) => RemoteFault::Other,
                None if GARBLED.iter().any(|part| text.contains(part)) => RemoteFault::Garbled,
                None if CUT.iter().any(|part| text.contains(part)) => RemoteFault::Unreachable,
                None => RemoteFault::Other,
            }),
        }
    }

    /// The words for it.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    /// Whether the same request may succeed a little later.
    pub(super) fn may_pass(&self) -> bool {
        use RemoteFault::{Busy, Garbled, Unreachable};
        matches!(self.kind, FaultKind::Remote(Busy | Garbled | Unreachable))
    }

    /// Whether every other request to this store would fail too.
    pub(super) fn is_of_whole_store(&self) -> bool {
        use RemoteFault::{Busy, Expired, NoBucket, NoCredentials, Unreachable};
        matches!(self.kind, FaultKind::Remote(Busy | Expired | NoBucket | NoCredentials | Unreachable))
    }

    pub(super) fn into_error(self, act: &'static str, path: &Path) -> Error {
        let path = path.to_owned();
        match self.kind {
            FaultKind::NotFound => Error::Io { act, path, source: io::ErrorKind::NotFound.into() },
            FaultKind::Changed => Error::Changed { path },
            FaultKind::Remote(fault) => Error::Remote { act, path, fault, what: self.what },
        }
    }

    /// The same after it was tried for a while.
    pub(super) fn after(mut self, n_attempts: usize, seconds: f64) -> Self {
        if n_attempts > 1 {
            self.what = format!("{} ({n_attempts} attempts in {seconds:.0} s)", self.what);
        }
        self
    }
}

/// What the clients say of an answer that ends too soon.
const GARBLED: [&str; 4] = ["decoding response body", "incomplete", "end of file", "IncompleteMessage"];
/// What they say when there is no answer.
const CUT: [&str; 8] = [
    "HTTP error",
    "error sending request",
    "onnection refused",
    "onnection reset",
    "onnection closed",
    "timed out",
    "dns error",
    "channel closed",
];

/// What the clients say when they looked everywhere for credentials: the addresses are those that give them to machines
/// of a provider.
const LACKS_CREDENTIALS: [&str; 6] = [
    "169.254.169.254",
    "metadata.google.internal",
    "No credentials",
    "missing credentials",
    "MissingCredentials",
    "Error getting credentials",
];

fn chain_text(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

fn status_in(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

/// The store's own word for the error, from the XML or JSON that it answers with.
fn code_in(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("<Code>")?;
    let code = after.split("</Code>").next()?;
    let is_word = !code.is_empty() && code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word.then_some(code)
}

fn describe(text: &str, status: Option<u16>, code: Option<&str>) -> String {
    match (status, code) {
        _ if LACKS_CREDENTIALS.iter().any(|part| text.contains(part)) => "no credentials were found".to_owned(),
        (Some(status), Some(code)) => format!("the store responded with {status} ({code})"),
        (Some(status), None) => format!("the store responded with {status}"),
        (None, Some(code)) => format!("the store responded with {code}"),
        (None, None) => shorten(text),
    }
}

/// The innermost reason of an error that has no answer, on one line.
fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 160;
    let known = [
        ("onnection refused", "nothing is listening at the endpoint (connection refused)"),
        ("dns error", "the endpoint's host name cannot be resolved"),
        ("failed to lookup address", "the endpoint's host name cannot be resolved"),
        ("timed out", "the request timed out"),
        ("certificate", "the endpoint's certificate is not trusted"),
        ("onnection reset", "the connection was lost"),
        ("incomplete", "the connection was lost"),
        ("end of file", "the connection was lost"),
        ("onnection closed", "the connection was lost"),
        ("decoding response body", "the connection was lost in the middle of a response"),
    ];
    if let Some((_, words)) = known.iter().find(|(part, _)| text.contains(part)) {
        return (*words).to_owned();
    }
    let last = text.rsplit(": ").next().unwrap_or(text);
    let line = last.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    fn remote_of(text: &str) -> RemoteFault {
        match Fault::of(&generic(text)).kind {
            FaultKind::Remote(fault) => fault,
            kind => panic!("{text}: {kind:?}"),
        }
    }

    #[test]
    fn answers_are_sorted_by_what_helps() {
        let cases = [
            ("status code: 404 Not Found: <Error><Code>NoSuchBucket</Code></Error>", RemoteFault::NoBucket),
            ("status code: 400 Bad Request: <Code>ExpiredToken</Code>", RemoteFault::Expired),
            ("status code: 403 Forbidden: <Code>InvalidAccessKeyId</Code>", RemoteFault::NoCredentials),
            ("status code: 403 Forbidden: <Code>AccessDenied</Code>", RemoteFault::Denied),
            ("status code: 401 Unauthorized: ", RemoteFault::NoCredentials),
            ("status code: 503 Service Unavailable: <Code>SlowDown</Code>", RemoteFault::Busy),
            ("status code: 429 Too Many Requests", RemoteFault::Busy),
            ("status code: 500 Internal Server Error", RemoteFault::Busy),
            ("error sending request: tcp connect error: Connection refused (os error 111)", RemoteFault::Unreachable),
            ("error decoding response body: end of file before message length reached", RemoteFault::Garbled),
            ("Error performing PUT http://169.254.169.254/latest/api/token in 1s", RemoteFault::NoCredentials),
        ];
        for (text, fault) in cases {
            assert_eq!(remote_of(text), fault, "{text}");
        }
    }

    #[test]
    fn bodies_are_not_repeated() {
        let text = "status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>\
                    <AWSAccessKeyId>AKIASECRET</AWSAccessKeyId></Error>";
        let error = Fault::of(&generic(text)).into_error("read", Path::new("s3://b/k"));
        assert_eq!(error.to_string(), "cannot read `s3://b/k`: the store responded with 403 (SignatureDoesNotMatch)");
        assert!(!format!("{error:?}").contains("AKIASECRET"));
    }
}

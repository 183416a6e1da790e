//! Why a request to a hub gave nothing, and whether it is repeated.

use std::time::Duration;

use crate::error::{Error, HubFault};

/// Why a request gave nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// The hub, or the way to it.
    Hub { fault: HubFault, what: String, again: Again },
    /// The local disk.
    Storage(Error),
    /// A stop was asked for.
    Stopped,
}

/// Whether the same request may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After a short wait.
    Soon,
    /// After the time that the hub asks for.
    After(Duration),
}

impl Fault {
    pub(super) fn new(fault: HubFault, what: impl Into<String>) -> Self {
        Self::Hub { fault, what: what.into(), again: Again::Never }
    }

    /// An answer that cannot be right.
    pub(super) fn garbled(what: impl Into<String>) -> Self {
        Self::new(HubFault::Garbled, what)
    }

    /// A connection that could not be made or broke. Without the address: that of a content network holds a signature.
    pub(super) fn of_connection(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        let known = [
            ("onnection refused", "nothing is listening there (connection refused)"),
            ("failed to lookup address", "the host name cannot be resolved"),
            ("dns error", "the host name cannot be resolved"),
            ("certificate", "the certificate of the server is not trusted"),
            ("timed out", "no answer in time"),
        ];
        let words = known.iter().find(|(part, _)| text.contains(part)).map(|(_, words)| *words);
        let what = words.unwrap_or("the connection was lost");
        // No wait makes a certificate valid.
        let again = if text.contains("certificate") { Again::Never } else { Again::Soon };
        Self::Hub { fault: HubFault::Unreachable, what: what.to_owned(), again }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Storage(error)
    }
}

/// Text from outside, for a message.
pub(super) fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 100;
    text.chars().take(MAX_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
}

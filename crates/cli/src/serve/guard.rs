//! Who may see the page: on loopback, requests that name this machine; elsewhere, those that hold the token.
//!
//! A page of another site can send requests to this machine by a name of its choice (DNS rebinding). Its name is then
//! in the `Host` header, and the request is refused.

use std::net::IpAddr;

use super::request::Request;

/// Bytes of a token that is made.
const TOKEN_BYTES: usize = 24;
/// Fewer characters could be guessed.
pub(crate) const MIN_TOKEN_CHARS: usize = 16;

/// The rule of one server.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// Checked in place of the host where there is one.
    token: Option<String>,
    hosts: Vec<String>,
    /// Cookies of all servers on a machine share a jar.
    cookie_name: String,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Welcome,
    /// The token came in the address: it moves into a cookie of this name and value.
    MoveToken(String),
    WrongHost(String),
    NoToken,
}

impl Guard {
    pub(super) fn new(token: Option<String>, hosts: Vec<String>, port: u16) -> Self {
        Self { token, hosts, cookie_name: format!("thalweg-{port}") }
    }

    pub(super) fn judge(&self, request: &Request) -> Verdict {
        let Some(token) = &self.token else {
            let host = request.host.as_deref().unwrap_or("");
            return if self.is_known(host) { Verdict::Welcome } else { Verdict::WrongHost(host.to_owned()) };
        };
        let cookies = request.cookies.split(';').filter_map(|one| one.trim().split_once('='));
        let mut cookies = cookies.filter(|(name, _)| *name == self.cookie_name).map(|(_, value)| value);
        if request.bearer.as_deref().is_some_and(|given| is_same(given, token)) || cookies.any(|it| is_same(it, token))
        {
            return Verdict::Welcome;
        }
        let mut given = request.query.split('&').filter_map(|pair| pair.strip_prefix("token="));
        if given.any(|given| is_same(given, token)) {
            return Verdict::MoveToken(format!("{}={token}; HttpOnly; SameSite=Lax", self.cookie_name));
        }
        Verdict::NoToken
    }

    fn is_known(&self, host: &str) -> bool {
        let name = host_name(host).to_ascii_lowercase();
        let is_loopback = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        is_loopback || name == "localhost" || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(&name))
    }
}

/// The name in a `Host` header, without its port and brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or("");
    }
    host.split(':').next().unwrap_or("")
}

/// Whether two texts are the same, in a time that does not tell where they differ: digests are compared.
fn is_same(given: &str, token: &str) -> bool {
    blake3::hash(given.as_bytes()) == blake3::hash(token.as_bytes())
}

/// A token that cannot be guessed.
pub(crate) fn make_token() -> Result<String, getrandom::Error> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str, query: &str, cookies: &str, bearer: Option<&str>) -> Request {
        let (host, bearer) = (Some(host.to_owned()), bearer.map(str::to_owned));
        let (query, cookies) = (query.to_owned(), cookies.to_owned());
        Request { is_head: false, path: "/".to_owned(), query, host, cookies, bearer }
    }

    #[test]
    fn without_a_token_only_names_of_this_machine_are_welcome() {
        let guard = Guard::new(None, vec!["hub.example.org".to_owned()], 4840);
        let known = ["127.0.0.1:4840", "localhost", "LOCALHOST:9", "[::1]:4840", "127.9.9.9", "hub.example.org:443"];
        for host in known {
            assert_eq!(guard.judge(&request(host, "", "", None)), Verdict::Welcome, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:4840", "10.0.0.1", "", "[::2]"] {
            assert_eq!(guard.judge(&request(host, "", "", None)), Verdict::WrongHost(host.to_owned()));
        }
    }

    #[test]
    fn a_token_comes_by_address_once_then_by_cookie_or_header() {
        let guard = Guard::new(Some("0123456789abcdef".to_owned()), Vec::new(), 4840);
        let judge = |query, cookies, bearer| guard.judge(&request("anything", query, cookies, bearer));
        let moved = "thalweg-4840=0123456789abcdef; HttpOnly; SameSite=Lax".to_owned();
        assert_eq!(judge("a=b&token=0123456789abcdef", "", None), Verdict::MoveToken(moved));
        assert_eq!(judge("", "x=1; thalweg-4840=0123456789abcdef", None), Verdict::Welcome);
        assert_eq!(judge("", "", Some("0123456789abcdef")), Verdict::Welcome);
        for (query, cookies, bearer) in [
            ("", "", None),
            ("token=0123456789abcde", "", None),
            ("token=", "thalweg-4840=", Some("")),
            ("", "thalweg-1=0123456789abcdef", Some("0123456789abcdeX")),
        ] {
            assert_eq!(judge(query, cookies, bearer), Verdict::NoToken, "{query} {cookies}");
        }
    }

    #[test]
    fn made_tokens_are_long_and_differ() {
        let (a, b) = (make_token().unwrap(), make_token().unwrap());
        assert!(a.len() >= MIN_TOKEN_CHARS && a != b);
    }
}

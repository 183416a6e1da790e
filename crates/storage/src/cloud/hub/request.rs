//! Requests to a hub: redirects, the token, retries, and what a refusal means.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, LINK, LOCATION, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};

use super::super::stop::{Patience, Stop};
use super::super::wait_notes::{QUIET, WaitNotes};
use super::fault::{Again, Fault, shown};
use crate::error::HubFault;
use crate::host::{Host, ProcessHost};

/// Redirects of one request: a hub needs one or two.
const MAX_REDIRECTS: usize = 8;
/// The largest page of a listing that is read.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// An answer to a request, after its redirects.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    /// The headers of the hub itself, where it redirected to another server.
    pub(super) of_hub: HeaderMap,
}

/// A page of a listing.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) body: Vec<u8>,
    pub(super) next: Option<Url>,
}

/// For how long requests that fail are repeated.
#[derive(Debug, Clone, Copy)]
pub(super) struct GiveUp {
    pub(super) after: Duration,
    /// Before anything has answered: a name that is wrong, or a machine without a network, does not get better.
    pub(super) without_answer: Duration,
}

impl GiveUp {
    fn limit(self, fault: HubFault, has_answered: bool) -> Duration {
        match fault {
            HubFault::Unreachable if !has_answered => self.without_answer.min(self.after),
            _ => self.after,
        }
    }
}

/// The hub with what requests to it need.
pub(super) struct Requests {
    client: Client,
    endpoint: Url,
    token: Option<String>,
    patience: GiveUp,
    has_answered: AtomicBool,
    stop: Stop,
    waits: WaitNotes,
    clock: ProcessHost,
}

/// Without the token.
impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Requests {
    pub(super) fn new(
        endpoint: Url,
        token: Option<String>,
        patience: GiveUp,
        (stop, waits): (Arc<AtomicBool>, WaitNotes),
    ) -> reqwest::Result<Self> {
        // The first of the process decides; a second call finds one and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A large file over a slow line takes long: only silence is an error. Redirects are followed here, because they
        // decide who sees the token.
        let client = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(20))
            .user_agent(concat!("thalweg/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let (stop, clock) = (Stop::new(stop), ProcessHost::start());
        let has_answered = AtomicBool::new(false);
        Ok(Self { client, endpoint, token, patience, has_answered, stop, waits, clock })
    }

    pub(super) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// The address of a route; slashes in its parts divide them.
    pub(super) fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts.iter().flat_map(|part| part.split('/')));
        }
        url
    }

    /// Where waits are noted.
    pub(super) fn waits(&self) -> &WaitNotes {
        &self.waits
    }

    /// Waits for a future, unless a stop is asked for first.
    pub(super) async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Result<T, Fault> {
        // What arrived is kept, so a request that is under way need not end.
        self.stop.wait(Patience::Pause, future).await.ok_or(Fault::Stopped)
    }

    /// Repeats an attempt while that may help: until none has succeeded in part for as long as the settings say. The
    /// attempt says by `true` that it got further than the one before.
    pub(super) async fn persist<T>(
        &self,
        mut attempt: impl AsyncFnMut() -> (Result<T, Fault>, bool),
    ) -> Result<T, Fault> {
        const FIRST_WAIT: Duration = Duration::from_millis(100);
        const MAX_WAIT: Duration = Duration::from_secs(10);
        let (mut began, mut wait, mut n_attempts) = (self.clock.elapsed_seconds(), FIRST_WAIT, 0);
        loop {
            let (outcome, got_further) = attempt().await;
            let (fault, what, again) = match outcome {
                Err(Fault::Hub { fault, what, again }) => (fault, what, again),
                other => return other,
            };
            if got_further {
                (began, wait, n_attempts) = (self.clock.elapsed_seconds(), FIRST_WAIT, 0);
            }
            n_attempts += 1;
            let seconds = self.clock.elapsed_seconds() - began;
            let limit = self.patience.limit(fault, self.has_answered.load(Ordering::Relaxed)).as_secs_f64();
            let pause = match again {
                Again::Never => return Err(Fault::new(fault, what)),
                Again::Soon => wait,
                Again::After(pause) => pause,
            };
            if seconds + pause.as_secs_f64() >= limit {
                let asked = match again {
                    Again::After(pause) => format!(", and asks to wait {} s", pause.as_secs()),
                    _ => String::new(),
                };
                let tried =
                    if n_attempts > 1 { format!(" ({n_attempts} attempts in {seconds:.0} s)") } else { String::new() };
                return Err(Fault::new(fault, format!("{what}{asked}{tried}")));
            }
            if seconds + pause.as_secs_f64() > QUIET.as_secs_f64() {
                let endpoint = self.endpoint.as_str().trim_end_matches('/');
                self.waits.add_retry(&format!("the hub at `{endpoint}`"), &what, limit);
            }
            self.unless_stopped(tokio::time::sleep(pause)).await?;
            wait = (wait * 2).min(MAX_WAIT);
        }
    }

    /// One page of a listing.
    pub(super) async fn read_page(&self, url: &Url, repository: &str) -> Result<Page, Fault> {
        self.persist(async || (self.try_read_page(url, repository).await, false)).await
    }

    async fn try_read_page(&self, url: &Url, repository: &str) -> Result<Page, Fault> {
        let mut answer = self.get(url.clone(), None).await?;
        self.check_status(&answer, repository)?;
        let next = match next_page(answer.response.headers()) {
            Some(next) => Some(self.same_server(&next)?),
            None => None,
        };
        let mut body = Vec::new();
        while let Some(chunk) = self.unless_stopped(answer.response.chunk()).await?.map_err(Fault::of_connection)? {
            if body.len() + chunk.len() > MAX_PAGE_BYTES {
                return Err(Fault::garbled("the listing does not end"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Page { body, next })
    }

    /// The next page must be at the hub itself: it gets the token.
    fn same_server(&self, next: &str) -> Result<Url, Fault> {
        let next = self.endpoint.join(next).map_err(|_| Fault::garbled("the address of the next page is invalid"))?;
        match next.origin() == self.endpoint.origin() {
            true => Ok(next),
            false => Err(Fault::garbled("the next page is at another server")),
        }
    }

    /// Asks for an address and follows its redirects. The token goes to the hub alone, and never over plain HTTP,
    /// except on this machine.
    pub(super) async fn get(&self, mut url: Url, from: Option<u64>) -> Result<Answer, Fault> {
        let mut of_hub = HeaderMap::new();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.token.as_ref().filter(|_| self.may_see_token(&url)) {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = self.unless_stopped(request.send()).await?.map_err(Fault::of_connection)?;
            self.has_answered.store(true, Ordering::Relaxed);
            if url.origin() == self.endpoint.origin() {
                of_hub.extend(response.headers().clone());
            }
            let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.headers().get(LOCATION).filter(|_| is_redirect) else {
                return Ok(Answer { response, of_hub });
            };
            url = redirected(&url, location.to_str().unwrap_or_default())?;
        }
        Err(Fault::garbled(format!("the hub redirects more than {MAX_REDIRECTS} times")))
    }

    fn may_see_token(&self, url: &Url) -> bool {
        let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        url.origin() == self.endpoint.origin() && (url.scheme() == "https" || is_here)
    }

    /// # Errors
    /// What a status other than success means.
    pub(super) fn check_status(&self, answer: &Answer, repository: &str) -> Result<(), Fault> {
        let status = answer.response.status();
        if status.is_success() {
            return Ok(());
        }
        let code = answer.response.headers().get("x-error-code").and_then(|code| code.to_str().ok());
        let has_token = self.token.is_some();
        let is_hub = answer.response.url().origin() == self.endpoint.origin();
        Err(match (status.as_u16(), code) {
            // It knows neither repositories nor tokens.
            (status @ (400..=407 | 409..=428), _) if !is_hub => {
                Fault::new(HubFault::Other, format!("the server with the content responded with {status}"))
            }
            (_, Some("GatedRepo")) => {
                let page = self.url(&[repository]);
                Fault::new(HubFault::Gated, format!("`{repository}` is gated: its terms are at {page}"))
            }
            (_, Some("RevisionNotFound" | "EntryNotFound")) => {
                Fault::new(HubFault::NotFound, "the hub no longer has it")
            }
            (401, code) if has_token && code != Some("RepoNotFound") => {
                Fault::new(HubFault::BadToken, "the hub does not accept the token")
            }
            (_, Some("RepoNotFound")) | (401 | 404, None) => {
                let whose =
                    if has_token { "or the token may not read it" } else { "or it is private, and no token is set" };
                Fault::new(HubFault::NoRepository, format!("the hub has no repository `{repository}`, {whose}"))
            }
            (403, _) => Fault::new(HubFault::Denied, "the hub refuses access (403)"),
            (408 | 429 | 500 | 502 | 503 | 504, _) => Fault::Hub {
                fault: HubFault::Busy,
                what: match status {
                    StatusCode::TOO_MANY_REQUESTS => "the hub limits the rate of requests (429)".to_owned(),
                    status => format!("the hub responded with {}", status.as_u16()),
                },
                again: asked_wait(answer.response.headers()).map_or(Again::Soon, Again::After),
            },
            (status, _) => Fault::new(HubFault::Other, format!("the hub responded with {status}")),
        })
    }
}

/// Where a redirect leads. A secure connection is never given up.
fn redirected(from: &Url, location: &str) -> Result<Url, Fault> {
    let refuse = |why: &str| {
        Fault::garbled(format!(
            "the hub redirects to `{}`, {why}",
            shown(location.split('?').next().unwrap_or_default())
        ))
    };
    let to = from.join(location).map_err(|_| refuse("which is not an address"))?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(to),
        ("https", "http") => Err(refuse("which is not encrypted")),
        _ => Err(refuse("which is not on the web")),
    }
}

/// How long the hub asks to wait, by `Retry-After`, or by `RateLimit` as in `"api";r=0;t=55`.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let seconds = text(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse::<u64>().ok());
    let seconds = seconds.or_else(|| {
        let limit = text("ratelimit")?;
        let part = |key: &str| limit.split(';').find_map(|part| part.trim().strip_prefix(key)?.parse::<u64>().ok());
        if part("r=")? == 0 { part("t=") } else { None }
    });
    seconds.map(Duration::from_secs)
}

/// The address of the next page, from a header such as `<https://...>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok()).flat_map(|links| links.split(','));
    let next = links.filter_map(|link| {
        let (address, about) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = about.split(';').any(|part| matches!(part.trim(), "rel=\"next\"" | "rel=next"));
        is_next.then(|| address.to_owned())
    });
    next.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn requests(endpoint: &str) -> Requests {
        let token = Some("hf_secret".to_owned());
        let patience = GiveUp { after: Duration::from_secs(1), without_answer: Duration::from_secs(1) };
        Requests::new(endpoint.parse().unwrap(), token, patience, Default::default()).unwrap()
    }

    #[test]
    fn a_hub_that_never_answered_is_waited_for_less_than_one_that_broke_off() {
        let patience = GiveUp { after: Duration::from_secs(120), without_answer: Duration::from_secs(15) };
        let seconds = |fault, has_answered| patience.limit(fault, has_answered).as_secs();
        assert_eq!(seconds(HubFault::Unreachable, false), 15);
        assert_eq!(seconds(HubFault::Unreachable, true), 120);
        assert_eq!(seconds(HubFault::Busy, false), 120);
    }

    #[test]
    fn the_wait_is_the_one_that_the_hub_asks_for() {
        let wait = |pairs: &[(&'static str, &str)]| asked_wait(&headers(pairs)).map(|wait| wait.as_secs());
        assert_eq!(wait(&[("retry-after", "7")]), Some(7));
        assert_eq!(wait(&[("ratelimit", "\"api\";r=0;t=55")]), Some(55));
        // The header is on every answer: only an exhausted limit says how long to wait.
        assert_eq!(wait(&[("ratelimit", "\"api\";r=12;t=55")]), None);
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")]), None);
    }

    #[test]
    fn the_next_page_is_at_the_hub_itself() {
        let hub = requests("https://hub.example/base");
        let of = |link: &str| next_page(&headers(&[("link", link)]));
        let next = of("<https://hub.example/x?cursor=b>; rel=\"next\"").unwrap();
        assert_eq!(hub.same_server(&next).unwrap().as_str(), "https://hub.example/x?cursor=b");
        assert_eq!(of("<https://hub.example/x>; rel=\"prev\""), None);
        assert!(hub.same_server("https://evil.example/x").is_err());
        assert!(hub.same_server("http://hub.example/x").is_err());
    }

    #[test]
    fn the_token_goes_to_the_hub_alone_and_never_in_the_clear() {
        let hub = requests("https://hub.example");
        let may = |hub: &Requests, url: &str| hub.may_see_token(&url.parse().unwrap());
        assert!(may(&hub, "https://hub.example/a"));
        for other in ["https://cdn.example/a", "http://hub.example/a", "https://hub.example:444/a"] {
            assert!(!may(&hub, other), "{other}");
        }
        assert!(!may(&requests("http://mirror.example"), "http://mirror.example/a"));
        assert!(may(&requests("http://127.0.0.1:8080"), "http://127.0.0.1:8080/a"));
        assert!(!format!("{hub:?}").contains("hf_secret"));
    }

    #[test]
    fn redirects_stay_on_the_web_and_encrypted() {
        let to = |from: &str, location: &str| redirected(&from.parse().unwrap(), location);
        assert_eq!(to("https://a/x/y", "/z?q=1").unwrap().as_str(), "https://a/z?q=1");
        assert!(to("https://a/x", "https://b/y").is_ok());
        for bad in ["http://a/x", "file:///etc/passwd", "ftp://a/x"] {
            assert!(to("https://a/x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn routes_are_below_the_endpoint_and_escaped() {
        let hub = requests("https://hub.example/base");
        let url = hub.url(&["org/small", "resolve", "abc", "sub/a b?.txt"]);
        assert_eq!(url.as_str(), "https://hub.example/base/org/small/resolve/abc/sub/a%20b%3F.txt");
    }
}

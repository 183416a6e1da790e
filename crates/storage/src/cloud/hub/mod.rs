//! A client of model hubs that speak the routes of huggingface.co.
//!
//! Lists branches, tags and files, and fetches files into a local cache. The routes: `api/models/NAME/refs`,
//! `api/models/NAME/tree/COMMIT?recursive=true` in pages, `NAME/resolve/COMMIT/PATH`, which answers with the content or
//! with a redirect to a content network.

mod answer;
mod download;
mod fault;
mod request;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use reqwest::Url;

use self::answer::{MAX_FILES, MAX_REFS, parse_files, parse_refs};
use self::fault::Fault;
use self::request::{GiveUp, Requests};
use super::give_up_after;
use super::router::runtime;
use super::wait_notes::WaitNotes;
use crate::error::{Error, HubFault};
use crate::hub::{Hub, HubFile, HubFolder, HubProgress, HubRef, HubWish, home_folder};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The longest token file that is read.
const MAX_TOKEN_BYTES: u64 = 4096;
/// Pages of a listing: a thousand files each at huggingface.co.
const MAX_PAGES: usize = 1000;

/// What a hub is found with. A face reads it from the environment.
#[derive(Clone)]
pub struct HubSettings {
    endpoint: String,
    token: Option<String>,
    is_offline: bool,
    patience: GiveUp,
}

/// Without the token.
impl std::fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings").field("has_token", &self.token.is_some()).finish_non_exhaustive()
    }
}

impl HubSettings {
    /// What the variables of a process say: `HF_ENDPOINT`; `HF_TOKEN`, or the file at `HF_TOKEN_PATH`, or the one that
    /// `hf auth login` wrote; `HF_HUB_OFFLINE`; `THALWEG_RETRY_SECONDS`.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let text =
            |name: &str| variable(name).and_then(|value| value.into_string().ok()).filter(|text| !text.is_empty());
        let is_on =
            |name: &str| text(name).is_some_and(|text| ["1", "ON", "YES", "TRUE"].contains(&&*text.to_uppercase()));
        let token_file = variable("HF_TOKEN_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        let token_file = token_file.or_else(|| home_folder(variable).map(|home| home.join("token")));
        let from_file = || {
            let path = token_file?;
            let info = std::fs::metadata(&path).ok()?;
            if !info.is_file() || info.len() > MAX_TOKEN_BYTES { None } else { std::fs::read_to_string(path).ok() }
        };
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(from_file);
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Self {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            token,
            is_offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            patience: patience(text("THALWEG_RETRY_SECONDS").as_deref()),
        }
    }
}

/// A user who says how long to retry means every failure.
fn patience(variable: Option<&str>) -> GiveUp {
    const WITHOUT_ANSWER: Duration = Duration::from_secs(15);
    let after = give_up_after(variable);
    GiveUp { after, without_answer: if variable.is_some() { after } else { WITHOUT_ANSWER } }
}

/// A client of one hub.
#[derive(Debug)]
pub struct HubClient {
    requests: Requests,
    runtime: &'static tokio::runtime::Runtime,
}

impl HubClient {
    /// A client; `stop` is set from outside to end what is under way, and `waits` is told of waits.
    ///
    /// # Errors
    /// `Hub` with `Settings` for variables that are wrong; `Io` if the threads cannot be started.
    pub fn new(settings: HubSettings, stop: Arc<AtomicBool>, waits: WaitNotes) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Hub {
            act: "reach the hub".to_owned(),
            fault: HubFault::Settings,
            what: what.to_owned(),
        };
        if settings.is_offline {
            return Err(wrong("`HF_HUB_OFFLINE` is set"));
        }
        let endpoint = Url::parse(settings.endpoint.trim_end_matches('/'))
            .map_err(|_| wrong("`HF_ENDPOINT` is not an address, such as `https://huggingface.co`"))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err(wrong("`HF_ENDPOINT` does not begin with `https://` or `http://`"));
        }
        if !endpoint.username().is_empty() || endpoint.password().is_some() || endpoint.query().is_some() {
            return Err(wrong("`HF_ENDPOINT` holds a user name, a password or a query"));
        }
        let is_token = |token: &str| token.bytes().all(|byte| byte.is_ascii_graphic());
        if settings.token.as_deref().is_some_and(|token| !is_token(token)) {
            return Err(wrong("the token holds an invalid character"));
        }
        let runtime = runtime().map_err(|source| Error::Io {
            act: "start threads for",
            path: endpoint.as_str().into(),
            source,
        })?;
        // Clients start tasks when they are made.
        let _inside = runtime.enter();
        let requests = Requests::new(endpoint, settings.token, settings.patience, (stop, waits))
            .map_err(|_| wrong("the client cannot be created: are there certificates on this machine?"))?;
        Ok(Self { requests, runtime })
    }

    fn fail(&self, act: String, fault: Fault) -> Error {
        match fault {
            Fault::Storage(error) => error,
            Fault::Stopped => Error::Io {
                act: "fetch from",
                path: self.requests.endpoint().as_str().into(),
                source: std::io::ErrorKind::Interrupted.into(),
            },
            Fault::Hub { fault, what, .. } => Error::Hub { act, fault, what },
        }
    }
}

impl Hub for HubClient {
    fn list_refs(&self, repository: &str) -> Result<Vec<HubRef>, Error> {
        let fail = |fault| self.fail(format!("list the revisions of `{repository}`"), fault);
        let url = self.requests.url(&["api", "models", repository, "refs"]);
        let page = self.runtime.block_on(self.requests.read_page(&url, repository)).map_err(fail)?;
        let mut refs = parse_refs(&page.body).map_err(fail)?;
        refs.sort_by(|a, b| a.name.cmp(&b.name));
        refs.dedup_by(|b, a| a.name == b.name);
        if refs.len() > MAX_REFS {
            Err(fail(Fault::garbled(format!("more than {MAX_REFS} revisions"))))
        } else {
            Ok(refs)
        }
    }

    fn list_files(&self, repository: &str, commit: &str) -> Result<Vec<HubFile>, Error> {
        let fail = |fault| self.fail(format!("list the files of `{repository}` at {}", short(commit)), fault);
        let mut url = self.requests.url(&["api", "models", repository, "tree", commit]);
        url.set_query(Some("recursive=true&expand=false"));
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.runtime.block_on(self.requests.read_page(&url, repository)).map_err(fail)?;
            files.extend(parse_files(&page.body).map_err(fail)?);
            if files.len() > MAX_FILES {
                return Err(fail(Fault::garbled(format!("more than {MAX_FILES} files"))));
            }
            let Some(next) = page.next else {
                files.sort_by(|a, b| a.path.cmp(&b.path));
                if let Some(pair) = files.windows(2).find(|pair| pair[0].path == pair[1].path) {
                    return Err(fail(Fault::garbled(format!("the file `{}` is listed twice", pair[0].path))));
                }
                return Ok(files);
            };
            url = next;
        }
        Err(fail(Fault::garbled(format!("more than {MAX_PAGES} pages"))))
    }

    fn download(
        &self,
        wish: HubWish<'_>,
        folder: &HubFolder,
        progress: &(dyn Fn(HubProgress) + Sync),
    ) -> Result<(), Error> {
        let act = || format!("fetch `{}` of `{}` at {}", wish.file.path, wish.repository, short(wish.commit));
        self.runtime.block_on(self.requests.download(wish, folder, progress)).map_err(|fault| self.fail(act(), fault))
    }
}

/// A commit as people write it.
fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

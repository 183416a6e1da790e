//! Fetching one file: byte ranges from where an earlier attempt stopped, and the digest before the name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use reqwest::header::CONTENT_RANGE;
use reqwest::{StatusCode, Url};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::super::wait_notes::QUIET;
use super::fault::{Again, Fault};
use super::request::{Answer, Requests};
use crate::error::{Error, HubFault};
use crate::hub::{BlobDigest, HubFile, HubFolder, HubProgress, HubWish};
use crate::local::io_error;
use crate::{LocalStorage, Lock, Storage};

/// How much of an earlier attempt is read at once to digest it.
const READ_BYTES: usize = 1 << 20;

type Watch<'a> = &'a (dyn Fn(HubProgress) + Sync);

/// The bytes of a file that have arrived, and their digest.
struct Partial {
    file: File,
    digest: Context,
    len_bytes: u64,
}

fn digest_of(file: &HubFile) -> Context {
    match &file.digest {
        BlobDigest::Sha256(_) => Context::new(&SHA256),
        BlobDigest::Git(_) => {
            let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            digest.update(format!("blob {}\0", file.len_bytes).as_bytes());
            digest
        }
    }
}

impl Partial {
    /// What is at `path`, digested; more than the whole file is not a part of it.
    fn open(path: &Path, wanted: &HubFile) -> Result<Self, Error> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io_error("open", path))?;
        let mut digest = digest_of(wanted);
        let found_bytes = file.metadata().map_err(io_error("read", path))?.len();
        if found_bytes > wanted.len_bytes {
            file.set_len(0).map_err(io_error("write", path))?;
        }
        let (mut buffer, mut len_bytes) = (vec![0; READ_BYTES], 0);
        loop {
            let n_bytes = file.read(&mut buffer).map_err(io_error("read", path))?;
            if n_bytes == 0 {
                return Ok(Self { file, digest, len_bytes });
            }
            digest.update(&buffer[..n_bytes]);
            len_bytes += n_bytes as u64;
        }
    }

    fn restart(&mut self, path: &Path, wanted: &HubFile) -> Result<(), Error> {
        self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0))).map_err(io_error("write", path))?;
        (self.digest, self.len_bytes) = (digest_of(wanted), 0);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8], path: &Path) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(io_error("write", path))?;
        self.digest.update(bytes);
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    fn is(&self, digest: &BlobDigest) -> bool {
        use std::fmt::Write as _;
        let mut found = String::new();
        for byte in self.digest.clone().finish().as_ref() {
            // Writing to a String cannot fail.
            let _ = write!(found, "{byte:02x}");
        }
        found == digest.digits()
    }
}

impl Requests {
    /// Fetches a file into the blobs of a folder, unless it is there.
    pub(super) async fn download(&self, wish: HubWish<'_>, folder: &HubFolder, watch: Watch<'_>) -> Result<(), Fault> {
        let (file, blob, path) = (wish.file, folder.blob_path(wish.file), folder.partial_path(wish.file));
        let make = |folder: Option<&Path>| match folder {
            Some(folder) => fs::create_dir_all(folder).map_err(io_error("create", folder)),
            None => Ok(()),
        };
        make(blob.parent())?;
        make(folder.lock_path(file).parent())?;
        let _lock = self.lock(&folder.lock_path(file)).await?;
        if folder.has_blob(file) {
            watch(HubProgress::Resumed(file.len_bytes));
            return Ok(());
        }
        let mut partial = Partial::open(&path, file)?;
        watch(HubProgress::Resumed(partial.len_bytes));
        let had_bytes = partial.len_bytes > 0;
        self.fill(wish, &mut partial, &path, watch).await?;
        if !partial.is(&file.digest) && had_bytes {
            // What an earlier attempt left may be what is wrong.
            partial.restart(&path, file)?;
            self.fill(wish, &mut partial, &path, watch).await?;
        }
        if !partial.is(&file.digest) {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            return Err(Fault::garbled(format!(
                "its content differs from the digest that the hub states, {}",
                file.digest.digits()
            )));
        }
        partial.file.sync_all().map_err(io_error("sync", &path))?;
        fs::rename(&path, &blob).map_err(io_error("rename", &path))?;
        Ok(())
    }

    /// Waits while another process fetches the same file.
    async fn lock(&self, path: &Path) -> Result<Lock, Fault> {
        const PAUSE: Duration = Duration::from_millis(100);
        let storage = LocalStorage::new();
        for n_pauses in 1.. {
            match storage.lock(path) {
                Err(Error::Locked { .. }) => {
                    if PAUSE * n_pauses > QUIET {
                        self.waits().add("another process", "it fetches the same file", "continuing once it ends");
                    }
                    self.unless_stopped(tokio::time::sleep(PAUSE)).await?;
                }
                locked => return Ok(locked?),
            }
        }
        Err(Fault::Stopped)
    }

    async fn fill(&self, wish: HubWish<'_>, partial: &mut Partial, path: &Path, watch: Watch<'_>) -> Result<(), Fault> {
        let url = self.url(&[wish.repository, "resolve", wish.commit, &wish.file.path]);
        self.persist(async || {
            let before = partial.len_bytes;
            let outcome = self.try_fill(&url, wish, partial, path, watch).await;
            (outcome, partial.len_bytes > before)
        })
        .await
    }

    async fn try_fill(
        &self,
        url: &Url,
        wish: HubWish<'_>,
        partial: &mut Partial,
        path: &Path,
        watch: Watch<'_>,
    ) -> Result<(), Fault> {
        let wanted = wish.file;
        if partial.len_bytes == wanted.len_bytes {
            return Ok(());
        }
        let from = (partial.len_bytes > 0).then_some(partial.len_bytes);
        let mut answer = self.get(url.clone(), from).await?;
        if answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            partial.restart(path, wanted)?;
            return Err(Fault::Hub {
                fault: HubFault::Garbled,
                what: "the hub refuses the range".to_owned(),
                again: Again::Soon,
            });
        }
        self.check_status(&answer, wish.repository)?;
        check_identity(&answer, wish)?;
        match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => check_range(&answer, partial.len_bytes, wanted.len_bytes)?,
            // The server does not know ranges.
            _ if partial.len_bytes > 0 => partial.restart(path, wanted)?,
            _ => {}
        }
        if answer.response.content_length().is_some_and(|n_bytes| n_bytes > wanted.len_bytes - partial.len_bytes) {
            return Err(too_long(wanted));
        }
        while let Some(chunk) = self.unless_stopped(answer.response.chunk()).await?.map_err(Fault::of_connection)? {
            if partial.len_bytes + chunk.len() as u64 > wanted.len_bytes {
                return Err(too_long(wanted));
            }
            partial.append(&chunk, path)?;
            watch(HubProgress::Fetched(chunk.len() as u64));
        }
        if partial.len_bytes < wanted.len_bytes {
            let what = format!("the answer ends after {} of {} bytes", partial.len_bytes, wanted.len_bytes);
            return Err(Fault::Hub { fault: HubFault::Garbled, what, again: Again::Soon });
        }
        Ok(())
    }
}

fn too_long(wanted: &HubFile) -> Fault {
    Fault::garbled(format!("the answer is longer than the {} bytes that the hub states", wanted.len_bytes))
}

/// Where the hub says which commit and which content it answers with, they must be the ones that were asked for.
fn check_identity(answer: &Answer, wish: HubWish<'_>) -> Result<(), Fault> {
    let header = |name: &str| answer.of_hub.get(name).and_then(|value| value.to_str().ok());
    if header("x-repo-commit").is_some_and(|commit| commit != wish.commit) {
        return Err(Fault::garbled("the hub answers with a file of another commit"));
    }
    let tag = header("x-linked-etag").map(|tag| tag.trim_start_matches("W/").trim_matches('"'));
    if tag.is_some_and(|tag| tag != wish.file.digest.digits()) {
        return Err(Fault::garbled("the hub answers with other content than it lists"));
    }
    Ok(())
}

/// A part must begin where the bytes that are here end.
fn check_range(answer: &Answer, from: u64, len_bytes: u64) -> Result<(), Fault> {
    let range = answer.response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let begins = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')).map(|(first, _)| first.parse());
    let total = range.and_then(|range| range.rsplit_once('/')).map(|(_, total)| total);
    let is_total = total.is_none_or(|total| total == "*" || total.parse() == Ok(len_bytes));
    if begins == Some(Ok(from)) && is_total {
        Ok(())
    } else {
        Err(Fault::garbled("the hub answers with another range"))
    }
}

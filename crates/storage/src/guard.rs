//! What a command may write over. The rule is here and nowhere else.
//!
//! Only what this program wrote is ever replaced or removed, and only by the same kind: a folder whose manifest is ours
//! and that holds nothing else, or a file that says what it is. A link is never followed to replace what it points to.
//! If something else is there, the error says what it is, and suggests nothing that would remove it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::address::{StoreKind, is_known_scheme, split_scheme};
use crate::names::{is_stage_name, new_path};
use crate::{CommitStyle, Error, FileKind, Storage, is_address};

/// How much of a file is read to learn what it is.
const HEAD_BYTES: u64 = 4096;
/// How many names a refusal shows.
const MAX_SHOWN: usize = 3;

/// What is at a path itself; links are not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Free,
    /// A link, dangling or not, and where it points.
    Link(PathBuf),
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A pipe, device or socket.
    Other,
}

/// A kind of small file, and how to recognise one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnKind<'a> {
    what: &'a str,
    mark: Mark<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark<'a> {
    /// A JSON object, or lines of them, whose first key is `kind` with this value.
    Json(&'a str),
    /// A text whose beginning contains this.
    Text(&'a str),
    /// Only the same bytes.
    SameBytes,
    /// Anything: the folder is known to be ours.
    InOwnFolder,
}

impl<'a> OwnKind<'a> {
    /// A JSON document that begins with `"kind": KIND`; messages call it `what`.
    pub const fn json(what: &'a str, kind: &'a str) -> Self {
        Self { what, mark: Mark::Json(kind) }
    }

    /// A text whose first bytes contain `mark`.
    pub const fn text(what: &'a str, mark: &'a str) -> Self {
        Self { what, mark: Mark::Text(mark) }
    }

    /// A file that may be written again only with the bytes that it has.
    pub const fn same_bytes(what: &'a str) -> Self {
        Self { what, mark: Mark::SameBytes }
    }

    /// A file in a folder that is already known to be ours, such as a run's log.
    pub const fn in_own_folder(what: &'a str) -> Self {
        Self { what, mark: Mark::InOwnFolder }
    }
}

/// What a folder holds, for a caller that knows one kind of folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// It has no manifest of this kind.
    NotOurs,
    /// It has one, of this name.
    Ours {
        /// The manifest that lists the others.
        manifest: String,
        /// What the folder holds beyond what was written into it.
        foreign: Vec<String>,
    },
}

/// Tells what a folder holds.
pub type ContentsOf<'a> = &'a dyn Fn(&dyn Storage, &Path) -> Result<Contents, Error>;

/// A kind of folder, and how to recognise one.
#[derive(Clone, Copy)]
pub struct OwnFolder<'a> {
    /// What messages call it, such as `a merged checkpoint`.
    pub what: &'a str,
    /// Tells what a folder holds.
    pub contents_of: ContentsOf<'a>,
}

impl std::fmt::Debug for OwnFolder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnFolder").field("what", &self.what).finish_non_exhaustive()
    }
}

/// What is at `path`; links are not followed.
///
/// # Errors
/// `Io`.
pub fn look_at(storage: &dyn Storage, path: &Path) -> Result<Place, Error> {
    match storage.link_target(path) {
        Ok(Some(target)) => return Ok(Place::Link(target)),
        // A file above it: nothing is there, and `check_place` says why nothing can be.
        Err(error) if is_missing(&error) => return Ok(Place::Free),
        other => other?,
    };
    match storage.file_info(path) {
        Err(error) if error.is_free() || is_missing(&error) => Ok(Place::Free),
        Err(error) => Err(error),
        Ok(info) => Ok(match info.kind {
            FileKind::File => Place::File,
            FileKind::Folder => Place::Folder,
            FileKind::Other => Place::Other,
        }),
    }
}

/// The absolute path of an output: links above it are resolved, the output's own name is not.
///
/// # Errors
/// `NoPlace` for an empty path; `Io`.
pub fn output_path(storage: &dyn Storage, path: &Path) -> Result<PathBuf, Error> {
    check_spelling(storage, path)?;
    if is_address(path) {
        return storage.canonical_path(path);
    }
    if path.as_os_str().is_empty() {
        return Err(no_place(path, "an output needs a name".to_owned()));
    }
    let path = path.components().as_path();
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(storage.canonical_path(parent)?.join(name))
        }
        _ => storage.canonical_path(path),
    }
}

/// Refuses a path that would be a folder named `~`, `s3:` or `user@host:`, or that is on a web server.
fn check_spelling(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    let refuse = |what: String| Err(no_place(path, what));
    let Some(text) = path.to_str() else { return Ok(()) };
    if let Some((scheme, _)) = split_scheme(text) {
        if StoreKind::parse(scheme).is_some_and(StoreKind::is_read_only) {
            // Where no addresses are known at all, that is the error.
            storage.canonical_path(path)?;
            return refuse("web servers are only read".to_owned());
        }
        return Ok(());
    }
    let first = text.split('/').next().unwrap_or(text);
    // Where such a folder was made on purpose, it is one.
    if first.is_empty() || storage.file_info(Path::new(first)).is_ok() {
        return Ok(());
    }
    if first.starts_with('~') {
        return refuse(format!("the shell did not expand `{first}`, so the output would be a folder of that name"));
    }
    match first.split_once(':') {
        // Written with one slash or none by mistake.
        Some((scheme, _)) if is_known_scheme(scheme) => {
            refuse(format!("an address has two slashes after the colon: `{scheme}://`"))
        }
        Some((host, _)) if host.contains('@') => {
            refuse(format!("`{host}` is another machine, but files are written to this one"))
        }
        _ => Ok(()),
    }
}

/// Checks that something can be written to `path`. To be asked before the work, which would otherwise be lost.
///
/// # Errors
/// `NoPlace` for a name that is reserved for stages, or if something above is not a folder; `Io`.
pub fn check_place(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    check_spelling(storage, path)?;
    let Some(name) = path.file_name() else { return Err(no_place(path, "it is the root".to_owned())) };
    if is_stage_name(&name.to_string_lossy()) {
        return Err(no_place(path, "names with `.thalweg-` are reserved for unfinished outputs".to_owned()));
    }
    for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        match storage.file_info(above) {
            Ok(info) if info.kind == FileKind::Folder => return Ok(()),
            Ok(_) => return Err(no_place(path, format!("`{}` is not a folder", above.display()))),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
        if let Some(target) = storage.link_target(above).unwrap_or_default() {
            let what = format!("`{}` is a link to `{}`, which does not exist", above.display(), target.display());
            return Err(no_place(path, what));
        }
    }
    Ok(())
}

fn is_missing(error: &Error) -> bool {
    error.is_not_found()
        || matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotADirectory)
}

fn no_place(path: &Path, what: String) -> Error {
    Error::NoPlace { path: path.to_owned(), what }
}

/// Checks that a file of `kind` with these bytes may be written to `path`.
///
/// # Errors
/// `MayNotReplace` with what is there; `NoPlace`; `Io`.
pub fn check_file(storage: &dyn Storage, path: &Path, kind: OwnKind<'_>, bytes: &[u8]) -> Result<(), Error> {
    let what = kind.what;
    let refuse = |holds: String, hint| Err(Error::MayNotReplace { path: path.to_owned(), holds, hint });
    check_spelling(storage, path)?;
    match look_at(storage, path)? {
        Place::Free => check_place(storage, path),
        Place::File if is_own_file(storage, path, kind, bytes)? => Ok(()),
        Place::File => refuse(
            format!("exists and is not {what}"),
            "choose another name: a file is replaced only by a file of the same kind",
        ),
        Place::Link(target) => refuse(is_a_link(&target), LINK_HINT),
        Place::Folder => refuse("is a folder".to_owned(), "name a file"),
        Place::Other => refuse("is a device or a pipe".to_owned(), "name a file"),
    }
}

/// As [`check_file`], for a file whose folder must exist already. To be asked before the work that fills the file.
///
/// # Errors
/// Those of [`check_file`], and `NoPlace` if the folder is missing.
pub fn check_document(storage: &dyn Storage, path: &Path, kind: OwnKind<'_>) -> Result<(), Error> {
    check_file(storage, path, kind, &[])?;
    if storage.commit_style(path) == CommitStyle::Upload {
        // A store has no folders, only names.
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match storage.file_info(above) {
        Err(error) if is_missing(&error) => {
            Err(no_place(path, format!("the folder `{}` does not exist", above.display())))
        }
        Err(error) => Err(error),
        Ok(_) => check_writable(storage, path),
    }
}

/// Begins the file and removes it again: its folder may be read-only, which would be found only after the work.
fn check_writable(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    let beside = new_path(path);
    if look_at(storage, &beside)? != Place::Free {
        // Another process is writing there, or one was killed.
        return Ok(());
    }
    storage.create_file(&beside, 0)?;
    storage.remove(&beside)
}

const LINK_HINT: &str = "give the path that it points to, or remove the link: links are not replaced";

fn is_a_link(target: &Path) -> String {
    format!("is a link to `{}`", target.display())
}

/// Whether a file says that it is of a kind.
pub(crate) fn is_own_file(storage: &dyn Storage, path: &Path, kind: OwnKind<'_>, bytes: &[u8]) -> Result<bool, Error> {
    let file = storage.open_file(path)?;
    let len_bytes = file.info().len_bytes;
    let head = |limit: u64| -> Result<Vec<u8>, Error> {
        let mut head = vec![0; usize::try_from(len_bytes.min(limit)).unwrap_or(0)];
        file.read_exact_at(0, &mut head)?;
        Ok(head)
    };
    Ok(match kind.mark {
        Mark::InOwnFolder => true,
        Mark::SameBytes => len_bytes == bytes.len() as u64 && head(len_bytes)? == bytes,
        Mark::Text(mark) => head(HEAD_BYTES)?.windows(mark.len()).any(|window| window == mark.as_bytes()),
        Mark::Json(kind) => says_kind(&head(HEAD_BYTES)?, kind),
    })
}

/// Whether JSON text begins with the key `kind` and this value: as all documents of this program do.
fn says_kind(head: &[u8], kind: &str) -> bool {
    let words: Vec<u8> = head.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    words.starts_with(format!("{{\"kind\":\"{kind}\"").as_bytes())
}

/// Whether a file is JSON of this kind; `false` if the file does not exist.
///
/// # Errors
/// `Io`.
pub fn is_json_of_kind(storage: &dyn Storage, path: &Path, kind: &str) -> Result<bool, Error> {
    match look_at(storage, path)? {
        Place::File => is_own_file(storage, path, OwnKind::json("", kind), &[]),
        _ => Ok(false),
    }
}

/// Whether `path` is a folder that holds nothing: it may be replaced like a free place.
///
/// # Errors
/// `Io`.
pub fn is_empty_folder(storage: &dyn Storage, path: &Path) -> Result<bool, Error> {
    Ok(look_at(storage, path)? == Place::Folder && storage.count_entries(path)? == 0)
}

/// Checks that a folder of this kind may be written to `path`, and replace one that is there.
///
/// # Errors
/// `MayNotReplace` with what the folder holds; `NoPlace`; `Io`.
pub fn check_folder(storage: &dyn Storage, path: &Path, own: OwnFolder<'_>) -> Result<(), Error> {
    manifest_of(storage, path, own).map(|_| ())
}

/// The manifest of a folder that may be replaced; `None` if nothing is there, or an empty folder.
fn manifest_of(storage: &dyn Storage, path: &Path, own: OwnFolder<'_>) -> Result<Option<String>, Error> {
    let refuse = |holds: String, hint| Err(Error::MayNotReplace { path: path.to_owned(), holds, hint });
    match look_at(storage, path)? {
        Place::Free => check_place(storage, path).map(|()| None),
        Place::Link(target) => refuse(is_a_link(&target), LINK_HINT),
        Place::File => refuse("is a file".to_owned(), ELSEWHERE),
        Place::Other => refuse("is a device or a pipe".to_owned(), ELSEWHERE),
        Place::Folder if storage.count_entries(path)? == 0 => check_replaceable(storage, path).map(|()| None),
        Place::Folder => match (own.contents_of)(storage, path)? {
            Contents::Ours { manifest, foreign } if foreign.is_empty() => {
                check_replaceable(storage, path)?;
                Ok(Some(manifest))
            }
            Contents::Ours { foreign, .. } => refuse(
                format!("holds {} beside {}", shown_names(&foreign), own.what),
                "move those files away, or choose another output",
            ),
            Contents::NotOurs => {
                let entries = foreign_entries(storage, path, &BTreeSet::new())?;
                refuse(format!("is a folder that holds {}, not {}", shown_names(&entries), own.what), ELSEWHERE)
            }
        },
    }
}

const ELSEWHERE: &str = "choose another output, or move it away";

/// A folder that is replaced is renamed and then emptied: what forbids that is asked before the work.
fn check_replaceable(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    match storage.keeps_folder(path)? {
        None => Ok(()),
        Some(why) => Err(no_place(path, why.to_owned())),
    }
}

/// The first three names in back-ticks, separated by commas, and how many more there are.
pub fn shown_names(names: &[String]) -> String {
    let mut text = names.iter().take(MAX_SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > MAX_SHOWN {
        text.push_str(&format!(" and {} more", names.len() - MAX_SHOWN));
    }
    text
}

/// Everything in a folder except the files that `names` lists, as paths below the folder. A link is always foreign,
/// even if `names` lists it.
///
/// # Errors
/// `Io`.
pub fn foreign_entries(storage: &dyn Storage, folder: &Path, names: &BTreeSet<String>) -> Result<Vec<String>, Error> {
    let mut foreign = Vec::new();
    collect_foreign(storage, folder, "", names, &mut foreign)?;
    Ok(foreign)
}

fn collect_foreign(
    storage: &dyn Storage,
    folder: &Path,
    prefix: &str,
    names: &BTreeSet<String>,
    foreign: &mut Vec<String>,
) -> Result<(), Error> {
    let entries = storage.list_folder(folder)?;
    let n_unlisted = storage.count_entries(folder)?.saturating_sub(entries.len());
    if n_unlisted > 0 {
        foreign.push(format!("{prefix}({n_unlisted} with a name that is not Unicode)"));
    }
    for entry in entries {
        let (path, name) = (folder.join(&entry.name), format!("{prefix}{}", entry.name));
        let inside = format!("{name}/");
        match look_at(storage, &path)? {
            Place::File if names.contains(&name) => {}
            Place::Folder if names.iter().any(|listed| listed.starts_with(&inside)) => {
                collect_foreign(storage, &path, &inside, names, foreign)?;
            }
            _ => foreign.push(name),
        }
    }
    Ok(())
}

/// Removes a folder of this kind with all that it holds, the manifest last: what a crash leaves is still recognised as
/// ours.
///
/// # Errors
/// `MayNotReplace` as [`check_folder`], with nothing removed; `Io`.
pub fn remove_own_folder(storage: &dyn Storage, path: &Path, own: OwnFolder<'_>) -> Result<(), Error> {
    // The last step of a removal that a crash interrupted.
    if is_empty_folder(storage, path)? {
        return storage.remove(path);
    }
    let Some(manifest) = manifest_of(storage, path, own)? else { return Ok(()) };
    for entry in storage.list_folder(path)?.iter().filter(|entry| entry.name != manifest) {
        storage.remove(&path.join(&entry.name))?;
    }
    storage.sync_folder(path)?;
    storage.remove(path)
}

/// What a folder with a JSON manifest of `kind` holds beyond `names`.
///
/// # Errors
/// `Io`.
pub fn contents_by_manifest(
    storage: &dyn Storage,
    folder: &Path,
    (manifest, kind): (&str, &str),
    names: &BTreeSet<String>,
) -> Result<Contents, Error> {
    if !is_json_of_kind(storage, &folder.join(manifest), kind)? {
        return Ok(Contents::NotOurs);
    }
    let foreign = foreign_entries(storage, folder, names)?;
    Ok(Contents::Ours { manifest: manifest.to_owned(), foreign })
}

/// Removes what an interrupted attempt left in a stage, if it holds nothing but files of these names.
///
/// # Errors
/// `MayNotReplace` with nothing removed; `Io`.
pub fn clear_stage(storage: &dyn Storage, stage: &Path, names: &BTreeSet<String>) -> Result<(), Error> {
    let refuse = |holds| Err(Error::MayNotReplace { path: stage.to_owned(), holds, hint: STAGE_HINT });
    match look_at(storage, stage)? {
        Place::Free => Ok(()),
        Place::Folder => match foreign_entries(storage, stage, names)? {
            foreign if foreign.is_empty() => storage.remove(stage),
            foreign => refuse(format!("is the staging folder of the output, but holds {}", shown_names(&foreign))),
        },
        Place::Link(target) => refuse(is_a_link(&target)),
        Place::File | Place::Other => refuse("is the staging folder of the output, but is not a folder".to_owned()),
    }
}

/// What to do about something else at the path of a stage.
pub const STAGE_HINT: &str = "move it away, or choose another output";

//! What the server shows: the study of a folder, or those of the folders in it, as they are now.
//!
//! No file is ever served. Pages are made from records, and an address is only compared with the names that a
//! listing gave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thalweg_merge::context::TOOL;
use thalweg_storage::{FileKind, Storage};
use thalweg_study::compare_runs::{RunForecasts, compare_runs};
use thalweg_study::forecast_items::read_items;
use thalweg_study::page::{LivePage, StudyLink, render_links, render_live, render_study, render_waiting};
use thalweg_study::read_study::{StudyFiles, find_studies_below, find_study, read_study};
use thalweg_study::study_answer::answer_text;

use crate::error::Error;

/// What a page says before there is a record.
const NOTHING_YET: [&str; 2] =
    ["Nothing is recorded yet.", "The page will show the first merge as soon as there is one."];
/// Files are looked at this often while a page is open.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// The pages of a folder.
#[derive(Debug)]
pub(crate) struct Site {
    storage: Arc<dyn Storage>,
    folder: PathBuf,
    state: Mutex<State>,
    news: Condvar,
    /// Only one thread checks at a time.
    looking: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct State {
    /// By the name of their folder; the page of the folder itself has the empty name.
    pages: BTreeMap<String, Shown>,
    n_listeners: usize,
    is_closed: bool,
}

#[derive(Debug, Clone)]
struct Shown {
    files: Option<StudyFiles>,
    page: Arc<LivePage>,
    link: StudyLink,
    forecasts: Arc<RunForecasts>,
}

/// Where an address leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A page by its name, and what of it.
    Page(String, String),
    /// The page of a study, which has a slash at its end.
    Slash(String),
    Nowhere,
}

impl Site {
    /// The site of a folder that holds at least one study, or may be empty and `waits` for its first.
    pub(crate) fn open(storage: Arc<dyn Storage>, folder: &Path, waits: Waits) -> Result<Self, Error> {
        let typed = folder;
        if storage.file_info(typed).map_or(true, |info| info.kind != FileKind::Folder) {
            return Err(Error::usage_with_hint(
                format!("`{}` is not a folder", typed.display()),
                "give the folder of a study or of a watcher, or one that holds several of them",
            ));
        }
        let folder = storage.canonical_path(typed)?;
        let (state, news, looking) = (Mutex::default(), Condvar::new(), Mutex::default());
        let site = Self { storage, folder, state, news, looking };
        let has_own = find_study(&*site.storage, &site.folder)?.is_some();
        if waits == Waits::No && !has_own && site.studies_below()?.is_empty() {
            // The error of a folder without a record says what to give.
            read_study(&*site.storage, typed)?;
        }
        site.look()?;
        if waits == Waits::No && has_own && site.n_studies() == 0 {
            // Nothing can be shown: the error says why.
            read_study(&*site.storage, typed)?;
        }
        Ok(site)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many studies are shown.
    pub(crate) fn n_studies(&self) -> usize {
        self.lock().pages.values().filter(|shown| shown.files.is_some()).count()
    }

    fn studies_below(&self) -> Result<Vec<(String, StudyFiles)>, Error> {
        Ok(find_studies_below(&*self.storage, &self.folder)?)
    }

    /// Looks at the folder and makes the pages of what changed. What cannot be read now keeps its page.
    fn look(&self) -> Result<(), Error> {
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if looking.is_some_and(|last| last.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        let before = self.lock().pages.clone();
        let mut pages = BTreeMap::new();
        if let Some(files) = find_study(&*self.storage, &self.folder)? {
            pages.insert(String::new(), self.show(&before, "", files));
        } else {
            for (name, files) in self.studies_below()? {
                let shown = self.show(&before, &name, files);
                pages.insert(name, shown);
            }
            let own = self.show_links(&before, &pages);
            pages.insert(String::new(), own);
        }
        self.lock().pages = pages;
        self.news.notify_all();
        *looking = Some(Instant::now());
        Ok(())
    }

    /// The page of the folder itself, which changes only with the others.
    fn show_links(&self, before: &BTreeMap<String, Shown>, pages: &BTreeMap<String, Shown>) -> Shown {
        let is_known = |(name, shown): (&String, &Shown)| {
            before.get(name).is_some_and(|known| Arc::ptr_eq(&known.page, &shown.page))
        };
        if let Some(known) = before.get("").filter(|known| known.files.is_none())
            && before.len() == pages.len() + 1
            && pages.iter().all(is_known)
        {
            return known.clone();
        }
        let links: Vec<StudyLink> = pages.values().map(|shown| shown.link.clone()).collect();
        let title = self.folder_name();
        let page = if links.is_empty() {
            render_waiting(&title, NOTHING_YET, TOOL)
        } else {
            let forecasts: Vec<RunForecasts> =
                pages.values().map(|shown| RunForecasts::clone(&shown.forecasts)).collect();
            let items_of = |name: &str, end_step: u64| read_items(&*self.storage, &self.folder.join(name), end_step);
            render_links(&title, &links, &compare_runs(&forecasts, &items_of), TOOL)
        };
        let link = StudyLink { name: String::new(), title, answer: String::new() };
        let forecasts = Arc::new(RunForecasts::none(""));
        Shown { files: None, page: Arc::new(page), link, forecasts }
    }

    fn folder_name(&self) -> String {
        self.folder.file_name().map_or_else(|| "studies".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    fn show(&self, before: &BTreeMap<String, Shown>, name: &str, files: StudyFiles) -> Shown {
        let known = before.get(name);
        if let Some(known) = known.filter(|known| known.files.as_ref() == Some(&files)) {
            return known.clone();
        }
        match read_study(&*self.storage, &self.folder.join(name)) {
            Ok(record) => {
                let link =
                    StudyLink { name: name.to_owned(), title: record.title.clone(), answer: answer_text(&record) };
                let forecasts = Arc::new(RunForecasts::of(name, &record));
                Shown { files: Some(files), page: Arc::new(render_live(&record)), link, forecasts }
            }
            Err(error) => known.cloned().unwrap_or_else(|| {
                let title = if name.is_empty() { self.folder_name() } else { name.to_owned() };
                let link = StudyLink { name: name.to_owned(), title: title.clone(), answer: error.to_string() };
                let page = render_waiting(&title, ["The record cannot be read.", &error.to_string()], TOOL);
                Shown { files: None, page: Arc::new(page), link, forecasts: Arc::new(RunForecasts::none(name)) }
            }),
        }
    }

    /// Where a path leads, by the names that exist.
    pub(super) fn find(&self, path: &str) -> Place {
        // A fault of the disk leaves the pages as they were.
        let _ = self.look();
        let state = self.lock();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let known =
            |segment: &str| super::request::percent_decode(segment).filter(|name| state.pages.contains_key(name));
        match segments.as_slice() {
            [of] if !is_part(of) => known(of).filter(|name| !name.is_empty()).map_or(Place::Nowhere, Place::Slash),
            [of] => Place::Page(String::new(), (*of).to_owned()),
            [name, of] if is_part(of) => match known(name).filter(|name| !name.is_empty()) {
                Some(name) => Place::Page(name, (*of).to_owned()),
                None => Place::Nowhere,
            },
            _ => Place::Nowhere,
        }
    }

    pub(super) fn page(&self, name: &str) -> Option<Arc<LivePage>> {
        Some(Arc::clone(&self.lock().pages.get(name)?.page))
    }

    /// The page of a study as one file, made now.
    pub(super) fn saved(&self, name: &str) -> Result<String, Error> {
        Ok(render_study(&read_study(&*self.storage, &self.folder.join(name))?))
    }

    /// Waits until the page of this name is another than the revision; `None` if it is not in time.
    pub(super) fn next_revision(&self, name: &str, seen: Option<&str>, patience: Duration) -> Option<String> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            let now = state.pages.get(name).map(|shown| shown.page.revision.clone());
            if now.is_some() && now.as_deref() != seen {
                return now;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.is_closed {
                return None;
            }
            state = self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Checks again while a client is connected.
    pub(super) fn tick(&self) {
        if self.lock().n_listeners > 0 {
            let _ = self.look();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.news.notify_all();
    }

    pub(super) fn listen(&self) -> Listening<'_> {
        self.lock().n_listeners += 1;
        Listening(self)
    }
}

/// Whether a folder without a record is shown too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    Yes,
    No,
}

/// A client waiting for updates.
#[derive(Debug)]
pub(super) struct Listening<'a>(&'a Site);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.lock().n_listeners -= 1;
    }
}

/// What a page consists of.
fn is_part(name: &str) -> bool {
    use thalweg_study::page::{CONTENT_NAME, EVENTS_NAME, SAVED_NAME, SCRIPT_NAME, STYLE_NAME};
    ["", CONTENT_NAME, EVENTS_NAME, SAVED_NAME, SCRIPT_NAME, STYLE_NAME].contains(&name)
}

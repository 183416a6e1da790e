//! The stage of shares: opened by several processes at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::{LOCK_NAME, OutputLayout, StagedCheckpoint};
use thalweg_storage::guard::{remove_own_folder, shown_names};
use thalweg_storage::{Lock, Storage};
use thalweg_tensor::counted;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use super::Share;
use super::names::{ShareFile, is_share_name, parse_name};
use super::record::ShareRecord;
use crate::context::RunContext;
use crate::error::Error;
use crate::execute_options::{ExecuteOptions, PartialStage};
use crate::journal::{JOURNAL_NAME, Journal, JournalState, StageKey, UnitRecord};
use crate::open_source::OpenSource;
use crate::own::MERGED_FOLDER;
use crate::plan::OutputPlan;
use crate::sealed::{remove_if_there, sealed_receipt};
use crate::stage::{
    StagePlace, StagedOutput, check_names, empty_stage, find_stage, identity_of, join_key, names_of_shares,
    note_lack_of_locks, refuse, stage_names,
};

/// What a share finds.
pub(super) enum Found<'a> {
    /// The output is complete in its stage, and only has to be published.
    Sealed,
    /// The share is done.
    Done(Box<ShareRecord>),
    /// There is work to do.
    Open(Box<StagedOutput<'a>>),
}

/// An output of which a share is done.
#[derive(Clone, Copy)]
pub(super) struct ShareScene<'a> {
    pub(super) output: &'a OutputPlan,
    pub(super) sources: &'a [OpenSource],
    pub(super) layout: &'a Arc<OutputLayout>,
    pub(super) run: &'a RunContext<'a>,
}

impl<'a> ShareScene<'a> {
    pub(super) fn stage(self) -> PathBuf {
        self.storage().stage_path(&self.output.path)
    }

    fn storage(self) -> &'a dyn Storage {
        &*self.run.storage
    }

    /// What all shares of one merge have in common. Sizes and times of the sources are always part of it, so that no
    /// two shares are of different sources.
    pub(super) fn key(self, count: usize) -> Result<StageKey, Error> {
        let reading = bytes_digest(DigestKind::Blake3, format!("shares\0{count}").as_bytes());
        Ok(join_key(&self.output.digest()?, &identity_of(self.output, self.sources), &reading))
    }

    /// Every name that may be in the stage and is ours.
    pub(super) fn known_names(self) -> Result<BTreeSet<String>, Error> {
        let mut names = stage_names(self.output, self.sources, self.layout, self.storage())?;
        names.extend(names_of_shares(self.storage(), &self.stage())?);
        Ok(names)
    }

    /// What a stage holds that is not a share of this work; `None` if all is.
    ///
    /// The key is compared with the journals of `share` and of one other share. By the same rule those agree with all.
    fn foreign(self, share: Share, key: &StageKey) -> Result<Option<Error>, Error> {
        let stage = self.stage();
        let others = |what: String| Ok(Some(Error::ForeignShares { path: stage.clone(), what }));
        let mut compared = false;
        for entry in self.storage().list_folder(&stage)? {
            if entry.name == JOURNAL_NAME {
                return Ok(Some(Error::ForeignStage { path: stage, what: "this or another plan by one process" }));
            }
            let Some((file, found)) = parse_name(&entry.name) else { continue };
            if found.count != share.count {
                return others(format!("{}, not by {}", counted(found.count, "process"), share.count));
            }
            if file == ShareFile::Journal && (found == share || !compared) {
                compared |= found != share;
                if let Some(what) = Journal::foreign_by(self.storage(), &stage.join(&entry.name), key)? {
                    return Ok(Some(Error::ForeignStage { path: stage, what }));
                }
            }
        }
        Ok(None)
    }

    /// Opens the stage for one share among others.
    pub(super) fn open(
        self,
        share: Share,
        files: BTreeSet<usize>,
        options: ExecuteOptions,
    ) -> Result<Found<'a>, Error> {
        let (storage, stage) = (self.storage(), self.stage());
        if sealed_receipt(self.output, storage)?.is_some() {
            return Ok(Found::Sealed);
        }
        if let StagePlace::Sealed = find_stage(storage, self.output, options)? {
            remove_own_folder(storage, &stage, MERGED_FOLDER)?;
        }
        let key = self.key(share.count)?;
        let together = self.lock_together(share, &key, options)?;
        note_lack_of_locks(&together, &stage, self.run);
        let alone = storage.lock(&ShareFile::Lock.path(&stage, share))?;
        self.check_strangers()?;
        if options.partial == PartialStage::Discard {
            remove_if_there(storage, &ShareFile::Record.path(&stage, share))?;
            remove_if_there(storage, &ShareFile::Journal.path(&stage, share))?;
        }
        if let Some(record) = ShareRecord::read(storage, &stage, share, &key)? {
            if self.has_files(&files)? {
                return Ok(Found::Done(Box::new(record)));
            }
            // Its work is not there any more; what is left of it is in the journal.
            remove_if_there(storage, &ShareFile::Record.path(&stage, share))?;
        }
        let (journal, found) = self.open_journal(share, &key)?;
        // A journal of another work may have come at the same time: then neither begins.
        if let Some(error) = self.foreign(share, &key)? {
            drop(journal);
            remove_if_there(storage, &ShareFile::Journal.path(&stage, share))?;
            return Err(error);
        }
        let staged = StagedCheckpoint::open_together(&self.run.storage, &stage, Arc::clone(self.layout), files)?;
        Ok(Found::Open(Box::new(StagedOutput {
            plan: self.output,
            staged,
            journal: Some(journal),
            found,
            plan_digest: self.output.digest()?,
            leftovers: BTreeSet::new(),
            _locks: vec![together, alone],
        })))
    }

    /// Refuses a stage with files that are not ours. Other shares make and rename theirs meanwhile, so it is listed
    /// once, and their files are known by their names.
    fn check_strangers(self) -> Result<(), Error> {
        let (storage, stage) = (self.storage(), self.stage());
        let known = stage_names(self.output, self.sources, self.layout, storage)?;
        let is_known = |name: &str| {
            let inside = format!("{name}/");
            is_share_name(name) || known.iter().any(|known| known == name || known.starts_with(&inside))
        };
        let strangers: Vec<String> = storage.list_folder(&stage)?.into_iter().map(|entry| entry.name).collect();
        let strangers: Vec<String> = strangers.into_iter().filter(|name| !is_known(name)).collect();
        match &*strangers {
            [] => Ok(()),
            _ => Err(refuse(&stage, format!("is an interrupted merge, but also holds {}", shown_names(&strangers)))),
        }
    }

    /// The stage's lock, shared. A stage of another work is refused, or emptied if that was asked for.
    fn lock_together(self, share: Share, key: &StageKey, options: ExecuteOptions) -> Result<Lock, Error> {
        let (storage, stage) = (self.storage(), self.stage());
        storage.create_folder(&stage)?;
        let lock = storage.lock_shared(&stage.join(LOCK_NAME))?;
        // The stage, and the lock by which it is recognised, are durable before anything in it: so they are if a share
        // has its journal there.
        if !self.has_journals()? {
            storage.sync_folder(&stage)?;
            storage.sync_folder(stage.parent().unwrap_or(Path::new("/")))?;
        }
        let Some(error) = self.foreign(share, key)? else { return Ok(lock) };
        if options.partial == PartialStage::Resume {
            return Err(error);
        }
        drop(lock);
        let alone = storage.lock(&stage.join(LOCK_NAME))?;
        // Another share may have emptied it in between.
        if self.foreign(share, key)?.is_some() {
            let mut known = self.known_names()?;
            known.extend(Journal::listed_names(storage, &stage.join(JOURNAL_NAME))?);
            check_names(storage, &stage, &known)?;
            empty_stage(storage, &stage)?;
            storage.sync_folder(&stage)?;
        }
        drop(alone);
        Ok(storage.lock_shared(&stage.join(LOCK_NAME))?)
    }

    fn has_journals(self) -> Result<bool, Error> {
        let is_journal = |name: &str| parse_name(name).is_some_and(|(file, _)| file == ShareFile::Journal);
        Ok(self.storage().list_folder(&self.stage())?.iter().any(|entry| is_journal(&entry.name)))
    }

    fn open_journal(self, share: Share, key: &StageKey) -> Result<(Journal, Vec<UnitRecord>), Error> {
        let (storage, stage) = (self.storage(), self.stage());
        let path = ShareFile::Journal.path(&stage, share);
        if let (JournalState::Ours(journal, found), _) = Journal::open(storage, &path, key)? {
            return Ok((journal, found));
        }
        remove_if_there(storage, &path)?;
        let names = stage_names(self.output, self.sources, self.layout, storage)?;
        let journal = Journal::create(storage, &path, key, &names)?;
        storage.sync_folder(&stage)?;
        Ok((journal, Vec::new()))
    }

    /// Whether files of these numbers are in the stage with their lengths.
    pub(super) fn has_files(self, files: &BTreeSet<usize>) -> Result<bool, Error> {
        for &file_idx in files {
            if !self.has_file(file_idx)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn has_file(self, file_idx: usize) -> Result<bool, Error> {
        let Some(file) = self.layout.files().get(file_idx) else { return Ok(false) };
        match self.storage().file_info(&self.stage().join(&file.name)) {
            Err(error) if error.is_not_found() => Ok(false),
            info => Ok(info?.len_bytes == file.len_bytes),
        }
    }

    /// The numbers of shares that have no record, by the names in the stage alone.
    pub(super) fn without_record(self, count: usize) -> Result<Vec<usize>, Error> {
        let entries = self.storage().list_folder(&self.stage())?;
        let recorded: BTreeSet<usize> = entries
            .iter()
            .filter_map(|entry| parse_name(&entry.name))
            .filter(|(file, share)| *file == ShareFile::Record && share.count == count)
            .map(|(_, share)| share.index)
            .collect();
        Ok((0..count).filter(|index| !recorded.contains(index)).collect())
    }
}

//! Checkpoints that stay open: however many plans name one, its headers are read once.
//!
//! A checkpoint whose files changed since is opened again, so a pool never serves stale headers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thalweg_storage::Storage;

use crate::open::open_all_with_cache;
use crate::{CatalogCache, Checkpoint, Error, ReadOptions};

/// Open checkpoints by path and read options.
///
/// # Example
/// ```no_run
/// # fn example(storage: &std::sync::Arc<dyn thalweg_storage::Storage>) -> Result<(), thalweg_checkpoint::Error> {
/// let (pool, plain) = (thalweg_checkpoint::CheckpointPool::new(storage), thalweg_checkpoint::ReadOptions::default());
/// let first = pool.open("run/step-80".as_ref(), &plain)?;
/// assert!(std::sync::Arc::ptr_eq(&first, &pool.open("run/step-80".as_ref(), &plain)?));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CheckpointPool {
    storage: Arc<dyn Storage>,
    cache: Arc<CatalogCache>,
    open: Mutex<BTreeMap<PoolKey, Arc<Checkpoint>>>,
}

/// A path, and the read options as text.
type PoolKey = (PathBuf, String);

fn key_of(path: &Path, options: &ReadOptions) -> PoolKey {
    (path.to_owned(), format!("{options:?}"))
}

impl CheckpointPool {
    /// A pool without a checkpoint.
    pub fn new(storage: &Arc<dyn Storage>) -> Self {
        Self { storage: Arc::clone(storage), cache: Arc::default(), open: Mutex::default() }
    }

    /// What its checkpoints share, for others that open the same ones.
    pub fn cache(&self) -> &Arc<CatalogCache> {
        &self.cache
    }

    /// The open checkpoint at `path`, opened now if needed.
    ///
    /// # Errors
    /// As [`crate::open_checkpoint`].
    pub fn open(&self, path: &Path, options: &ReadOptions) -> Result<Arc<Checkpoint>, Error> {
        let opened = self.open_all(&[path.to_owned()], options).pop();
        // One path gives one result.
        opened.unwrap_or_else(|| {
            Err(Error::NotACheckpoint { path: path.to_owned(), found: String::new(), converter: None })
        })
    }

    /// The open checkpoints at `paths`, in their order; those that are not open yet are opened a few at a time.
    pub fn open_all(&self, paths: &[PathBuf], options: &ReadOptions) -> Vec<Result<Arc<Checkpoint>, Error>> {
        let known: Vec<Option<Arc<Checkpoint>>> = paths.iter().map(|path| self.known(path, options)).collect();
        let missing: Vec<PathBuf> =
            paths.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(path, _)| path.clone()).collect();
        let mut opened = open_all_with_cache(&self.storage, &missing, options, &self.cache).into_iter();
        let take = |(path, known): (&PathBuf, Option<Arc<Checkpoint>>)| match known {
            Some(checkpoint) => Some(Ok(checkpoint)),
            None => Some(opened.next()?.map(|checkpoint| self.keep(path, options, checkpoint))),
        };
        paths.iter().zip(known).filter_map(take).collect()
    }

    fn known(&self, path: &Path, options: &ReadOptions) -> Option<Arc<Checkpoint>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Without codes, a checkpoint is the same whether it was to be dequantised or not.
        let other = ReadOptions { dequantise: !options.dequantise, ..options.clone() };
        let alike = || open.get(&key_of(path, &other)).filter(|known| known.block_scaled().is_none());
        let known = open.get(&key_of(path, options)).or_else(alike).cloned()?;
        drop(open);
        known.check_unchanged().is_ok().then_some(known)
    }

    fn keep(&self, path: &Path, options: &ReadOptions, checkpoint: Checkpoint) -> Arc<Checkpoint> {
        let checkpoint = Arc::new(checkpoint);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(key_of(path, options), Arc::clone(&checkpoint));
        checkpoint
    }
}

//! Equal catalogs are kept once, and equal headers are parsed once: the checkpoints of one run hold the same
//! tensors at the same places.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use thalweg_tensor::TensorCatalog;

use crate::Note;

/// Most distributed checkpoints whose metadata is kept. That of a model of 70 billion parameters takes 1 MB, and 5 MB
/// more if its catalog is like no other.
const MAX_METADATA: usize = 24;

/// What a set of headers was found to say.
#[derive(Debug, Clone, Default)]
pub struct KnownHeaders {
    /// The tensors.
    pub catalog: Arc<TensorCatalog>,
    /// Remarks of the first header.
    pub metadata: BTreeMap<String, String>,
    /// What to tell the user about the index.
    pub notes: Vec<Note>,
    /// Header fields that the format does not define: number of the file, and the first such field.
    pub unknown_fields: Vec<(usize, String)>,
}

/// Catalogs seen so far, found by hash and then compared; and headers, found by their BLAKE3 digests.
///
/// # Example
/// ```
/// use std::sync::Arc;
/// use thalweg_checkpoint::CatalogCache;
/// use thalweg_tensor::TensorCatalog;
///
/// let cache = CatalogCache::default();
/// let first = cache.share(TensorCatalog::default());
/// assert!(Arc::ptr_eq(&first, &cache.share(TensorCatalog::default())));
/// ```
#[derive(Debug, Default)]
pub struct CatalogCache {
    catalogs: Mutex<BTreeMap<u64, Vec<Weak<TensorCatalog>>>>,
    headers: Mutex<BTreeMap<String, KnownHeaders>>,
    /// What the metadata read last says, by fingerprint, the newest last.
    metadata: Mutex<VecDeque<(String, Arc<dyn Any + Send + Sync>)>>,
    turns: [Mutex<()>; 2],
    next_turn: AtomicUsize,
}

impl CatalogCache {
    /// The catalog in use that equals this one, or this one.
    pub fn share(&self, catalog: TensorCatalog) -> Arc<TensorCatalog> {
        // This hasher's keys are fixed; where two catalogs collide, the comparison decides.
        let mut hasher = DefaultHasher::new();
        catalog.entries().hash(&mut hasher);
        let mut catalogs = self.catalogs.lock().unwrap_or_else(PoisonError::into_inner);
        let equals = catalogs.entry(hasher.finish()).or_default();
        if let Some(equal) = equals.iter().filter_map(Weak::upgrade).find(|known| **known == catalog) {
            return equal;
        }
        let kept = Arc::new(catalog);
        equals.retain(|known| known.strong_count() > 0);
        equals.push(Arc::downgrade(&kept));
        kept
    }

    /// Waits for one of two turns: at most two threads read metadata that takes many times its length in memory.
    pub(crate) fn take_turn(&self) -> MutexGuard<'_, ()> {
        let turn = self.next_turn.fetch_add(1, Ordering::Relaxed) % self.turns.len();
        self.turns[turn].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What headers with this fingerprint say, if such were read before.
    ///
    /// The fingerprint holds all that the result depends on: names, lengths, and collision-free digests of texts.
    pub fn recall(&self, fingerprint: &str) -> Option<KnownHeaders> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).get(fingerprint).cloned()
    }

    /// What metadata of a distributed checkpoint with this fingerprint says, as [`CatalogCache::recall`].
    pub(crate) fn recall_metadata<T: Any + Send + Sync>(&self, fingerprint: &str) -> Option<Arc<T>> {
        let known = self.metadata.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(of, _)| of == fingerprint).and_then(|(_, known)| Arc::clone(known).downcast().ok())
    }

    /// Keeps what metadata with this fingerprint says, in the words of its format, and no more than [`MAX_METADATA`] of
    /// them.
    pub(crate) fn remember_metadata<T: Any + Send + Sync>(&self, fingerprint: String, known: &Arc<T>) {
        let mut all = self.metadata.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_METADATA {
            all.pop_front();
        }
        let known: Arc<dyn Any + Send + Sync> = Arc::<T>::clone(known);
        all.push_back((fingerprint, known));
    }

    /// Keeps what headers with this fingerprint say.
    pub fn remember(&self, fingerprint: String, known: KnownHeaders) {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).insert(fingerprint, known);
    }
}

//! Equal catalogs are kept once: the checkpoints of one run hold the same tensors at the same places.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use thalweg_tensor::TensorCatalog;

/// Catalogs seen so far, found by hash and then compared.
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
    seen: Mutex<BTreeMap<u64, Vec<Arc<TensorCatalog>>>>,
}

impl CatalogCache {
    /// The kept catalog that equals this one, or this one, which is kept from now on.
    pub fn share(&self, catalog: TensorCatalog) -> Arc<TensorCatalog> {
        // This hasher's keys are fixed; where two catalogs collide, the comparison decides.
        let mut hasher = DefaultHasher::new();
        catalog.entries().hash(&mut hasher);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let equals = seen.entry(hasher.finish()).or_default();
        if let Some(equal) = equals.iter().find(|known| ***known == catalog) {
            return Arc::clone(equal);
        }
        let kept = Arc::new(catalog);
        equals.push(Arc::clone(&kept));
        kept
    }
}

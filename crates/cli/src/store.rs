//! The storage of the program: the local disk and, with the feature `cloud`, object stores by their variables.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thalweg_storage::Storage;

/// What all commands read from and write to. Setting `interrupt` ends every wait for a store.
#[cfg(feature = "cloud")]
pub(crate) fn open_storage(interrupt: &Arc<AtomicBool>) -> Arc<dyn Storage> {
    Arc::new(routed_storage(interrupt))
}

/// What all commands read from and write to. Setting `interrupt` ends every wait for a store.
#[cfg(not(feature = "cloud"))]
pub(crate) fn open_storage(_interrupt: &Arc<AtomicBool>) -> Arc<dyn Storage> {
    Arc::new(thalweg_storage::LocalStorage::new())
}

/// The storage that reads addresses, with the variables of this process. Setting `interrupt` ends every wait for a
/// store.
#[cfg(feature = "cloud")]
pub(crate) fn routed_storage(interrupt: &Arc<AtomicBool>) -> thalweg_storage::RoutedStorage {
    let settings = thalweg_storage::CloudSettings::from_variables(std::env::vars_os(), &std::env::temp_dir());
    thalweg_storage::RoutedStorage::new(thalweg_storage::CloudSettings { interrupt: Arc::clone(interrupt), ..settings })
}

//! The storage of the program: the local disk and, with the feature `cloud`, object stores by their variables.

use std::sync::Arc;

use thalweg_storage::Storage;

/// What all commands read from and write to.
#[cfg(feature = "cloud")]
pub(crate) fn open_storage() -> Arc<dyn Storage> {
    Arc::new(routed_storage())
}

/// What all commands read from and write to.
#[cfg(not(feature = "cloud"))]
pub(crate) fn open_storage() -> Arc<dyn Storage> {
    Arc::new(thalweg_storage::LocalStorage::new())
}

/// The storage that reads addresses, with the variables of this process.
#[cfg(feature = "cloud")]
pub(crate) fn routed_storage() -> thalweg_storage::RoutedStorage {
    let settings = thalweg_storage::CloudSettings::from_variables(std::env::vars_os(), &std::env::temp_dir());
    thalweg_storage::RoutedStorage::new(settings)
}

//! The storage of the program: the local disk and, with the feature `cloud`, object stores by their variables.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thalweg_storage::Storage;

use crate::messages::Notes;

/// What all commands read from and write to. Setting `interrupt` ends every wait for a store.
#[cfg(feature = "cloud")]
pub(crate) fn open_storage(interrupt: &Arc<AtomicBool>, notes: Notes) -> Arc<dyn Storage> {
    Arc::new(routed_storage(interrupt, notes))
}

/// What all commands read from and write to.
#[cfg(not(feature = "cloud"))]
pub(crate) fn open_storage(_interrupt: &Arc<AtomicBool>, _notes: Notes) -> Arc<dyn Storage> {
    Arc::new(thalweg_storage::LocalStorage::new())
}

/// The storage that reads addresses, with the variables of this process. Setting `interrupt` ends every wait for a
/// store.
#[cfg(feature = "cloud")]
pub(crate) fn routed_storage(interrupt: &Arc<AtomicBool>, notes: Notes) -> thalweg_storage::RoutedStorage {
    use thalweg_storage::{CloudSettings, RoutedStorage};

    let settings = CloudSettings::from_variables(std::env::vars_os(), &std::env::temp_dir());
    RoutedStorage::new(CloudSettings { interrupt: Arc::clone(interrupt), waits: wait_notes(notes), ..settings })
}

/// Says what a store or a hub is waited for.
#[cfg(feature = "cloud")]
pub(crate) fn wait_notes(notes: Notes) -> thalweg_storage::WaitNotes {
    thalweg_storage::WaitNotes::new(move |text| notes.note(text))
}

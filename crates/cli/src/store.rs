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
    use std::time::Duration;

    /// Prefixes of the variables that say where stores are, and who we are to them.
    const PREFIXES: [&str; 4] = ["AWS_", "GOOGLE_", "AZURE_", "STORAGE_EMULATOR_HOST"];
    const DEFAULT_RETRY_SECONDS: u64 = 120;

    let is_meant = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let named = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let variables: Vec<(String, String)> = named.filter(|(name, _)| is_meant(name)).collect();
    let seconds = std::env::var("THALWEG_RETRY_SECONDS").ok().and_then(|text| text.trim().parse().ok());
    thalweg_storage::RoutedStorage::new(thalweg_storage::CloudSettings {
        variables,
        staging: staging_folder(),
        give_up_after: Duration::from_secs(seconds.unwrap_or(DEFAULT_RETRY_SECONDS)),
    })
}

/// Where outputs are written before they are uploaded: `THALWEG_STAGING`, or a folder of this user among the temporary
/// ones. The same command finds it again after a kill.
#[cfg(feature = "cloud")]
fn staging_folder() -> std::path::PathBuf {
    match std::env::var_os("THALWEG_STAGING").filter(|folder| !folder.is_empty()) {
        Some(folder) => std::path::absolute(&folder).unwrap_or_else(|_| folder.into()),
        None => std::env::temp_dir().join(format!("thalweg-staging-{}", rustix::process::getuid().as_raw())),
    }
}

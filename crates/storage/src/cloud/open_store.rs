//! From an address to a client of its store, by the usual variables.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::CloudSettings;
use super::fault::Fault;
use super::key::Location;
use super::patient::PatientConnector;
use crate::address::StoreKind;
use crate::error::{Error, RemoteFault};

/// A store, and how it takes uploads in parts.
pub(super) struct OpenStore {
    pub(super) store: Arc<dyn ObjectStore>,
    /// `None` where nothing can be written.
    pub(super) parts: Option<Arc<dyn MultipartStore>>,
}

/// Few, because `Remote` tries again by the clock.
fn retries(settings: &CloudSettings) -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(50), max_backoff: Duration::from_secs(2), base: 2.0 };
    RetryConfig { backoff, max_retries: 3, retry_timeout: settings.give_up_after }
}

fn client_options(uses_http: bool) -> ClientOptions {
    // A large part over a slow line takes long: only silence is an error.
    ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout(Duration::from_secs(20))
        .with_connect_timeout(Duration::from_secs(5))
        .with_allow_http(uses_http)
        .with_pool_max_idle_per_host(64)
}

fn patient(location: &Location, settings: &CloudSettings) -> PatientConnector {
    PatientConnector::new(&location.root(), &settings.waits)
}

/// Variables that begin with one of `prefixes`, as the builders name them.
fn variables<'a>(settings: &'a CloudSettings, prefixes: &[&str]) -> BTreeMap<String, &'a str> {
    let is_meant = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let named = settings.variables.iter().filter(|(name, value)| is_meant(name) && !value.is_empty());
    named.map(|(name, value)| (name.to_ascii_lowercase(), &**value)).collect()
}

/// Opens the store of a location.
///
/// # Errors
/// `Remote` with `Settings` if its variables are missing or wrong.
pub(super) fn open_store(location: &Location, settings: &CloudSettings) -> Result<OpenStore, Error> {
    // The first of the process decides; a second call finds one and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root = location.root();
    let opened = match location.scheme {
        StoreKind::S3 => open_s3(location, settings),
        StoreKind::Google => open_google(location, settings),
        StoreKind::Azure => open_azure(location, settings),
        StoreKind::Http | StoreKind::Https => open_http(location, settings),
    };
    opened.map_err(|error| {
        let what = error.to_string();
        // The text of a builder names a variable or a part of the configuration, but might repeat its value.
        let values = settings.variables.iter().map(|(_, value)| &**value);
        let mut values = values.clone().chain(values.flat_map(|value| read_connection(value).map(|(_, part)| part)));
        let secret = values.any(|value| value.len() >= 4 && what.contains(value));
        let what = if secret { "an environment variable of the store has an invalid value".to_owned() } else { what };
        Fault::new(RemoteFault::Settings, what).into_error("open", Path::new(&root))
    })
}

fn both<S: ObjectStore + MultipartStore>(store: S) -> OpenStore {
    let store = Arc::new(store);
    OpenStore { store: Arc::<S>::clone(&store), parts: Some(store) }
}

fn open_s3(location: &Location, settings: &CloudSettings) -> object_store::Result<OpenStore> {
    let variables = variables(settings, &["AWS_"]);
    let mut builder = AmazonS3Builder::new();
    for (name, value) in &variables {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, *value);
        }
    }
    // The variable for this one service comes before the one for all.
    let endpoint = variables.get("aws_endpoint_url_s3").or(variables.get("aws_endpoint_url")).copied();
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let uses_http = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let store = builder
        .with_bucket_name(&location.bucket)
        .with_client_options(client_options(uses_http))
        .with_retry(retries(settings))
        .with_http_connector(patient(location, settings))
        .build()?;
    Ok(both(store))
}

/// Variables that give the client a token to send.
const GOOGLE_CREDENTIALS: [&str; 5] = [
    "google_application_credentials",
    "google_bearer_token",
    "google_service_account",
    "google_service_account_key",
    "google_service_account_path",
];

fn open_google(location: &Location, settings: &CloudSettings) -> object_store::Result<OpenStore> {
    let variables = variables(settings, &["GOOGLE_", "STORAGE_EMULATOR_HOST"]);
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in &variables {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, *value);
        }
    }
    let emulator = variables.get("storage_emulator_host").copied();
    if let Some(host) = emulator {
        let url = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
        builder = builder.with_base_url(url.trim_end_matches('/'));
        if !variables.keys().any(|name| GOOGLE_CREDENTIALS.contains(&&**name)) {
            // Without a token the client asks one of a server that only machines of the provider reach; to skip
            // signatures spares it that for reads, but not for writes.
            builder = builder.with_bearer_token("emulator");
        }
    }
    let store = builder
        .with_bucket_name(&location.bucket)
        .with_client_options(client_options(emulator.is_some()))
        .with_retry(retries(settings))
        .with_http_connector(patient(location, settings))
        .build()?;
    Ok(both(store))
}

fn open_azure(location: &Location, settings: &CloudSettings) -> object_store::Result<OpenStore> {
    let mut variables = variables(settings, &["AZURE_"]);
    let connection = variables.get("azure_storage_connection_string").copied().unwrap_or_default();
    // What is said by itself comes before the same in the connection string.
    for (name, value) in read_connection(connection) {
        variables.entry(name.to_owned()).or_insert(value);
    }
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in &variables {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, *value);
        }
    }
    let endpoint = variables.get("azure_storage_endpoint").or(variables.get("azure_endpoint"));
    let uses_http = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let store = builder
        .with_container_name(&location.bucket)
        .with_client_options(client_options(uses_http))
        .with_retry(retries(settings))
        .with_http_connector(patient(location, settings))
        .build()?;
    Ok(both(store))
}

/// The variables that a connection string of Azure stands for. It is `NAME=VALUE;NAME=VALUE`, in which values may hold
/// `=`.
fn read_connection(text: &str) -> impl Iterator<Item = (&'static str, &str)> {
    text.split(';').filter_map(|part| part.split_once('=')).filter_map(|(name, value)| {
        let variable = match name.trim().to_ascii_lowercase().as_str() {
            "accountname" => "azure_storage_account_name",
            "accountkey" => "azure_storage_account_key",
            "blobendpoint" => "azure_storage_endpoint",
            "sharedaccesssignature" => "azure_storage_sas_token",
            "usedevelopmentstorage" => "azure_storage_use_emulator",
            _ => return None,
        };
        Some((variable, value.trim()))
    })
}

fn open_http(location: &Location, settings: &CloudSettings) -> object_store::Result<OpenStore> {
    let root = location.root();
    let store = HttpBuilder::new()
        .with_url(&root)
        .with_client_options(client_options(root.starts_with("http://")))
        .with_retry(retries(settings))
        .with_http_connector(patient(location, settings))
        .build()?;
    Ok(OpenStore { store: Arc::new(store), parts: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_read_as_variables() {
        let text = "DefaultEndpointsProtocol=http;AccountName=me;AccountKey=a2V5==;\
                    BlobEndpoint=http://127.0.0.1:10000/me;";
        let found: BTreeMap<&str, &str> = read_connection(text).collect();
        assert_eq!(found["azure_storage_account_key"], "a2V5==");
        assert_eq!(found["azure_storage_endpoint"], "http://127.0.0.1:10000/me");
        assert_eq!((found["azure_storage_account_name"], found.len()), ("me", 3));
        assert_eq!(read_connection("UseDevelopmentStorage=true").next(), Some(("azure_storage_use_emulator", "true")));
    }

    fn open(variables: &[(&str, &str)], address: &str) -> Result<OpenStore, Error> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let settings = CloudSettings {
            variables,
            staging: std::path::PathBuf::new(),
            give_up_after: Duration::from_secs(1),
            interrupt: Arc::default(),
            waits: super::super::WaitNotes::default(),
        };
        open_store(&Location::parse(Path::new(address))?.unwrap(), &settings)
    }

    #[test]
    fn a_wrong_connection_string_is_not_repeated() {
        let secret = "AccountName=me;AccountKey=not-base-64-!;BlobEndpoint=http://127.0.0.1:1/me";
        let Err(error) = open(&[("AZURE_STORAGE_CONNECTION_STRING", secret)], "az://container/x") else {
            panic!("the key is not valid")
        };
        assert!(!format!("{error} {error:?}").contains("not-base-64-!"), "{error:?}");
    }
}

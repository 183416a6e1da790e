//! An HTTP client that waits as long as a busy store asks it to, before the answer is counted as a failure.

use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use super::wait_notes::{QUIET, WaitNotes};

/// The longest wait that a store may ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Makes patient clients.
#[derive(Debug)]
pub(super) struct PatientConnector {
    inner: ReqwestConnector,
    place: WaitPlace,
}

/// The store that is waited for, and where that is noted.
#[derive(Debug, Clone)]
struct WaitPlace {
    store: String,
    waits: WaitNotes,
}

impl PatientConnector {
    pub(super) fn new(root: &str, waits: &WaitNotes) -> Self {
        let place = WaitPlace { store: format!("`{root}`"), waits: waits.clone() };
        Self { inner: ReqwestConnector::default(), place }
    }
}

impl HttpConnector for PatientConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(PatientService { inner: self.inner.connect(options)?, place: self.place.clone() }))
    }
}

#[derive(Debug)]
struct PatientService {
    inner: HttpClient,
    place: WaitPlace,
}

#[async_trait::async_trait]
impl HttpService for PatientService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.inner.execute(request).await?;
        if matches!(response.status().as_u16(), 429 | 503)
            && let Some(wait) = response.headers().get("retry-after")
            && let Some(seconds) = wait.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok())
        {
            let wait = Duration::from_secs(seconds).min(MAX_WAIT);
            if wait >= QUIET {
                let cause = format!("the store responded with {} and asks to wait", response.status().as_u16());
                self.place.waits.add(&self.place.store, &cause, &format!("continuing in {} s", wait.as_secs()));
            }
            tokio::time::sleep(wait).await;
        }
        Ok(response)
    }
}

//! An HTTP client that waits as long as a busy store asks it to, before the answer is counted as a failure.

use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// The longest wait that a store may ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Makes patient clients.
#[derive(Debug, Default)]
pub(super) struct PatientConnector(ReqwestConnector);

impl HttpConnector for PatientConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(PatientService(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct PatientService(HttpClient);

#[async_trait::async_trait]
impl HttpService for PatientService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.execute(request).await?;
        if matches!(response.status().as_u16(), 429 | 503)
            && let Some(wait) = response.headers().get("retry-after")
            && let Some(seconds) = wait.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok())
        {
            tokio::time::sleep(Duration::from_secs(seconds).min(MAX_WAIT)).await;
        }
        Ok(response)
    }
}

//! An address that something is sent to.

use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

use crate::error::BadInput;

/// Time one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// An address that something is sent to; its secrets are never shown.
#[derive(Clone)]
pub(super) struct Target {
    client: reqwest::Client,
    url: Url,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.origin())
    }
}

impl Target {
    /// Checks the address of that name.
    ///
    /// # Errors
    /// It is no http or https address, or there is no TLS to be had.
    pub(super) fn new(name: &str, url: &str) -> Result<Target, BadInput> {
        let bad =
            |what: &str| BadInput::new(format!("the address of {name} {what}"), "give a whole http or https URL");
        let url = Url::parse(url).map_err(|error| bad(&format!("cannot be read ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(bad("is not http or https"));
        }
        let client = crate::http::client(CALL_LIMIT)
            .map_err(|error| bad(&format!("cannot be used ({})", error.without_url())))?;
        Ok(Target { client, url })
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    /// The address with `path` appended to its own path.
    fn below(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        let whole = format!("{}/{}", url.path().trim_end_matches('/'), path);
        url.set_path(whole.trim_end_matches('/'));
        url
    }

    /// Posts JSON to `path` below the address.
    pub(super) async fn post_json(&self, path: &str, body: &Value) -> Result<(), String> {
        self.answer(self.client.post(self.below(path)).json(body)).await
    }

    /// Posts text to `path` below the address.
    pub(super) async fn post_text(&self, path: &str, body: String) -> Result<(), String> {
        self.answer(self.client.post(self.below(path)).body(body)).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<(), String> {
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("{} answered {}", self.origin(), answer.status())),
            Err(error) => Err(format!("{}: {}", self.origin(), crate::error::chain(&error.without_url()))),
        }
    }
}

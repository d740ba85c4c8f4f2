//! One HTTP client an endpoint, and one POST; shared with the push of metrics.

use std::path::Path;
use std::sync::Arc;

use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Certificate, Identity, redirect};

pub(crate) use super::answer::Answer;
use super::config::Endpoint;
use crate::error;
use crate::telemetry::exporter::ExportError;
use crate::telemetry::exporter::web::{self, Called, Heard};

/// Longest answer that is read, bytes: the limit of the OTLP specification.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Largest PEM file that is read, bytes.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// What to do about a certificate that is not trusted.
const CERTIFICATE: &str = "name the PEM file of the receiver's authority in OTEL_EXPORTER_OTLP_CERTIFICATE, and check \
                           the host in the endpoint";
/// Who we are.
const USER_AGENT: &str = concat!("dogwatch/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust");

/// An endpoint and, once it was needed, its client.
pub(crate) struct Poster {
    signal: &'static str,
    endpoint: Arc<Endpoint>,
    client: Option<(reqwest::Client, HeaderMap)>,
}

/// A client that can be used.
#[derive(Clone)]
pub(crate) struct Ready {
    pub(crate) signal: &'static str,
    endpoint: Arc<Endpoint>,
    client: reqwest::Client,
    headers: HeaderMap,
}

impl Poster {
    pub(crate) fn new(signal: &'static str, endpoint: Endpoint) -> Poster {
        Poster { signal, endpoint: Arc::new(endpoint), client: None }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The client; it is made where there is none, so that a file that was missing is looked for
    /// again.
    pub(crate) fn ready(&mut self) -> Result<Ready, ExportError> {
        let (client, headers) = match &self.client {
            Some(both) => both.clone(),
            None => self.client.insert((client(&self.endpoint)?, headers(&self.endpoint)?)).clone(),
        };
        Ok(Ready { signal: self.signal, endpoint: Arc::clone(&self.endpoint), client, headers })
    }
}

impl Ready {
    /// Posts a protobuf body and reads the answer. An error: there was none.
    pub(crate) async fn post(&self, body: Body, is_gzip: bool) -> Result<Answer, ExportError> {
        let mut request = self
            .client
            .post(self.endpoint.url.clone())
            .timeout(self.endpoint.timeout)
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if is_gzip {
            request = request.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let response = request.body(body).send().await.map_err(|error| self.no_answer(error))?;
        let heard = web::hear(response, ANSWER_BYTES_MAX).await.map_err(|error| self.no_answer(error))?;
        let Heard { status, retry_after, content_type, body, is_cut } = heard;
        let endpoint = Arc::clone(&self.endpoint);
        let redact = Box::new(move |text: &str| endpoint.redact(text));
        Ok(Answer { status, retry_after, content_type, body, is_cut, redact })
    }

    fn no_answer(&self, error: reqwest::Error) -> ExportError {
        let redact = |text: &str| self.endpoint.redact(text);
        let called = Called {
            place: &self.endpoint.public_url(),
            redact: &redact,
            unusable: "check the endpoint and its headers",
            untrusted: CERTIFICATE,
        };
        called.no_answer(error)
    }
}

fn client(endpoint: &Endpoint) -> Result<reqwest::Client, ExportError> {
    // An error means that the host has chosen a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(redirect::Policy::none())
        .connect_timeout(web::CONNECT_TIMEOUT)
        .pool_idle_timeout(web::IDLE_TIMEOUT);
    if endpoint.is_loopback() {
        builder = builder.no_proxy();
    }
    if let Some(path) = &endpoint.certificate {
        let certificates =
            Certificate::from_pem_bundle(&pem(path)?).map_err(|error| not_pem(path, &error::chain(&error)))?;
        if certificates.is_empty() {
            return Err(not_pem(path, &"it holds no certificate"));
        }
        builder = builder.tls_certs_only(certificates);
    } else if endpoint.url.scheme() == "http" {
        // The system's certificates are looked for only where they are needed, so that an image
        // without any can speak to a collector beside it.
        builder = builder.tls_certs_only([]);
    }
    if let Some((certificate, key)) = &endpoint.identity {
        let both = [pem(certificate)?, pem(key)?].join(&b'\n');
        builder = builder
            .identity(Identity::from_pem(&both).map_err(|error| not_pem(certificate, &error::chain(&error)))?);
    }
    builder.build().map_err(|error| ExportError::Blocked {
        detail: format!("no HTTP client: {}", error::chain(&error)),
        remedy: "install the system's CA certificates, or name a PEM file in OTEL_EXPORTER_OTLP_CERTIFICATE"
            .to_owned(),
    })
}

fn headers(endpoint: &Endpoint) -> Result<HeaderMap, ExportError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &endpoint.headers {
        let pair = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
        let Some((name, mut value)) = pair else {
            return Err(ExportError::Blocked {
                detail: format!("header {name:?} has characters that a request cannot carry"),
                remedy: "correct OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
            });
        };
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn pem(path: &Path) -> Result<Vec<u8>, ExportError> {
    let unreadable = |detail: String| ExportError::Blocked {
        detail: format!("{} cannot be read: {detail}", path.display()),
        remedy: "correct OTEL_EXPORTER_OTLP_CERTIFICATE and its relatives".to_owned(),
    };
    let length = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if length > PEM_BYTES_MAX {
        return Err(unreadable(format!("it has {length} bytes, more than {PEM_BYTES_MAX}")));
    }
    std::fs::read(path).map_err(|error| unreadable(error.to_string()))
}

fn not_pem(path: &Path, why: &dyn std::fmt::Display) -> ExportError {
    ExportError::Blocked {
        detail: format!("{} is not the PEM that is needed: {why}", path.display()),
        remedy: "correct OTEL_EXPORTER_OTLP_CERTIFICATE and its relatives".to_owned(),
    }
}

//! Where OTLP goes: one endpoint a signal, with keys that nobody gets to read.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

/// The endpoints of the signals that go through the spool; None: that signal is switched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpConfig {
    /// Logs.
    pub logs: Option<Endpoint>,
    /// Traces.
    pub traces: Option<Endpoint>,
    /// Most records in a request.
    pub batch_max: usize,
    /// Least time between two requests while less than a full batch waits.
    pub linger: Duration,
}

impl OtlpConfig {
    /// The time of both requests of a batch together.
    pub fn deadline(&self) -> Duration {
        let signals = [&self.logs, &self.traces];
        signals.into_iter().flatten().map(|endpoint| endpoint.timeout).sum()
    }
}

/// How request bodies are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// gzip, fast rather than small.
    Gzip,
}

/// One signal's endpoint. Its `Debug` shows neither keys nor the URL's credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The full URL, such as `http://127.0.0.1:4318/v1/logs`.
    pub url: Url,
    /// Headers of every request: names and values.
    pub headers: Vec<(String, String)>,
    /// How long a request may take, from connect to the last byte.
    pub timeout: Duration,
    /// How bodies are packed.
    pub compression: Compression,
    /// A PEM file of the only authorities whose certificates are accepted; None: the system's.
    pub certificate: Option<PathBuf>,
    /// PEM files of our own certificate and key, for receivers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Endpoint {
    /// The URL without what may be secret in it.
    pub fn public_url(&self) -> String {
        let mut url = self.url.clone();
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.set_fragment(None);
        url.to_string()
    }

    /// The text without our secrets, should the other side have echoed them.
    pub(crate) fn redact(&self, text: &str) -> String {
        let user = [Some(self.url.username()), self.url.password(), self.url.query()];
        let headers = self.headers.iter().flat_map(|(_, value)| {
            // The key of "Bearer key" is a secret without its first word, too.
            let bare = value.rsplit_once(' ').map(|(_, bare)| bare);
            [Some(value.as_str()), bare]
        });
        let mut secrets: Vec<&str> = user.into_iter().chain(headers).flatten().map(str::trim).collect();
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }

    /// Whether it is on this machine: no proxy is asked then, and no authorities are needed.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Endpoint")
            .field("url", &self.public_url())
            .field("headers", &names)
            .field("timeout", &self.timeout)
            .field("compression", &self.compression)
            .field("certificate", &self.certificate)
            .field("has_identity", &self.identity.is_some())
            .finish()
    }
}

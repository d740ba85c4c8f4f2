//! One way to make an HTTP client: our TLS provider, a time limit, and no proxy that nobody asked
//! for.
//!
//! Agents, exporters, the watch and health checks all call out; a client that hangs without a
//! limit, or that picks another TLS library, is made impossible here.

use std::sync::Once;
use std::time::Duration;

/// A client whose calls end within `limit`, from connect to the last byte.
///
/// # Errors
/// The system's root certificates cannot be read.
pub fn client(limit: Duration) -> reqwest::Result<reqwest::Client> {
    install_tls();
    reqwest::Client::builder()
        .no_proxy()
        .timeout(limit)
        .connect_timeout(limit)
        .user_agent(concat!("dogwatch/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Makes ring the process's TLS provider, once; another one that is installed already stays.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

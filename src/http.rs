//! What every HTTP caller and every HTTP page needs: one TLS provider, and one bearer token.
//!
//! Agents, exporters, the watch and health checks call out; the gateway and the watch have pages
//! that are open on loopback and want the token anywhere else. Comparing takes the same time
//! wherever two tokens differ, and a token's text never appears in Debug output.

use std::error::Error;
use std::io;
use std::sync::Once;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

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

/// Whether it failed because the other side's certificate was looked at and not taken: waiting does not help.
pub fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return true;
        }
        // An I/O error passes over what it wraps when it is asked for its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as _).or_else(|| error.source());
    }
    false
}

/// The token of pages.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl Token {
    /// Whether `shown` is this token: digests are compared, every byte of them.
    pub fn is(&self, shown: &str) -> bool {
        let (ours, theirs) = (Sha256::digest(self.0.as_bytes()), Sha256::digest(shown.as_bytes()));
        ours.iter().zip(theirs.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }

    /// Whether an `Authorization` header shows this token as bearer.
    pub fn is_in(&self, authorization: Option<&str>) -> bool {
        authorization
            .and_then(|value| value.split_once(' '))
            .is_some_and(|(scheme, shown)| scheme.eq_ignore_ascii_case("bearer") && self.is(shown.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_opens() {
        let token = Token("s3cret".into());
        for (shown, opens) in [
            ("Bearer s3cret", true),
            ("bearer  s3cret ", true),
            ("Bearer s3cre", false),
            ("Bearer s3crett", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("", false),
        ] {
            assert_eq!(token.is_in(Some(shown)), opens, "{shown:?}");
        }
        assert!(!token.is_in(None));
        assert!(!format!("{token:?}").contains("s3cret"));
    }
}

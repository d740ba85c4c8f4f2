//! Which project, and the key that may write there.
//!
//! Two kinds of key are taken: a secret key (`sb_secret_...`), sent as `apikey` alone, and a JWT of
//! the role `service_role`, sent as `apikey` and as bearer. Keys that are meant for browsers
//! (publishable, `anon`) are refused here, before anything runs: they have no right to the table,
//! and each record would wait for a key that can never work. A JWT's signature is the project's to
//! check; only what it says of itself is read.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use serde::Deserialize;

use crate::rpc::PATH;

/// The role that may call it.
const ROLE: &str = "service_role";
/// Where a key of the right kind is found.
const WHERE_KEYS_ARE: &str = "in the project's settings under API keys";

/// A project and its key; its `Debug` shows no key.
#[derive(Clone, PartialEq, Eq)]
pub struct SupabaseConfig {
    /// The project's URL without its path and without a slash at the end.
    url: String,
    key: Key,
}

#[derive(Clone, PartialEq, Eq)]
enum Key {
    /// `sb_secret_...`: no JWT, and refused as bearer.
    Secret(String),
    /// A JWT of the service role.
    Jwt(String),
}

/// Settings that can never work; none of them shows the key. Each text is what is wrong, a
/// semicolon, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SupabaseConfigError {
    /// The URL is none.
    #[error("SUPABASE_URL is no project's URL ({0}); set it to one, such as https://<project>.supabase.co")]
    Url(&'static str),
    /// A key that is meant for browsers.
    #[error(
        "{variable} is {kind}, which may not write logs; set it to a secret key (sb_secret_...) or the \
         service_role key, {WHERE_KEYS_ARE}"
    )]
    Key {
        /// The variable that holds it.
        variable: &'static str,
        /// What it is.
        kind: String,
    },
}

impl SupabaseConfig {
    /// The project at `url`, with the key that `variable` holds.
    ///
    /// # Errors
    /// See [`SupabaseConfigError`].
    pub fn new(url: &str, variable: &'static str, key: &str) -> Result<SupabaseConfig, SupabaseConfigError> {
        Ok(SupabaseConfig { url: project(url)?, key: Key::read(variable, key.trim())? })
    }

    /// The project's URL; it holds no secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where a function of the project's database is called.
    pub(super) fn function_url(&self, function: &str) -> String {
        format!("{}{PATH}{function}", self.url)
    }

    pub(super) fn key(&self) -> &str {
        let (Key::Secret(key) | Key::Jwt(key)) = &self.key;
        key
    }

    /// Whether the key is a JWT, which is sent as bearer, too.
    pub(super) fn is_jwt(&self) -> bool {
        matches!(self.key, Key::Jwt(_))
    }

    /// The text without the key, should the other side have echoed it.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(self.key(), "***")
    }
}

impl fmt::Debug for SupabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_jwt() { "JWT" } else { "secret key" };
        f.debug_struct("SupabaseConfig").field("url", &self.url).field("key", &kind).finish()
    }
}

/// Scheme, host and port; a path that belongs to the API is taken off.
fn project(text: &str) -> Result<String, SupabaseConfigError> {
    let wrong = SupabaseConfigError::Url;
    let url = Url::parse(text.trim()).map_err(|_| wrong("it is no URL"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(wrong("it is neither http:// nor https://"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(wrong("it holds more than a host and a path"));
    }
    if ["supabase.com", "www.supabase.com", "app.supabase.com"].contains(&url.host_str().unwrap_or_default()) {
        return Err(wrong("it is the dashboard's"));
    }
    let bare = url.as_str().trim_end_matches('/');
    let bare = bare.strip_suffix("/rest/v1").unwrap_or(bare);
    Ok(bare.trim_end_matches('/').to_owned())
}

/// What a JWT says of itself.
#[derive(Deserialize)]
struct Claims {
    role: Option<String>,
}

impl Key {
    fn read(variable: &'static str, text: &str) -> Result<Key, SupabaseConfigError> {
        let refused = |kind: String| Err(SupabaseConfigError::Key { variable, kind });
        if text.starts_with("sb_secret_") {
            return Ok(Key::Secret(text.to_owned()));
        }
        if text.starts_with("sb_publishable_") {
            return refused("a publishable key".to_owned());
        }
        match role(text).as_deref() {
            Some(ROLE) => Ok(Key::Jwt(text.to_owned())),
            // A role's name is no secret, but whatever else stands in that place might be one.
            Some("anon") => refused("the anon key".to_owned()),
            Some("authenticated") => refused("a user's token".to_owned()),
            Some(_) => refused(format!("a JWT of another role than {ROLE}")),
            None => refused("neither a secret key nor a JWT with a role".to_owned()),
        }
    }
}

/// The role in a JWT's payload; None: it is no JWT, or names none.
fn role(text: &str) -> Option<String> {
    let mut parts = text.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice::<Claims>(&bytes).ok()?.role
}

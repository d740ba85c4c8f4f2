//! Values with their origins, and how each form is read.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::pools;
use super::settings::{ALL, FLAGS, Form, Setting, find};
use crate::error::BadInput;
use crate::fleet::pool::Pool;
use crate::telemetry::record::Level;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// The environment, under this name.
    Environment(&'static str),
    /// The TOML file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What was set, by setting. Debug shows names and origins only.
#[derive(Clone, Default)]
pub struct Values {
    set: BTreeMap<&'static str, (String, Origin)>,
    pools: Vec<Pool>,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.set.iter().map(|(name, (_, origin))| (name, origin))).finish()
    }
}

impl Values {
    /// Reads every setting; `flags` are (setting name, value).
    ///
    /// # Errors
    /// A key of the file that is not known, or a value that is not of its setting's form.
    pub fn read(
        flags: &[(&'static str, String)],
        environment: &dyn Fn(&str) -> Option<String>,
        file: Option<(PathBuf, toml::Table)>,
    ) -> Result<Values, BadInput> {
        let mut values = BTreeMap::new();
        let mut pools = Vec::new();
        if let Some((path, table)) = file {
            for (key, value) in table {
                if key == "pool" {
                    pools = pools::read(&path, value)?;
                    continue;
                }
                let setting = by_file_key(&key).ok_or_else(|| {
                    BadInput::new(
                        format!("{}: `{key}` is not a setting", path.display()),
                        "correct or remove the line; keys are names in lower case without DOGWATCH_",
                    )
                })?;
                let text = match value {
                    toml::Value::String(text) => text,
                    toml::Value::Integer(number) => number.to_string(),
                    toml::Value::Float(number) => number.to_string(),
                    toml::Value::Boolean(truth) => truth.to_string(),
                    _ => {
                        return Err(BadInput::new(
                            format!("{}: `{key}` is a list, a table or a date", path.display()),
                            "write a text or a number",
                        ));
                    }
                };
                values.insert(setting.name, (text, Origin::File(path.clone())));
            }
        }
        for setting in ALL {
            let names = std::iter::once(&setting.name).chain(setting.aliases);
            // An empty variable counts as unset, as OpenTelemetry has it.
            let found = names.copied().find_map(|name| {
                environment(name).filter(|text| !text.is_empty()).map(|text| (text, Origin::Environment(name)))
            });
            if let Some(found) = found {
                values.insert(setting.name, found);
            }
        }
        for (name, text) in flags {
            values.insert(name, (text.clone(), Origin::Flag));
        }
        let values = Values { set: values, pools };
        for (name, (text, origin)) in &values.set {
            if let Some(setting) = find(name) {
                check(setting, text, origin)?;
            }
        }
        Ok(values)
    }

    /// The text and origin of a setting.
    pub fn get(&self, name: &str) -> Option<(&str, &Origin)> {
        self.set.get(name).map(|(text, origin)| (text.as_str(), origin))
    }

    /// The declared pools; empty where none is.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The setting's text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|(text, _)| text.to_owned())
    }

    /// The setting's text, hidden.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        self.text(name).map(Secret)
    }

    /// The setting as a whole number.
    pub fn whole(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(|(text, _)| text.parse().ok())
    }

    /// The setting as a share of 1.
    pub fn share(&self, name: &str) -> Option<f64> {
        self.get(name).and_then(|(text, _)| text.parse().ok())
    }

    /// The setting as a duration.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        self.share(name).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// The setting as an address.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.get(name).and_then(|(text, _)| text.parse().ok())
    }

    /// The setting as a level.
    pub fn level(&self, name: &str) -> Option<Level> {
        self.get(name).and_then(|(text, _)| Level::from_word(text))
    }

    /// Name and value of everything that was set, secrets left out: what the config hash is over.
    pub fn public(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.set.iter().filter_map(|(name, (text, _))| {
            let secret = find(name).is_some_and(|setting| matches!(setting.form, Form::Secret | Form::Url));
            (!secret).then_some((*name, text.as_str()))
        })
    }
}

fn by_file_key(key: &str) -> Option<&'static Setting> {
    ALL.iter().find(|setting| setting.name.trim_start_matches("DOGWATCH_").to_lowercase() == key)
}

fn check(setting: &Setting, text: &str, origin: &Origin) -> Result<(), BadInput> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    let (fits, expected) = match setting.form {
        Form::Text | Form::Secret | Form::Path => (!text.is_empty(), "a text".to_owned()),
        Form::Name => (
            !text.is_empty()
                && text.len() <= 80
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)),
            "letters, digits, - and _, at most 80".to_owned(),
        ),
        Form::Address => (text.parse::<SocketAddr>().is_ok(), "address:port, such as 127.0.0.1:7411".to_owned()),
        Form::Url => (
            text.starts_with("http://") || text.starts_with("https://"),
            "a URL that begins with http:// or https://".to_owned(),
        ),
        Form::Level => (Level::from_word(text).is_some(), "debug, info, warning, error or critical".to_owned()),
        Form::Word(words) => (words.contains(&text), words.join(" or ")),
        Form::Whole(min, max) => (
            text.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number)),
            format!("a whole number from {min} to {max}"),
        ),
        Form::Dollars => (number.is_some_and(|number| number >= 0.0), "dollars, 0 or more".to_owned()),
        Form::Seconds(min, max) => {
            (number.is_some_and(|number| (min..=max).contains(&number)), format!("seconds from {min} to {max}"))
        }
        Form::Share => {
            (number.is_some_and(|number| (0.0..=1.0).contains(&number)), "a number from 0 to 1".to_owned())
        }
    };
    if fits {
        return Ok(());
    }
    let shown = if setting.form == Form::Secret { "(hidden)".to_owned() } else { format!("{text:?}") };
    let name = match origin {
        Origin::Environment(name) => name,
        Origin::Flag => FLAGS.iter().find(|(name, _)| *name == setting.name).map_or(setting.name, |(_, flag)| flag),
        Origin::File(_) => setting.name,
    };
    Err(BadInput::new(
        format!("{name} is {shown} ({origin}), which is not {expected}"),
        format!("set it to {expected}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(environment: &[(&str, &str)], file: &str) -> Result<Values, BadInput> {
        let table = file.parse::<toml::Table>().unwrap();
        let lookup =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Values::read(&[("MAX_ACTIVE_GPUS", "7".to_owned())], &lookup, Some(("d.toml".into(), table)))
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let values = read(
            &[("MAX_ACTIVE_GPUS", "5"), ("MIN_ACTIVE_GPUS", "2"), ("DOGWATCH_FLEET", "")],
            "max_active_gpus = 3\nmin_active_gpus = 1\nfleet = \"f\"",
        )
        .unwrap();
        assert_eq!(values.get("MAX_ACTIVE_GPUS").unwrap(), ("7", &Origin::Flag));
        assert_eq!(values.get("MIN_ACTIVE_GPUS").unwrap().0, "2");
        assert_eq!(values.get("DOGWATCH_FLEET").unwrap(), ("f", &Origin::File("d.toml".into())));
    }

    #[test]
    fn one_older_name_gives_two_settings_their_value() {
        let values = read(&[("GPU_IDLE_TIMEOUT_SEC", "120"), ("DOGWATCH_IDLE_LIMIT_SECONDS", "60")], "").unwrap();
        assert_eq!(values.duration("DOGWATCH_HEARTBEAT_LIMIT_SECONDS"), Some(Duration::from_secs(120)));
        assert_eq!(values.duration("DOGWATCH_IDLE_LIMIT_SECONDS"), Some(Duration::from_secs(60)));
    }

    #[test]
    fn bad_values_name_the_thing_and_the_remedy_but_never_a_secret() {
        let error = read(&[("MIN_ACTIVE_GPUS", "ten")], "").unwrap_err().to_string();
        assert_eq!(
            error,
            "MIN_ACTIVE_GPUS is \"ten\" (environment MIN_ACTIVE_GPUS), which is not a whole number from 0 to 10000; \
             set it to a whole number from 0 to 10000"
        );
        assert!(read(&[], "max_gpu = 3").unwrap_err().to_string().contains("`max_gpu` is not a setting"));
        let values = read(&[("DOGWATCH_TOKEN", "hunter2")], "").unwrap();
        assert!(!format!("{values:?}").contains("hunter2"));
        assert!(values.public().all(|(_, value)| value != "hunter2"));
    }
}

//! Reads a call's keys from its body and names the one that is missing or malformed.
//!
//! Each function's keys stand in a table with what is expected of them; types do the rest. Keys
//! that nobody asked for are ignored, so that an agent may be ahead of the gateway.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::rpc::{self, Refusal};

/// A key that must be there, and what its value is to be, for humans.
type Key = (&'static str, &'static str);

const UUID: &str = "a uuid";
const ATTEMPT: &str = "the attempt's number, an integer";

/// A body that can be read from a JSON object.
pub(super) trait Keys: DeserializeOwned {
    /// Keys that must be there. The others may be null or absent.
    const REQUIRED: &'static [Key];
    /// Keys that may be null or absent.
    const OPTIONAL: &'static [Key] = &[];
}

impl Keys for rpc::Caller {
    const REQUIRED: &'static [Key] = &[
        ("worker_id", "the worker's id, a string"),
        ("worker_token", "the worker's token, a string"),
        ("incarnation", UUID),
    ];
}

impl Keys for rpc::Register {
    const REQUIRED: &'static [Key] = &[("info", "an object {host, pid, version, gpu, capabilities[]}")];
}

impl Keys for rpc::Heartbeat {
    const REQUIRED: &'static [Key] = &[
        ("seq", "the beat's number, an integer"),
        ("phase", "starting, ready, busy or draining"),
        ("progress_seq", "an integer"),
    ];
    const OPTIONAL: &'static [Key] = &[
        ("current_task", "a uuid or null"),
        ("gpu", "an object {vram_total_mb, vram_used_mb, utilization} or null"),
        ("metrics", "an object"),
    ];
}

impl Keys for rpc::Claim {
    const REQUIRED: &'static [Key] = &[("claim_id", UUID)];
    const OPTIONAL: &'static [Key] = &[("run_type", "a string or null")];
}

impl Keys for rpc::Progress {
    const REQUIRED: &'static [Key] = &[("task_id", UUID), ("attempt", ATTEMPT)];
    const OPTIONAL: &'static [Key] = &[("fraction", "a number from 0 to 1, or null"), ("note", "a string or null")];
}

impl Keys for rpc::Complete {
    const REQUIRED: &'static [Key] = &[("task_id", UUID), ("attempt", ATTEMPT), ("output", "the output, any JSON")];
}

impl Keys for rpc::Fail {
    const REQUIRED: &'static [Key] =
        &[("task_id", UUID), ("attempt", ATTEMPT), ("error", "a string"), ("retryable", "true or false")];
}

impl Keys for rpc::ExitCall {
    const REQUIRED: &'static [Key] =
        &[("report", "an object {reason, exit_code, signal, oom_killed, last_lines[], gpu}")];
}

impl Keys for rpc::IngestRow {
    const REQUIRED: &'static [Key] = &[
        ("id", UUID),
        ("timestamp", "an RFC 3339 time"),
        ("log_level", "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("message", "a string"),
    ];
    const OPTIONAL: &'static [Key] = &[
        ("task_id", "a uuid or null"),
        ("trace_id", "32 hex digits or null"),
        ("span_id", "16 hex digits or null"),
        ("attributes", "an object"),
    ];
}

/// The body's keys, typed; a refusal names the first one that cannot be used.
pub(super) fn read<T: Keys>(body: &Value) -> Result<T, Refusal> {
    let Some(object) = body.as_object() else {
        return Err(Refusal::malformed("body", "a JSON object"));
    };
    if let Some((key, expected)) = T::REQUIRED.iter().find(|(key, _)| !object.contains_key(*key)) {
        return Err(Refusal::malformed(key, expected));
    }
    serde_path_to_error::deserialize(body).map_err(|error| {
        let path = error.path().to_string();
        let first = path.split(['.', '[']).next().unwrap_or_default();
        let known = T::REQUIRED.iter().chain(T::OPTIONAL).find(|(key, _)| *key == first);
        Refusal::malformed(&path, known.map_or("what the protocol says", |(_, expected)| expected))
    })
}

/// `Progress` with its fraction in range: what a type cannot say.
pub(super) fn read_progress(body: &Value) -> Result<rpc::Progress, Refusal> {
    let progress: rpc::Progress = read(body)?;
    match progress.fraction {
        Some(fraction) if !(0.0..=1.0).contains(&fraction) => {
            Err(Refusal::malformed("fraction", "a number from 0 to 1, or null"))
        }
        _ => Ok(progress),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check<T: Keys>(body: &Value, expected: Expect) {
        let answer = read::<T>(body).map(|_| "ok".to_owned());
        expected.assert_eq(&answer.unwrap_or_else(|refusal| refusal.to_string()));
    }

    #[test]
    fn a_refusal_names_the_key_and_what_is_expected() {
        check::<rpc::Claim>(
            &json!({"claim_id": "0e984725-c51c-4bf4-9960-e1c80e27aba0", "later": 1}),
            expect!["ok"],
        );
        check::<rpc::Claim>(&json!({}), expect!["DW422: key `claim_id` is missing or malformed: expected a uuid"]);
        check::<rpc::Claim>(
            &json!({"claim_id": 7}),
            expect!["DW422: key `claim_id` is missing or malformed: expected a uuid"],
        );
        check::<rpc::Claim>(
            &json!([1]),
            expect!["DW422: key `body` is missing or malformed: expected a JSON object"],
        );
        check::<rpc::Heartbeat>(
            &json!({"seq": 1, "phase": "asleep", "progress_seq": 0}),
            expect!["DW422: key `phase` is missing or malformed: expected starting, ready, busy or draining"],
        );
        check::<rpc::Heartbeat>(
            &json!({"seq": 1, "phase": "ready", "progress_seq": 0, "gpu": {"utilization": "high"}}),
            expect![
                "DW422: key `gpu.utilization` is missing or malformed: expected an object {vram_total_mb, vram_used_mb, utilization} or null"
            ],
        );
        check::<rpc::Fail>(
            &json!({"task_id": "0e984725-c51c-4bf4-9960-e1c80e27aba0", "attempt": 1, "error": "x", "retryable": null}),
            expect!["DW422: key `retryable` is missing or malformed: expected true or false"],
        );
    }

    #[test]
    fn a_fraction_lies_between_0_and_1() {
        let body = |fraction: f64| json!({"task_id": uuid::Uuid::nil(), "attempt": 1, "fraction": fraction});
        assert!(read_progress(&body(0.5)).is_ok());
        assert_eq!(read_progress(&body(1.5)).unwrap_err().details.as_deref(), Some("fraction"));
    }
}

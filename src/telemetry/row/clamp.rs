//! Makes texts and metadata fit the table, and remembers what it changed.
//!
//! The same record always gives the same row, whatever exporter asks, so that a repeated delivery
//! finds its row again.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::NOTES;

/// What stays of a metadata value that was too large, bytes of its text.
const VALUE_HEAD_BYTES: usize = 1 << 10;
/// A value this small is not worth cutting, bytes of JSON text.
const VALUE_KEPT_BYTES: usize = 4 << 10;
/// JSON is never longer than this many times the protobuf it came from (a control character takes
/// six bytes, an empty array element five).
const GROWTH_MAX: usize = 8;

/// What was changed to make one record fit.
#[derive(Debug, Default)]
pub(super) struct Notes {
    nul_removed: usize,
    cut_from_bytes: usize,
    metadata_cut_from_bytes: usize,
}

impl Notes {
    /// The text without NUL and at most `bytes_max` long, cut between characters.
    pub(super) fn text(&mut self, mut text: String, bytes_max: usize) -> String {
        self.strip(&mut text);
        if text.len() > bytes_max {
            self.cut_from_bytes = self.cut_from_bytes.max(text.len());
            text.truncate(text.floor_char_boundary(bytes_max));
        }
        text
    }

    /// The object without NUL, at most `bytes_max` of JSON text long, with the notes in it.
    /// `encoded_bytes` is what it was decoded from: small enough, and it is not measured.
    pub(super) fn metadata(
        mut self,
        mut metadata: Map<String, Value>,
        encoded_bytes: usize,
        bytes_max: usize,
    ) -> Value {
        if metadata.iter().any(|(key, value)| key.contains('\0') || has_nul(value)) {
            metadata = self.clean_object(metadata);
        }
        if encoded_bytes.saturating_mul(GROWTH_MAX) > bytes_max {
            let bytes = json_bytes(&metadata);
            if bytes > bytes_max {
                self.metadata_cut_from_bytes = bytes;
                shrink(&mut metadata, bytes_max);
            }
        }
        if let Some(notes) = self.note() {
            metadata.insert(NOTES.to_owned(), notes);
        }
        Value::Object(metadata)
    }

    fn note(&self) -> Option<Value> {
        let notes: Map<String, Value> = [
            ("nul_removed", self.nul_removed),
            ("text_cut_from_bytes", self.cut_from_bytes),
            ("metadata_cut_from_bytes", self.metadata_cut_from_bytes),
        ]
        .into_iter()
        .filter(|(_, number)| *number > 0)
        .map(|(key, number)| (key.to_owned(), json!(number)))
        .collect();
        (!notes.is_empty()).then_some(Value::Object(notes))
    }

    fn strip(&mut self, text: &mut String) {
        if text.contains('\0') {
            let before = text.len();
            text.retain(|c| c != '\0');
            self.nul_removed += before - text.len();
        }
    }

    fn clean_object(&mut self, object: Map<String, Value>) -> Map<String, Value> {
        object
            .into_iter()
            .map(|(mut key, value)| {
                self.strip(&mut key);
                (key, self.clean(value))
            })
            .collect()
    }

    fn clean(&mut self, value: Value) -> Value {
        match value {
            Value::String(mut text) => {
                self.strip(&mut text);
                Value::String(text)
            }
            Value::Array(values) => Value::Array(values.into_iter().map(|value| self.clean(value)).collect()),
            Value::Object(object) => Value::Object(self.clean_object(object)),
            plain => plain,
        }
    }
}

/// Cuts the largest values to their heads until the object fits; drops keys from its end where
/// there are simply too many.
fn shrink(metadata: &mut Map<String, Value>, bytes_max: usize) {
    // Room for the notes themselves.
    let bytes_max = bytes_max.saturating_sub(VALUE_HEAD_BYTES);
    let mut sizes: Vec<(usize, String)> =
        metadata.iter().map(|(key, value)| (json_bytes(value), key.clone())).collect();
    sizes.sort_by(|a, b| b.cmp(a));
    let mut total = json_bytes(metadata);
    for (bytes, key) in sizes {
        if total <= bytes_max || bytes <= VALUE_KEPT_BYTES {
            break;
        }
        if let Some(value) = metadata.get_mut(&key) {
            let head = head_of(value);
            total = total - bytes + json_bytes(&head);
            *value = head;
        }
    }
    while total > bytes_max {
        let Some(key) = metadata.keys().next_back().cloned() else { break };
        let value = metadata.remove(&key);
        total = total.saturating_sub(json_bytes(&key) + json_bytes(&value));
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(object) => object.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

fn head_of(value: &Value) -> Value {
    let mut text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let bytes = text.len();
    text.truncate(text.floor_char_boundary(VALUE_HEAD_BYTES));
    let _ = write!(text, "... (cut from {bytes} bytes)");
    Value::String(text)
}

fn json_bytes(value: &impl serde::Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => usize::MAX,
    }
}

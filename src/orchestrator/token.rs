//! The token of one worker: 32 random bytes as hex. The fleet's database gets its SHA-256 only.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::provider::WorkerToken;

/// A token that nobody has had before. Two random UUIDs are 244 bits of the system's randomness;
/// hashed, so that their fixed bits do not show.
pub(super) fn fresh() -> WorkerToken {
    let mut hash = Sha256::new();
    for uuid in [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()] {
        hash.update(uuid.as_bytes());
    }
    WorkerToken(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the database keeps.
pub(super) fn sha256(token: &WorkerToken) -> [u8; 32] {
    Sha256::digest(token.0.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_hex_and_differ() {
        let (one, two) = (fresh(), fresh());
        assert_ne!(one, two);
        assert_eq!(one.0.len(), 64);
        assert!(one.0.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(sha256(&one), sha256(&two));
    }
}

//! The bytes that the backend serves: computable by every client, so that a body can be checked
//! without a second copy of it. `scripts/client.py` and `scripts/client.js` compute the same.

/// The byte at `offset` of every body.
///
/// Three odd factors make a lost, doubled or moved block visible at any block size below 16 MiB.
pub fn byte(offset: usize) -> u8 {
    (offset.wrapping_mul(131) + (offset >> 8).wrapping_mul(17) + (offset >> 16).wrapping_mul(29))
        as u8
}

/// The first `len` bytes of the pattern.
pub fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(byte).collect()
}

/// Whether `body` is exactly the first `len` bytes of the pattern.
pub fn matches(body: &[u8], len: usize) -> bool {
    body.len() == len && body.iter().enumerate().all(|(at, &b)| b == byte(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_or_short_body_does_not_match() {
        let body = bytes(100_000);
        assert!(matches(&body, 100_000));
        assert!(!matches(&body, 100_001));
        assert!(!matches(&body[256..], 100_000 - 256));
        assert!(!matches(&body[65_536..], 100_000 - 65_536));
    }
}

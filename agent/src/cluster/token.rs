//! The token by which the API server knows this agent, where it is in a file: that of its service
//! account.

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Where it is; nowhere for an agent that is known otherwise.
#[derive(Clone, Debug, Default)]
pub(super) struct Token(Option<PathBuf>);

/// What a JSON Web Token claims (RFC 7519), as far as it matters here.
#[derive(Debug, Deserialize)]
struct Claims {
    /// In seconds since 1970.
    exp: u64,
}

// === impl Token ===

impl Token {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self(file)
    }

    /// Whether it says so itself. kubelet renews it in time, unless it cannot reach the API server
    /// either. A file that is gone or is no such token says nothing.
    pub(super) fn has_expired(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = self.0.as_ref().and_then(|file| fs::read_to_string(file).ok());
        text.and_then(|text| expiry(&text)).is_some_and(|expiry| expiry <= now)
    }
}

/// The instant at which it expires.
fn expiry(token: &str) -> Option<u64> {
    let mut parts = token.trim().split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice::<Claims>(&claims).ok().map(|claims| claims.exp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln\n", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_tells_when_it_expires() {
        assert_eq!(expiry(&token(r#"{"exp":1700000000,"aud":["api"]}"#)), Some(1_700_000_000));
        for bogus in ["", "abc", "a.b.c", "e30..", &token("{}"), &token(r#"{"exp":"soon"}"#)] {
            assert_eq!(expiry(bogus), None, "{bogus}");
        }
    }

    #[test]
    fn only_a_token_that_says_so_has_expired() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let has_expired = |text: &str| {
            fs::write(&path, text).unwrap();
            Token::new(Some(path.clone())).has_expired()
        };
        assert!(has_expired(&token(r#"{"exp":1700000000}"#)));
        // The year 2286.
        assert!(!has_expired(&token(r#"{"exp":9999999999}"#)));
        assert!(!has_expired("none"));
        assert!(!Token::new(Some(dir.path().join("gone"))).has_expired());
        assert!(!Token::default().has_expired());
    }
}

//! Access tokens: signed, short-lived JWTs. One algorithm, one key; headers choose nothing and are never followed.
//! Says what a token claims; whether its device is still logged in is the shard's answer.

use std::collections::HashSet;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tern_core_shard::io::Claims;
use tern_protocol::limit::TOKEN_SIZE_MAX;
use tern_protocol::{CloseCode, DeviceId, Timestamp, UserId};

use super::key::Keys;
use crate::node::TokenVerifier;

/// How far clocks of nodes may be apart. Unit: time.
const SKEW_MAX: Duration = Duration::from_secs(60);

/// Who makes tokens, for whom, for how long.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// From `iat` to `exp`.
    pub lifetime: Duration,
}

/// Makes and checks access tokens.
pub struct AccessTokens {
    rules: TokenRules,
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
}

/// Ids are text: JSON numbers do not hold 64 bits everywhere.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    sub: String,
    sid: String,
    iss: String,
    aud: String,
    iat: u64,
    exp: u64,
}

impl AccessTokens {
    /// Signs with the key of a data directory.
    #[must_use]
    pub fn new(keys: &Keys, rules: TokenRules) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.required_spec_claims =
            ["exp", "iss", "aud", "sub"].into_iter().map(str::to_owned).collect::<HashSet<_>>();
        validation.set_issuer(&[&rules.issuer]);
        validation.set_audience(&[&rules.audience]);
        // Compared below with the time that the caller gives: the library would read the clock itself.
        validation.validate_exp = false;
        Self {
            rules,
            signing: EncodingKey::from_ed_der(&keys.token),
            verifying: DecodingKey::from_ed_der(&keys.token_public),
            validation,
        }
    }

    /// A token for a device.
    ///
    /// # Panics
    /// Never: the key was read when the server started.
    #[must_use]
    pub fn issue(&self, user: UserId, device: DeviceId, now: Timestamp) -> String {
        let iat = seconds(now);
        let body = Body {
            sub: user.raw().to_string(),
            sid: device.raw().to_string(),
            iss: self.rules.issuer.clone(),
            aud: self.rules.audience.clone(),
            iat,
            exp: iat + self.rules.lifetime.as_secs(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &body, &self.signing).expect("the key signs")
    }

    /// How long a token is good.
    #[must_use]
    pub const fn lifetime(&self) -> Duration {
        self.rules.lifetime
    }

    fn check(&self, token: &[u8], now: Timestamp) -> Option<Result<Claims, CloseCode>> {
        if token.len() > TOKEN_SIZE_MAX {
            return None;
        }
        let body = jsonwebtoken::decode::<Body>(token, &self.verifying, &self.validation).ok()?.claims;
        let user = UserId::from_raw(body.sub.parse().ok()?);
        let device = DeviceId::from_raw(body.sid.parse().ok()?);
        if !user.is_valid() || device.raw() == 0 || body.iat > seconds(now.after(SKEW_MAX)) {
            return None;
        }
        if body.exp.saturating_add(SKEW_MAX.as_secs()) <= seconds(now) {
            return Some(Err(CloseCode::ExpiredToken));
        }
        Some(Ok(Claims { user, device, expires: Timestamp::from_raw(body.exp.saturating_mul(1_000_000)) }))
    }
}

impl TokenVerifier for AccessTokens {
    fn verify(&self, token: &[u8], now: Timestamp) -> Result<Claims, CloseCode> {
        self.check(token, now).unwrap_or(Err(CloseCode::BadToken))
    }
}

const fn seconds(time: Timestamp) -> u64 {
    time.raw() / 1_000_000
}

/// Says nothing of the keys.
impl std::fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessTokens").field("rules", &self.rules).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const NOW: Timestamp = Timestamp::from_raw(1_800_000_000_000_000);
    const USER: UserId = UserId::from_raw(7);
    const DEVICE: DeviceId = DeviceId::from_raw(u64::MAX);

    fn rules() -> TokenRules {
        TokenRules { issuer: "tern".into(), audience: "tern".into(), lifetime: Duration::from_secs(900) }
    }

    fn keys() -> Keys {
        Keys::open(tempfile::tempdir().unwrap().path()).unwrap()
    }

    fn later(seconds: u64) -> Timestamp {
        NOW.after(Duration::from_secs(seconds))
    }

    fn signed(key: &EncodingKey, header: &Header, change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut body = serde_json::json!({
            "sub": "7", "sid": "9", "iss": "tern", "aud": "tern", "iat": seconds(NOW), "exp": seconds(NOW) + 900,
        });
        change(&mut body);
        jsonwebtoken::encode(header, &body, key).unwrap()
    }

    #[test]
    fn a_token_is_good_until_it_expires_give_or_take_a_minute() {
        let tokens = AccessTokens::new(&keys(), rules());
        let token = tokens.issue(USER, DEVICE, NOW);
        let good = Ok(Claims { user: USER, device: DEVICE, expires: later(900) });
        assert_eq!(tokens.verify(token.as_bytes(), NOW), good);
        assert_eq!(tokens.verify(token.as_bytes(), later(959)), good);
        assert_eq!(tokens.verify(token.as_bytes(), later(960)), Err(CloseCode::ExpiredToken));
        assert!(token.len() < TOKEN_SIZE_MAX / 4);
    }

    #[test]
    fn tokens_of_other_keys_algorithms_issuers_and_audiences_count_for_nothing() {
        let keys = keys();
        let tokens = AccessTokens::new(&keys, rules());
        let own = EncodingKey::from_ed_der(&keys.token);
        let eddsa = Header::new(Algorithm::EdDSA);
        assert!(tokens.verify(signed(&own, &eddsa, |_| ()).as_bytes(), NOW).is_ok());

        let other = EncodingKey::from_ed_der(&self::keys().token);
        let hmac = EncodingKey::from_secret(&keys.token_public);
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let good = signed(&own, &eddsa, |_| ());
        let (unsigned, signature) = good.rsplit_once('.').unwrap();
        let (_, payload) = unsigned.split_once('.').unwrap();
        let forged = [
            signed(&other, &eddsa, |_| ()),
            signed(&hmac, &Header::new(Algorithm::HS256), |_| ()),
            format!("{}.{payload}.", part(r#"{"alg":"none"}"#)),
            format!("{}.{payload}.{signature}", part(r#"{"alg":"none"}"#)),
            format!("{}.{payload}.{signature}", part(r#"{"alg":"HS256"}"#)),
            format!("{unsigned}."),
            unsigned.to_owned(),
            format!("{good}A"),
            signed(&own, &eddsa, |body| body["iss"] = "other".into()),
            signed(&own, &eddsa, |body| body["aud"] = "other".into()),
            signed(&own, &eddsa, |body| body["aud"] = serde_json::Value::Null),
            signed(&own, &eddsa, |body| body["sub"] = "0".into()),
            signed(&own, &eddsa, |body| body["sub"] = "x".into()),
            signed(&own, &eddsa, |body| body["sid"] = "18446744073709551616".into()),
            signed(&own, &eddsa, |body| body["iat"] = (seconds(NOW) + 61).into()),
            signed(&own, &eddsa, |body| body["exp"] = serde_json::Value::Null),
        ];
        for token in forged {
            assert_eq!(tokens.verify(token.as_bytes(), NOW), Err(CloseCode::BadToken), "{token}");
        }
    }

    #[test]
    fn what_the_header_points_to_is_not_looked_at() {
        let keys = keys();
        let tokens = AccessTokens::new(&keys, rules());
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("../../../../etc/passwd".into());
        header.jku = Some("http://127.0.0.1:9/keys".into());
        header.x5u = Some("file:///dev/zero".into());
        let own = signed(&EncodingKey::from_ed_der(&keys.token), &header, |_| ());
        let other = signed(&EncodingKey::from_ed_der(&self::keys().token), &header, |_| ());
        assert!(tokens.verify(own.as_bytes(), NOW).is_ok());
        assert_eq!(tokens.verify(other.as_bytes(), NOW), Err(CloseCode::BadToken));
    }

    #[test]
    fn garbage_of_any_size_is_a_bad_token() {
        let tokens = AccessTokens::new(&keys(), rules());
        let good = tokens.issue(USER, DEVICE, NOW);
        for token in [
            vec![b'a'; 1 << 20],
            vec![b'.'; 2048],
            vec![0xff; 100],
            Vec::new(),
            [good.as_bytes(), &[b'A'; 2000]].concat(),
        ] {
            assert_eq!(tokens.verify(&token, NOW), Err(CloseCode::BadToken));
        }
        for at in 0..good.len() {
            let mut broken = good.clone().into_bytes();
            broken[at] ^= 1;
            assert!(tokens.verify(&broken, NOW).is_err(), "byte {at}");
        }
    }
}

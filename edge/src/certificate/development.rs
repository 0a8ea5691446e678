//! The certificate that a server makes for itself when none is configured. Short-lived, because browsers pin nothing else by hash; its
//! key stays, so that a client that pins the key need not learn it again.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use tern_protocol::Timestamp;

use super::{CertificateError, CertificateInfo, info, read_chain};
use crate::secret_file;

/// How long it is good. Browsers take up to 14 days for `serverCertificateHashes`, measured: 15 are refused.
const LIFETIME: Duration = Duration::from_secs(10 * DAY);
/// A new one is made when it is older than this.
const RENEWAL_AGE: Duration = Duration::from_secs(5 * DAY);
/// Clocks of clients may be behind.
const SKEW: Duration = Duration::from_secs(3600);
const DAY: u64 = 24 * 3600;

/// Whom it is for: this machine by every name it has, and what the configuration adds.
pub(super) fn names(configured: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    names.extend(Some(host.trim().to_owned()).filter(|host| is_name(host)));
    names.extend(configured.iter().cloned());
    names.dedup();
    names
}

/// Whether it is time for a new one.
pub(super) fn is_due(info: &CertificateInfo, now: Timestamp) -> bool {
    now.since(info.not_before) > RENEWAL_AGE + SKEW || now < info.not_before
}

/// Makes key and certificate where they are missing or due. Returns their files.
pub(super) fn prepare(
    directory: &Path,
    names: &[String],
    now: Timestamp,
) -> Result<(PathBuf, PathBuf), CertificateError> {
    secret_file::make_directory(directory)?;
    let (chain_file, key_file) = (directory.join("development.crt"), directory.join("development.key"));
    let mut failed = Ok(());
    let key_pem = secret_file::read_or_make(&key_file, || match KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256) {
        Ok(key) => key.serialize_pem().into_bytes(),
        Err(error) => {
            failed = Err(CertificateError::Development(error));
            Vec::new()
        }
    })?;
    failed?;
    let wrong_key = || CertificateError::Missing { file: key_file.clone(), what: "private key" };
    let key = KeyPair::from_pem(std::str::from_utf8(&key_pem).map_err(|_| wrong_key())?).map_err(|_| wrong_key())?;
    if !is_good(&chain_file, &key, names, now) {
        let pem = make(&key, names, now).map_err(CertificateError::Development)?;
        secret_file::write(&chain_file, pem.as_bytes())?;
        tracing::info!(file = %chain_file.display(), days = LIFETIME.as_secs() / DAY, "made a development certificate");
    }
    Ok((chain_file, key_file))
}

/// Whether the certificate that is there can stay: this key's, for these names, and not due.
fn is_good(chain_file: &Path, key: &KeyPair, names: &[String], now: Timestamp) -> bool {
    let Ok(chain) = read_chain(chain_file) else { return false };
    let Some(certificate) = chain.first() else { return false };
    let Some(info) = info(certificate, true) else { return false };
    let has = |part: &[u8]| certificate.windows(part.len().max(1)).any(|window| window == part);
    let has_name = |name: &String| match name.parse() {
        Ok(IpAddr::V4(v4)) => has(&v4.octets()),
        Ok(IpAddr::V6(v6)) => has(&v6.octets()),
        Err(_) => has(name.as_bytes()),
    };
    !is_due(&info, now) && has(key.public_key_raw()) && names.iter().all(has_name)
}

fn make(key: &KeyPair, names: &[String], now: Timestamp) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Tern development");
    let now = rcgen::date_time_ymd(1970, 1, 1) + now.since(Timestamp::ZERO);
    // The span that browsers measure is from one to the other.
    params.not_before = now - SKEW;
    params.not_after = now - SKEW + LIFETIME;
    Ok(params.self_signed(key)?.pem())
}

/// Used by the tests beside this file.
#[cfg(test)]
pub(super) fn days(days: u64) -> Duration {
    Duration::from_secs(days * DAY)
}

const _: () = assert!(LIFETIME.as_secs() <= 14 * DAY && RENEWAL_AGE.as_secs() < LIFETIME.as_secs());

//! Certificates are made, kept, renewed and replaced; mistakes name the file.

use std::os::unix::fs::PermissionsExt;

use super::*;

const NOW: Timestamp = Timestamp::from_raw(1_800_000_000_000_000);

fn development(names: &[&str]) -> TlsConfig {
    TlsConfig { files: None, names: names.iter().map(|name| (*name).to_owned()).collect(), sessions_max: 16 }
}

fn open(dir: &Path, at: u64) -> CertificateInfo {
    Certificates::open(&development(&[]), dir, NOW.after(development::days(at))).unwrap().info()
}

#[test]
fn a_renewed_development_certificate_keeps_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 0);
    assert_eq!(open(dir.path(), 4), first, "four days old: kept");
    let second = open(dir.path(), 6);
    assert_ne!(second.fingerprint, first.fingerprint);
    assert_eq!(second.pin, first.pin);
    assert_eq!(second.not_after.since(second.not_before), development::days(10));
    let key = dir.path().join("tls/development.key");
    assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_new_name_and_a_damaged_certificate_make_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 0);
    let named = Certificates::open(&development(&["chat.example", "192.0.2.7"]), dir.path(), NOW).unwrap().info();
    assert_ne!(named.fingerprint, first.fingerprint);
    fs::write(dir.path().join("tls/development.crt"), "nothing").unwrap();
    let again = open(dir.path(), 0);
    assert_eq!(again.pin, first.pin);
}

#[test]
fn files_are_read_again_when_they_change_and_stay_in_use_when_they_are_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1"), dir.path().join("2"));
    let files = |name: &Path| (name.join("tls/development.crt"), name.join("tls/development.key"));
    let (info1, info2) = (open(&first, 0), open(&second, 0));
    let config = TlsConfig { files: Some(files(&first)), ..development(&[]) };
    let certificates = Certificates::open(&config, dir.path(), NOW).unwrap();
    assert!(!certificates.is_stale(NOW.after(development::days(9))));
    assert_eq!(certificates.info().fingerprint, info1.fingerprint);

    let late = SystemTime::now() + development::days(1);
    let put = |from: &Path, to: &Path| {
        fs::copy(from, to).unwrap();
        fs::File::options().write(true).open(to).unwrap().set_modified(late).unwrap();
    };
    put(&files(&second).0, &files(&first).0);
    assert!(certificates.is_stale(NOW));
    let text = certificates.reload(NOW).unwrap_err().to_string();
    assert!(text.contains("1/tls/development.key is not the key of"), "{text}");
    assert!(!certificates.is_stale(NOW), "complained of once");
    assert_eq!(certificates.info().fingerprint, info1.fingerprint);

    put(&files(&second).1, &files(&first).1);
    assert_eq!(certificates.reload(NOW).unwrap().fingerprint, info2.fingerprint);
}

#[test]
fn mistakes_name_the_file_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), 0);
    let (good, key) = (dir.path().join("tls/development.crt"), dir.path().join("tls/development.key"));
    let fault = |chain: &Path, key: &Path| {
        let config = TlsConfig { files: Some((chain.to_owned(), key.to_owned())), ..development(&[]) };
        let text = Certificates::open(&config, dir.path(), NOW).unwrap_err().to_string();
        text.replace(&format!("{}/", dir.path().display()), "")
    };
    let missing = dir.path().join("none.pem");
    expect_test::expect!["none.pem: cannot read the certificate: No such file or directory (os error 2); check the path that tls.certificate and tls.key name, or leave both empty for a development certificate"].assert_eq(&fault(&missing, &key));
    expect_test::expect![
        "tls/development.crt: no private key in it; tls.certificate takes a PEM chain, tls.key a PEM private key"
    ]
    .assert_eq(&fault(&good, &good));
    expect_test::expect![
        "tls/development.key: no PEM certificate in it; tls.certificate takes a PEM chain, tls.key a PEM private key"
    ]
    .assert_eq(&fault(&key, &key));
}

#[test]
fn tls_is_1_3_with_the_right_protocols_and_early_data_for_quic_only() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::open(&development(&[]), dir.path(), NOW).unwrap();
    let (quic, tcp) = (certificates.quic(16), certificates.tcp(16));
    assert_eq!(
        (quic.alpn_protocols.clone(), tcp.alpn_protocols.clone()),
        (vec![b"tern/1".to_vec()], vec![b"http/1.1".to_vec()])
    );
    assert_eq!((quic.max_early_data_size, tcp.max_early_data_size), (u32::MAX, 0));
    assert_eq!(certificates.quic(0).max_early_data_size, 0);
    let groups: Vec<_> = quic.crypto_provider().kx_groups.iter().map(|group| group.name()).collect();
    assert_eq!(groups.first(), Some(&rustls::NamedGroup::X25519));
    assert!(groups.contains(&rustls::NamedGroup::X25519MLKEM768));
}

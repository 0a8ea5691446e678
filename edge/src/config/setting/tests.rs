//! The defaults are complete and are those of the crates that use them; mistakes are named.

use super::super::key::KEYS;
use super::super::layer::{DEFAULT_TOML, Flag};
use super::*;

fn layers_of(toml: &str) -> Result<Layers, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tern.toml");
    std::fs::write(&path, toml).unwrap();
    let mut layers = Layers::defaults();
    layers.add_file(&path)?;
    Ok(layers)
}

fn fault_of(toml: &str) -> String {
    let text = layers_of(toml).and_then(|layers| Config::build(&layers)).unwrap_err().to_string();
    match text.split_once("/tmp/") {
        Some((before, after)) => format!("{before}{}", after.split_once('/').map_or(after, |(_, file)| file)),
        None => text,
    }
}

fn environment(name: &str, value: &str) -> Result<Config, ConfigError> {
    let mut layers = Layers::defaults();
    layers.add_environment([(name.to_owned(), value.to_owned())])?;
    Config::build(&layers)
}

/// The comment above each key says what may be there, in the words of the error messages.
#[test]
fn default_toml_has_every_key_in_order_with_its_range() {
    let mut section = String::new();
    let mut comment = Vec::new();
    let mut seen = Vec::new();
    for line in DEFAULT_TOML.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            comment.clear();
        } else if let Some((name, _)) = line.split_once(" = ") {
            let path = format!("{section}{name}");
            let key = KEYS.iter().find(|key| key.path == path).unwrap_or_else(|| panic!("{path} is not in key.rs"));
            assert_eq!(comment.last(), Some(&&*format!("Range: {}", key.kind)), "{path}");
            assert!(comment.len() >= 2, "{path} does not say what it means");
            seen.push(key.path);
            comment.clear();
        }
    }
    assert_eq!(seen, KEYS.iter().map(|key| key.path).collect::<Vec<_>>());
}

#[test]
fn the_defaults_are_those_of_the_crates_that_use_them() {
    let config = Config::default();
    assert_eq!(config.process.limits, Limits::default());
    let store = EmbeddedConfig::new("tern-data/store", 64, config.process.shards);
    assert_eq!(config.process.store, store);
    assert_eq!(config.cluster.partitions, tern_protocol::placement::PARTITION_COUNT_DEFAULT);
}

#[test]
fn what_is_printed_says_the_same_when_it_is_read() {
    let mut layers = layers_of("listen = \"127.0.0.1:1\"\n[http]\norigins = [\"https://chat.example\"]").unwrap();
    layers.add_flags([Flag { name: "--shards", key: "shards".into(), value: "3".into() }]).unwrap();
    let printed = layers.to_toml();
    assert!(printed.contains("shards = 3  # --shards"), "{printed}");
    let again = layers_of(&printed).unwrap();
    assert_eq!(Config::build(&again).unwrap(), Config::build(&layers).unwrap());
}

#[test]
fn later_sources_win() {
    let mut layers = layers_of("shards = 1\n[limits]\ninflight_max = 1").unwrap();
    let vars = [("TERN_SHARDS", "2"), ("TERN_LIMITS__INFLIGHT_MAX", "2"), ("HOME", "/root")];
    layers.add_environment(vars.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
    layers.add_flags([Flag { name: "--shards", key: "shards".into(), value: "3".into() }]).unwrap();
    let config = Config::build(&layers).unwrap();
    assert_eq!((config.process.shards, config.process.limits.inflight_max), (3, 2));
}

#[test]
fn mistakes_name_key_value_range_and_the_nearest_key() {
    expect_test::expect!["unknown key `limits.inflight` in tern.toml; did you mean `limits.inflight_max`?"]
        .assert_eq(&fault_of("[limits]\ninflight = 5"));
    expect_test::expect!["unknown key `limit` in tern.toml; did you mean `limits`?"]
        .assert_eq(&fault_of("[limit]\ninflight_max = 5"));
    expect_test::expect!["`limits.hello_timeout` cannot be \"5\" (in tern.toml); it takes 100ms ..= 1m"]
        .assert_eq(&fault_of("[limits]\nhello_timeout = \"5\""));
    expect_test::expect!["`shards` cannot be 65 (in tern.toml); it takes 0 ..= 64"].assert_eq(&fault_of("shards = 65"));
    expect_test::expect!["tls.certificate and tls.key go together: set both or none"]
        .assert_eq(&fault_of("[tls]\ncertificate = \"a.pem\""));
    assert!(fault_of("shards = ").contains("is not TOML"));
    assert!(fault_of("[limits]\noutbox_live_max = \"4MiB\"").contains("outbox_close_max"));
    assert!(fault_of("[http]\norigins = [\"*\"]").contains("scheme://host"));
}

#[cfg(not(feature = "glommio"))]
#[test]
fn a_runtime_that_is_not_in_this_build_says_how_to_get_it() {
    expect_test::expect![[r#"
        driver = "glommio" is not in this build; to compare runtimes, build one that has it: cargo build --release -p tern-edge --features glommio"#]]
    .assert_eq(&fault_of("driver = \"glommio\""));
}

#[test]
fn environment_variables_are_checked_like_keys() {
    let text = environment("TERN_LIMITS__FRAME_PER_SECOND", "5").unwrap_err().to_string();
    expect_test::expect![
        "unknown key `limits.frame_per_second` in TERN_LIMITS__FRAME_PER_SECOND; did you mean `limits.frames_per_second`?"
    ]
    .assert_eq(&text);
    let text = environment("TERN_PIN", "yes").unwrap_err().to_string();
    expect_test::expect!["`pin` cannot be yes (in TERN_PIN); it takes true or false"].assert_eq(&text);
    let origins = environment("TERN_HTTP__ORIGINS", "https://a.example, https://b.example").unwrap();
    assert_eq!(origins.process.http.origins, ["https://a.example", "https://b.example"]);
}

/// A service named `tern` in the same namespace must not keep every pod from starting.
#[test]
fn variables_that_kubernetes_adds_are_not_ours() {
    for (name, value) in [
        ("TERN_SERVICE_HOST", "10.0.0.1"),
        ("TERN_SERVICE_PORT_QUIC", "7443"),
        ("TERN_PORT", "udp://10.0.0.1:7443"),
        ("TERN_PORT_7443_UDP_ADDR", "10.0.0.1"),
        ("TERN_ADMIN_SERVICE_PORT", "7480"),
        ("TERN_CONFIG", "/etc/tern.toml"),
    ] {
        assert_eq!(environment(name, value).unwrap(), Config::default(), "{name}");
    }
    assert!(environment("TERN_PORT", "7443").is_err());
}

#[test]
fn clusters_that_differ_have_different_fingerprints() {
    let one = Config::default().cluster;
    let other = ClusterConfig { members_max: one.members_max + 1, ..one.clone() };
    assert_eq!(one.fingerprint(), one.clone().fingerprint());
    assert_ne!(one.fingerprint(), other.fingerprint());
}

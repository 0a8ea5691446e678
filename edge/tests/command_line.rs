//! The binary's command line: what it prints, what it refuses, and its exit codes. Starts no server that stays.
#![expect(clippy::unwrap_used, reason = "what surprises a test fails it")]

use std::path::Path;
use std::process::{Command, Output};

fn tern(directory: &Path, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tern"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TERN_")) {
        command.env_remove(name);
    }
    command.args(args).envs(environment.iter().copied()).current_dir(directory).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn what_is_printed_can_be_used_as_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [("TERN_LIMITS__INFLIGHT_MAX", "9")];
    let printed = tern(dir.path(), &["--print-config", "--shards", "3"], &environment);
    assert_eq!(printed.status.code(), Some(0));
    let first = text(&printed.stdout);
    assert!(first.contains("inflight_max = 9  # TERN_LIMITS__INFLIGHT_MAX"), "{first}");
    std::fs::write(dir.path().join("tern.toml"), &first).unwrap();
    let again = tern(dir.path(), &["--config", "tern.toml", "--print-config"], &[]);
    let values = |text: &str| text.lines().map(|line| line.split("  #").next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&text(&again.stdout)), values(&first));
}

#[test]
fn a_check_passes_or_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let good = tern(dir.path(), &["--check-config"], &[]);
    assert_eq!((good.status.code(), &*text(&good.stdout)), (Some(0), "the configuration is good\n"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    for (args, environment, told) in [
        (&["--check-config", "--certificate", "no.pem", "--key", "no.key"][..], &[][..], "no.pem"),
        (&["--check-config", "--data-dir", "/proc/none"], &[], "/proc/none"),
        (&["--check-config", "--set", "limits.flood_max=0"], &[], "`limits.flood_max` cannot be 0"),
        (&["--check-config", "--log", "tern=loud"], &[], "log.filter"),
        (&["--check-config", "--config", "none.toml"], &[], "none.toml"),
        (&["--check-config"], &[("TERN_SHARD", "2")], "did you mean `shards`"),
    ] {
        let bad = tern(dir.path(), args, environment);
        let message = text(&bad.stderr);
        assert_eq!(bad.status.code(), Some(1), "{args:?}");
        assert!(message.starts_with("tern: ") && message.contains(told), "{args:?}: {message}");
        assert!(bad.stdout.is_empty());
    }
}

#[test]
fn wrong_flags_are_told_from_wrong_values() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(tern(dir.path(), &["--no-such-flag"], &[]).status.code(), Some(2));
    assert_eq!(tern(dir.path(), &["dance"], &[]).status.code(), Some(2));
    assert_eq!(tern(dir.path(), &["--shards", "many"], &[]).status.code(), Some(1));
    assert_eq!(tern(dir.path(), &["--help"], &[]).status.code(), Some(0));
}

#[test]
fn a_port_in_use_is_named_with_its_key_before_the_store_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flags, key) in [
        (["--listen", &address, "--admin-listen", "127.0.0.1:0"], "change `listen`"),
        (["--admin-listen", &address, "--listen", "127.0.0.1:0"], "change `admin.listen`"),
    ] {
        let output = tern(dir.path(), &flags, &[("TERN_DATA_DIR", "data"), ("TERN_LOG__FILTER", "error")]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(message.contains("taken") && message.contains(key) && message.contains(&address), "{message}");
    }
    assert!(!dir.path().join("data/store").exists());
}

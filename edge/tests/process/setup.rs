//! Setting up, wrongly and rightly: each mistake says what to do, and stopping tells everybody first.

use std::process::Output;
use std::time::{Duration, Instant};

use tern_client::wire::Ending;
use tern_client::{CloseCode, Transport};
use tern_perf::child::ServerPlan;

use crate::site::{Mode, PATIENCE, Site, ending, plan, run};

const ANY: Mode = Mode { driver: "auto", shards: 1 };

/// Runs a server that cannot start, and returns what it says.
fn refused(plan: &ServerPlan) -> (Option<i32>, String) {
    let mut command = plan.command().unwrap();
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(!status.success(), "it started: {said}");
    (status.code(), said)
}

#[track_caller]
fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn a_taken_port_is_named_with_its_key() {
    let site = Site::start(ANY);
    let (mut other, _directory) = plan(ANY);
    other.listen = site.plan.listen;
    let (_, said) = refused(&other);
    says(&said, &["listen", &site.plan.listen.port().to_string()]);
    let (mut other, _directory) = plan(ANY);
    other.admin = site.plan.admin;
    let (_, said) = refused(&other);
    says(&said, &["admin", &site.plan.admin.port().to_string()]);
}

#[test]
fn a_data_directory_in_use_is_named() {
    let site = Site::start(ANY);
    let mut other = ServerPlan::new(&site.plan.binary, &site.plan.directory).unwrap();
    other.driver = "auto".to_owned();
    let (_, said) = refused(&other);
    says(&said, &["process", &site.server.pid().to_string(), "data_dir"]);
}

#[test]
fn an_unreadable_certificate_is_named() {
    let (plan, directory) = plan(ANY);
    let file = directory.path().join("missing.pem").display().to_string();
    let (_, said) = refused(&plan.with("TERN_TLS__CERTIFICATE", &file).with("TERN_TLS__KEY", &file));
    says(&said, &["missing.pem"]);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    let (plan, _directory) = plan(ANY);
    let (_, said) = refused(&plan.with("TERN_LIMITS__FRAMES_PER_SECONDS", "3"));
    says(&said, &["frames_per_seconds", "frames_per_second"]);
}

#[test]
fn a_value_out_of_range_is_named_with_its_range() {
    let (plan, _directory) = plan(ANY);
    let (_, said) = refused(&plan.with("TERN_LIMITS__INFLIGHT_MAX", "0"));
    says(&said, &["inflight_max", "1"]);
}

/// The journal's segments with something in them, newest last.
fn segments(plan: &ServerPlan) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![plan.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "seg") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A server that has stored messages without a checkpoint of the view, killed; with the segment and where its data ends.
fn killed_with_messages() -> (ServerPlan, tempfile::TempDir, std::path::PathBuf, usize) {
    let (plan, directory) = plan(ANY);
    // No checkpoint while the test lasts: the journal keeps everything.
    let plan = plan.with("TERN_STORE__CHECKPOINT_INTERVAL", "10m");
    let server = plan.start().unwrap();
    let site = Site { server, plan, directory };
    let keep = std::cell::Cell::new(None);
    run(async {
        site.register("ada").await;
        let (ada, _events) = site.client("ada", Transport::Quic).await;
        let notes = ada.open_direct(ada.user()).await.unwrap();
        for index in 0..50 {
            ada.send(notes, &format!("note {index} {}", "x".repeat(2_000))).await.unwrap();
        }
        keep.set(Some(()));
    });
    assert!(keep.take().is_some());
    let Site { server, plan, directory } = site;
    server.kill().unwrap();
    // Without the view everything must come from the journal, from its first command on.
    std::fs::remove_dir_all(plan.data_dir().join("store/view")).unwrap();
    let with_data = segments(&plan).into_iter().map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        (path, end)
    });
    let (path, end) = with_data.max_by_key(|(_, end)| *end).unwrap();
    (plan, directory, path, end)
}

/// Turns a byte of a file over.
fn damage(path: &std::path::Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0xff;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_torn_journal_tail_is_cut_and_reported() {
    let (plan, directory, path, end) = killed_with_messages();
    damage(&path, end - 100);
    let site = Site { server: plan.start().unwrap(), plan, directory };
    says(&site.plan.log(), &["cut an unfinished batch", &path.file_name().unwrap().to_string_lossy()]);
    run(async {
        let (ada, _events) = site.client("ada", Transport::Quic).await;
        let notes = ada.open_direct(ada.user()).await.unwrap();
        let page = ada.history(notes, tern_client::Page::After(tern_client::Seq::ZERO), 256).await.unwrap();
        // The conversation's beginning and fifty notes, of which the torn batch had at most the last.
        let places: Vec<u64> = page.events.iter().map(|event| event.seq.raw()).collect();
        let dense: Vec<u64> = (1..=places.len() as u64).collect();
        assert!(places == dense && places.len() >= 16, "{places:?}");
        assert!(page.head.raw() >= 50, "more than the torn batch is gone: {}", page.head);
    });
}

#[test]
fn a_damaged_journal_middle_is_refused_with_the_reason() {
    let (plan, _directory, path, end) = killed_with_messages();
    // Into the header's page of some batch, not into its padding.
    damage(&path, end / 2 / 4096 * 4096 + 100);
    let (_, said) = refused(&plan);
    says(&said, &[&path.file_name().unwrap().to_string_lossy(), "damaged"]);
}

#[test]
fn print_config_can_be_read_back_and_check_config_agrees() {
    let (plan, directory) = plan(ANY);
    let tern =
        |words: &[&str]| std::process::Command::new(&plan.binary).args(words).current_dir(&directory).output().unwrap();
    let printed = tern(&["--print-config"]);
    assert!(printed.status.success());
    let file = directory.path().join("tern.toml");
    std::fs::write(&file, &printed.stdout).unwrap();
    let checked = tern(&["--check-config", "--config", &file.to_string_lossy()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    std::fs::write(&file, "listn = \"[::]:7443\"\n").unwrap();
    let checked = tern(&["--check-config", "--config", &file.to_string_lossy()]);
    assert_eq!(checked.status.code(), Some(1));
    says(&String::from_utf8_lossy(&checked.stderr), &["listn", "listen"]);
}

#[test]
fn health_and_metrics_are_not_on_the_public_port() {
    run(async {
        let site = Site::start(ANY);
        assert!(site.server.admin_get("/health/live").unwrap().starts_with("HTTP/1.1 200"));
        assert!(site.server.metric("tern_sessions").is_some());
        let mut tls = site.dialer().tls(site.plan.listen).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut tls, request).await.unwrap();
        let mut answer = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut tls, &mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
    });
}

pub(crate) fn draining_tells_everybody(mode: Mode) {
    run(async {
        let site = Site::start(mode);
        site.register("ada").await;
        let mut links = Vec::new();
        for transport in [Transport::Quic, Transport::WebSocket] {
            links.push(site.open("ada", transport).await);
        }
        crate::site::until("both are in", || site.server.metric("tern_sessions") == Some(2.0)).await;
        site.server.terminate().unwrap();
        for link in &mut links {
            assert_eq!(ending(link).await, Ending::Closed(CloseCode::Draining));
        }
        let server = site.server;
        let status = tokio::task::spawn_blocking(move || server.wait(PATIENCE)).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0));
    });
}

/// A request that is only half there keeps the server from ending by itself: nothing but the second signal can end it.
#[test]
fn a_second_signal_stops_at_once() {
    run(async {
        let (plan, directory) = plan(ANY);
        let plan = plan.with("TERN_DRAIN_TIMEOUT", "1h").with("TERN_HTTP__BODY_TIMEOUT", "5m");
        let site = Site { server: plan.start().unwrap(), plan, directory };
        let mut half = site.dialer().tls(site.plan.listen).await.unwrap();
        let request = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{";
        tokio::io::AsyncWriteExt::write_all(&mut half, request).await.unwrap();
        let in_flight = || site.server.metric("tern_http_requests_in_flight") == Some(1.0);
        crate::site::until("the request is in flight", in_flight).await;
        // Sent until it takes effect: one that follows the first too soon counts as the same.
        crate::site::until("the server is gone", || {
            let _ = site.server.terminate();
            site.server.rss().unwrap_or(0) == 0
        })
        .await;
        let server = site.server;
        let status = tokio::task::spawn_blocking(move || server.wait(PATIENCE)).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(143));
    });
}

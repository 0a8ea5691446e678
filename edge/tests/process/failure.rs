//! A store that fails under a running server: clients are told to come back, the process ends so that its supervisor starts another, and
//! that one has everything that was acknowledged.

use tern_client::wire::Ending;
use tern_client::{CloseCode, Transport};
use tern_perf::child::Server;

use crate::site::{Mode, PATIENCE, Site, ending, run};

const ANY: Mode = Mode { driver: "auto", shards: 2 };
/// What a process ends with whose store has failed.
const STORE_FAILED: i32 = 3;
const NOTES: usize = 20;

/// Sends notes, breaks the store, and checks how the process ends; then mends the store, and checks that the next one has every note.
fn ends_and_goes_on(break_store: impl FnOnce(&Site) -> Box<dyn FnOnce()>, words: &[&str]) {
    run(async {
        let site = Site::start(ANY);
        site.register("ada").await;
        let (ada, _events) = site.client("ada", Transport::Quic).await;
        let notes = ada.open_direct(ada.user()).await.unwrap();
        for index in 0..NOTES {
            ada.send(notes, &format!("note {index}")).await.unwrap();
        }
        drop(ada);
        let mut links = Vec::new();
        for transport in [Transport::Quic, Transport::WebSocket] {
            links.push(site.open("ada", transport).await);
        }
        let mend = break_store(&site);
        for link in &mut links {
            assert_eq!(ending(link).await, Ending::Closed(CloseCode::Draining), "told to come back");
        }
        let Site { server, plan, directory } = site;
        let status = tokio::task::spawn_blocking(move || server.wait(PATIENCE)).await.unwrap().unwrap();
        let log = plan.log();
        assert_eq!(status.code(), Some(STORE_FAILED), "{log}");
        for word in words {
            assert!(log.contains(word), "{word:?} is not in: {log}");
        }
        mend();
        let site = Site { server: plan.start().unwrap(), plan, directory };
        let (ada, _events) = site.client("ada", Transport::Quic).await;
        let notes = ada.open_direct(ada.user()).await.unwrap();
        let page = ada.history(notes, tern_client::Page::After(tern_client::Seq::ZERO), 256).await.unwrap();
        assert!(page.events.len() > NOTES, "the conversation's beginning and every note: {}", page.events.len());
        ada.send(notes, "goes on").await.unwrap();
    });
}

#[test]
fn a_data_directory_that_is_moved_away_ends_the_process_and_loses_nothing() {
    let take_away = |site: &Site| {
        let (data, away) = (site.plan.data_dir(), site.directory.path().join("away"));
        std::fs::rename(&data, &away).unwrap();
        Box::new(move || std::fs::rename(&away, &data).unwrap()) as Box<dyn FnOnce()>
    };
    ends_and_goes_on(take_away, &["deleted or moved", "status 3"]);
}

/// Every sync of the server fails from here on, as on a disk that has lost its cable.
fn fail_syncs(server: &Server) -> std::process::Child {
    let mut command = std::process::Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", "-p"]);
    command.arg(server.pid().to_string()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.spawn().expect("strace is needed")
}

#[test]
fn syncs_that_fail_end_the_process_and_lose_nothing() {
    let break_disk = |site: &Site| {
        let mut fault = fail_syncs(&site.server);
        // It fails at the next write: these are refused or unknown, or came before the fault.
        let (auth, traced) = (site.auth(), site.server.pid());
        tokio::spawn(async move {
            for index in 0.. {
                let traced = std::fs::read_to_string(format!("/proc/{traced}/status")).unwrap_or_default();
                let _ = auth.register(&format!("guest-{index}"), crate::site::PASSWORD, None).await;
                if traced.is_empty() {
                    return;
                }
            }
        });
        Box::new(move || {
            fault.wait().unwrap();
        }) as Box<dyn FnOnce()>
    };
    ends_and_goes_on(break_disk, &["Input/output error", "status 3"]);
}

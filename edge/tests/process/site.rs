//! A server of one test, and the clients that talk to it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tern_client::auth::{Auth, Grant};
use tern_client::wire::{Dialer, Ending, Incoming, Link};
use tern_client::{Client, Events, Positions, ServerAddress, Transport, Trust, Update};
use tern_perf::child::{Server, ServerPlan};
use tern_protocol::client::Hello;
use tern_protocol::frame;

/// How long anything may take that a test waits for. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The password of everybody.
pub(crate) const PASSWORD: &str = "correct horse";

/// How the server waits for I/O, and how many cores it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) driver: &'static str,
    pub(crate) shards: u16,
}

/// A running server with a directory of its own.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) plan: ServerPlan,
    pub(crate) directory: tempfile::TempDir,
}

/// A plan for a server in a fresh directory.
pub(crate) fn plan(mode: Mode) -> (ServerPlan, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut plan = ServerPlan::new(&binary(), directory.path()).unwrap();
    plan.driver = mode.driver.to_owned();
    plan.shards = mode.shards;
    (plan, directory)
}

pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tern"))
}

/// Runs a test's clients.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 3, test).await.expect("the test ends in time") });
}

impl Site {
    pub(crate) fn start(mode: Mode) -> Self {
        let (plan, directory) = plan(mode);
        let server = plan.start().unwrap();
        Self { server, plan, directory }
    }

    /// Starts the server again, on the same ports and data.
    pub(crate) fn restart(self) -> Self {
        let Self { server, plan, directory } = self;
        server.kill().unwrap();
        let server = plan.start().unwrap();
        Self { server, plan, directory }
    }

    pub(crate) fn address(&self) -> String {
        self.plan.listen.to_string()
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::FirstUse(self.directory.path().join("known-servers"))
    }

    pub(crate) fn dialer(&self) -> Dialer {
        Dialer::new(ServerAddress::parse(&self.address()).unwrap(), &self.trust()).unwrap()
    }

    pub(crate) fn auth(&self) -> Auth {
        Auth::new(self.dialer())
    }

    pub(crate) async fn register(&self, name: &str) {
        self.auth().register(name, PASSWORD, None).await.unwrap();
    }

    pub(crate) async fn grant(&self, name: &str) -> Grant {
        self.auth().login(name, PASSWORD, "raw").await.unwrap()
    }

    /// A client that is online, with everything since the beginning of each conversation.
    pub(crate) async fn client(&self, name: &str, transport: Transport) -> (Client, Events) {
        let builder = Client::builder(&self.address())
            .user(name)
            .password(PASSWORD)
            .trust(self.trust())
            .transport(transport)
            .ping_interval_max(Duration::from_secs(1))
            .resume(Positions::default());
        builder.connect().await.unwrap()
    }

    /// A connection that has sent these bytes and nothing else.
    pub(crate) async fn raw(&self, transport: Transport, first: &[u8]) -> Link {
        let dialer = self.dialer();
        match transport {
            Transport::WebSocket => dialer.websocket(self.plan.listen, None, first).await.unwrap(),
            Transport::Quic | Transport::Auto => dialer.quic(self.plan.listen, None, first).await.unwrap(),
        }
    }

    /// A raw connection of a user that was welcomed.
    pub(crate) async fn open(&self, name: &str, transport: Transport) -> Link {
        let grant = self.grant(name).await;
        self.raw(transport, &hello(grant.access_token.as_bytes())).await
    }
}

/// A hello without positions.
pub(crate) fn hello(token: &[u8]) -> Vec<u8> {
    frame::to_vec(&Hello { user_seq: 0, token, client: b"process test", positions: &[] })
}

/// How a connection ends.
pub(crate) async fn ending(link: &mut Link) -> Ending {
    loop {
        match tokio::time::timeout(PATIENCE, link.next()).await.expect("the connection ends in time") {
            Incoming::Frame(..) => {}
            Incoming::Closed(ending) => return ending,
        }
    }
}

/// The next update that a test is interested in.
pub(crate) async fn next<T>(events: &mut Events, mut pick: impl FnMut(Update) -> Option<T>) -> T {
    let search = async {
        loop {
            let update = events.next().await.expect("the client is not closed");
            if let Some(found) = pick(update) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("the update comes in time")
}

/// Waits for something that no update tells.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

//! The Rust SDK of Tern: log in, stay connected over QUIC or WebSocket, send, and get every event once and in order.
//!
//! ```no_run
//! use tern_client::{Client, TokenStore, Trust, Update};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let (client, mut events) = Client::builder("localhost:7443")
//!     .user("ada")
//!     .password("correct horse battery")
//!     .token_store(TokenStore::file("/tmp/ada/session.json"))
//!     .trust(Trust::FirstUse("/tmp/ada/known_servers".into()))
//!     .connect()
//!     .await?;
//!
//! if let Some(bob) = client.profile_by_name("bob").await? {
//!     let conversation = client.open_direct(bob.user).await?;
//!     // Acknowledged means durable; a lost connection in between is repaired, and the message is stored once.
//!     let sent = client.send(conversation, "Hello Bob").await?;
//!     println!("stored as {} of {}", sent.seq, sent.conversation);
//! }
//!
//! while let Some(update) = events.next().await {
//!     match update {
//!         Update::Event(event) => {
//!             println!("{} {}: {}", event.seq, event.sender, event.text());
//!             client.mark_read(event.conversation, event.seq, event.visible);
//!         }
//!         Update::State(state) => println!("{state:?}"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`wire`] is the layer below: raw connections for load generators and hostile tests.
#![forbid(unsafe_code)]

pub mod auth;
mod backoff;
mod builder;
mod client;
mod connect;
mod driver;
mod outbox;
mod pending;
mod private_file;
mod random;
mod session;
mod sync;
mod token_store;
mod tokens;
mod update;
mod view;
pub mod wire;

pub use builder::{BuildError, ClientBuilder};
pub use client::{Client, Events, GroupOptions, Page, SendHandle};
pub use connect::Transport;
pub use driver::UPDATES_QUEUED_MAX;
pub use outbox::{PostContent, Progress, SendError, SendState};
pub use pending::PendingSend;
/// The ids that appear everywhere.
pub use tern_protocol::{
    CloseCode, ConversationId, ConversationKind, DeviceId, FrameError, RejectCode, RequestId, Seq, Timestamp, UserId,
};
pub use token_store::{StoredSession, TokenStore};
pub use tokens::{Access, TokenError, Tokens};
pub use update::{ConnectionState, Done, RequestError, StopReason, Update};
pub use view::{
    Content, ConversationView, EventKind, EventView, HistoryView, MemberView, MembersView, Positions, ProfileView, Role,
};
pub use wire::{LinkTransport, ServerAddress, Trust};

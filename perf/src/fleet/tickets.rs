//! Session tickets of the server, kept so that a peer that comes back resumes with early data. A ticket is used once, and only by a peer
//! that comes back: a first connection pays for a whole handshake, as a new installation does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Tickets of one shard of the server, oldest first. All peers of a worker that live on that shard share them: a ticket proves that the
/// server was met before, not who meets it, and the server does the same work whoever shows it.
#[derive(Debug)]
pub(super) struct Tickets {
    kept: Mutex<VecDeque<Tls13ClientSessionValue>>,
    /// More than this are not kept: the oldest goes. Unit: tickets, about 1.5 KB each.
    most: usize,
}

impl Tickets {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { kept: Mutex::default(), most })
    }
}

/// For peers that come for the first time: keeps what it gets and shows nothing.
#[derive(Debug)]
pub(super) struct Collect(pub(super) Arc<Tickets>);

/// For peers that come back.
#[derive(Debug)]
pub(super) struct Spend(pub(super) Arc<Tickets>);

impl Tickets {
    fn put(&self, ticket: Tls13ClientSessionValue) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.most {
            kept.pop_front();
        }
        kept.push_back(ticket);
    }

    fn take(&self) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

macro_rules! store {
    ($name:ident, $take:expr) => {
        impl ClientSessionStore for $name {
            fn set_kx_hint(&self, _server: ServerName<'static>, _group: NamedGroup) {}
            fn kx_hint(&self, _server: &ServerName<'_>) -> Option<NamedGroup> {
                None
            }
            fn set_tls12_session(&self, _server: ServerName<'static>, _session: Tls12ClientSessionValue) {}
            fn tls12_session(&self, _server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
                None
            }
            fn remove_tls12_session(&self, _server: &ServerName<'static>) {}
            fn insert_tls13_ticket(&self, _server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
                self.0.put(ticket);
            }
            fn take_tls13_ticket(&self, _server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
                let take: fn(&Tickets) -> Option<Tls13ClientSessionValue> = $take;
                take(&self.0)
            }
        }
    };
}

store!(Collect, |_| None);
store!(Spend, Tickets::take);

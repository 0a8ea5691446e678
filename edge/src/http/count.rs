//! What the HTTP side counts: plain atomics with fixed labels. A label never comes from a request.

use std::sync::atomic::{AtomicU64, Ordering};

/// Status classes, by first digit: 1xx to 5xx.
pub const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

macro_rules! routes {
    ($($variant:ident = $path:literal, $label:literal;)+) => {
        /// Where a request went.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Route {
            $(#[doc = concat!("`", $path, "`")] $variant,)+
            /// Nowhere.
            Other,
        }

        impl Route {
            /// Every route.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+ Self::Other];

            /// The route of a matched path.
            #[must_use]
            pub fn of(path: Option<&str>) -> Self {
                match path { $(Some($path) => Self::$variant,)+ _ => Self::Other }
            }

            /// Its label in metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ Self::Other => "other" }
            }
        }
    };
}

routes! {
    Page = "/", "page";
    Socket = "/api/v1/socket", "socket";
    Register = "/api/v1/auth/register", "register";
    Login = "/api/v1/auth/login", "login";
    Refresh = "/api/v1/auth/refresh", "refresh";
    Logout = "/api/v1/auth/logout", "logout";
    Devices = "/api/v1/auth/devices", "devices";
    Device = "/api/v1/auth/devices/{device_id}", "device";
}

const ROUTE_COUNT: usize = Route::ALL.len();

/// Numbers of the public listener since the start.
#[derive(Debug, Default)]
pub struct HttpCounters {
    requests: [[AtomicU64; STATUS_CLASSES.len()]; ROUTE_COUNT],
    in_flight: AtomicU64,
    /// TCP connections accepted.
    pub accepted: AtomicU64,
    /// TCP connections that are open and not chat sessions, now.
    pub open: AtomicU64,
    /// Accepting failed: no file descriptors, no memory.
    pub accept_failures: AtomicU64,
    /// TLS handshakes that failed or took too long.
    pub handshake_failures: AtomicU64,
    /// Connections closed for being slow or idle.
    pub timeouts: AtomicU64,
    /// Sockets handed to a shard.
    pub upgrades: AtomicU64,
    /// Sockets that no shard took.
    pub upgrade_failures: AtomicU64,
}

impl HttpCounters {
    /// Adds one to a counter.
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, route: Route, status: u16) {
        let class = usize::from(status / 100).saturating_sub(1);
        if let Some(counter) = self.requests.get(route as usize).and_then(|classes| classes.get(class)) {
            Self::add(counter);
        }
    }

    /// Counts a request for as long as the guard lives.
    pub(crate) fn begin(&self) -> InFlight<'_> {
        Self::add(&self.in_flight);
        InFlight(&self.in_flight)
    }

    /// Requests that are not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests of a route answered with a status class (index into [`STATUS_CLASSES`]).
    #[must_use]
    pub fn requests(&self, route: Route, class: usize) -> u64 {
        let counter = self.requests.get(route as usize).and_then(|classes| classes.get(class));
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// A request that is not answered yet, or whose client has not gone away.
#[derive(Debug)]
pub(crate) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

//! The whole HTTP side against a table of accounts in memory: the API as clients see it, and connections as attackers use them.

mod accounts;
mod api;
mod connection;
mod upgrade;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::Value;
use tern_protocol::ShardId;
use tern_protocol::placement::Placement;
use tower::ServiceExt;

use self::accounts::Accounts;
use super::{HttpCounters, RouterParts, Sockets, Upgrades, router};
use crate::auth::{AccessTokens, Auth, AuthParts, Keys, Peer, TokenRules};
use crate::clock::Clock;
use crate::config::Config;
use crate::node::HandedSocket;

/// A server without sockets.
struct World {
    router: Router,
    accounts: Arc<Accounts>,
    sockets: Arc<Handed>,
    counters: Arc<HttpCounters>,
    /// Who calls.
    peer: &'static str,
}

/// An answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    json: Value,
}

/// Sockets that were handed over.
#[derive(Default)]
struct Handed(Mutex<Vec<(ShardId, HandedSocket)>>);

impl Sockets for Handed {
    fn hand_over(&self, shard: ShardId, socket: HandedSocket) -> Result<(), HandedSocket> {
        self.0.lock().unwrap().push((shard, socket));
        Ok(())
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.process.auth.hash_memory = 64 * 1024;
    config.process.auth.hash_passes = 1;
    config.process.shards = 4;
    config.process.http.origins = vec!["https://web.example".to_owned()];
    config
}

impl World {
    fn new() -> Self {
        Self::with(&config())
    }

    fn with(config: &Config) -> Self {
        let clock = Clock::start();
        let keys = Keys::open(tempfile::tempdir().unwrap().path()).unwrap();
        let cluster = &config.cluster;
        let rules = TokenRules {
            issuer: cluster.issuer.clone(),
            audience: cluster.audience.clone(),
            lifetime: cluster.access_token_lifetime,
        };
        let accounts = Arc::new(Accounts::default());
        let parts = AuthParts {
            config: &config.process.auth,
            keys: &keys,
            tokens: Arc::new(AccessTokens::new(&keys, rules)),
            placement: config.placement(),
            devices_max: 3,
            clock,
        };
        let auth = Arc::new(Auth::new(&parts, Arc::clone(&accounts) as _));
        let sockets = Arc::new(Handed::default());
        let counters = Arc::new(HttpCounters::default());
        let origins: Arc<[String]> = config.process.http.origins.clone().into();
        let upgrades = Upgrades::new(
            Arc::clone(&sockets) as _,
            Arc::clone(&auth),
            config.placement(),
            Arc::clone(&origins),
            Arc::clone(&counters),
        );
        let router = router(RouterParts {
            auth,
            upgrades: Arc::new(upgrades),
            origins,
            body_timeout: config.process.http.body_timeout,
            counters: Arc::clone(&counters),
            clock,
        });
        Self { router, accounts, sockets, counters, peer: "192.0.2.1:5000" }
    }

    fn placement(&self) -> Placement {
        config().placement()
    }

    async fn send(&self, mut request: Request<Body>) -> Answer {
        request.extensions_mut().insert(Peer(self.peer.parse().unwrap()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: head.status, headers: head.headers, json }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = Request::post(format!("/api/v1/auth/{path}")).header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    async fn with_token(&self, method: Method, path: &str, token: &str) -> Answer {
        let request = Request::builder().method(method).uri(format!("/api/v1/auth/{path}"));
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    async fn register(&self, name: &str) -> Answer {
        self.post("register", &serde_json::json!({"username": name, "password": "correct horse"})).await
    }

    async fn login(&self, name: &str) -> Answer {
        let body = serde_json::json!({"username": name, "password": "correct horse", "device_name": "phone"});
        self.post("login", &body).await
    }
}

impl Answer {
    fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_else(|| panic!("{field} is text in {}", self.json))
    }

    /// Status and code of a problem, whose form is checked.
    fn problem(&self) -> (u16, &str) {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{}", self.json);
        assert_eq!(self.json["status"], self.status.as_u16());
        assert!(self.text("type").ends_with(self.text("code")));
        assert!(!self.text("title").is_empty() && !self.text("detail").is_empty());
        (self.status.as_u16(), self.text("code"))
    }
}

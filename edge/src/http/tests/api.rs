//! The accounts API as clients see it.

use axum::body::Body;
use axum::http::{Method, Request, header};
use serde_json::json;
use tern_core_shard::io::{AppendFailure, Request as Ask};
use tern_protocol::UserId;

use super::super::{BODY_SIZE_MAX, Route};
use super::World;
use crate::log::capture::Lines;

#[tokio::test]
async fn a_person_registers_logs_in_and_out() {
    let world = World::new();
    let registered = world.register("Ada").await;
    assert_eq!(registered.status, 201);
    assert_eq!(registered.text("username"), "ada");
    assert_eq!(world.register("ADA").await.problem(), (409, "name_taken"));

    let login = world.login("ada").await;
    assert_eq!(login.status, 200);
    assert_eq!(login.text("user_id"), registered.text("user_id"));
    assert_eq!(login.json["access_expires_in"], 900);
    let user = UserId::from_raw(login.text("user_id").parse().unwrap());
    assert_eq!(login.json["home"], json!({"shard": world.placement().home(user).raw(), "shards": 4}));
    let token = login.text("access_token");

    let devices = world.with_token(Method::GET, "devices", token).await;
    let expected = json!({"devices": [{
        "device_id": login.text("device_id"), "name": "phone", "created_at": 5000, "last_used_at": 5000, "current": true,
    }]});
    assert_eq!(devices.json, expected);
    assert_eq!(world.with_token(Method::POST, "logout", token).await.status, 204);
    let after = world.with_token(Method::GET, "devices", token).await;
    assert_eq!(after.problem(), (401, "revoked"));
    assert_eq!(after.headers[header::WWW_AUTHENTICATE], "Bearer");
}

#[tokio::test]
async fn requests_go_to_the_shards_that_own_account_and_user() {
    let world = World::new();
    world.register("ada").await;
    world.login("ada").await;
    let placement = world.placement();
    for (shard, request) in world.accounts.asked() {
        let owner = match &request {
            Ask::Register { name, .. } | Ask::FindAccount { name } => placement.shard(placement.of_account(name)),
            Ask::OpenDevice { user, .. }
            | Ask::RotateDevice { user, .. }
            | Ask::CloseDevice { user, .. }
            | Ask::ListDevices { user } => placement.home(*user),
        };
        assert_eq!(shard, owner, "{request:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_the_same_answer() {
    let world = World::new();
    world.register("ada").await;
    let mut answers = Vec::new();
    for (name, password) in
        [("ada", "wrong horse"), ("bob", "correct horse"), ("not a name!", "x"), ("ada", &*"x".repeat(2000))]
    {
        let answer = world.post("login", &json!({"username": name, "password": password})).await;
        assert_eq!(answer.problem(), (401, "bad_credentials"), "{name}");
        let names: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
        answers.push((answer.json, names));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn names_and_passwords_that_are_not_good_are_refused() {
    let world = World::new();
    for name in ["a", "a b", "\u{430}da", &"a".repeat(33)] {
        assert_eq!(world.register(name).await.problem(), (422, "invalid_username"), "{name}");
    }
    for password in ["short", "adalovelace", &"x".repeat(1025)] {
        let answer = world.post("register", &json!({"username": "adalovelace", "password": password})).await;
        assert_eq!(answer.problem(), (422, "weak_password"));
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_refresh_can_be_asked_for_again() {
    let world = World::new();
    world.register("ada").await;
    let login = world.login("ada").await;
    let refresh = |token: String, attempt: &'static str| {
        let world = &world;
        async move { world.post("refresh", &json!({"refresh_token": token, "attempt": attempt})).await }
    };
    let first = login.text("refresh_token").to_owned();
    let second = refresh(first.clone(), "7").await;
    assert_eq!(second.status, 200);
    assert_eq!(second.text("device_id"), login.text("device_id"));
    let retried = refresh(first.clone(), "7").await;
    assert_eq!(retried.text("refresh_token"), second.text("refresh_token"));
    assert_ne!(retried.text("refresh_token"), first);

    // The same old token under another name: stolen. The device is logged out, and its newest token with it.
    assert_eq!(refresh(first, "8").await.problem(), (401, "bad_refresh_token"));
    let newest = second.text("refresh_token").to_owned();
    assert_eq!(refresh(newest, "9").await.problem(), (401, "bad_refresh_token"));
    assert_eq!(refresh("nonsense".to_owned(), "1").await.problem(), (401, "bad_refresh_token"));
    assert_eq!(refresh("nonsense".to_owned(), "-1").await.problem(), (422, "invalid_attempt"));
}

#[tokio::test]
async fn devices_are_logged_out_one_by_one_and_all_at_once() {
    let world = World::new();
    world.register("ada").await;
    let (phone, laptop) = (world.login("ada").await, world.login("ada").await);
    let token = phone.text("access_token");
    let path = |id: &str| format!("devices/{id}");
    let other = path(laptop.text("device_id"));
    assert_eq!(world.with_token(Method::DELETE, &other, token).await.status, 204);
    for gone in [other, path("5"), path("x"), path("..%2f")] {
        assert_eq!(world.with_token(Method::DELETE, &gone, token).await.problem(), (404, "unknown_device"), "{gone}");
    }
    assert_eq!(world.with_token(Method::DELETE, "devices", token).await.status, 204);
    assert_eq!(world.with_token(Method::GET, "devices", token).await.problem(), (401, "revoked"));
}

#[tokio::test]
async fn attempts_are_limited_per_account_and_per_network() {
    let mut config = super::config();
    config.process.auth.account_attempts_burst = 3;
    config.process.auth.prefix_attempts_burst = 8;
    let mut world = World::with(&config);
    for _ in 0..3 {
        assert_eq!(world.login("ada").await.problem(), (401, "bad_credentials"));
    }
    let refused = world.login("ada").await;
    assert_eq!(refused.problem(), (429, "rate_limited"));
    assert_eq!(refused.headers[header::RETRY_AFTER], "6");
    for name in ["bob", "eve", "dan", "kim"] {
        assert_eq!(world.login(name).await.problem(), (401, "bad_credentials"));
    }
    assert_eq!(world.login("zoe").await.problem(), (429, "rate_limited"), "the network has had its eight");
    world.peer = "198.51.100.7:5000";
    assert_eq!(world.login("zoe").await.problem(), (401, "bad_credentials"));
    assert_eq!(world.login("ada").await.problem(), (429, "rate_limited"), "the account's limit holds from anywhere");
}

#[tokio::test]
async fn bodies_that_are_not_good_json_are_refused_without_being_repeated() {
    let world = World::new();
    let send = |media: &'static str, body: String| {
        let request = Request::post("/api/v1/auth/register").header(header::CONTENT_TYPE, media);
        world.send(request.body(Body::from(body)).unwrap())
    };
    let deep = format!("{{\"username\":{}", "[".repeat(10_000));
    let bad = [
        "",
        "{",
        "null",
        "[]",
        "{\"username\":1,\"password\":\"secret secret\"}",
        "{\"username\":\"a\",\"username\":\"b\",\"password\":\"x\"}",
        "{\"username\":NaN}",
        "{\"username\":1e999,\"password\":\"x\"}",
        "\u{feff}{}",
        &deep,
    ];
    for body in bad {
        let answer = send("application/json", body.to_owned()).await;
        assert_eq!(answer.problem(), (400, "bad_json"), "{body}");
        assert!(!answer.json.to_string().contains("secret"));
    }
    assert_eq!(send("text/plain", "{}".to_owned()).await.problem(), (415, "not_json"));
    assert_eq!(send("application/json", " ".repeat(BODY_SIZE_MAX + 1)).await.problem(), (413, "too_large"));
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let world = World::new();
    let get = |path: &'static str| world.send(Request::get(path).body(Body::empty()).unwrap());
    for path in ["/nothing", "/api/v1/auth/nothing", "/metrics", "/health/live", "/..%2fetc", "/api/v1/auth/login%00"] {
        assert_eq!(get(path).await.problem(), (404, "not_found"), "{path}");
    }
    assert_eq!(get("/api/v1/auth/login").await.problem(), (405, "method_not_allowed"));
    let post = Request::post("/api/v1/socket").body(Body::empty()).unwrap();
    assert_eq!(world.send(post).await.problem(), (405, "method_not_allowed"));
    assert_eq!(world.counters.requests(Route::Other, 3), 6);
    assert_eq!(get("/").await.status, 200);
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_is_not_cached() {
    let world = World::new();
    let answer = world.login("ada").await;
    assert_eq!(answer.headers["x-request-id"].len(), 32);
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    let ours = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = Request::get("/").header("traceparent", format!("00-{ours}-00f067aa0ba902b7-01"));
    assert_eq!(world.send(request.body(Body::empty()).unwrap()).await.headers["x-request-id"], ours);
    let request = Request::get("/").header("traceparent", "00-<script>-0-0");
    assert_ne!(world.send(request.body(Body::empty()).unwrap()).await.headers["x-request-id"], "<script>");
}

#[tokio::test]
async fn only_listed_origins_are_let_in() {
    let world = World::new();
    let ask = |origin: &'static str| {
        let request = Request::options("/api/v1/auth/login").header(header::ORIGIN, origin);
        world.send(request.header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST").body(Body::empty()).unwrap())
    };
    let good = ask("https://web.example").await;
    assert_eq!(good.status, 204);
    assert_eq!(good.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://web.example");
    assert!(!good.headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    for origin in ["https://evil.example", "null", "https://web.example.evil.example"] {
        let bad = ask(origin).await;
        assert_eq!(bad.problem(), (405, "method_not_allowed"));
        assert!(!bad.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{origin}");
    }
}

#[tokio::test]
async fn a_store_that_takes_nothing_says_when_to_come_back() {
    let world = World::new();
    for (failure, code) in [
        (AppendFailure::Busy, "busy"),
        (AppendFailure::Unavailable, "unavailable"),
        (AppendFailure::Unknown, "outcome_unknown"),
    ] {
        world.accounts.fail(failure);
        let answer = world.register("ada").await;
        assert_eq!(answer.problem(), (503, code));
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
    }
}

/// Log lines at INFO and above name no person, address, password or token; not even TRACE has a password or a token.
#[tokio::test]
async fn logs_hold_no_secrets() {
    for level in ["info", "trace"] {
        let lines = Lines::default();
        let guard = tracing::subscriber::set_default(lines.subscriber(level));
        let world = World::new();
        world.register("adalovelace").await;
        let login = world.login("adalovelace").await;
        world.post("login", &json!({"username": "adalovelace", "password": "wrong horse"})).await;
        world.post("register", &json!({"username": 5, "password": "correct horse"})).await;
        let refresh = json!({"refresh_token": login.text("refresh_token"), "attempt": "1"});
        let refreshed = world.post("refresh", &refresh).await;
        world.post("refresh", &json!({"refresh_token": login.text("refresh_token"), "attempt": "2"})).await;
        world.with_token(Method::GET, "devices", login.text("access_token")).await;
        world.with_token(Method::GET, "devices", "forged.token.here").await;
        drop(guard);
        let text = lines.text();
        let secrets = [&login, &refreshed].map(|tokens| [tokens.text("access_token"), tokens.text("refresh_token")]);
        for secret in secrets.as_flattened().iter().chain(&["correct horse", "wrong horse", "forged.token"]) {
            assert!(!text.contains(secret), "{level}: {secret} in {text}");
        }
        if level == "info" {
            for private in ["adalovelace", "192.0.2", login.text("user_id"), login.text("device_id")] {
                assert!(!text.contains(private), "{private} in {text}");
            }
        } else {
            assert!(text.contains("logged in"), "{text}");
        }
    }
}

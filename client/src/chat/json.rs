//! Updates as JSON objects for scripts. Ids are decimal strings, times RFC 3339 in UTC. Never human text: see `script.rs`.
#![expect(clippy::wildcard_enum_match_arm, reason = "the SDK's updates are open: a listener has no use for the others")]

use serde_json::{Map, Value, json};
use tern_client::{
    ConnectionState, Content, ConversationKind, ConversationView, Done, EventView, ProfileView, Timestamp, Update,
    UserId,
};

/// A time as RFC 3339.
pub(crate) fn time(time: Timestamp) -> String {
    let us = i64::try_from(time.raw()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(us).map_or_else(|_| us.to_string(), |time| time.to_string())
}

/// The kind of a conversation, as its id says it.
pub(crate) fn conversation_kind(view: &ConversationView) -> &'static str {
    match view.conversation.kind() {
        Some(ConversationKind::Direct(..)) => "direct",
        Some(ConversationKind::Group(_)) => "group",
        Some(ConversationKind::World) => "world",
        None => "unknown",
    }
}

pub(crate) fn event(event: &EventView, sender: Option<&ProfileView>) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
    put("kind", event.kind.name().into());
    put("conversation", event.conversation.raw().to_string().into());
    put("seq", event.seq.raw().into());
    put("time", time(event.time).into());
    put("sender", event.sender.raw().to_string().into());
    if let Some(sender) = sender {
        put("sender_name", sender.name.as_str().into());
    }
    put("request", event.request.raw().to_string().into());
    if let Some(target) = event.target {
        put("target", target.raw().into());
    }
    if let Some(subject) = event.subject {
        put("subject", subject.raw().to_string().into());
        put("role", event.role.name().into());
    }
    if !event.mentions.is_empty() {
        put("mentions", event.mentions.iter().map(|user| user.raw().to_string()).collect());
    }
    match event.content {
        Content::Text => put("body", event.text().into()),
        Content::Opaque => put("body_hex", event.body.iter().map(|b| format!("{b:02x}")).collect::<String>().into()),
        Content::Recalled => put("recalled", true.into()),
        Content::Unknown(content) => put("content", content.into()),
    }
    Value::Object(object)
}

pub(crate) fn conversation(view: &ConversationView, me: UserId, peer: Option<&ProfileView>) -> Value {
    let mut value = json!({
        "kind": "conversation",
        "conversation": view.conversation.raw().to_string(),
        "type": conversation_kind(view),
        "title": view.title,
        "head": view.head.raw(),
        "time": time(view.head_time),
        "unread": view.unread(),
        "read": view.read.raw(),
        "members": view.members,
        "role": view.role.name(),
        "preview": view.preview,
    });
    if let (Some(object), Some(peer_id)) = (value.as_object_mut(), view.conversation.peer_of(me)) {
        object.insert("peer".to_owned(), peer_id.raw().to_string().into());
        if let Some(peer) = peer {
            object.insert("peer_name".to_owned(), peer.name.as_str().into());
        }
    }
    value
}

pub(crate) fn ack(done: &Done, request: u128) -> Value {
    json!({
        "kind": "ack",
        "conversation": done.conversation.raw().to_string(),
        "seq": done.seq.raw(),
        "time": time(done.time),
        "request": request.to_string(),
    })
}

/// An update that is no event; `None` for what a listener has no use for.
pub(crate) fn update(update: &Update, me: UserId) -> Option<Value> {
    Some(match update {
        Update::State(state) => connection(state),
        Update::Reset { conversation, position } => json!({
            "kind": "reset", "conversation": conversation.raw().to_string(), "position": position.raw(),
        }),
        Update::Receipt { conversation, user, read, delivered } => json!({
            "kind": "receipt", "conversation": conversation.raw().to_string(), "user": user.raw().to_string(),
            "read": read.raw(), "delivered": delivered.raw(),
        }),
        Update::Typing { conversation, user, active } => json!({
            "kind": "typing", "conversation": conversation.raw().to_string(), "user": user.raw().to_string(),
            "active": active,
        }),
        Update::Presence { user, online, last_seen } => json!({
            "kind": "presence", "user": user.raw().to_string(), "online": online, "last_seen": last_seen.map(time),
        }),
        Update::Conversation(view) => conversation(view, me, None),
        Update::Removed(conversation) => json!({ "kind": "removed", "conversation": conversation.raw().to_string() }),
        _ => return None,
    })
}

fn connection(state: &ConnectionState) -> Value {
    match state {
        ConnectionState::Connecting => json!({ "kind": "state", "state": "connecting" }),
        ConnectionState::Online { transport } => {
            json!({ "kind": "state", "state": "online", "transport": transport.to_string() })
        }
        ConnectionState::Waiting { why, .. } => json!({ "kind": "state", "state": "waiting", "why": why }),
        ConnectionState::Stopped(reason) => {
            json!({ "kind": "state", "state": "stopped", "why": reason.to_string() })
        }
    }
}

//! What may be typed after a slash. Parses, and for what needs the server, runs. Never draws.

use tern_client::{Client, ConversationId, GroupOptions, RequestError, Role, UserId};

use crate::text::clean_line;

/// The help, one line each.
pub(super) const HELP: &[(&str, &str)] = &[
    ("/dm NAME", "talk with somebody"),
    ("/group TITLE NAMES…", "make a group; \"quote a title of words\""),
    ("/invite NAMES…", "add people to this group"),
    ("/kick NAME", "remove somebody"),
    ("/role NAME member|admin|owner", "give a role"),
    ("/join ID", "join an open group"),
    ("/leave", "leave this group"),
    ("/members", "who is here"),
    ("/edit [TEXT]", "change your last, or the chosen, message"),
    ("/recall", "take it back"),
    ("/reply TEXT", "answer the last, or the chosen, message"),
    ("/quit", "leave tern-chat"),
    ("", ""),
    ("Enter / Alt-Enter", "send / new line"),
    ("Tab", "input, conversations, messages"),
    ("Ctrl-N Ctrl-P", "next, previous conversation"),
    ("PgUp PgDn", "older, newer messages"),
    ("e r d", "edit, reply, recall the chosen message"),
    ("Ctrl-R", "try a failed message again"),
    ("Esc / Ctrl-C", "cancel / quit"),
];

/// A command that only changes the screen, or one that needs the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Slash {
    Help,
    Quit,
    Edit(Option<String>),
    Recall,
    Reply(String),
    Remote(Remote),
}

/// A command that needs the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remote {
    Direct(String),
    Group { title: String, names: Vec<String> },
    Invite(Vec<String>),
    Kick(String),
    SetRole(String, Role),
    Join(ConversationId),
    Leave,
    Members,
}

/// What a command that needed the server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What to say about it.
    pub(super) notice: String,
    /// Where to go.
    pub(super) open: Option<ConversationId>,
    /// What to show.
    pub(super) list: Option<(String, Vec<(Role, UserId)>)>,
}

/// Reads what stands after the slash.
pub(super) fn parse(line: &str) -> Result<Slash, String> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let words = split(rest);
    let remote = |remote| Ok(Slash::Remote(remote));
    match (name, words.as_slice()) {
        ("help" | "h" | "?", _) => Ok(Slash::Help),
        ("quit" | "q" | "exit", _) => Ok(Slash::Quit),
        ("edit", []) => Ok(Slash::Edit(None)),
        ("edit", _) => Ok(Slash::Edit(Some(rest.to_owned()))),
        ("recall", _) => Ok(Slash::Recall),
        ("reply", [_, ..]) => Ok(Slash::Reply(rest.to_owned())),
        ("dm", [name]) => remote(Remote::Direct(name.clone())),
        ("group", [title, names @ ..]) => remote(Remote::Group { title: title.clone(), names: names.to_vec() }),
        ("invite", [_, ..]) => remote(Remote::Invite(words)),
        ("kick", [name]) => remote(Remote::Kick(name.clone())),
        ("role", [name, role]) => remote(Remote::SetRole(name.clone(), role_named(role)?)),
        ("join", [id]) => {
            let id = id.parse().ok().map(ConversationId::from_raw).filter(|id| id.kind().is_some());
            id.map_or_else(|| Err("/join wants the number of a group".to_owned()), |id| remote(Remote::Join(id)))
        }
        ("leave", []) => remote(Remote::Leave),
        ("members", []) => remote(Remote::Members),
        _ => Err(usage(name)),
    }
}

fn usage(name: &str) -> String {
    let line =
        HELP.iter().find(|(usage, _)| usage.strip_prefix('/').is_some_and(|u| u.split(' ').next() == Some(name)));
    line.map_or_else(
        || format!("there is no /{name}; /help shows what there is"),
        |(usage, _)| format!("usage: {usage}"),
    )
}

fn role_named(name: &str) -> Result<Role, String> {
    [Role::Member, Role::Admin, Role::Owner]
        .into_iter()
        .find(|role| role.name() == name)
        .ok_or_else(|| "a role is member, admin or owner".to_owned())
}

/// Words, with quotes around those that have spaces.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, tail) = match rest.strip_prefix('"').and_then(|quoted| quoted.split_once('"')) {
            Some((word, tail)) => (word, tail),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = tail.trim_start();
    }
    words
}

/// Runs a command in the conversation that was open when it was typed.
pub(super) async fn run(client: &Client, here: Option<ConversationId>, command: Remote) -> Result<Outcome, String> {
    let told = |error: RequestError| error.to_string();
    let here = || here.ok_or_else(|| "open a conversation first".to_owned());
    let done = |notice: &str| Outcome { notice: notice.to_owned(), open: None, list: None };
    match command {
        Remote::Direct(name) => {
            let user = find(client, &name).await?;
            let open = client.open_direct(user).await.map_err(told)?;
            Ok(Outcome { open: Some(open), ..done("") })
        }
        Remote::Group { title, names } => {
            let users = find_all(client, &names).await?;
            let open = client.create_group(&title, &users, GroupOptions::default()).await.map_err(told)?;
            Ok(Outcome { open: Some(open), ..done("the group is there") })
        }
        Remote::Invite(names) => {
            let users = find_all(client, &names).await?;
            client.invite(here()?, &users).await.map(|_| done("invited")).map_err(told)
        }
        Remote::Kick(name) => {
            let user = find(client, &name).await?;
            client.kick(here()?, user).await.map(|_| done("removed")).map_err(told)
        }
        Remote::SetRole(name, role) => {
            let user = find(client, &name).await?;
            client.set_role(here()?, user, role).await.map(|_| done("done")).map_err(told)
        }
        Remote::Join(id) => {
            client.join(id).await.map_err(told)?;
            Ok(Outcome { open: Some(id), ..done("joined") })
        }
        Remote::Leave => client.leave(here()?).await.map(|_| done("left")).map_err(told),
        Remote::Members => {
            let page = client.members(here()?, None, 512).await.map_err(told)?;
            let mut list: Vec<_> = page.members.iter().map(|member| (member.role, member.user)).collect();
            list.sort_by_key(|(role, user)| (std::cmp::Reverse(*role), *user));
            let more = if page.more { format!(" (the first {} of them)", list.len()) } else { String::new() };
            let title = format!("{} members{more}", page.total);
            Ok(Outcome { list: Some((title, list)), ..done("") })
        }
    }
}

async fn find(client: &Client, name: &str) -> Result<UserId, String> {
    match client.profile_by_name(name).await {
        Ok(Some(profile)) => Ok(profile.user),
        Ok(None) => Err(format!("nobody is called {}", clean_line(name))),
        Err(error) => Err(error.to_string()),
    }
}

async fn find_all(client: &Client, names: &[String]) -> Result<Vec<UserId>, String> {
    let mut users = Vec::new();
    for name in names {
        users.push(find(client, name).await?);
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_wrong_ones_say_how() {
        assert_eq!(parse("dm bob"), Ok(Slash::Remote(Remote::Direct("bob".into()))));
        let group = Remote::Group { title: "big plans".into(), names: vec!["bob".into(), "eve".into()] };
        assert_eq!(parse("group \"big plans\" bob  eve"), Ok(Slash::Remote(group)));
        assert_eq!(parse("reply  yes \"really\""), Ok(Slash::Reply("yes \"really\"".into())));
        assert_eq!(parse("role bob admin"), Ok(Slash::Remote(Remote::SetRole("bob".into(), Role::Admin))));
        assert_eq!(parse("dm"), Err("usage: /dm NAME".into()));
        assert_eq!(parse("role bob king"), Err("a role is member, admin or owner".into()));
        assert_eq!(parse("dance"), Err("there is no /dance; /help shows what there is".into()));
        assert!(parse("join 5").is_err());
    }
}

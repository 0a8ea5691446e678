//! Who uses which server from this machine: where sessions are kept, whom to trust, and how to get logged in.
//! Never keeps a password.

use std::path::PathBuf;
use std::time::Duration;

use tern_client::auth::Auth;
use tern_client::wire::Dialer;
use tern_client::{Client, ClientBuilder, ServerAddress, TokenStore, Tokens, Trust};

use crate::args::Common;
use crate::failure::{Cause, Failure};
use crate::prompt;

/// A quiet connection to a vanished server is noticed within twice this.
const PING_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// One user at one server, from this machine.
pub(crate) struct Profile {
    pub(crate) server: ServerAddress,
    pub(crate) user: String,
    pub(crate) store: TokenStore,
    trust: Trust,
    common: Common,
}

impl Profile {
    /// Reads what the command line says, and what it leaves out from the machine.
    pub(crate) fn new(common: Common) -> Result<Self, Failure> {
        let server = ServerAddress::parse(&common.server).map_err(Failure::usage)?;
        let state_dir = common.state_dir.clone().or_else(default_state_dir);
        let state_dir = state_dir.ok_or_else(|| Failure::usage("no home directory: give --state-dir DIR"))?;
        let trust = match &common.ca {
            Some(ca) => Trust::Ca(ca.clone()),
            None if common.trust_first_use || server.is_loopback() => Trust::FirstUse(state_dir.join("known_servers")),
            None => Trust::WebPki,
        };
        let place = state_dir.join(server.to_string().replace([':', '[', ']', '%'], "_"));
        let user = match &common.user {
            Some(user) => user.to_ascii_lowercase(),
            None => only_user(&place)?,
        };
        if user.is_empty() || !user.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            return Err(Failure::usage("a name is made of letters, digits, _, . and -"));
        }
        let store = TokenStore::file(place.join(format!("{user}.json")));
        Ok(Self { server, user, store, trust, common })
    }

    /// A client of this profile; log in first.
    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder(&self.server.to_string())
            .user(&self.user)
            .device_name(&device_name())
            .token_store(self.store.clone())
            .trust(self.trust.clone())
            .transport(self.common.transport.into())
    }

    /// A client for somebody who watches the screen: it notices a dead connection sooner than a phone in a pocket would.
    pub(crate) fn attentive_builder(&self) -> ClientBuilder {
        self.builder().ping_interval_max(PING_INTERVAL_MAX).missed_pongs_max(1)
    }

    /// The auth API and this profile's tokens.
    pub(crate) fn tokens(&self) -> Result<Tokens, Failure> {
        let dialer =
            Dialer::new(self.server.clone(), &self.trust).map_err(|error| Failure::new(Cause::Local, error))?;
        Ok(Tokens::new(Auth::new(dialer), self.store.clone()))
    }

    /// Logs in if nobody is, asking for what is missing; offers to register a name that nobody has.
    pub(crate) async fn ensure_login(&self) -> Result<(), Failure> {
        if self.store.load()?.is_some() { Ok(()) } else { self.login().await }
    }

    /// Logs in with the password. A name that is new to this machine may be registered on the spot.
    pub(crate) async fn login(&self) -> Result<(), Failure> {
        let password = self.password()?;
        match self.login_with(&password).await {
            Err(refused) if refused.cause == Cause::LoggedOut && prompt::is_interactive() => {
                let question = format!("Wrong password, or nobody is called {}. Register {}?", self.user, self.user);
                if !prompt::confirm(&question)? {
                    return Err(refused);
                }
                if self.given_password()?.is_none() && prompt::password("The same password again: ")? != password {
                    return Err(Failure::new(Cause::Local, "the passwords differ: nothing was registered"));
                }
                self.register_with(&password, None).await
            }
            other => other,
        }
    }

    /// Makes the account, then logs in.
    pub(crate) async fn register(&self, display: Option<&str>) -> Result<(), Failure> {
        let password = self.password()?;
        if self.given_password()?.is_none() && prompt::password("The same password again: ")? != password {
            return Err(Failure::new(Cause::Local, "the passwords differ: nothing was registered"));
        }
        self.register_with(&password, display).await
    }

    async fn register_with(&self, password: &str, display: Option<&str>) -> Result<(), Failure> {
        self.tokens()?.auth().register(&self.user, password, display).await?;
        self.login_with(password).await
    }

    async fn login_with(&self, password: &str) -> Result<(), Failure> {
        self.tokens()?.login(&self.user, password, &device_name()).await?;
        Ok(())
    }

    fn password(&self) -> Result<String, Failure> {
        if let Some(password) = self.given_password()? {
            return Ok(password);
        }
        if !prompt::is_interactive() {
            let hint =
                "not logged in, and nobody to ask for the password: give --password-file FILE or set TERNCHAT_PASSWORD";
            return Err(Failure::new(Cause::LoggedOut, hint));
        }
        prompt::password(&format!("Password of {} at {}: ", self.user, self.server))
    }

    fn given_password(&self) -> Result<Option<String>, Failure> {
        if let Some(path) = &self.common.password_file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::new(Cause::Local, format!("{}: {error}", path.display())))?;
            return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
        }
        Ok(std::env::var("TERNCHAT_PASSWORD").ok().filter(|password| !password.is_empty()))
    }
}

/// `$XDG_STATE_HOME/tern`, or `~/.local/state/tern`.
///
/// # Source
/// XDG Base Directory Specification 0.8.
fn default_state_dir() -> Option<PathBuf> {
    let xdg = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let base = xdg.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")))?;
    Some(base.join("tern"))
}

/// The user who is logged in at this server, if it is only one.
fn only_user(place: &std::path::Path) -> Result<String, Failure> {
    let who = || Failure::usage("who are you? give --user NAME");
    let entries = std::fs::read_dir(place).map_err(|_| who())?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let users: Vec<String> = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
    match <[String; 1]>::try_from(users) {
        Ok([user]) => Ok(user),
        Err(_) => Err(who()),
    }
}

/// What the list of devices will call this one.
fn device_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").ok();
    let host = host.or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| std::env::var("COMPUTERNAME").ok());
    match host.as_deref().map(str::trim).filter(|host| !host.is_empty()) {
        Some(host) => format!("tern-chat on {host}"),
        None => "tern-chat".to_owned(),
    }
}

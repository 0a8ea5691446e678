//! Always a good access token: exchanges the refresh token in time, repeats an exchange whose answer was lost under the same name.
//! Never exchanges one token under two names: the name is durable before the request leaves.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use tern_protocol::{DeviceId, UserId};

use crate::auth::{Auth, AuthError, Grant};
use crate::random;
use crate::token_store::{StoredSession, TokenStore};
use crate::wire::Home;

/// An access token with less than this left is exchanged before it is used. Covers clock drift and a slow connect.
const EXPIRY_MARGIN: Duration = Duration::from_secs(60);

/// Why there is no access token.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// Nothing is stored and no password was given, or the server no longer knows this device.
    LoggedOut,
    /// The server refused, or could not be reached.
    Auth(AuthError),
    /// The token store failed.
    Store(io::Error),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoggedOut => f.write_str("not logged in: log in with the password"),
            Self::Auth(error) => error.fmt(f),
            Self::Store(error) => write!(f, "the session file failed: {error}"),
        }
    }
}

impl std::error::Error for TokenError {}

impl From<io::Error> for TokenError {
    fn from(error: io::Error) -> Self {
        Self::Store(error)
    }
}

impl From<AuthError> for TokenError {
    fn from(error: AuthError) -> Self {
        if matches!(error, AuthError::LoggedOut) { Self::LoggedOut } else { Self::Auth(error) }
    }
}

/// A token that can go into a hello.
#[derive(Clone)]
pub struct Access {
    /// Who.
    pub user: UserId,
    /// Which device.
    pub device: DeviceId,
    /// The token.
    pub token: String,
    /// Where the user's sessions are best placed.
    pub home: Option<Home>,
    expires: Instant,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("user", &self.user).field("home", &self.home).finish_non_exhaustive()
    }
}

impl Access {
    fn new(grant: Grant) -> (Self, String) {
        let expires = Instant::now() + grant.access_expires_in;
        let Grant { user, device, access_token: token, refresh_token, home, .. } = grant;
        (Self { user, device, token, home, expires }, refresh_token)
    }

    fn is_fresh(&self) -> bool {
        self.expires.saturating_duration_since(Instant::now()) > EXPIRY_MARGIN
    }
}

/// One profile's tokens.
#[derive(Debug)]
pub struct Tokens {
    auth: Auth,
    store: TokenStore,
    access: Option<Access>,
}

impl Tokens {
    /// Tokens from this store, exchanged at this server.
    #[must_use]
    pub const fn new(auth: Auth, store: TokenStore) -> Self {
        Self { auth, store, access: None }
    }

    /// The auth API they come from.
    #[must_use]
    pub const fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Logs this device in and remembers it.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn login(&mut self, user: &str, password: &str, device: &str) -> Result<Access, TokenError> {
        let grant = self.auth.login(user, password, device).await?;
        let (access, refresh_token) = Access::new(grant);
        let session = StoredSession {
            user: user.to_owned(),
            user_id: access.user.raw(),
            device_id: access.device.raw(),
            refresh_token,
            attempt: None,
        };
        let store = self.store.clone();
        blocking(move || {
            let _lock = store.lock()?;
            store.save(Some(&session))
        })
        .await?;
        self.access = Some(access.clone());
        Ok(access)
    }

    /// A token that is good for a while; exchanges the stored one when there is none.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn access(&mut self) -> Result<Access, TokenError> {
        match &self.access {
            Some(access) if access.is_fresh() => Ok(access.clone()),
            Some(_) | None => self.refresh().await,
        }
    }

    /// Forgets the access token: the server said that its time is over.
    pub fn expire(&mut self) {
        self.access = None;
    }

    /// Logs this device out at the server and forgets it.
    ///
    /// # Errors
    /// See [`TokenError`]; that the server had logged it out already is none.
    pub async fn logout(&mut self) -> Result<(), TokenError> {
        let access = match self.access().await {
            Ok(access) => access,
            Err(TokenError::LoggedOut) => return self.forget().await,
            Err(other) => return Err(other),
        };
        match self.auth.logout(&access.token).await {
            Ok(()) | Err(AuthError::LoggedOut) => self.forget().await,
            Err(error) => Err(error.into()),
        }
    }

    async fn forget(&mut self) -> Result<(), TokenError> {
        self.access = None;
        let store = self.store.clone();
        blocking(move || {
            let _lock = store.lock()?;
            store.save(None)
        })
        .await
    }

    async fn refresh(&mut self) -> Result<Access, TokenError> {
        let store = self.store.clone();
        let fresh_attempt = random::u128();
        // The lock is held over the exchange: another process would present the same token under another name.
        let (lock, mut session, attempt) = blocking(move || {
            let lock = store.lock()?;
            let Some(mut session) = store.load()? else { return Ok(None) };
            let attempt = session.attempt.as_ref().and_then(|text| text.parse().ok()).unwrap_or(fresh_attempt);
            session.attempt = Some(attempt.to_string());
            store.save(Some(&session))?;
            Ok(Some((lock, session, attempt)))
        })
        .await?
        .ok_or(TokenError::LoggedOut)?;
        let grant = self.auth.refresh(&session.refresh_token, attempt).await?;
        let (access, refresh_token) = Access::new(grant);
        session.refresh_token = refresh_token;
        session.attempt = None;
        let store = self.store.clone();
        blocking(move || {
            let _lock = lock;
            store.save(Some(&session))
        })
        .await?;
        self.access = Some(access.clone());
        Ok(access)
    }
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, TokenError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(TokenError::Store(io::Error::other("the file worker was stopped"))),
    }
}

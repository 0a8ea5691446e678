//! Where a server is, as a person writes it: `host`, `host:port`, `[::1]:port`. Never resolves a name.

use std::fmt;
use std::net::IpAddr;

/// The port of both UDP (QUIC) and TCP (HTTPS, WebSocket) when none is given.
pub(crate) const PORT_DEFAULT: u16 = 7443;

/// A server's host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    host: String,
    port: u16,
}

/// Why a text is not a server address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    text: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a server address; write host, host:port or [ipv6]:port", self.text)
    }
}

impl std::error::Error for AddressError {}

impl ServerAddress {
    /// Reads `host`, `host:port`, `ipv6` or `[ipv6]:port`.
    ///
    /// # Errors
    /// An empty host, a port that is no number, or a character that no host name has.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError { text: text.to_owned() };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, tail) = rest.split_once(']').ok_or_else(wrong)?;
            (host, tail.strip_prefix(':'))
        } else if text.parse::<IpAddr>().is_ok() {
            (text, None)
        } else {
            text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let port = port.map_or(Ok(PORT_DEFAULT), str::parse).map_err(|_| wrong())?;
        let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || port == 0 || !host.chars().all(plausible) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }

    /// The name or address that the certificate must be for.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// UDP and TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether it can only be this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let parse = |text: &str| ServerAddress::parse(text).map(|a| a.to_string()).ok();
        assert_eq!(parse("localhost"), Some("localhost:7443".into()));
        assert_eq!(parse("Chat.Example.org:443"), Some("chat.example.org:443".into()));
        assert_eq!(parse("[::1]:7443"), Some("[::1]:7443".into()));
        assert_eq!(parse("::1"), Some("[::1]:7443".into()));
        assert_eq!(parse("127.0.0.1:9"), Some("127.0.0.1:9".into()));
        for wrong in ["", ":1", "host:port", "host:0", "a b", "https://host", "[::1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let loopback = |text: &str| ServerAddress::parse(text).is_ok_and(|a| a.is_loopback());
        assert!(loopback("localhost") && loopback("127.0.0.1:1") && loopback("[::1]:1"));
        assert!(!loopback("localhost.example.org") && !loopback("10.0.0.1"));
    }
}

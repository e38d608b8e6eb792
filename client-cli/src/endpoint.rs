//! Where a node answers HTTP.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The HTTP address of one node: a host name or IP address, and a port.
///
/// Parsed from `host:port` or `http://host:port`, an IPv6 address in brackets; shown as `host:port`.
/// A host name is kept and resolved at each connect, so that a node may come back elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing was given, or nothing before the port.
    #[error("the host is missing: expected host:port")]
    HostMissing,
    /// No `:port` at the end.
    #[error("the port is missing: expected host:port")]
    PortMissing,
    /// The port is not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    PortInvalid,
    /// Several colons and no brackets.
    #[error("an IPv6 address goes in brackets: [::1]:8080")]
    BracketsMissing,
    /// The host holds a character that no host has, such as a space or a slash.
    #[error("the host holds an invalid character: expected host:port and no path")]
    HostInvalid,
    /// `https://` or another scheme.
    #[error("only http:// is supported")]
    SchemeUnsupported,
}

impl Endpoint {
    /// The host: a name or an IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        let address = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
                rest.strip_suffix('/').unwrap_or(rest)
            }
            Some(_) => return Err(EndpointError::SchemeUnsupported),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(EndpointError::BracketsMissing)?;
                (host, after.strip_prefix(':').ok_or(EndpointError::PortMissing)?)
            }
            None if address.is_empty() => return Err(EndpointError::HostMissing),
            None => {
                let (host, port) = address.rsplit_once(':').ok_or(EndpointError::PortMissing)?;
                if host.contains(':') {
                    return Err(EndpointError::BracketsMissing);
                }
                (host, port)
            }
        };
        if host.is_empty() {
            return Err(EndpointError::HostMissing);
        }
        if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte)) {
            return Err(EndpointError::HostInvalid);
        }
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Self { host: host.to_owned(), port }),
            _ => Err(EndpointError::PortInvalid),
        }
    }
}

impl fmt::Display for Endpoint {
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
    use super::{Endpoint, EndpointError};

    #[test]
    fn endpoints_are_host_and_port() {
        for (text, host, port, shown) in [
            ("127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080"),
            ("http://127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080"),
            ("HTTP://node-1.example:80/", "node-1.example", 80, "node-1.example:80"),
            (" localhost:1 ", "localhost", 1, "localhost:1"),
            ("[::1]:8080", "::1", 8080, "[::1]:8080"),
            ("http://[fe80::1%eth0]:65535", "fe80::1%eth0", 65535, "[fe80::1%eth0]:65535"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{text}");
            assert_eq!(endpoint.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn anything_else_says_what_is_wrong() {
        for (text, expected) in [
            ("", EndpointError::HostMissing),
            (":8080", EndpointError::HostMissing),
            ("[]:8080", EndpointError::HostMissing),
            ("localhost", EndpointError::PortMissing),
            ("[::1]", EndpointError::PortMissing),
            ("[::1:8080", EndpointError::BracketsMissing),
            ("::1:8080", EndpointError::BracketsMissing),
            ("localhost:", EndpointError::PortInvalid),
            ("localhost:0", EndpointError::PortInvalid),
            ("localhost:65536", EndpointError::PortInvalid),
            ("localhost:80/path", EndpointError::PortInvalid),
            ("user@host:80", EndpointError::HostInvalid),
            ("ho st:80", EndpointError::HostInvalid),
            ("host/path:80", EndpointError::HostInvalid),
            ("https://localhost:8443", EndpointError::SchemeUnsupported),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(expected), "{text:?}");
        }
    }
}

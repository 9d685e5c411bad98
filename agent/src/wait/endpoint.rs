//! What is asked, over plain HTTP.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use http_body_util::Empty;
use hyper::{Method, Request, Uri, body::Bytes, header};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::SHUTDOWN_PATH;
use crate::request;

/// Somebody who can be asked with a GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    path: String,
}

/// Why a URL is none that can be asked.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It is no URL.
    #[error("it is no URL such as http://localhost:15021/healthz/ready")]
    NoUrl,
    /// Its scheme is not http.
    #[error("only http is asked, without TLS: a proxy's readiness is on its loopback")]
    Scheme,
}

/// What came back.
#[derive(Debug)]
pub(super) enum Answer {
    /// The status of an answer.
    Status(u16),
    /// Why there is none.
    None(String),
}

// === impl Endpoint ===

impl Endpoint {
    /// Of the loopback.
    #[must_use]
    pub fn local(port: u16, path: &str) -> Self {
        Self { host: "localhost".to_owned(), port, path: path.to_owned() }
    }

    /// Where the same proxy is asked to end.
    #[must_use]
    pub fn for_shutdown(&self) -> Self {
        Self { path: SHUTDOWN_PATH.to_owned(), ..self.clone() }
    }

    pub(super) async fn get(self, limit: Option<Duration>) -> Answer {
        match limit {
            Some(limit) => self.send_within(Method::GET, limit).await,
            None => self.send(Method::GET).await,
        }
    }

    pub(super) async fn post(&self, limit: Duration) -> Answer {
        self.send_within(Method::POST, limit).await
    }

    async fn send_within(&self, method: Method, limit: Duration) -> Answer {
        let late = |_| Answer::None(format!("no answer in {}", humantime::format_duration(limit)));
        timeout(limit, self.send(method)).await.unwrap_or_else(late)
    }

    async fn send(&self, method: Method) -> Answer {
        let stream = match self.connect().await {
            Ok(stream) => stream,
            Err(error) => return Answer::None(error.to_string()),
        };
        let request = Request::builder()
            .method(method)
            .uri(&self.path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new());
        let request = match request {
            Ok(request) => request,
            Err(error) => return Answer::None(error.to_string()),
        };
        match request::status(stream, request).await {
            Ok(status) => Answer::Status(status.as_u16()),
            Err(error) => Answer::None(error.to_string()),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let mut refused = io::Error::from(io::ErrorKind::NotFound);
        for address in self.addresses().await? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let Self { host, port, path: _ } = self;
        // An image need not have an /etc/hosts, and DNS may be the proxy's (RFC 6761, section 6.3).
        if host == "localhost" {
            let loopback = [Ipv4Addr::LOCALHOST.into(), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return Ok(loopback.map(|ip| SocketAddr::new(ip, *port)).to_vec());
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = literal.parse() {
            return Ok(vec![SocketAddr::new(ip, *port)]);
        }
        Ok(lookup_host((host.as_str(), *port)).await?.collect())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, path } = self;
        write!(f, "http://{host}:{port}{path}")
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        /// Of http.
        const DEFAULT_PORT: u16 = 80;
        let uri: Uri = url.parse().map_err(|_| EndpointError::NoUrl)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(_) => return Err(EndpointError::Scheme),
            None => return Err(EndpointError::NoUrl),
        }
        let authority = uri.authority().ok_or(EndpointError::NoUrl)?;
        // What stands in front of an @ would be sent to nobody.
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(EndpointError::NoUrl);
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            // A port that is no number is none either.
            None if authority.as_str() == authority.host() => DEFAULT_PORT,
            None => return Err(EndpointError::NoUrl),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { host: authority.host().to_owned(), port, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_a_browser_reads_them() {
        for (url, expected) in [
            ("http://localhost:15021/healthz/ready", Some("http://localhost:15021/healthz/ready")),
            ("http://127.0.0.1:4191/ready?x=1", Some("http://127.0.0.1:4191/ready?x=1")),
            ("http://[::1]:9901/ready", Some("http://[::1]:9901/ready")),
            ("http://proxy", Some("http://proxy:80/")),
            ("HTTP://proxy:1/a", Some("http://proxy:1/a")),
            ("https://localhost:15021/", None),
            ("localhost:15021", None),
            ("/healthz/ready", None),
            ("http://:15021/", None),
            ("http://user@localhost:15021/", None),
            ("http://localhost:65536/", None),
            ("http://localhost:x/", None),
            ("", None),
            ("http://a b/", None),
        ] {
            let endpoint = url.parse::<Endpoint>().ok().map(|endpoint| endpoint.to_string());
            assert_eq!(endpoint.as_deref(), expected, "{url}");
        }
    }
}

//! Where to listen: a port, and of which addresses.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

/// As most servers have it; kubelet is the only regular client.
const BACKLOG: i32 = 1024;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// This port of all addresses of both families: the pod's address may be of either.
    All(u16),
    /// One address.
    One(SocketAddr),
}

/// The text is neither a port nor an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be a port, such as 8686, or an address and a port, such as 127.0.0.1:8686 or [::1]:8686"
)]
pub struct ListenAddressError;

// === impl ListenAddress ===

impl ListenAddress {
    /// Listens there; with the address that it has become.
    pub(super) fn listen(self) -> Result<(TcpListener, SocketAddr), (SocketAddr, io::Error)> {
        match self {
            Self::One(address) => listen(address),
            Self::All(port) => match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
                Err((_, error)) if has_no_ipv6(&error) => {
                    listen((Ipv4Addr::UNSPECIFIED, port).into())
                }
                result => result,
            },
        }
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = text.strip_prefix(':').unwrap_or(text);
        // A number's own parser would take a sign.
        if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
            return port.parse().map(Self::All).map_err(|_| ListenAddressError);
        }
        text.parse().map(Self::One).map_err(|_| ListenAddressError)
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), (SocketAddr, io::Error)> {
    let listener = || -> io::Result<(TcpListener, SocketAddr)> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // A successor must not wait for its predecessor's connections to be forgotten.
        socket.set_reuse_address(true)?;
        if address.ip() == Ipv6Addr::UNSPECIFIED {
            // Both families, whatever net.ipv6.bindv6only says.
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.into())?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    listener().map_err(|error| (address, error))
}

/// `ipv6.disable=1`, or a kernel built without it: there is no such socket; some sandboxes have the
/// socket and none of the addresses.
fn has_no_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
        || error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_port_alone_is_that_of_all_addresses() {
        for text in ["8686", ":8686"] {
            assert_eq!(text.parse(), Ok(ListenAddress::All(8686)), "{text}");
        }
        for text in ["0.0.0.0:8686", "127.0.0.1:8686", "[::]:8686", "[fd00::1]:0"] {
            assert_eq!(text.parse(), Ok(ListenAddress::One(text.parse().unwrap())), "{text}");
        }
        for text in [
            "",
            ":",
            "+8686",
            ":-1",
            "65536",
            "::",
            "::1",
            "[::1]",
            "localhost:8686",
            "1.2.3.4",
            " 1",
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(ListenAddressError), "{text}");
        }
    }

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        let (_listener, bound) = ListenAddress::All(0).listen().unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, bound.port())).unwrap();
        if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            assert_eq!(bound.ip(), Ipv6Addr::UNSPECIFIED);
            TcpStream::connect((Ipv6Addr::LOCALHOST, bound.port())).unwrap();
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_no_reason_to_leave_a_family_out() {
        let (_listener, bound) = ListenAddress::All(0).listen().unwrap();
        let (address, error) = ListenAddress::All(bound.port()).listen().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(address, bound);
    }

    #[test]
    fn only_a_kernel_without_ipv6_is_served_by_ipv4_alone() {
        for (errno, expected) in [
            (libc::EAFNOSUPPORT, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::EADDRINUSE, false),
            (libc::EACCES, false),
            (libc::EMFILE, false),
        ] {
            assert_eq!(has_no_ipv6(&io::Error::from_raw_os_error(errno)), expected, "{errno}");
        }
    }
}

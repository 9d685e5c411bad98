use super::*;
use crate::readiness::sandbox::Sandbox;

/// Which of a port's two loopback addresses take a connection, in the sandbox.
async fn listens(sandbox: &Sandbox, port: u16) -> [bool; 2] {
    let ask = move || {
        let listeners = Listeners::open()?;
        let [v4, v6] = LOOPBACK.map(|ip| listeners.has(InetAddr::new(ip, port)));
        Ok([v4?, v6?])
    };
    sandbox.entrance.run(&sandbox.netns, ask).await.unwrap()
}

#[tokio::test]
async fn a_port_is_looked_up_as_a_connection_to_it_would_be() {
    let sandbox = Sandbox::new();
    assert!(is_supported());
    assert_eq!(listens(&sandbox, 15001).await, [false, false]);
    for (address, expected) in [
        ("127.0.0.1:15001", [true, false]),
        ("0.0.0.0:15002", [true, false]),
        ("[::1]:15003", [false, true]),
        // Takes IPv4 as well (net.ipv6.bindv6only is 0).
        ("[::]:15004", [true, true]),
        // Nobody reaches it over 127.0.0.1.
        ("127.0.0.2:15005", [false, false]),
    ] {
        let listener = sandbox.listen(address).await;
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listens(&sandbox, port).await, expected, "{address}");
        drop(listener);
        assert_eq!(listens(&sandbox, port).await, [false, false], "{address}");
    }
}

#[tokio::test]
async fn a_connection_and_a_socket_that_is_only_bound_are_no_listeners() {
    let sandbox = Sandbox::new();
    let listener = sandbox.listen("127.0.0.1:15001").await;
    let connect = || std::net::TcpStream::connect("127.0.0.1:15001");
    let client = sandbox.entrance.run(&sandbox.netns, connect).await.unwrap();
    let port = client.local_addr().unwrap().port();
    assert_eq!(listens(&sandbox, port).await, [false, false]);
    let (_accepted, _) = listener.accept().unwrap();
    drop(listener);
    assert_eq!(listens(&sandbox, 15001).await, [false, false]);

    let bind = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&InetAddr::new(LOOPBACK[0], 15002).into())?;
        Ok(socket)
    };
    let _bound = sandbox.entrance.run(&sandbox.netns, bind).await.unwrap();
    assert_eq!(listens(&sandbox, 15002).await, [false, false]);
}

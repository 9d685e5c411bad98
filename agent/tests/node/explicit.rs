//! Side-cars that the application dials itself, over loopback.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use testbed::{Capture, Mesh, PodSpec, apps, backend_v4};

use crate::common::{
    LATE, SOON, assert_released, dials, enabled_node, idle, known_pod, lines, start_agent,
    wait_for, wait_for_all,
};

#[test]
fn connects_wait_for_a_side_car_that_the_application_dials() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, mesh) in [("dapr", Mesh::Dapr), ("sql", Mesh::CloudSql), ("own", Mesh::Own)] {
        for native in [false, true] {
            let name = format!("{name}-{native}");
            let spec = PodSpec::new("shop", &name).mesh(mesh).containers(["v4", "v6", "direct"]);
            let spec = if native { spec.native_sidecar() } else { spec };
            let pod = known_pod(&node, &agent, spec);
            let apps = [
                dials(&pod, "v4", (Ipv4Addr::LOCALHOST, mesh.port()).into()),
                dials(&pod, "v6", (Ipv6Addr::LOCALHOST, mesh.port()).into()),
            ];
            wait_for_all(&agent, &pod, "connect held", apps.len());
            // Nothing else is: not even on loopback.
            let direct = dials(&pod, "direct", backend_v4());
            assert!(direct.wait_attempt(SOON).unwrap().is_connected(), "{name}");
            thread::sleep(LATE);
            let proxy = pod.start_proxy().unwrap();
            let ready_ns = proxy.wait_ready(SOON).unwrap();
            for (app, family) in apps.iter().zip(["v4", "v6"]) {
                assert_released(app, ready_ns, &format!("{name} {family}"));
            }
            wait_for(&agent, &pod, "gate detached");
            assert_eq!(lines(&agent, &pod, "connect held").len(), apps.len(), "{name}");
        }
    }
}

/// A proxy opens its addresses one after the other; a SYN to the second that is sent again as soon as
/// it listens on the first is refused.
#[test]
fn a_connect_to_the_other_address_family_waits_for_its_listener() {
    /// Far more than a release takes.
    const BETWEEN: Duration = Duration::from_millis(30);
    /// Less than the agent waits for the second listener (`LISTENS_WITHIN`, reconcile/replay.rs).
    /// Where this process was kept from opening it for longer, what came of it says nothing.
    const AT_MOST: Duration = Duration::from_millis(60);
    /// Nor where the socket may have tried again by itself in between.
    const ITS_OWN_TRY: Duration = Duration::from_millis(500);
    const TRIES: usize = 10;
    let node = enabled_node();
    let agent = start_agent(&node);
    let was_waited_for = (0..TRIES).any(|nth| {
        let name = format!("cart-{nth}");
        let spec = PodSpec::new("shop", &name).mesh(Mesh::Own).containers(["v4", "v6"]);
        let pod = known_pod(&node, &agent, spec);
        let apps = [
            dials(&pod, "v4", (Ipv4Addr::LOCALHOST, Mesh::Own.port()).into()),
            dials(&pod, "v6", (Ipv6Addr::LOCALHOST, Mesh::Own.port()).into()),
        ];
        wait_for_all(&agent, &pod, "connect held", apps.len());
        let listener = apps::listener_in_steps(Mesh::Own.port(), BETWEEN).unwrap();
        let proxy = pod.start_container(Mesh::Own.proxy(), listener).unwrap();
        let line = proxy.wait_record(SOON, |line| line["event"] == "listening").unwrap();
        let instant = |name: &str| Duration::from_nanos(line[name].as_u64().unwrap());
        let [v4, v6] = apps.map(|app| app.wait_attempt(SOON).unwrap());
        assert!(v4.is_connected(), "{v4:?}");
        let begun = Duration::from_nanos(v6.start_ns);
        let was_in_time = instant("both_ns") - instant("mono_ns") < AT_MOST
            && instant("both_ns") < begun + ITS_OWN_TRY;
        assert!(v6.is_connected() || !was_in_time, "{v6:?}");
        was_in_time
    });
    assert!(was_waited_for, "the second listener was late {TRIES} times");
}

#[test]
fn a_connect_to_a_family_on_which_the_proxy_does_not_listen_is_refused_as_ever() {
    /// In one of five the socket's own next try comes first.
    const TRIES: usize = 10;
    let node = enabled_node();
    let agent = start_agent(&node);
    let was_sent_again = (0..TRIES).any(|nth| {
        let name = format!("cart-{nth}");
        let spec = PodSpec::new("shop", &name).mesh(Mesh::Own).containers(["v4", "v6"]);
        let pod = known_pod(&node, &agent, spec);
        let capture = Capture::start(&pod.netns().unwrap()).unwrap();
        let apps = [
            dials(&pod, "v4", (Ipv4Addr::LOCALHOST, Mesh::Own.port()).into()),
            dials(&pod, "v6", (Ipv6Addr::LOCALHOST, Mesh::Own.port()).into()),
        ];
        wait_for_all(&agent, &pod, "connect held", apps.len());
        let listener = apps::listener_v4(Mesh::Own.port()).unwrap();
        let _proxy = pod.start_container(Mesh::Own.proxy(), listener).unwrap();
        let [v4, v6] = apps.map(|app| app.wait_attempt(SOON).unwrap());
        assert!(v4.is_connected(), "{v4:?}");
        assert_eq!(v6.outcome, "ECONNREFUSED");
        wait_for(&agent, &pod, "gate detached");
        // What the agent writes has no flow label, unlike what the socket sends by itself.
        let syns = capture.syns_to(Mesh::Own.port()).unwrap();
        syns.iter().any(|syn| syn.flow_label == Some(0))
    });
    assert!(was_sent_again, "left to the socket's own retransmission {TRIES} times");
}

#[test]
fn daprd_s_health_does_not_wait_for_an_application_that_waits_for_daprd() {
    const APP_PORT: u16 = 8080;
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart").mesh(Mesh::Dapr).containers(["app", "server"]);
    let pod = known_pod(&node, &agent, spec);
    // It opens its own port only after it has spoken with daprd, and until then daprd, and with it
    // kubelet, calls itself unhealthy.
    let app = dials(&pod, "app", (Ipv4Addr::LOCALHOST, Mesh::Dapr.port()).into());
    wait_for(&agent, &pod, "connect held");
    let proxy = pod.start_proxy().unwrap();
    let ready_ns = proxy.wait_ready(SOON).unwrap();
    assert_released(&app, ready_ns, "dapr");
    let health = SocketAddr::from((Ipv4Addr::LOCALHOST, 3501));
    let ask = |name| {
        let client = apps::connect(health).unwrap().get("/v1.0/healthz");
        pod.start_container(name, client).unwrap().wait_body(SOON).unwrap().status
    };
    assert_eq!(ask("app"), 503);
    let server = pod.start_container("server", apps::serve(APP_PORT).unwrap()).unwrap();
    server.wait_record(SOON, |line| line["event"] == "listening").unwrap();
    // daprd reaches the application, which answers as it likes.
    assert_eq!(ask("app"), 404);
}

#[test]
fn a_side_car_without_probes_is_not_ready_because_kubelet_says_so() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = known_pod(&node, &agent, PodSpec::new("shop", "cart").mesh(Mesh::Own));
    let app = dials(&pod, "app", (Ipv4Addr::LOCALHOST, Mesh::Own.port()).into());
    wait_for(&agent, &pod, "connect held");
    // Kubelet has nothing to ask and calls it ready as soon as it runs.
    let _container = idle(&pod, Mesh::Own.proxy());
    thread::sleep(LATE);
    assert!(app.exit_status().is_none(), "let go to a port on which nobody listens");
    assert!(lines(&agent, &pod, "gate opened").is_empty());
    let listener = apps::listener(Mesh::Own.port(), 16).unwrap();
    let _proxy = pod.exec(Mesh::Own.proxy(), listener).unwrap();
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
}

#[test]
fn a_connect_to_another_loopback_port_is_not_held() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, mesh) in [("dapr", Mesh::Dapr), ("sql", Mesh::CloudSql), ("own", Mesh::Own)] {
        let pod = known_pod(&node, &agent, PodSpec::new("shop", name).mesh(mesh));
        wait_for(&agent, &pod, "gate closed");
        let _idle = idle(&pod, "app");
        for port in [mesh.port() + 1, 15001, 4140] {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let app = pod.exec("app", apps::connect(to).unwrap()).unwrap();
            let outcome = app.wait_attempt(SOON).unwrap().outcome;
            assert_eq!(outcome, "ECONNREFUSED", "{name} {port}");
        }
    }
}

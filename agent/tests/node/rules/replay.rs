//! What is replayed, what is not, how, and how fast.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use testbed::{
    Capture, PROXY, PROXY_PORT, Pod, PodSpec, Process, apps, apps::FastOpen, backend_v4, backend_v6,
};

use crate::common::{SOON, enabled_node, lines, start_agent, wait_for, wait_for_all};

#[test]
fn a_hold_is_not_taken_for_a_round_trip() {
    const HOLD: Duration = Duration::from_secs(4);
    /// A round trip over loopback takes microseconds; here it waits for a busy machine at most.
    const ROUND_TRIP_US: u64 = 200_000;
    const RTO_US: u64 = 1_000_000;
    /// `TCPI_OPT_TIMESTAMPS`.
    const TIMESTAMPS: u64 = 1;
    let node = enabled_node();
    let agent = start_agent(&node);
    for to in [backend_v4(), backend_v6()] {
        let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
        let client = apps::connect(to).unwrap().tcp_info();
        let held = pod.start_container("app", client.clone()).unwrap();
        wait_for(&agent, &pod, "connect held");
        thread::sleep(HOLD);
        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        assert!(held.wait_attempt(SOON).unwrap().elapsed() >= HOLD);
        wait_for(&agent, &pod, "gate detached");

        let unheld = pod.start_container("app", client).unwrap();
        for (name, app) in [("unheld", unheld), ("held", held)] {
            let info = app.wait_record(SOON, |line| line["event"] == "tcp_info").unwrap();
            let field = |key: &str| info[key].as_u64().unwrap();
            assert_eq!(field("options") & TIMESTAMPS, TIMESTAMPS, "{name}: {info}");
            assert!(field("srtt_us") < ROUND_TRIP_US, "{name}, {to}: {info}");
            assert!(field("rto_us") < RTO_US, "{name}, {to}: {info}");
        }
    }
}

#[test]
fn the_data_of_a_fast_open_never_arrives_without_its_sender() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart").containers(["app", "other"])).unwrap();
    let netns = pod.netns().unwrap();
    // Without a cookie from an earlier connection only bit 4 puts data into a SYN.
    netns.set_sysctl("net.ipv4.tcp_fastopen", "5").unwrap();
    let capture = Capture::start(&netns).unwrap();
    let client = |name: &str| {
        let path = format!("/visit/{name}");
        apps::connect(backend_v4()).unwrap().fast_open(FastOpen::Sendto).get(&path)
    };
    let killed = pod.start_container("app", client("killed")).unwrap();
    let living = pod.start_container("other", client("living")).unwrap();
    wait_for_all(&agent, &pod, "connect held", 2);
    killed.kill();
    let released = wait_for(&agent, &pod, "connect released");
    assert_eq!(released["pid"], killed.pid());
    assert_eq!(released["outcome"], "closed by the application");

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(living.wait_body(SOON).unwrap().ok);
    wait_for(&agent, &pod, "gate detached");
    let syns = capture.syns_to(PROXY_PORT).unwrap();
    assert!(!syns.is_empty() && syns.iter().all(|syn| syn.payload == 0), "{syns:?}");
    assert!(syns.iter().all(|syn| syn.source == syns[0].source), "of the living only: {syns:?}");

    // What the same client sends when nothing holds it: the data comes with the SYN.
    let unheld = pod.start_container("other", client("unheld")).unwrap();
    assert!(unheld.wait_body(SOON).unwrap().ok);
    let syns = capture.syns_to(PROXY_PORT).unwrap();
    assert!(syns.iter().any(|syn| syn.payload > 0), "{syns:?}");
    for (name, expected) in [("killed", "0"), ("living", "1"), ("unheld", "1")] {
        let ask = apps::connect(backend_v4()).unwrap().get(&format!("/visits/{name}"));
        let asking = pod.start_container("other", ask).unwrap();
        let visits = asking.wait_body(SOON).unwrap().text;
        assert_eq!(visits.as_deref(), Some(expected), "{name}");
    }
}

#[test]
fn a_raw_socket_s_syns_pass_as_ever_and_disturb_nothing() {
    const FORGED: [u16; 2] = [40_000, 40_001];
    let node = enabled_node();
    let pod = node.create_pod(PodSpec::new("shop", "cart").containers(["app", "forger"])).unwrap();
    let capture = Capture::start(&pod.netns().unwrap()).unwrap();
    let forge = |source| {
        let forger = pod.start_container("forger", apps::raw_syn(source, PROXY_PORT).unwrap());
        let answer = forger.unwrap().wait_record(SOON, |line| line["event"] == "answer").unwrap();
        answer["flags"].as_str().unwrap().to_owned()
    };
    let without = forge(FORGED[0]);
    assert_eq!(without, "RST", "nobody listens there");

    let agent = start_agent(&node);
    wait_for(&agent, &pod, "gate closed");
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &pod, "connect held");
    assert_eq!(forge(FORGED[1]), without);
    assert!(app.exit_status().is_none());
    assert!(lines(&agent, &pod, "gate opened").is_empty(), "not through a closed gate");

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
    assert_eq!(wait_for(&agent, &pod, "connect released")["outcome"], "connected");
    wait_for(&agent, &pod, "gate detached");
    assert_eq!(lines(&agent, &pod, "connect held").len(), 1);
    // The kernel's own count of held sockets, told when the programs go.
    assert_eq!(wait_for(&agent, &pod, "gate detaches")["held"], 1);

    let syns = capture.syns_to(PROXY_PORT).unwrap();
    let (real, forged): (Vec<_>, Vec<_>) =
        syns.into_iter().partition(|syn| syn.source.ip() == IpAddr::V4(pod.ip_v4()));
    assert!(!real.is_empty() && real.iter().all(|syn| syn.source == real[0].source), "{real:?}");
    let sources: Vec<u16> = forged.iter().map(|syn| syn.source.port()).collect();
    assert_eq!(sources, FORGED, "each once, as sent");
}

#[test]
fn a_connect_in_a_namespace_of_its_own_is_held_but_never_replayed_into_the_pod_s() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart").containers(["app", "other"])).unwrap();
    let capture = Capture::start(&pod.netns().unwrap()).unwrap();
    let proxy_port = SocketAddr::from((Ipv4Addr::LOCALHOST, PROXY_PORT));
    let stranger = apps::connect_in_own_netns(proxy_port).unwrap();
    let stranger = pod.start_container("other", stranger).unwrap();
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    let held = wait_for_all(&agent, &pod, "connect held", 2);
    let of_stranger = held.iter().find(|line| line["pid"] == stranger.pid()).unwrap();
    assert_eq!(of_stranger["destination"], proxy_port.to_string());
    thread::sleep(Duration::from_millis(1_500));
    assert!(stranger.exit_status().is_none(), "the gate does not hold it");

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
    // Nobody listens in its own namespace, which its own retransmission finds out.
    let attempt = stranger.wait_attempt(SOON).unwrap();
    assert_eq!(attempt.outcome, "ECONNREFUSED");
    assert!(attempt.end_ns >= wait_for(&agent, &pod, "gate opened")["mono_ns"].as_u64().unwrap());
    for released in wait_for_all(&agent, &pod, "connect released", 2) {
        let is_stranger = released["pid"] == stranger.pid();
        assert_eq!(released["outcome"], if is_stranger { "refused" } else { "connected" });
    }
    wait_for(&agent, &pod, "gate detached");
    let syns = capture.syns_to(PROXY_PORT).unwrap();
    assert!(!syns.is_empty());
    let foreign = syns.iter().find(|syn| syn.source.ip() != IpAddr::V4(pod.ip_v4()));
    assert!(foreign.is_none(), "{foreign:?}");
}

#[test]
fn the_replay_of_many_sockets_is_paced_for_a_short_backlog() {
    const GROUPS: [&str; 3] = ["one", "two", "three"];
    const SOCKETS: u32 = 100;
    const BACKLOG: u32 = 128;
    /// How many SYNs the agent sends at a time, and the pause between, less what the clock of the
    /// timestamps may be slewed.
    const BURST: usize = 120;
    const PAUSE: Duration = Duration::from_micros(900);
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart").containers(GROUPS)).unwrap();
    let capture = Capture::start(&pod.netns().unwrap()).unwrap();
    let groups = start_groups(&pod, &GROUPS, SOCKETS);
    wait_for_all(&agent, &pod, "connect held", GROUPS.len() * SOCKETS as usize);
    let proxy = pod.start_container(PROXY, apps::listener(PROXY_PORT, BACKLOG).unwrap()).unwrap();
    proxy.wait_record(SOON, |line| line["event"] == "listening").unwrap();
    pod.set_kube_ready(PROXY, true).unwrap();
    for app in &groups {
        for attempt in app.wait_attempts(SOON, SOCKETS as usize).unwrap() {
            assert!(attempt.is_connected(), "{attempt:?}");
        }
    }
    wait_for(&agent, &pod, "gate detached");

    // Linux gives every IPv6 socket a flow label; what the agent writes has none.
    let mut replays = capture.syns_to(PROXY_PORT).unwrap();
    replays.retain(|syn| syn.flow_label == Some(0));
    assert!(replays.len() > BURST, "only {} replays", replays.len());
    for (first, next) in replays.iter().zip(&replays[BURST..]) {
        let pause = next.at - first.at;
        assert!(pause >= PAUSE, "{} SYNs within {pause:?}", BURST + 1);
    }
}

/// Groups that do not retransmit at the same time: whenever the gate opens, most of them wait for
/// the replay.
fn start_groups(pod: &Pod, groups: &[&str], sockets: u32) -> Vec<Process> {
    /// A held SYN is retransmitted every 500 ms.
    const RETRANSMISSION: Duration = Duration::from_millis(500);
    let start = |container: &&str| {
        thread::sleep(RETRANSMISSION / groups.len() as u32);
        let client = apps::connect(backend_v6()).unwrap().count(sockets);
        pod.start_container(container, client).unwrap()
    };
    groups.iter().map(start).collect()
}

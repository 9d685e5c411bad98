//! The options of an application's socket: kept while it is held, and obeyed.

use std::{net::SocketAddr, thread, time::Duration};

use testbed::{
    Capture, DEAD_V4, Netns, PROXY_PORT, PodSpec, apps, apps::Client, backend_v4, backend_v6,
};

use crate::common::{SOON, enabled_node, start_agent, wait_for};

/// Longer than it takes until a held socket gets a larger budget of retransmissions.
const HOLD: Duration = Duration::from_secs(4);

#[test]
fn a_connection_has_its_own_syncnt_after_the_hold() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (index, (to, syncnt)) in [(backend_v4(), 1), (backend_v6(), 9)].into_iter().enumerate() {
        let pod = node.create_pod(PodSpec::new("shop", format!("cart-{index}"))).unwrap();
        let client = apps::connect(to).unwrap().syncnt(syncnt).sockopts_after();
        let app = pod.start_container("app", client).unwrap();
        wait_for(&agent, &pod, "connect held");
        thread::sleep(HOLD);
        assert!(app.exit_status().is_none(), "{to} does not wait");

        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        let attempt = app.wait_attempt(SOON).unwrap();
        assert!(attempt.is_connected() && attempt.elapsed() >= HOLD, "{to}: {attempt:?}");
        let sockopts = app.wait_record(SOON, |line| line["event"] == "sockopts").unwrap();
        assert_eq!(sockopts["tcp_syncnt"], syncnt, "{to}");
    }
}

#[test]
fn a_connect_that_is_released_into_silence_gives_up_after_its_own_retries() {
    const SYNCNT: u32 = 2;
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let netns = pod.netns().unwrap();
    without_linear_timeouts(&netns);
    let capture = Capture::start(&netns).unwrap();
    let client = apps::connect(backend_v4()).unwrap().syncnt(SYNCNT);
    let app = pod.start_container("app", client).unwrap();
    wait_for(&agent, &pod, "connect held");
    thread::sleep(HOLD);
    assert!(app.exit_status().is_none(), "the connect does not wait");

    let rule = format!("-I INPUT -i lo -p tcp --dport {PROXY_PORT} -j DROP");
    let mut silence = netns.command("iptables").unwrap();
    assert!(silence.args(rule.split(' ')).status().unwrap().success());
    node.api().put_namespace("shop", &[]);
    let opened = wait_for(&agent, &pod, "gate opened");
    assert_eq!(opened["reason"], "not enabled");
    let attempt = app.wait_attempt(2 * SOON).unwrap();
    assert_eq!(attempt.outcome, "ETIMEDOUT");
    // One that falls due, then its own retries, and some replays; the raised budget has 119 more.
    let syns = capture.syns_to(PROXY_PORT).unwrap();
    assert!((1..=8).contains(&syns.len()), "{syns:?}");
}

/// Kernels from 6.5 on add retries of their own (tcp_syn_linear_timeouts) to those of the socket.
fn without_linear_timeouts(netns: &Netns) {
    if std::fs::exists("/proc/sys/net/ipv4/tcp_syn_linear_timeouts").unwrap() {
        netns.set_sysctl("net.ipv4.tcp_syn_linear_timeouts", "0").unwrap();
    }
}

#[test]
fn tcp_user_timeout_ends_a_hold_as_it_ends_any_connect() {
    ends_early("ETIMEDOUT", "timed out", |client| client.user_timeout(PATIENCE));
}

#[test]
fn so_sndtimeo_ends_a_hold_as_it_ends_any_connect() {
    ends_early("EINPROGRESS", "closed by the application", |client| client.send_timeout(PATIENCE));
}

#[test]
fn an_application_s_own_connect_timeout_ends_a_hold() {
    ends_early("timeout", "closed by the application", |client| client.connect_timeout(PATIENCE));
}

const PATIENCE: Duration = Duration::from_secs(3);

/// A held connect and one to a silent host, both of a client that is not patient.
fn ends_early(errno: &str, outcome: &str, impatient: impl Fn(Client) -> Client) {
    /// Timers count in milliseconds, or in ticks of 4 or 10 ms.
    const TICKS: Duration = Duration::from_millis(20);
    /// How much later than to a silent host a held connect may end: a held SYN is retransmitted
    /// every 500 ms, and TCP looks at its timeout only then; the rest is for a busy machine.
    const SLACK: Duration = Duration::from_millis(1_500);
    let node = enabled_node();
    node.api().put_namespace("plain", &[]);
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let plain = node.create_pod(PodSpec::new("plain", "cart").not_meshed()).unwrap();
    let silent = SocketAddr::from((DEAD_V4, 80));
    let client = |to| impatient(apps::connect(to).unwrap());
    let held = pod.start_container("app", client(backend_v4())).unwrap();
    let unheld = plain.start_container("app", client(silent)).unwrap();
    let attempt = held.wait_attempt(SOON).unwrap();
    let expected = unheld.wait_attempt(SOON).unwrap();
    assert_eq!((&*expected.outcome, &*attempt.outcome), (errno, errno));
    assert!(attempt.elapsed() >= PATIENCE - TICKS, "{attempt:?}");
    assert!(attempt.elapsed() <= expected.elapsed() + SLACK, "{attempt:?} {expected:?}");
    let released = wait_for(&agent, &pod, "connect released");
    assert_eq!(released["outcome"], outcome);
    assert_eq!(released["pid"], held.pid());
}

//! The lines of the eBPF programs in the agent's log.

use testbed::{PodSpec, apps, backend_v4};

use crate::common::{
    SOON, dials, enabled_node, is, known_pod, lines, options, start_agent_with, wait_for,
    wait_for_all,
};

#[test]
fn a_hold_can_be_followed_step_by_step_with_names() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &options().arg("--kernel-log"));
    let pod = known_pod(&node, &agent, PodSpec::new("shop", "cart"));
    // The programs' lines may come before the agent has read the container's name; not those about a
    // socket that is made after the agent has named one.
    let first = dials(&pod, "app", backend_v4());
    assert_eq!(wait_for(&agent, &pod, "connect held")["container"], "app");
    let app = pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap();
    let cookie = &wait_for_all(&agent, &pod, "connect held", 2)[1]["cookie"];
    let line = |message: &str| {
        agent.wait_log(SOON, |line| is(line, &pod, message) && line["cookie"] == *cookie).unwrap()
    };
    assert_eq!(line("connect seen")["port"], backend_v4().port(), "as the application gave it");
    assert_eq!(line("SYN dropped")["port"], 15001, "as the mesh has redirected it");
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    for app in [&first, &app] {
        assert!(app.wait_attempt(SOON).unwrap().is_connected());
    }
    for message in ["connect seen", "SYN dropped", "connected"] {
        let line = line(message);
        for (field, value) in
            [("namespace", "shop"), ("pod", "cart"), ("container", "app"), ("level", "DEBUG")]
        {
            assert_eq!(line[field], value, "{line}");
        }
    }
    wait_for(&agent, &pod, "gate detached");
}

#[test]
fn nobody_who_has_not_asked_gets_them() {
    let node = enabled_node();
    for options in [options(), options().arg("--kernel-log").log_level("info")] {
        let agent = start_agent_with(&node, &options);
        let pod = known_pod(&node, &agent, PodSpec::new("shop", "cart"));
        let app = dials(&pod, "app", backend_v4());
        wait_for(&agent, &pod, "connect held");
        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        assert!(app.wait_attempt(SOON).unwrap().is_connected());
        wait_for(&agent, &pod, "gate detached");
        for message in ["connect seen", "SYN dropped", "connected"] {
            assert!(lines(&agent, &pod, message).is_empty(), "{message}: {options:?}");
        }
    }
}

#[test]
fn a_flood_of_them_is_cut_short_and_holds_nobody_longer() {
    const SOCKETS: u32 = 400;
    let node = enabled_node();
    let agent = start_agent_with(&node, &options().arg("--kernel-log"));
    let pod = known_pod(&node, &agent, PodSpec::new("shop", "cart"));
    // Each socket tries again every 500 ms: more lines a second than are written.
    let client = apps::connect(backend_v4()).unwrap().nonblocking().count(SOCKETS);
    let app = pod.start_container("app", client).unwrap();
    let line = agent.wait_message(SOON, "kernel debug lines left out: too many in a second");
    assert!(line.unwrap()["left_out"].as_u64().unwrap() > 0);
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    let attempts = app.wait_attempts(SOON, SOCKETS as usize).unwrap();
    assert!(attempts.iter().all(apps::Attempt::is_connected));
}

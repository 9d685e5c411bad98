//! The packet decides, never the table: a socket without a place in it is held all the same.

use std::{thread, time::Duration};

use serde_json::Value;
use testbed::{PodSpec, apps, backend_v4};

use crate::common::{SOON, enabled_node, options, start_agent_with, wait_for_all};

/// Longer than the 6 s for which the kernel's own budget of retransmissions would last.
const BEYOND_THE_BUDGET: Duration = Duration::from_secs(8);

#[test]
fn more_sockets_than_the_table_takes_are_all_held_and_all_connect() {
    const PLACES: usize = 16;
    const SOCKETS: usize = 64;
    let node = enabled_node();
    let agent = start_agent_with(&node, &options().arg(format!("--max-sockets={PLACES}")));
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let client = apps::connect(backend_v4()).unwrap().count(SOCKETS as u32).get("/bytes/1000");
    let app = pod.start_container("app", client).unwrap();
    let held = wait_for_all(&agent, &pod, "connect held", SOCKETS);
    assert_eq!(recorded(&held), PLACES);
    for held in held {
        // Also of those that only the packet tells about.
        assert_eq!(held["destination"], backend_v4().to_string());
    }
    thread::sleep(BEYOND_THE_BUDGET);

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    for attempt in app.wait_attempts(SOON, SOCKETS).unwrap() {
        assert!(attempt.is_connected() && attempt.elapsed() >= BEYOND_THE_BUDGET, "{attempt:?}");
    }
    assert!(app.wait(SOON).unwrap().success());
    for released in wait_for_all(&agent, &pod, "connect released", SOCKETS) {
        assert_eq!(released["outcome"], "connected");
    }
}

#[test]
fn a_pod_with_many_sockets_leaves_the_other_pods_their_places() {
    const PLACES: u32 = 24;
    // Without a quota of its own the first pod takes them all: this is what the quota prevents.
    for (quota, left) in [(PLACES, 0), (PLACES / 2, 1)] {
        let node = enabled_node();
        let options = options()
            .arg(format!("--max-sockets={PLACES}"))
            .arg(format!("--max-sockets-per-pod={quota}"));
        let agent = start_agent_with(&node, &options);
        let mut pods = Vec::new();
        for (name, sockets, places) in [("many", 2 * PLACES, quota), ("one", 1, left)] {
            let pod = node.create_pod(PodSpec::new("shop", name)).unwrap();
            let client = apps::connect(backend_v4()).unwrap().count(sockets);
            let app = pod.start_container("app", client).unwrap();
            let held = wait_for_all(&agent, &pod, "connect held", sockets as usize);
            assert_eq!(recorded(&held), places as usize, "{name}, quota {quota}");
            pods.push((pod, app, sockets as usize));
        }
        for (pod, app, sockets) in &pods {
            let proxy = pod.start_proxy().unwrap();
            proxy.wait_ready(SOON).unwrap();
            for attempt in app.wait_attempts(SOON, *sockets).unwrap() {
                assert!(attempt.is_connected(), "quota {quota}: {attempt:?}");
            }
        }
    }
}

/// How many of these have a place in the table: nothing else knows who called connect().
fn recorded(held: &[Value]) -> usize {
    held.iter().filter(|line| line["pid"].is_u64()).count()
}

//! A real application, a real Envoy that comes late, and the agent between them.

use std::{thread, time::Duration};

use testbed::{PodSpec, apps, backend_v4, backend_v4_mapped, backend_v6, bpf};

use crate::common::{SOON, enabled_node, start_agent, wait_for};

/// Long enough that nothing but a hold explains a connect that waits.
const LATE: Duration = Duration::from_millis(1_500);

#[test]
fn a_blocking_connect_waits_for_the_proxy_and_its_data_arrives() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (index, to) in [backend_v4(), backend_v6(), backend_v4_mapped()].into_iter().enumerate() {
        let pod = node.create_pod(PodSpec::new("shop", format!("cart-{index}"))).unwrap();
        let client = apps::connect(to).unwrap().get("/bytes/1048576");
        let app = pod.start_container("app", client).unwrap();
        let held = wait_for(&agent, &pod, "connect held");
        assert_eq!(held["namespace"], "shop");
        assert_eq!(held["pod"], pod.name());
        assert_eq!(held["container"], "app");
        assert_eq!(held["comm"], "testbed-app");
        assert_eq!(held["pid"], app.pid());
        assert_eq!(held["destination"], to.to_string());
        thread::sleep(LATE);
        assert!(app.exit_status().is_none(), "{to} does not wait");

        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        let attempt = app.wait_attempt(SOON).unwrap();
        assert!(attempt.is_connected(), "{to}: {attempt:?}");
        assert!(attempt.elapsed() >= LATE);
        let body = app.wait_body(SOON).unwrap();
        assert!(body.ok && body.bytes == 1_048_576, "{to}: {body:?}");

        let released = wait_for(&agent, &pod, "connect released");
        assert_eq!(released["outcome"], "connected");
        assert_eq!(released["cookie"], held["cookie"]);
        assert!(released["held_ms"].as_f64().unwrap() >= LATE.as_millis() as f64);
        wait_for(&agent, &pod, "gate detached");
        assert!(bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    }
}

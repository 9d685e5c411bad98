//! Clients in other runtimes than the tests' own, and who is named as the one that dials.

use std::{thread, time::Duration};

use testbed::{Command, PodSpec, apps, backend_v4, backend_v6};

use crate::common::{SOON, enabled_node, start_agent, wait_for};

/// Long enough that nothing but a hold explains a connect that waits.
const LATE: Duration = Duration::from_millis(1_500);
const BODY: &str = "/bytes/1048576";

#[test]
fn an_asyncio_client_waits_and_gets_its_body() {
    for to in [backend_v4(), backend_v6()] {
        waits_and_gets_its_body(apps::python_client(to, Some(BODY)), &to.to_string());
    }
}

#[test]
fn a_node_js_client_waits_and_gets_its_body() {
    for to in [backend_v4(), backend_v6()] {
        waits_and_gets_its_body(apps::node_client(to, Some(BODY)), &to.to_string());
    }
}

fn waits_and_gets_its_body(client: Command, destination: &str) {
    let node = enabled_node();
    // The same client without an agent: it does not retry by itself.
    let pod = node.create_pod(PodSpec::new("shop", "unheld")).unwrap();
    let app = pod.start_container("app", client.clone()).unwrap();
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");

    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let app = pod.start_container("app", client).unwrap();
    let held = wait_for(&agent, &pod, "connect held");
    assert_eq!(held["pid"], app.pid());
    assert_eq!(held["container"], "app");
    assert_eq!(held["destination"], destination);
    thread::sleep(LATE);
    assert!(app.exit_status().is_none(), "the connect does not wait");

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    let attempt = app.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected() && attempt.elapsed() >= LATE, "{attempt:?}");
    let body = app.wait_body(SOON).unwrap();
    assert!(body.ok && body.bytes == 1 << 20, "{body:?}");
    assert!(app.wait(SOON).unwrap().success());
    assert_eq!(wait_for(&agent, &pod, "connect released")["outcome"], "connected");
}

#[test]
fn the_process_that_dials_is_named_not_the_one_that_made_the_socket() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let client = apps::fork_connect(backend_v4()).unwrap().get("/bytes/1000");
    let app = pod.start_container("app", client).unwrap();
    let connecting = app.wait_record(SOON, |line| line["event"] == "connecting").unwrap();
    let held = wait_for(&agent, &pod, "connect held");
    assert_eq!(held["pid"], connecting["pid"]);
    assert_ne!(held["pid"], app.pid());

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(app.wait_body(SOON).unwrap().ok);
    let released = wait_for(&agent, &pod, "connect released");
    assert_eq!(released["pid"], connecting["pid"]);
    assert_eq!(released["outcome"], "connected");
}

#[test]
fn the_user_of_a_client_is_named() {
    const NOBODY: u32 = 65_534;
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let client = apps::connect(backend_v4()).unwrap().user(NOBODY, NOBODY);
    let app = pod.start_container("app", client).unwrap();
    assert_eq!(wait_for(&agent, &pod, "connect held")["uid"], NOBODY);

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
    assert_eq!(wait_for(&agent, &pod, "connect released")["uid"], NOBODY);
}

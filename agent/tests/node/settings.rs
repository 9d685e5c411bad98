//! What users choose: modes, timeouts, opt-out clusters, the meshes' own wishes, and mistakes.

use std::{thread, time::Duration};

use serde_json::json;
use testbed::{Node, Pod, PodSpec, api::Events, apps, backend_v4, backend_v6};

use crate::common::{
    LATE, SOON, assert_released, dials, enabled_node, events, eventually, idle, known_pod, lines,
    options, start_agent, start_agent_with, wait_for, wait_for_all,
};

fn dial(pod: &Pod) -> String {
    let app = pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap();
    app.wait_attempt(SOON).unwrap().outcome
}

#[test]
fn mode_refuse_fails_at_once_with_the_error_that_was_chosen() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for errno in [None, Some("EAGAIN"), Some("ETIMEDOUT")] {
        let expected = errno.unwrap_or("ECONNREFUSED");
        let mut spec = PodSpec::new("shop", expected.to_lowercase())
            .annotation("holdfast.dev/mode", "refuse")
            .containers(["app", "direct"])
            .exclude_port(8081);
        if let Some(errno) = errno {
            spec = spec.annotation("holdfast.dev/errno", errno);
        }
        let pod = known_pod(&node, &agent, spec);
        let _app = idle(&pod, "app");
        wait_for(&agent, &pod, "gate closed");
        // The kernel learns from the first connect that the mesh redirects this destination.
        assert_eq!(dial(&pod), "ECONNREFUSED", "{expected}");
        for _ in 0..2 {
            assert_eq!(dial(&pod), expected);
        }
        let refused = wait_for_all(&agent, &pod, "connect refused", 3);
        for line in &refused {
            assert_eq!(line["destination"], backend_v4().to_string());
        }
        let told = refused.iter().map(|line| line["errno"].as_str()).collect::<Vec<_>>();
        assert_eq!(told, [None, Some(expected), Some(expected)]);
        let direct = dials(&pod, "direct", (backend_v4().ip(), 8081).into());
        assert!(direct.wait_attempt(SOON).unwrap().is_connected(), "not redirected, not refused");
        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        wait_for(&agent, &pod, "gate detached");
        assert_eq!(dial(&pod), "connected", "{expected}");
        assert!(lines(&agent, &pod, "connect held").is_empty());
    }
}

#[test]
fn mode_observe_only_tells_what_it_would_have_held() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart").annotation("holdfast.dev/mode", "observe");
    let pod = known_pod(&node, &agent, spec);
    wait_for(&agent, &pod, "gate closed");
    let app = dials(&pod, "app", backend_v4());
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    let line = wait_for(&agent, &pod, "connect would have been held");
    assert_eq!(line["destination"], backend_v4().to_string());
    assert_eq!(line["refused"], true);
    assert!(lines(&agent, &pod, "connect held").is_empty());
}

#[test]
fn mode_retry_leaves_the_release_to_the_kernel() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart").annotation("holdfast.dev/mode", "retry");
    let pod = known_pod(&node, &agent, spec);
    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    thread::sleep(LATE);
    let proxy = pod.start_proxy().unwrap();
    let ready_ns = proxy.wait_ready(SOON).unwrap();
    let attempt = app.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected() && attempt.end_ns > ready_ns, "{attempt:?}");
    assert!(app.wait_body(SOON).unwrap().ok);
    assert!(lines(&agent, &pod, "replayed").is_empty(), "something was sent again");
}

#[test]
fn on_timeout_refuse_fails_until_the_proxy_is_ready() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let spec = PodSpec::new("shop", "cart")
        .annotation("holdfast.dev/timeout", "2s")
        .annotation("holdfast.dev/on-timeout", "refuse");
    let pod = known_pod(&node, &agent, spec);
    let _app = idle(&pod, "app");
    let app = pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &pod, "connect held");
    wait_for(&agent, &pod, "deadline passed; connects are refused until the proxy is ready");
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    assert_eq!(dial(&pod), "ECONNREFUSED");
    assert_eq!(lines(&agent, &pod, "connect held").len(), 1);
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    wait_for(&agent, &pod, "gate opened");
    eventually("the proxy is reached", || dial(&pod) == "connected");
}

#[test]
fn a_pod_s_timeout_is_its_own() {
    let node = enabled_node();
    let agent = start_agent(&node);
    node.api().annotate_namespace("shop", "holdfast.dev/timeout", Some("2s"));
    let short = known_pod(&node, &agent, PodSpec::new("shop", "short"));
    let spec = PodSpec::new("shop", "long").annotation("holdfast.dev/timeout", "50s");
    let long = known_pod(&node, &agent, spec);
    let apps = [dials(&short, "app", backend_v4()), dials(&long, "app", backend_v4())];
    wait_for(&agent, &long, "connect held");
    assert_eq!(wait_for(&agent, &short, "gate opened")["reason"], "deadline passed");
    let attempt = apps[0].wait_attempt(SOON).unwrap();
    assert_eq!(attempt.outcome, "ECONNREFUSED");
    assert!(attempt.elapsed() >= Duration::from_millis(1_900), "{attempt:?}");
    thread::sleep(LATE);
    assert!(apps[1].exit_status().is_none(), "the pod's own setting does not win");
    let proxy = long.start_proxy().unwrap();
    assert_released(&apps[1], proxy.wait_ready(SOON).unwrap(), "long");
}

#[test]
fn in_an_opt_out_cluster_every_meshed_pod_is_held_but_those_that_decline() {
    let node = Node::new().unwrap();
    node.api().put_namespace("shop", &[]);
    node.api().put_namespace("out", &[("holdfast.dev/hold", "disabled")]);
    let agent = start_agent_with(&node, &options().arg("--default-hold").arg("enabled"));
    let pod = known_pod(&node, &agent, PodSpec::new("shop", "cart"));
    let app = dials(&pod, "app", backend_v4());
    assert_eq!(wait_for(&agent, &pod, "connect held")["namespace"], "shop");
    for spec in [
        PodSpec::new("out", "cart"),
        PodSpec::new("shop", "out").label("holdfast.dev/hold", "disabled"),
    ] {
        let pod = node.create_pod(spec).unwrap();
        let app = dials(&pod, "app", backend_v4());
        assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    }
    let proxy = pod.start_proxy().unwrap();
    assert_released(&app, proxy.wait_ready(SOON).unwrap(), "opt-out");
}

#[test]
fn a_mesh_s_own_wish_to_wait_is_granted_unless_switched_off() {
    const WISH: (&str, &str) =
        ("proxy.istio.io/config", r#"{"holdApplicationUntilProxyStarts": true}"#);
    let node = Node::new().unwrap();
    node.api().put_namespace("shop", &[]);
    let spec = PodSpec::new("shop", "cart").annotation(WISH.0, WISH.1);
    let agent = start_agent(&node);
    let pod = known_pod(&node, &agent, spec.clone());
    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    let proxy = pod.start_proxy().unwrap();
    assert_released(&app, proxy.wait_ready(SOON).unwrap(), "wish");
    drop((app, proxy, pod));
    assert!(agent.stop(SOON).unwrap().success());

    let agent = start_agent_with(&node, &options().arg("--mesh-wishes").arg("disabled"));
    let pod = node.create_pod(spec).unwrap();
    let app = dials(&pod, "app", backend_v4());
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    assert!(agent.exit_status().is_none());
}

#[test]
fn a_mistake_is_told_to_its_owner_and_harms_nobody() {
    let long = "9".repeat(10_000);
    let mistakes = [
        ("timeout", "soon"),
        ("timeout", "-5s"),
        ("timeout", "99999999999999999999h"),
        ("mode", long.as_str()),
        ("on-timeout", "explode"),
        ("guard", "perhaps"),
        ("ports", "0"),
        ("ports", "65536"),
        ("proxy", "nobody-knows"),
        ("ready", "ftp://:21"),
        ("bogus", "1"),
    ];
    let node = enabled_node();
    let agent = start_agent(&node);
    let neighbour = known_pod(&node, &agent, PodSpec::new("shop", "neighbour"));
    let waiting = dials(&neighbour, "app", backend_v6());
    wait_for(&agent, &neighbour, "connect held");
    for (index, (key, value)) in mistakes.into_iter().enumerate() {
        let key = format!("holdfast.dev/{key}");
        let spec = PodSpec::new("shop", format!("mistake-{index}")).annotation(&key, value);
        let pod = node.create_pod(spec).unwrap();
        let app = dials(&pod, "app", backend_v4());
        let line = wait_for(&agent, &pod, "invalid setting");
        assert_eq!(line["key"], key);
        assert!(line["value"].as_str().unwrap().len() < 200, "{key}: {line}");
        wait_for(&agent, &pod, "connect held");
        eventually("an Event tells the pod's owner", || {
            events(&node, &pod).iter().any(|event| {
                event["reason"] == "InvalidSetting"
                    && event["note"].as_str().is_some_and(|note| note.contains(&key))
            })
        });
        let proxy = pod.start_proxy().unwrap();
        assert_released(&app, proxy.wait_ready(SOON).unwrap(), &key);
    }
    let proxy = neighbour.start_proxy().unwrap();
    assert_released(&waiting, proxy.wait_ready(SOON).unwrap(), "neighbour");
}

#[test]
fn an_api_that_takes_no_events_delays_nothing() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for (name, choice) in
        [("forbid", Events::Forbid), ("fail", Events::Fail), ("stall", Events::Stall)]
    {
        node.api().take_events(choice);
        let spec = PodSpec::new("shop", name).annotation("holdfast.dev/mode", "wait");
        let pod = node.create_pod(spec).unwrap();
        let app = dials(&pod, "app", backend_v4());
        wait_for(&agent, &pod, "invalid setting");
        wait_for(&agent, &pod, "connect held");
        let proxy = pod.start_proxy().unwrap();
        assert_released(&app, proxy.wait_ready(SOON).unwrap(), name);
    }
    assert!(node.api().events().is_empty());
    node.api().take_events(Events::Keep);
    assert!(agent.stop(SOON).unwrap().success());
}

#[test]
fn a_setting_that_changes_while_a_connect_waits_takes_effect_at_once() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = known_pod(&node, &agent, PodSpec::new("shop", "cart"));
    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    pod.patch(&json!({"metadata": {"annotations": {"holdfast.dev/timeout": "1s"}}}));
    assert_eq!(wait_for(&agent, &pod, "gate opened")["reason"], "deadline passed");
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    assert_eq!(wait_for_all(&agent, &pod, "connect released", 1)[0]["outcome"], "refused");
}

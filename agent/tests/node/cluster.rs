//! An API server that is away, forgetful, large or odd.

use std::time::{Duration, Instant};

use testbed::{
    Agent, AgentOptions, Cgroup, CgroupDriver, Node, Pod, PodSpec, Process, Qos, Recording,
    api::{Asked, Refusal, Trouble},
    apps, backend_v4, bpf,
};

use crate::common::{
    CLOSED_UNKNOWN, ENABLED, SOON, binary, enabled_node, eventually, is, lines, lists, options,
    start_agent, wait_for,
};

const LABEL: &str = "holdfast.dev/hold";

/// A watch that has failed is tried again after a time that doubles, up to half a minute.
const BACKED_OFF: Duration = Duration::from_secs(90);

/// Starts a container that only runs, to have clients started in it.
fn idle(pod: &Pod) -> Process {
    pod.start_container("app", apps::testbed_app().unwrap().arg("pause")).unwrap()
}

fn dial(pod: &Pod) -> Process {
    pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap()
}

/// Waits for the pod's log line number `count` with this message, however late the API is.
fn wait_backed_off(agent: &Agent, pod: &Pod, message: &str, count: usize) {
    let mut seen = 0;
    let nth = agent.wait_log(BACKED_OFF, |line| {
        seen += usize::from(is(line, pod, message));
        seen == count
    });
    nth.unwrap();
}

/// A pod of the enabled namespace "shop" is held, and let go when its proxy is ready.
fn assert_holds(node: &Node, agent: &Agent, name: &str) {
    let pod = node.create_pod(PodSpec::new("shop", name)).unwrap();
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(agent, &pod, "connect held");
    let proxy = pod.start_proxy().unwrap();
    let ready = proxy.wait_ready(SOON).unwrap();
    let attempt = app.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected() && attempt.start_ns < ready, "{attempt:?}");
}

#[test]
fn labels_take_effect_after_the_api_has_forgotten_its_history() {
    for refusal in [Refusal::Event, Refusal::Status] {
        let node = enabled_node();
        let api = node.api();
        api.put_namespace("later", &[]);
        api.refuse_old_watches_with(refusal);
        let agent = start_agent(&node);
        let pod = node.create_pod(PodSpec::new("later", "cart")).unwrap();
        let _app = idle(&pod);
        // Whatever was attached before the API named it is off when a later pod is held.
        assert_holds(&node, &agent, "first");
        eventually("no program on an exempt pod", || {
            bpf::programs_below(pod.cgroup()).unwrap().is_empty()
        });
        let closed = lines(&agent, &pod, "gate closed").len();

        // In the middle of a watch.
        let expired = Instant::now();
        api.expire_history();
        api.label_namespace("later", LABEL, Some("enabled"));
        wait_backed_off(&agent, &pod, "gate closed", closed + 1);
        let client = dial(&pod);
        wait_for(&agent, &pod, "connect held");
        assert!(lists(&node, expired, "namespaces") > 0, "{refusal:?}: nothing was listed again");

        // Between two watches: the version from which the agent goes on is gone by then.
        api.stop();
        let stopped = Instant::now();
        api.label_namespace("later", LABEL, Some("disabled"));
        api.expire_history();
        api.resume().unwrap();
        wait_backed_off(&agent, &pod, "gate detached", closed + 1);
        assert_eq!(client.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
        assert!(lists(&node, stopped, "namespaces") > 0, "{refusal:?}");
        assert!(agent.exit_status().is_none());
    }
}

#[test]
fn an_agent_that_starts_before_the_api_holds_as_soon_as_it_is_there() {
    let node = enabled_node();
    node.api().stop();
    let agent = node.start_agent(&options().arg("--api-wait").arg("120s")).unwrap();
    agent.wait_message(SOON, "API server does not answer yet").unwrap();
    assert!(agent.logged("agent armed").is_empty());
    node.api().resume().unwrap();
    agent.wait_message(SOON, "agent armed").unwrap();
    assert_holds(&node, &agent, "cart");
}

#[test]
fn held_connects_are_released_while_the_api_is_away() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &pod, "connect held");
    node.api().stop();
    agent.wait_message(SOON, "watch interrupted; trying again").unwrap();
    let proxy = pod.start_proxy().unwrap();
    let ready = proxy.wait_ready(SOON).unwrap();
    let attempt = app.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected() && attempt.start_ns < ready, "{attempt:?}");
    let opened = wait_for(&agent, &pod, "gate opened");
    assert_eq!(opened["reason"], "the proxy says it is ready");

    // A pod that comes meanwhile is held on suspicion, and named when the API is back.
    let other = node.create_pod(PodSpec::new("plain", "till")).unwrap();
    let client = other.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &other, "connect held");
    node.api().put_namespace("plain", &[]);
    node.api().resume().unwrap();
    wait_backed_off(&agent, &other, "gate opened", 1);
    assert_eq!(wait_for(&agent, &other, "gate opened")["reason"], "not enabled");
    assert_eq!(client.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    assert_holds(&node, &agent, "after");
}

#[test]
fn an_api_that_never_answers_ends_the_agent_before_anything_is_attached() {
    let node = enabled_node();
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let _app = idle(&pod);
    node.api().stop();
    // At its own log level: what it can do without the API, and the last word.
    let agent = node.start_agent(&AgentOptions::new(binary()).arg("--api-wait").arg("1s")).unwrap();
    let status = agent.wait_exit(SOON).unwrap();
    assert_eq!(status.code(), Some(69));
    let stderr = agent.stderr();
    let [first, last] = &stderr[..] else { panic!("{stderr:#?}") };
    assert!(first.contains("commands are answered"), "{first}");
    assert!(last.contains(&node.api().url()), "{last}");
    assert!(last.contains("--api-wait"), "{last}");
    assert_eq!(bpf::programs_below(pod.cgroup()).unwrap(), [""; 0]);
    assert_eq!(dial(&pod).wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
}

#[test]
fn a_list_is_read_to_its_last_page() {
    /// More than two pages of 500.
    const NAMESPACES: usize = 1_100;
    let node = Node::new().unwrap();
    for index in 0..NAMESPACES {
        node.api().put_namespace(&format!("n{index:04}"), &[]);
    }
    // In the order of names, so on the last page.
    node.api().put_namespace("shop", &ENABLED);
    // All at once are more than the agent takes.
    node.api().trouble(|asked| match asked {
        asked if is_streamed_list(asked, "namespaces") => Some(REFUSED),
        asked => is_whole_list(asked, "namespaces").then(too_long),
    });
    let agent = start_agent(&node);
    assert!(node.api().requests("list", "namespaces") >= 4);
    assert_holds(&node, &agent, "cart");
    // The first page is not forgotten for the last.
    let pod = node.create_pod(PodSpec::new("n0000", "plain")).unwrap();
    let _app = idle(&pod);
    assert_holds(&node, &agent, "later");
    eventually("no program on an exempt pod", || {
        bpf::programs_below(pod.cgroup()).unwrap().is_empty()
    });
    assert_eq!(dial(&pod).wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
}

/// All that asks for a list as a stream.
fn is_streamed_list(asked: &Asked<'_>, resource: &str) -> bool {
    asked.resource == resource && asked.query.contains("sendInitialEvents=true")
}

/// What a server says to that which has no such stream.
const REFUSED: Trouble = Trouble::Status { code: 422, retry_after: None };

/// All that asks for a list as the server has it in its cache.
fn is_whole_list(asked: &Asked<'_>, resource: &str) -> bool {
    (asked.verb, asked.resource) == ("list", resource) && asked.query.contains("resourceVersion=0")
}

/// More bytes than the agent takes at once.
fn too_long() -> Trouble {
    Trouble::Lines { lines: vec![" ".repeat(17 << 20)], after: Duration::ZERO }
}

#[test]
fn the_pods_there_are_come_in_one_request_or_in_pages_where_they_are_too_many() {
    /// Three pages.
    const PODS: usize = 6;
    /// To see that the agent may list pods at all.
    const PROBES: u64 = 1;
    type Hook = fn(&Asked<'_>) -> Option<Trouble>;
    let servers: [(Hook, u64); 4] = [
        (|_| None, PROBES),
        (|asked| is_streamed_list(asked, "pods").then_some(REFUSED), PROBES + 1),
        (
            |asked| match asked {
                asked if is_streamed_list(asked, "pods") => Some(REFUSED),
                asked => is_whole_list(asked, "pods").then(too_long),
            },
            // The one that was too long is not counted.
            PROBES + 3,
        ),
        // It ends the watch without having said where the list ends.
        (
            |asked| {
                let nothing = Trouble::Lines { lines: Vec::new(), after: Duration::ZERO };
                is_streamed_list(asked, "pods").then_some(nothing)
            },
            PROBES + 1,
        ),
    ];
    for (server, listed) in servers {
        let node = enabled_node();
        let pods: Vec<Pod> = (0..PODS)
            .map(|number| node.create_pod(PodSpec::new("shop", format!("pod-{number}"))).unwrap())
            .collect();
        node.api().trouble(server);
        let agent = start_agent(&node);
        assert_eq!(node.api().requests("list", "pods"), listed);
        for pod in &pods {
            wait_for(&agent, pod, "gate closed");
        }
        // What comes later is heard of as well.
        assert_holds(&node, &agent, "later");
        assert_eq!(node.api().requests("list", "pods"), listed);
    }
}

#[test]
fn streams_recorded_from_a_cluster_neither_fail_the_agent_nor_close_a_gate() {
    let node = enabled_node();
    let agent = start_agent(&node);
    for recording in Recording::ALL {
        for event in recording.events().unwrap() {
            node.api().replay(&event).unwrap();
        }
    }
    // All at once, too, as after a time without the API.
    let all = Recording::ALL.map(|recording| recording.events().unwrap());
    for index in 0..all.iter().map(Vec::len).max().unwrap() {
        for event in all.iter().filter_map(|events| events.get(index)) {
            node.api().replay(event).unwrap();
        }
    }
    assert_holds(&node, &agent, "cart");
    let starts = agent.logged("gate closed");
    let starts = starts.iter().filter(|line| line["reason"] == "pod starts");
    assert_eq!(starts.count(), 1);
    assert!(agent.exit_status().is_none());
    let loud = agent.logs().into_iter().find(|line| line["level"] == "WARN");
    assert_eq!(loud, None);
}

#[test]
fn a_recorded_pod_s_gate_opens_when_the_recording_says_why() {
    const READY: &str = "kubelet reports the proxy ready";
    for (recording, reason) in [
        (Recording::Classic, READY),
        (Recording::PostStart, READY),
        (Recording::Native, READY),
        // Kubelet never gets to call it ready: its proxy dies before the first probe.
        (Recording::ProxyCrash, "pod is terminating"),
        (Recording::Job, READY),
        (Recording::Plain, "no proxy container in the pod"),
    ] {
        let node = enabled_node();
        let agent = start_agent(&node);
        let events = recording.events().unwrap();
        let uid = events[0]["object"]["metadata"]["uid"].as_str().unwrap().to_owned();
        let message = |message: &str| {
            agent
                .wait_log(SOON, |line| line["message"] == message && line["pod_uid"] == uid)
                .unwrap_or_else(|error| panic!("{recording:?}: {error:#}"))
        };
        // The cgroup alone: what opens the gate can only be the recording.
        let dir = CgroupDriver::default().pod_dir(Qos::Burstable, &uid);
        let cgroup = Cgroup::create(node.cgroup_root().join(dir)).unwrap();
        message(CLOSED_UNKNOWN);
        for event in events {
            node.api().replay(&event).unwrap();
        }
        assert_eq!(message("gate opened")["reason"], reason, "{recording:?}");
        message("gate detached");
        assert_eq!(bpf::programs_below(&cgroup).unwrap(), [""; 0]);
    }
}

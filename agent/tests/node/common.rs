//! What the tests on a whole node share.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use testbed::{Agent, AgentOptions, Node, Pod, PodSpec, Process, apps, backend_v4, bpf};

/// The label that enables a namespace.
pub(crate) const ENABLED: [(&str, &str); 1] = [("holdfast.dev/hold", "enabled")];

/// What is told of a gate that closes before the API has told of its pod.
pub(crate) const CLOSED_UNKNOWN: &str = "gate closed, pod not known yet";

/// Long enough for anything that should happen soon, on any machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The agent under test.
pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_holdfast"))
}

/// How the tests run the agent.
pub(crate) fn options() -> AgentOptions {
    AgentOptions::new(binary()).log_level("info,holdfast=trace")
}

/// Starts the agent and waits until it is armed.
pub(crate) fn start_agent(node: &Node) -> Agent {
    start_agent_with(node, &options())
}

/// Starts the agent with these options and waits until it is armed.
pub(crate) fn start_agent_with(node: &Node, options: &AgentOptions) -> Agent {
    let agent = node.start_agent(options).unwrap();
    agent.wait_message(SOON, "agent armed").unwrap();
    agent
}

/// A node whose namespace "shop" is enabled.
pub(crate) fn enabled_node() -> Node {
    let node = Node::new().unwrap();
    node.api().put_namespace("shop", &ENABLED);
    node
}

/// Where an agent serves what this message of its log is about.
pub(crate) fn served_at(agent: &Agent, message: &str) -> SocketAddr {
    let line = agent.wait_message(SOON, message).unwrap();
    line["address"].as_str().unwrap().parse().unwrap()
}

/// Status and body of a GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Whether a log line is of this pod and has this message.
pub(crate) fn is(line: &Value, pod: &Pod, message: &str) -> bool {
    line["message"] == message && line["pod_uid"] == pod.uid()
}

/// Waits for a log line of this pod.
pub(crate) fn wait_for(agent: &Agent, pod: &Pod, message: &str) -> Value {
    agent.wait_log(SOON, |line| is(line, pod, message)).unwrap()
}

/// The log lines of this pod with this message.
pub(crate) fn lines(agent: &Agent, pod: &Pod, message: &str) -> Vec<Value> {
    agent.logs().into_iter().filter(|line| is(line, pod, message)).collect()
}

/// Waits until there are `count` log lines of this pod with this message, and returns them.
pub(crate) fn wait_for_all(agent: &Agent, pod: &Pod, message: &str, count: usize) -> Vec<Value> {
    let mut seen = 0;
    agent
        .wait_log(SOON, |line| {
            seen += usize::from(is(line, pod, message));
            seen == count
        })
        .unwrap();
    lines(agent, pod, message)
}

/// Waits until something holds of which nobody tells.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Long enough that nothing but a hold explains a connect that waits.
pub(crate) const LATE: Duration = Duration::from_millis(1_500);

/// How soon after readiness a hold must be over: far more than a release takes on a machine with
/// much else to do, far less than the time after which any resolver asks again (2.5 s). A SYN
/// goes out anew every 500 ms by itself.
pub(crate) const RELEASED_WITHIN: Duration = Duration::from_millis(400);

/// Starts a container that only runs, to have clients started in it.
pub(crate) fn idle(pod: &Pod, container: &str) -> Process {
    pod.start_container(container, apps::testbed_app().unwrap().arg("pause")).unwrap()
}

/// Starts a client that dials `to`, in a container of its own under this name.
pub(crate) fn dials(pod: &Pod, container: &str, to: SocketAddr) -> Process {
    pod.start_container(container, apps::connect(to).unwrap().get("/bytes/1000")).unwrap()
}

/// A pod of which the agent knows from the API before anything of it is on the node, which is what
/// happens on most: kubelet has it from the same API.
pub(crate) fn known_pod(node: &Node, agent: &Agent, spec: PodSpec) -> Pod {
    let pod = node.pod(spec).unwrap();
    pod.publish().unwrap();
    // The API's news come in their order: those about a later pod come after this one's.
    let later = PodSpec::new("shop", format!("later-than-{}", pod.name()));
    let later = node.pod(later.annotation("holdfast.dev/mode", "wait")).unwrap();
    later.publish().unwrap();
    later.create_cgroup().unwrap();
    wait_for(agent, &later, "invalid setting");
    pod.set_up().unwrap();
    pod
}

/// Asserts that a connect that waits came through after `ready_ns`, and soon after it.
pub(crate) fn assert_released(app: &Process, ready_ns: u64, what: &str) {
    assert_released_within(RELEASED_WITHIN, app, ready_ns, what);
}

/// The same of one that began at the sentry, which notes nothing to send again: by its own next try.
pub(crate) fn assert_released_by_itself(app: &Process, ready_ns: u64, what: &str) {
    /// Half a second from one try to the next (agent-ebpf/src/pacing.rs).
    const NEXT_TRY: Duration = Duration::from_millis(500);
    assert_released_within(NEXT_TRY + RELEASED_WITHIN, app, ready_ns, what);
}

fn assert_released_within(limit: Duration, app: &Process, ready_ns: u64, what: &str) {
    let attempt = app.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected() && attempt.start_ns < ready_ns, "{what}: {attempt:?}");
    let after = Duration::from_nanos(attempt.end_ns.saturating_sub(ready_ns));
    assert!(after < limit, "{what}: released {after:?} after readiness");
    assert!(app.wait_body(SOON).unwrap().ok, "{what}");
}

/// The Kubernetes Events about this pod.
pub(crate) fn events(node: &Node, pod: &Pod) -> Vec<Value> {
    let mut all = node.api().events();
    all.retain(|event| event["regarding"]["name"] == pod.name());
    all
}

/// Options of an agent that leaves its gates to the next one.
pub(crate) fn keeping() -> AgentOptions {
    options().arg("--on-exit").arg("keep")
}

/// A pod with an application that waits.
pub(crate) fn held_pod(node: &Node, agent: &Agent, name: &str) -> (Pod, Process) {
    let pod = node.create_pod(PodSpec::new("shop", name)).unwrap();
    wait_for(agent, &pod, "gate closed");
    let app = dials(&pod, "app", backend_v4());
    wait_for(agent, &pod, "connect held");
    (pod, app)
}

/// A hold, and nothing else, explains that it still has no connection.
pub(crate) fn assert_waits(app: &Process) {
    thread::sleep(LATE);
    assert!(app.wait_attempt(Duration::ZERO).is_err(), "{:?}", app.records());
}

/// The programs on the root of kubelet's tree: the sentry's.
pub(crate) fn on_root(node: &Node) -> Vec<&'static str> {
    bpf::programs_on(node.kubepods().path()).unwrap()
}

pub(crate) fn assert_nothing_on_root(node: &Node) {
    eventually("no program is left on the root of the pods", || on_root(node).is_empty());
}

/// How often all of a resource was asked for since then: as a list, or as a watch that begins with one.
pub(crate) fn lists(node: &Node, since: Instant, resource: &str) -> usize {
    let came = node.api().came(since);
    let of_all = came
        .iter()
        .filter(|came| came.verb == "list" || came.query.contains("sendInitialEvents=true"));
    of_all.filter(|came| came.resource == resource).count()
}

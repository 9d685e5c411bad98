//! What the tests on a whole node share.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use testbed::{Agent, AgentOptions, Node, Pod};

/// The label that enables a namespace.
pub(crate) const ENABLED: [(&str, &str); 1] = [("holdfast.dev/hold", "enabled")];

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

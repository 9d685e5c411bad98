//! What the agent costs a full node.

use std::{fs, thread};

use testbed::{Agent, AgentOptions, Pod, PodSpec, Process, apps, backend_v4};

use crate::{
    common::{SOON, binary, enabled_node, eventually, start_agent_with},
    metrics::{self, Scrape},
};

/// Enabled pods, each with a connect that waits: kubelet's own limit is 110 pods a node.
const PODS: usize = 100;

/// Pods that are set up at the same time.
const BUILDERS: usize = 4;

/// What a release build may take in all, in KiB.
const LIMIT_KIB: u64 = 25 * 1024;

/// What one more pod may take, in KiB, whatever the build: its facts, its probe, its share of what
/// the maps' and the log's buffers grow by.
const POD_KIB: u64 = 64;

/// A field of the process's memory in /proc, in KiB.
pub(crate) fn memory(agent: &Agent, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// All of the agent's memory and what is its own of it, in KiB, said aloud.
#[expect(clippy::print_stdout, reason = "the numbers are what a release run is made for")]
fn tell(agent: &Agent, when: &str) -> (u64, u64) {
    let (all, own) = (memory(agent, "VmRSS:"), memory(agent, "RssAnon:"));
    println!("{when}: VmRSS {all} KiB, RssAnon {own} KiB");
    (all, own)
}

/// Release: `cargo build --release --bins`, then `cargo test --release -p holdfast --test node memory -- --nocapture`.
#[test]
fn a_hundred_pods_that_wait_take_little_memory() {
    let node = enabled_node();
    let options = AgentOptions::new(binary())
        .arg("--health-address=127.0.0.1:0")
        .arg("--metrics-address=127.0.0.1:0")
        .arg("--pod-metrics")
        // However long the machine takes for a hundred pods.
        .arg("--timeout=30m");
    let agent = start_agent_with(&node, &options);
    let (_, before) = tell(&agent, "armed, no pod");

    let build = |number: usize| -> (Pod, Process) {
        let spec = PodSpec::new("shop", format!("cart-{number}"));
        let pod = node.create_pod(spec).unwrap();
        let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
        (pod, app)
    };
    let pods: Vec<(Pod, Process)> = thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS)
            .map(|first| {
                let build = &build;
                scope.spawn(move || (first..PODS).step_by(BUILDERS).map(build).collect::<Vec<_>>())
            })
            .collect();
        builders.into_iter().flat_map(|builder| builder.join().unwrap()).collect()
    });
    eventually("every connect is held", || agent.logged("connect held").len() >= PODS);
    let held_now = Scrape::take(metrics::address(&agent)).value("holdfast_held_connects");
    assert_eq!(held_now, PODS as f64);
    let (all_held, held) = tell(&agent, "100 pods held, and scraped");

    node.api().label_namespace("shop", "holdfast.dev/hold", None);
    for (pod, app) in &pods {
        assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED", "{}", pod.name());
    }
    let (all_open, _) = tell(&agent, "100 pods let go");
    drop(pods);

    let growth = held.saturating_sub(before) / PODS as u64;
    assert!(growth <= POD_KIB, "{growth} KiB a pod");
    // Without optimisation the program itself takes more than it may.
    if !cfg!(debug_assertions) {
        let most = all_held.max(all_open);
        assert!(most <= LIMIT_KIB, "{most} KiB");
    }
}

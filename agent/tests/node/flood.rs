//! Pods that connect more than anybody can read.

use std::{thread, time::Duration};

use serde_json::Value;
use testbed::{Agent, Pod, PodSpec, apps, backend_v4};

use crate::{
    common::{
        SOON, assert_released, binary, dials, enabled_node, events, eventually, is,
        start_agent_with, wait_for,
    },
    memory::memory,
};

/// More than any application opens before it has got an answer.
const CONNECTS: u32 = 1_000;

/// Long enough for the ring to fill several times over, were it not read.
const FLOOD: Duration = Duration::from_secs(4);

/// By how much the agent may grow for a flood, in KiB: its entries, its log's queue, its sockets'
/// table and what the allocator keeps of all that.
const GROWTH_KIB: u64 = 24 * 1024;

/// An agent that logs as users' do.
fn start(node: &testbed::Node) -> Agent {
    start_agent_with(node, &testbed::AgentOptions::new(binary()))
}

/// What a command prints as JSON.
fn json(agent: &Agent, args: &[&str]) -> Value {
    let output = agent.command([args, &["-o", "json"]].concat()).unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn lines_of(agent: &Agent, pod: &Pod) -> Vec<Value> {
    agent.logs().into_iter().filter(|line| line["pod_uid"] == pod.uid()).collect()
}

#[test]
fn a_thousand_held_connects_are_a_few_lines_and_one_sum() {
    let node = enabled_node();
    let agent = start(&node);
    let pod = node.create_pod(PodSpec::new("shop", "crowd")).unwrap();
    let client = apps::connect(backend_v4()).unwrap().nonblocking().count(CONNECTS);
    let app = pod.start_container("app", client).unwrap();
    let path = "shop/crowd";
    eventually("all of them wait", || {
        json(&agent, &["explain", path])["pod"]["held"] == u64::from(CONNECTS)
    });
    let episode = &json(&agent, &["explain", path])["episodes"][0];
    assert_eq!(episode["held"], u64::from(CONNECTS));
    assert!(episode["connects"].as_array().unwrap().len() < 100, "{episode}");

    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    for attempt in app.wait_attempts(SOON, CONNECTS as usize).unwrap() {
        assert!(attempt.is_connected(), "{attempt:?}");
    }
    let sum = wait_for(&agent, &pod, "hold ended");
    assert_eq!((&sum["held"], &sum["connected"]), (&CONNECTS.into(), &CONNECTS.into()));
    let lines = lines_of(&agent, &pod);
    assert!(lines.len() < 30, "{} lines", lines.len());
    let held = lines.iter().filter(|line| line["message"] == "connect held").count();
    assert!((1..10).contains(&held), "{held}");

    let note = |reason: &str| {
        let events = events(&node, &pod);
        let of_reason = events.iter().filter(|event| event["reason"] == reason);
        let notes: Vec<_> =
            of_reason.map(|event| event["note"].as_str().unwrap().to_owned()).collect();
        (notes.len() == 1).then(|| notes[0].clone())
    };
    eventually("one Event tells of the hold", || note("ConnectHeld").is_some());
    eventually("one Event tells of its end", || {
        note("ConnectsReleased").is_some_and(|note| note.starts_with("1000 connections, longest "))
    });
}

#[test]
fn a_flood_costs_a_bounded_amount_and_no_other_pod_its_hold() {
    let node = enabled_node();
    let agent = start(&node);
    let flooding = node.create_pod(PodSpec::new("shop", "flooding")).unwrap();
    let quiet = node.create_pod(PodSpec::new("shop", "quiet")).unwrap();
    let app = dials(&quiet, "app", backend_v4());
    wait_for(&agent, &quiet, "connect held");

    let before = memory(&agent, "RssAnon:");
    let flood = flooding.start_container("app", apps::flood(backend_v4(), FLOOD).unwrap()).unwrap();
    // A reader that reads nothing, from before the flood to its end.
    let mut reader = agent.asking(["events", "-f", "-o", "json"]);
    reader.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut reader = reader.spawn().unwrap();

    thread::sleep(FLOOD / 4);
    let proxy = quiet.start_proxy().unwrap();
    let ready = proxy.wait_ready(SOON).unwrap();
    assert_released(&app, ready, "beside a flood");

    let flood = flood.wait_flood(SOON + FLOOD).unwrap();
    let told = |field: &str| json(&agent, &["status"])["totals"][field].as_u64().unwrap();
    eventually("each is told of, or counted as lost", || {
        told("held") + told("lost_reports") >= flood.begun
    });
    let after = memory(&agent, "RssAnon:");
    assert!(
        after.saturating_sub(before) < GROWTH_KIB,
        "{before} -> {after} KiB after {} connects in {} s",
        flood.begun,
        flood.seconds
    );
    let lost = told("lost_reports");
    let warned: u64 = agent
        .logged("kernel events lost: some holds have no line in this log")
        .iter()
        .map(|line| line["lost"].as_u64().unwrap())
        .sum();
    assert_eq!(warned, lost);
    let of_flood = lines_of(&agent, &flooding);
    let connects = of_flood.iter().filter(|line| is(line, &flooding, "connect held"));
    assert!(connects.count() < 10, "{} lines", of_flood.len());
    reader.kill().unwrap();
    reader.wait().unwrap();
}

//! The agent's runner and the demo, with a stand-in for the agent that logs but holds nothing.
//! Needs root; without it these tests fail.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;
use serde_json::Value;
use testbed::{AgentOptions, Cgroup, Node};

const SOON: Duration = Duration::from_secs(20);

/// Says that it is armed, and of every pod it finds that its gate has come and gone.
const STAND_IN: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
    --cgroup-root) root=$2 ;;
    esac
    args="$args $1"
    shift
done
trap 'exit 0' TERM
echo "not a log line" >&2
echo "{\"message\":\"agent armed\",\"args\":\"$args\",\"test\":\"$TEST\",\"mono_ns\":7}" >&2
seen=
while :; do
    for pod in "$root"/kubepods.slice/kubepods-burstable.slice/*-pod*; do
        [ -d "$pod" ] || continue
        uid=${pod##*-pod}
        uid=$(echo "${uid%.slice}" | tr _ -)
        case "$seen" in *"$uid"*) continue ;; esac
        seen="$seen $uid"
        for message in "gate closed" "gate opened" "gate detached"; do
            echo "{\"message\":\"$message\",\"pod_uid\":\"$uid\",\"mono_ns\":7}" >&2
        done
    done
    sleep 0.05
done
"#;

struct StandIn(PathBuf);

impl StandIn {
    fn new(test: &str) -> Self {
        let name = format!("holdfast-stand-in-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, STAND_IN).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_agent_gets_the_node_s_paths_and_its_log_is_read() -> Result<()> {
    let node = Node::new()?;
    let stand_in = StandIn::new("runner");
    let options = AgentOptions::new(stand_in.path())
        .arg("--timeout=5s")
        .env("TEST", "yes")
        .log_level("debug");
    let agent = node.start_agent(&options)?;
    let armed = agent.wait_message(SOON, "agent armed")?;
    let args = armed["args"].as_str().unwrap();
    for expected in [
        "run --log-format json",
        "--node-name",
        "--kubeconfig",
        "--cgroup-root",
        "--runtime-root",
        "--log-level debug",
        "--timeout=5s",
    ] {
        assert!(args.contains(expected), "{expected} is not in {args}");
    }
    assert_eq!(armed["test"], "yes");
    assert_eq!(agent.logs().len(), 1);
    assert_eq!(agent.stderr().len(), 2);
    // It runs on the node, but not in kubelet's tree, and so outside of every gate.
    let kubepods = Cgroup::at(node.cgroup_root().join("kubepods.slice"));
    assert!(!kubepods.is_populated()?);
    assert!(Cgroup::at(node.cgroup_root()).processes().contains(&agent.pid()));

    let error = agent.wait_message(Duration::from_millis(50), "gate closed").unwrap_err();
    assert!(format!("{error:#}").contains("agent armed"), "{error:#}");
    assert!(agent.exit_status().is_none());
    assert!(agent.stop(SOON)?.success());
    let error = agent.wait_message(SOON, "gate closed").unwrap_err();
    assert!(format!("{error:#}").contains("ended"), "{error:#}");

    let agent = node.start_agent(&options)?;
    agent.wait_message(SOON, "agent armed")?;
    agent.kill();
    assert!(!agent.exit_status().unwrap().success());
    assert!(agent.logged("agent armed").len() == 1);
    Ok(())
}

#[test]
fn the_demo_tells_the_truth_when_nothing_is_held() -> Result<()> {
    let stand_in = StandIn::new("demo");
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-demo"))
        .args(["--json", "--trials", "2", "--proxy-delay", "0.2", "--agent"])
        .arg(stand_in.path())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let report: Value = serde_json::from_str(&text)?;
    assert_eq!(text.lines().count(), 1);
    assert_eq!(report["without"]["outcome"], "ECONNREFUSED");
    assert_eq!(report["with"]["outcome"], "ECONNREFUSED");
    assert_eq!(report["with"]["body_ok"], false);
    assert_eq!((&report["trials"], &report["refused"]), (&2.into(), &2.into()));
    assert_eq!(report["programs_after_open"], 0);
    assert_eq!(output.status.code(), Some(1));
    Ok(())
}

#[test]
fn the_demo_refuses_what_makes_no_sense() {
    for args in [
        &["--trials", "0"][..],
        &["--proxy-delay", "-1"],
        &["--proxy-delay", "soon"],
        &["--agent", "/nonexistent"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast-demo")).args(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

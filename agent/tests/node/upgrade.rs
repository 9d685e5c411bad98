//! One agent follows another: upgrades, crashes, the end of holdfast on the node.

use std::{
    thread,
    time::{Duration, Instant},
};

use agent_ebpf::sentry::AWAY_NS;
use nix::sys::signal::Signal;
use serde_json::json;
use testbed::{
    Agent, Node, PROXY, PodSpec, Process, Resource, api::Trouble, apps, backend_v4, bpf,
};

use crate::common::{
    LATE, SOON, assert_released, assert_released_by_itself, dials, enabled_node, eventually,
    held_pod, idle, keeping, options, start_agent_with, wait_for,
};

const STANDS_BY: &str = "standing by for the agent that works on this node to end";

/// Starts the agent that is to follow the one that runs.
fn follower(node: &Node) -> Agent {
    let agent = node.start_agent(&keeping()).unwrap();
    agent.wait_message(SOON, STANDS_BY).unwrap();
    agent
}

fn is_waiting(app: &Process) -> bool {
    thread::sleep(LATE);
    app.wait_attempt(Duration::ZERO).is_err()
}

#[test]
fn a_hold_outlives_its_agent_and_the_next_one_releases_it() {
    let node = enabled_node();
    for crashes in [true, false] {
        let agent = start_agent_with(&node, &keeping());
        let (pod, app) = held_pod(&node, &agent, &format!("crash-{crashes}"));
        if crashes {
            agent.kill();
        } else {
            agent.stop(SOON).unwrap();
        }
        assert!(is_waiting(&app));

        let agent = start_agent_with(&node, &keeping());
        let line = wait_for(&agent, &pod, "gate taken over");
        assert_eq!(line["held"], 1, "{line}");
        assert!(is_waiting(&app));
        let proxy = pod.start_proxy().unwrap();
        assert_released(&app, proxy.wait_ready(SOON).unwrap(), "after a change of agents");
        let line = wait_for(&agent, &pod, "connect released");
        assert_eq!((&line["container"], &line["comm"]), (&"app".into(), &"testbed-app".into()));
        wait_for(&agent, &pod, "gate detached");
        eventually("no program is left", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
        agent.stop(SOON).unwrap();
    }
}

#[test]
fn an_agent_that_comes_back_without_the_api_releases_what_it_finds() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    let (pod, app) = held_pod(&node, &agent, "cart");
    agent.kill();
    node.api().stop();
    let agent = node.start_agent(&keeping()).unwrap();
    let line = wait_for(&agent, &pod, "gate taken over");
    assert_eq!(line["held"], 1, "{line}");
    let proxy = pod.start_proxy().unwrap();
    assert_released(&app, proxy.wait_ready(SOON).unwrap(), "without the API");
    assert!(agent.logged("agent armed").is_empty());
    node.api().resume().unwrap();
    agent.wait_message(SOON, "agent armed").unwrap();
}

#[test]
fn a_dead_agent_holds_nobody_past_the_deadline() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping().arg("--timeout").arg("4s"));
    let (_pod, app) = held_pod(&node, &agent, "cart");
    agent.kill();
    // As it would have ended at once without holdfast: nobody listens.
    let attempt = app.wait_attempt(SOON).unwrap();
    assert_eq!(attempt.outcome, "ECONNREFUSED");
    let waited = attempt.elapsed();
    assert!(waited > Duration::from_millis(3_500), "{waited:?}");
    assert!(waited < Duration::from_secs(6), "{waited:?}");
}

#[test]
fn agents_that_crash_again_and_again_do_not_move_a_deadline() {
    let node = enabled_node();
    let options = keeping().arg("--timeout").arg("6s");
    let mut agent = start_agent_with(&node, &options);
    let (_pod, app) = held_pod(&node, &agent, "cart");
    while app.wait_attempt(Duration::ZERO).is_err() {
        agent.kill();
        agent = start_agent_with(&node, &options);
    }
    let attempt = app.wait_attempt(SOON).unwrap();
    let waited = attempt.elapsed();
    assert!(waited > Duration::from_millis(5_500) && waited < Duration::from_secs(8), "{waited:?}");
}

#[test]
fn a_closed_gate_goes_by_who_listens_while_no_agent_comes_and_by_readiness_again_when_one_has() {
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let agent = start_agent_with(&node, &keeping());
    let (pod, app) = held_pod(&node, &agent, "cart");
    // Listens, and never is ready.
    let _proxy = pod.start_container(PROXY, apps::listener(15001, 16).unwrap()).unwrap();
    assert!(is_waiting(&app));
    let killed = Instant::now();
    agent.kill();
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
    let alone = killed.elapsed();
    assert!(alone >= Duration::from_nanos(AWAY_NS), "{alone:?}");
    let agent = start_agent_with(&node, &keeping());
    wait_for(&agent, &pod, "gate taken over");
    let app = pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap();
    app.wait_connecting(SOON).unwrap();
    assert!(is_waiting(&app));
    drop(sentry);
}

#[test]
fn an_agent_that_stands_by_takes_over_the_moment_the_other_ends() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    let (held, app) = held_pod(&node, &agent, "held");

    let next = follower(&node);
    // A pod of these days is the first one's business.
    let meanwhile = node.create_pod(PodSpec::new("shop", "meanwhile")).unwrap();
    wait_for(&agent, &meanwhile, "gate closed");
    assert!(next.logged("agent armed").is_empty());
    agent.stop(SOON).unwrap();
    next.wait_message(SOON, "agent armed").unwrap();
    for pod in [&held, &meanwhile] {
        wait_for(&next, pod, "gate taken over");
    }
    let later = node.create_pod(PodSpec::new("shop", "later")).unwrap();
    wait_for(&next, &later, "gate closed");
    let proxy = held.start_proxy().unwrap();
    assert_released(&app, proxy.wait_ready(SOON).unwrap(), "by the agent that stood by");
}

#[test]
fn pods_that_start_while_agents_change_see_no_refusal() {
    let node = enabled_node();
    let mut agent = start_agent_with(&node, &keeping());
    let mut pods = Vec::new();
    for round in 0..4 {
        let next = follower(&node);
        let ends = thread::scope(|scope| {
            let ending = scope.spawn(|| agent.stop(SOON).unwrap());
            // Some begin before the change, some in the middle of it, some after it.
            for nth in 0..4 {
                let pod =
                    node.create_pod(PodSpec::new("shop", format!("pod-{round}-{nth}"))).unwrap();
                let app = dials(&pod, "app", backend_v4());
                pods.push((pod, app));
            }
            ending.join().unwrap()
        });
        assert!(ends.success());
        next.wait_message(SOON, "agent armed").unwrap();
        agent = next;
    }
    for (pod, app) in &pods {
        // It has dialled while nobody listened, whatever agent was there then.
        app.wait_connecting(SOON).unwrap();
        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        let attempt = app.wait_attempt(SOON).unwrap();
        assert!(attempt.is_connected(), "{}: {attempt:?}", pod.name());
    }
}

#[test]
fn pods_that_start_before_the_next_agent_gets_to_work_see_no_refusal() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    let next = follower(&node);
    // As if the machine had no time for it.
    next.process().signal(Signal::SIGSTOP);
    assert!(agent.stop(SOON).unwrap().success());
    let pods: Vec<_> = (0..3)
        .map(|nth| {
            let pod = node.create_pod(PodSpec::new("shop", format!("pod-{nth}"))).unwrap();
            let app = dials(&pod, "app", backend_v4());
            app.wait_connecting(SOON).unwrap();
            assert!(is_waiting(&app), "{}: {:?}", pod.name(), app.wait_attempt(Duration::ZERO));
            (pod, app)
        })
        .collect();
    next.process().signal(Signal::SIGCONT);
    next.wait_message(SOON, "agent armed").unwrap();
    let relieved = next.wait_message(SOON, "sentry relieved: this agent works").unwrap();
    assert_eq!(relieved["held"], 3, "{relieved}");
    for (pod, app) in &pods {
        let proxy = pod.start_proxy().unwrap();
        assert_released_by_itself(app, proxy.wait_ready(SOON).unwrap(), pod.name());
    }
}

#[test]
fn a_pod_whose_proxy_is_ready_is_not_touched_by_a_new_agent() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let _app = idle(&pod, "app");
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    wait_for(&agent, &pod, "gate detached");
    agent.kill();
    let agent = start_agent_with(&node, &keeping());
    let app = pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap();
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
    assert!(crate::common::lines(&agent, &pod, "gate closed").is_empty());
}

#[test]
fn an_uninstalled_agent_leaves_no_trace() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &options().arg("--on-exit").arg("detach"));
    let (pod, app) = held_pod(&node, &agent, "cart");
    assert!(node.bpffs().join("holdfast").is_dir());
    assert!(agent.stop(SOON).unwrap().success());
    assert!(!node.bpffs().join("holdfast").exists());
    eventually("no program is left", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
}

#[test]
fn an_agent_whose_daemonset_is_gone_leaves_no_trace_and_one_whose_daemonset_stays_leaves_all() {
    let node = enabled_node();
    let stays = json!({"metadata": {"name": "holdfast", "namespace": "holdfast"}});
    let auto = || options().arg("--on-exit=auto").arg("--daemonset=holdfast/holdfast");
    for (nth, daemonset) in [Some(stays), None].into_iter().enumerate() {
        let agent = start_agent_with(&node, &auto());
        let pod = node.create_pod(PodSpec::new("shop", format!("cart-{nth}"))).unwrap();
        wait_for(&agent, &pod, "gate closed");
        if let Some(daemonset) = &daemonset {
            node.api().put(Resource::DaemonSets, daemonset.clone());
        } else {
            node.api().delete(Resource::DaemonSets, Some("holdfast"), "holdfast");
        }
        assert!(agent.stop(SOON).unwrap().success());
        let stays = daemonset.is_some();
        assert_eq!(node.bpffs().join("holdfast").exists(), stays);
        let is_attached = || !bpf::programs_below(pod.cgroup()).unwrap().is_empty();
        eventually("its programs stay or go", || is_attached() == stays);
    }
}

#[test]
fn an_agent_that_only_seems_to_be_the_last_releases_those_who_wait_before_it_removes_all() {
    let node = enabled_node();
    let options = options().arg("--on-exit=auto").arg("--daemonset=holdfast/holdfast");
    let agent = start_agent_with(&node, &options);
    let (pod, app) = held_pod(&node, &agent, "cart");
    node.api().trouble(|asked| {
        (!asked.is_open).then_some(Trouble::Status { code: 401, retry_after: None })
    });
    agent.process().signal(Signal::SIGTERM);
    let doubts = "holdfast seems to be removed from this node; those who wait are still worked for";
    agent.wait_message(SOON, doubts).unwrap();
    assert!(is_waiting(&app));
    let proxy = pod.start_proxy().unwrap();
    assert_released(&app, proxy.wait_ready(SOON).unwrap(), "in doubt");
    assert!(agent.wait_exit(SOON).unwrap().success());
    assert!(!node.bpffs().join("holdfast").exists());
    assert!(bpf::programs_below(pod.cgroup()).unwrap().is_empty());
}

#[test]
fn without_a_bpf_file_system_agents_follow_each_other_and_never_work_side_by_side() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &options().without_bpffs());
    let next = node.start_agent(&options().without_bpffs()).unwrap();
    next.wait_message(SOON, STANDS_BY).unwrap();
    let _held = held_pod(&node, &agent, "cart");
    assert!(next.logged("agent armed").is_empty());
    assert!(agent.stop(SOON).unwrap().success());
    next.wait_message(SOON, "agent armed").unwrap();
    let _held = held_pod(&node, &next, "later");
}

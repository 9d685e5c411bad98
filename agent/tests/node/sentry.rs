//! Pods that start while no agent lives.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use testbed::{Agent, AgentOptions, Node, Pod, PodSpec, Process, apps, backend_v4, bpf};

use crate::common::{
    LATE, SOON, assert_nothing_on_root, assert_waits, binary, dials, enabled_node, eventually, get,
    idle, keeping, on_root, options, served_at, start_agent_with, wait_for,
};

const BY_AGENT: &str = "sentry posted until an agent works";
const BY_SENTRY: &str = "no agent works; sentry posted until one does";
const RELIEVED: &str = "sentry relieved: this agent works";

/// Waits for a line of the sentry's process.
fn told(sentry: &Process, message: &str) {
    sentry.wait_log(SOON, |line| line["message"] == message).unwrap();
}

/// A new pod with an application that dials.
fn new_pod(node: &Node, name: &str) -> (Pod, Process) {
    let pod = node.create_pod(PodSpec::new("shop", name)).unwrap();
    let app = dials(&pod, "app", backend_v4());
    app.wait_connecting(SOON).unwrap();
    (pod, app)
}

/// Kills the agent, beside which a sentry's process stands by.
fn kill(node: &Node, agent: &Agent, sentry: &Process) {
    // While an agent works. One that has just relieved a sentry has the last of its programs there
    // for a while.
    assert_nothing_on_root(node);
    let posted = || {
        let lines = sentry.log_records();
        lines.into_iter().filter(|line| line["message"] == BY_SENTRY).count()
    };
    let before = posted();
    agent.kill();
    eventually("the sentry has seen it go", || posted() > before);
}

/// When the kernel relieves the sentry, if it is posted.
fn until(node: &Node) -> Option<u64> {
    let sentry = holdfast::bpf::Sentry::open(&node.bpffs()).unwrap();
    sentry.expect("an agent has worked").until().unwrap().map(|until| until.0)
}

#[test]
fn a_pod_that_starts_without_an_agent_waits_for_its_proxy_all_the_same() {
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let mut agent = start_agent_with(&node, &keeping());
    for round in 0..2 {
        kill(&node, &agent, &sentry);
        let (pod, app) = new_pod(&node, &format!("orphan-{round}"));
        assert_waits(&app);
        agent = start_agent_with(&node, &keeping());
        wait_for(&agent, &pod, "gate closed");
        let line = agent.wait_message(SOON, RELIEVED).unwrap();
        assert_eq!(line["held"], 1, "{line}");
        assert_nothing_on_root(&node);
        assert_waits(&app);
        // The agent knows of it: its own retransmission has reached the gate.
        wait_for(&agent, &pod, "connect held");
        let proxy = pod.start_proxy().unwrap();
        let ready = proxy.wait_ready(SOON).unwrap();
        let attempt = app.wait_attempt(SOON).unwrap();
        assert!(attempt.is_connected() && attempt.start_ns < ready, "{attempt:?}");
        let late = Duration::from_nanos(attempt.end_ns.saturating_sub(ready));
        assert!(late < Duration::from_secs(2), "released {late:?} after readiness");
        assert!(app.wait_body(SOON).unwrap().ok);
        let line = wait_for(&agent, &pod, "connect released");
        let held = line["held_ms"].as_f64().unwrap();
        assert!(held > 2.0 * LATE.as_secs_f64() * 1e3, "counted from its first SYN on: {line}");
    }
}

#[test]
fn what_waited_at_the_sentry_is_told_of_as_such_and_counted() {
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let metered = || keeping().arg("--metrics-address").arg("127.0.0.1:0");
    let agent = start_agent_with(&node, &metered());
    kill(&node, &agent, &sentry);
    let (pod, app) = new_pod(&node, "orphan");
    assert_waits(&app);
    let agent = start_agent_with(&node, &metered());
    let line = wait_for(&agent, &pod, "connect held");
    assert_eq!(line["by"], "sentry", "{line}");
    assert!(line["waited_ms"].as_f64().unwrap() > LATE.as_secs_f64() * 1e3, "{line}");
    // Nobody has noted who called, and nothing is said instead.
    let unknown = ["comm", "pid", "uid"].map(|field| line.get(field));
    assert_eq!(unknown, [None; 3], "{line}");
    let name = format!("shop/{}", pod.name());
    let explained = agent.command(["explain", &name]).unwrap();
    let explained = String::from_utf8(explained.stdout).unwrap();
    assert!(explained.contains("app (held by the sentry at first) connects to"), "{explained}");
    agent.wait_message(SOON, RELIEVED).unwrap();
    let metrics = || get(served_at(&agent, "metrics are served"), "/metrics").1;
    eventually("the agent counts it", || {
        metrics().lines().any(|line| line == "holdfast_sentry_connects_held_total 1")
    });
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    let sum = wait_for(&agent, &pod, "hold ended");
    assert_eq!((&sum["held"], &sum["by_sentry"]), (&1.into(), &1.into()), "{sum}");
    let ms = |field: &str| sum[field].as_f64().unwrap();
    assert!(ms("ready_after_ms") > LATE.as_secs_f64() * 1e3, "since it began to wait: {sum}");
    assert!(ms("longest_ms") >= ms("ready_after_ms"), "{sum}");
}

#[test]
fn what_stands_without_an_agent_can_be_asked() {
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let agent = start_agent_with(&node, &of_pod("first"));
    kill(&node, &agent, &sentry);
    let (_pod, app) = new_pod(&node, "orphan");
    assert_waits(&app);
    // As in the sentry's container: with its privileges, and no agent's socket.
    let status = |form: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-all,+bpf,+net_admin", "--inh-caps", "-all"]);
        command.arg(binary()).args(["status", "-o", form, "--socket", "/nonexistent", "--bpffs"]);
        let output = command.arg(node.bpffs()).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(69), "{told}");
        told
    };
    let json = || -> Value { serde_json::from_str(&status("json")).unwrap() };
    let told = status("table");
    assert!(told.starts_with("holdfast  NOT healthy: no agent works on this node\n"), "{told}");
    assert!(told.contains("1 connection held by it"), "{told}");
    let seen = json();
    assert_eq!((&seen["state"], &seen["agent_pod"]), (&"absent".into(), &"first".into()), "{seen}");
    assert_eq!((&seen["sentry"]["posted"], &seen["sentry"]["held"]), (&true.into(), &1.into()));
    let stamps = [&seen["sentry"]["since"], &seen["at"], &seen["sentry"]["until"]];
    let stamps = stamps.map(|stamp| stamp.as_str().unwrap().to_owned());
    assert!(stamps.is_sorted(), "{stamps:?}");

    node.api().stop();
    let agent = node.start_agent(&of_pod("second")).unwrap();
    agent.wait_message(SOON, "agent started").unwrap();
    let seen = json();
    assert_eq!((&seen["state"], &seen["agent_pid"]), (&"starting".into(), &agent.pid().into()));
    node.api().resume().unwrap();
    agent.wait_message(SOON, RELIEVED).unwrap();
    let seen = json();
    assert_eq!((&seen["state"], &seen["agent_pod"]), (&"working".into(), &"second".into()));
}

#[test]
fn without_any_agent_a_pod_goes_on_when_its_proxy_listens() {
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let agent = start_agent_with(&node, &keeping());
    kill(&node, &agent, &sentry);
    let (pod, app) = new_pod(&node, "orphan");
    assert_waits(&app);
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    let attempt = app.wait_attempt(SOON).unwrap();
    assert!(attempt.is_connected(), "{attempt:?}");
    assert!(app.wait_body(SOON).unwrap().ok);
}

#[test]
fn an_agent_that_never_comes_back_keeps_nobody_longer_than_its_timeout() {
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let agent = start_agent_with(&node, &keeping().arg("--timeout").arg("4s"));
    kill(&node, &agent, &sentry);
    let (_pod, app) = new_pod(&node, "orphan");
    let attempt = app.wait_attempt(SOON).unwrap();
    assert_eq!(attempt.outcome, "ECONNREFUSED");
    let waited = attempt.elapsed();
    assert!(waited > Duration::from_millis(3_500), "{waited:?}");
    assert!(waited < Duration::from_secs(6), "{waited:?}");
}

#[test]
fn the_sentry_goes_when_its_time_is_up() {
    let node = enabled_node();
    let options = keeping().env("HOLDFAST_SENTRY_FOR", "4s");
    let sentry = node.start_sentry(&options).unwrap();
    let agent = start_agent_with(&node, &options);
    kill(&node, &agent, &sentry);
    let until = until(&node).expect("it is posted");
    let (_pod, app) = new_pod(&node, "orphan");
    let attempt = app.wait_attempt(SOON).unwrap();
    assert_eq!(attempt.outcome, "ECONNREFUSED");
    assert!(attempt.start_ns < until && until <= attempt.end_ns, "{attempt:?}, until {until}");
    let late = Duration::from_nanos(attempt.end_ns - until);
    assert!(late < Duration::from_secs(1), "its deadline has passed for {late:?}");
    told(&sentry, "no agent has worked for so long; pods that start are not held any more");
    assert_nothing_on_root(&node);
    // It is not posted again until an agent has worked.
    thread::sleep(LATE);
    assert!(on_root(&node).is_empty());
    let agent = start_agent_with(&node, &options);
    agent.wait_message(SOON, RELIEVED).unwrap();
    kill(&node, &agent, &sentry);
    assert!(!on_root(&node).is_empty());
}

#[test]
fn an_agent_without_the_api_relieves_the_sentry_when_its_time_is_up() {
    let node = enabled_node();
    let options = keeping().env("HOLDFAST_SENTRY_FOR", "3s");
    let agent = start_agent_with(&node, &options);
    // Nobody but the agents posts it here.
    assert!(agent.stop(SOON).unwrap().success());
    assert!(!on_root(&node).is_empty());
    node.api().stop();
    let agent = node.start_agent(&options).unwrap();
    agent.wait_message(SOON, RELIEVED).unwrap();
    assert!(agent.logged("agent armed").is_empty());
    assert_nothing_on_root(&node);
    assert!(agent.stop(SOON).unwrap().success());
    assert_eq!(agent.logged(BY_AGENT).len(), 1);
    assert!(!on_root(&node).is_empty(), "it is posted anew");
}

#[test]
fn pods_that_start_between_two_agents_are_not_refused() {
    let node = enabled_node();
    let mut agent = start_agent_with(&node, &keeping());
    let mut pods = Vec::new();
    for round in 0..3 {
        assert!(agent.stop(SOON).unwrap().success());
        assert_eq!(agent.logged(BY_AGENT).len(), 1);
        let between = new_pod(&node, &format!("between-{round}"));
        agent = thread::scope(|scope| {
            let starting = scope.spawn(|| start_agent_with(&node, &keeping()));
            // Some start while the agent does.
            for nth in 0..3 {
                pods.push(new_pod(&node, &format!("pod-{round}-{nth}")));
            }
            starting.join().unwrap()
        });
        pods.push(between);
        agent.wait_message(SOON, RELIEVED).unwrap();
    }
    for (pod, app) in &pods {
        let proxy = pod.start_proxy().unwrap();
        proxy.wait_ready(SOON).unwrap();
        let attempt = app.wait_attempt(SOON).unwrap();
        assert!(attempt.is_connected(), "{}: {attempt:?}", pod.name());
    }
    assert_nothing_on_root(&node);
}

#[test]
fn pods_that_an_agent_has_seen_are_no_concern_of_the_sentry() {
    let node = enabled_node();
    node.api().put_namespace("elsewhere", &[]);
    let agent = start_agent_with(&node, &keeping());
    // Nobody holds this one: it is in a namespace that nobody has enabled.
    let pod = node.create_pod(PodSpec::new("elsewhere", "known")).unwrap();
    let _app = idle(&pod, "app");
    let known = pod.cgroup().id().unwrap();
    eventually("the kernel is told that it was taken up", || taken_up(&node) >= known);
    eventually("it is let alone", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    assert!(agent.stop(SOON).unwrap().success());
    assert!(!on_root(&node).is_empty());
    let app = pod.exec("app", apps::connect(backend_v4()).unwrap()).unwrap();
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
}

fn taken_up(node: &Node) -> u64 {
    let sentry = holdfast::bpf::Sentry::open(&node.bpffs()).unwrap();
    sentry.expect("an agent has worked").taken_up().unwrap().0
}

#[test]
fn an_agent_that_detaches_posts_nobody_and_cleanup_removes_who_is_posted() {
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let agent = start_agent_with(&node, &options().arg("--on-exit").arg("detach"));
    assert!(agent.stop(SOON).unwrap().success());
    assert!(!node.bpffs().join("holdfast").exists());
    thread::sleep(LATE);
    assert!(on_root(&node).is_empty());

    // The process goes on with the next agent.
    let agent = start_agent_with(&node, &keeping());
    kill(&node, &agent, &sentry);
    eventually("it is posted", || on_root(&node).len() == 4);
    let output =
        Command::new(binary()).arg("cleanup").arg("--bpffs").arg(node.bpffs()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("4 programs of holdfast taken off"), "{output:?}");
    assert_nothing_on_root(&node);
    thread::sleep(LATE);
    assert!(on_root(&node).is_empty() && !node.bpffs().join("holdfast").exists());
}

#[test]
fn who_is_told_to_stop_with_the_agent_minds_its_end() {
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let agent = start_agent_with(&node, &keeping());
    sentry.signal(Signal::SIGTERM);
    thread::sleep(LATE);
    assert!(on_root(&node).is_empty(), "the agent works");
    // As kubelet does when the grace period is over.
    kill(&node, &agent, &sentry);
    assert!(!on_root(&node).is_empty());
    assert!(sentry.stop(SOON).unwrap().success());
}

/// As the agent, or the sentry, of this pod.
fn of_pod(uid: &str) -> AgentOptions {
    keeping().env("POD_UID", uid)
}

#[test]
fn who_is_told_to_stop_does_not_mind_another_pods_agent() {
    let node = enabled_node();
    let sentry = node.start_sentry(&of_pod("old")).unwrap();
    let agent = start_agent_with(&node, &of_pod("old"));
    let next = node.start_agent(&of_pod("new")).unwrap();
    next.wait_message(SOON, "standing by for the agent that works on this node to end").unwrap();
    sentry.signal(Signal::SIGTERM);
    thread::sleep(LATE);
    assert!(sentry.wait(Duration::ZERO).is_err(), "its pod's agent works");
    // The next agent is there before it can look: the time in which none worked is over.
    sentry.signal(Signal::SIGSTOP);
    assert!(agent.stop(SOON).unwrap().success());
    next.wait_message(SOON, "agent armed").unwrap();
    let before = Instant::now();
    sentry.signal(Signal::SIGCONT);
    assert!(sentry.wait(SOON).unwrap().success());
    // Far more than it takes to look up, far less than the 15 s that it minds an agent at most.
    let took = before.elapsed();
    assert!(took < Duration::from_secs(6), "it has minded the other pod's agent for {took:?}");
    assert_nothing_on_root(&node);
}

#[test]
fn who_is_told_to_stop_while_its_agent_stands_by_has_nothing_to_mind() {
    let node = enabled_node();
    let _agent = start_agent_with(&node, &of_pod("old"));
    let sentry = node.start_sentry(&of_pod("new")).unwrap();
    told(&sentry, "waiting for an agent to end");
    let before = Instant::now();
    assert!(sentry.stop(SOON).unwrap().success());
    let took = before.elapsed();
    assert!(took < Duration::from_secs(6), "it has minded the other pod's agent for {took:?}");
}

#[test]
fn an_agent_that_dies_before_it_is_armed_does_not_work_again() {
    const WORKS_AGAIN: &str = "an agent works again";
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let agent = start_agent_with(&node, &keeping());
    kill(&node, &agent, &sentry);
    let said = |message: &str| {
        let lines = sentry.log_records();
        lines.into_iter().filter(|line| line["message"] == message).count()
    };
    node.api().stop();
    for _ in 0..2 {
        let agent = node.start_agent(&keeping()).unwrap();
        agent.wait_message(SOON, "agent started").unwrap();
        // Long enough for the sentry to look up.
        thread::sleep(LATE);
        agent.kill();
        thread::sleep(LATE);
    }
    assert_eq!((said(WORKS_AGAIN), said(BY_SENTRY)), (0, 1));
    node.api().resume().unwrap();
    let agent = start_agent_with(&node, &keeping());
    agent.wait_message(SOON, RELIEVED).unwrap();
    told(&sentry, WORKS_AGAIN);
    kill(&node, &agent, &sentry);
    assert_eq!((said(WORKS_AGAIN), said(BY_SENTRY)), (1, 2));
}

#[test]
fn an_agent_that_follows_a_killed_one_posts_the_sentry_itself_until_it_works() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    agent.kill();
    node.api().stop();
    let agent = node.start_agent(&keeping()).unwrap();
    agent.wait_message(SOON, "agent started").unwrap();
    // That is told once the verifier has read all programs.
    assert_eq!(agent.logged("sentry posted until this agent works").len(), 1);
    assert!(!on_root(&node).is_empty(), "it cannot be armed");
    node.api().resume().unwrap();
    agent.wait_message(SOON, RELIEVED).unwrap();
    assert_nothing_on_root(&node);
}

#[test]
fn an_agent_that_could_not_tell_that_it_works_tells_it_later() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    assert!(agent.stop(SOON).unwrap().success());
    // As a sentry's process that was stopped in the middle of its work.
    let lock = fs::File::open(node.bpffs().join("holdfast/agent")).unwrap();
    lock.try_lock().unwrap();
    let agent = start_agent_with(&node, &keeping());
    let failed = "it cannot be told that an agent works; a sentry may be posted";
    assert_eq!(agent.logged(failed).len(), 1);
    agent.wait_message(SOON, RELIEVED).unwrap();
    assert_nothing_on_root(&node);
    let mut sentry = holdfast::bpf::Sentry::open(&node.bpffs()).unwrap().unwrap();
    let pods = holdfast::node::Kubepods::below(node.kubepods().path()).unwrap();
    sentry.post(&pods, SOON).unwrap();
    assert!(!on_root(&node).is_empty());
    drop(lock);
    agent.wait_message(SOON, "it is known now that an agent works").unwrap();
    assert_nothing_on_root(&node);
    assert_eq!(sentry.until().unwrap(), None);
    assert_eq!(sentry.away_since().unwrap(), None);
}

#[test]
fn no_sentry_is_posted_that_nobody_wants() {
    let node = enabled_node();
    let options = keeping().env("HOLDFAST_SENTRY_FOR", "0s");
    let sentry = node.start_sentry(&options).unwrap();
    let agent = start_agent_with(&node, &options);
    assert!(agent.stop(SOON).unwrap().success());
    told(&sentry, "no sentry is wanted (--sentry-for 0s)");
    thread::sleep(LATE);
    assert!(on_root(&node).is_empty());
    assert!(sentry.stop(SOON).unwrap().success());
}

#[test]
fn the_sentrys_process_needs_little() {
    let node = enabled_node();
    let capabilities = "-all,+bpf,+net_admin";
    let setpriv = ["setpriv", "--bounding-set", capabilities, "--inh-caps", "-all"];
    let sentry = node.start_sentry(&options().wrapper(setpriv)).unwrap();
    let agent = start_agent_with(&node, &keeping());
    let smaps = fs::read_to_string(format!("/proc/{}/status", sentry.pid())).unwrap();
    let kib = |field: &str| -> u64 {
        let line = smaps.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!(smaps.lines().filter(|line| *line == "Threads:\t1").count(), 1, "{smaps}");
    // The rest of what is resident is the program's file, which the agent has mapped as well.
    assert!(kib("RssAnon:") < 4 * 1024, "{smaps}");
    kill(&node, &agent, &sentry);
    let (_pod, app) = new_pod(&node, "orphan");
    assert_waits(&app);
}

#[test]
fn a_sentry_whose_agent_was_killed_twice_at_once_keeps_its_time() {
    let node = enabled_node();
    let sentry = node.start_sentry(&options()).unwrap();
    let agent = start_agent_with(&node, &keeping());
    kill(&node, &agent, &sentry);
    let first = (until(&node), on_root(&node));
    assert!(first.0.is_some() && first.1.len() == 4, "{first:?}");
    // It holds the place and dies before it is armed: it has not worked.
    node.api().stop();
    let agent = node.start_agent(&keeping()).unwrap();
    agent.wait_message(SOON, "agent started").unwrap();
    agent.kill();
    // Some looks of the sentry's.
    thread::sleep(LATE);
    assert_eq!((until(&node), on_root(&node)), first);
    node.api().resume().unwrap();
    let agent = start_agent_with(&node, &keeping());
    agent.wait_message(SOON, RELIEVED).unwrap();
    assert_eq!(until(&node), None);
    assert_nothing_on_root(&node);
}

#[test]
fn an_agent_settles_what_one_has_relieved_that_died_before_it_could() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    agent.kill();
    // What is left of a sentry that was relieved just now.
    let mut sentry = holdfast::bpf::Sentry::open(&node.bpffs()).unwrap().unwrap();
    let pods = holdfast::node::Kubepods::below(node.kubepods().path()).unwrap();
    sentry.post(&pods, SOON).unwrap();
    assert_eq!(sentry.relieve().unwrap(), Some(0));
    // The kernel lets go of a link a moment after its name has gone.
    eventually("what holds is off", || on_root(&node) == ["sock_ops"]);
    // One that posts none itself, and relieves none.
    let agent = start_agent_with(&node, &keeping().env("HOLDFAST_SENTRY_FOR", "0s"));
    assert_nothing_on_root(&node);
    assert!(agent.logged(RELIEVED).is_empty());
}

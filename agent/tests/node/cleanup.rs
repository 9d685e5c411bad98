//! `holdfast cleanup`: after agents that were killed, and while agents end.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use holdfast::{
    bpf::{Claim, Sentry, holder},
    node::Kubepods,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testbed::{Node, PodSpec, bpf};

use crate::common::{
    SOON, assert_nothing_on_root, assert_waits, binary, enabled_node, eventually, get, held_pod,
    keeping, options, start_agent_with, wait_for,
};

fn command(node: &Node) -> Command {
    let mut command = Command::new(binary());
    command.arg("cleanup").arg("--bpffs").arg(node.bpffs());
    command
}

fn cleanup(node: &Node) -> Output {
    command(node).output().unwrap()
}

/// What one that had something to do, or not, has told.
fn told(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn assert_nothing_left(node: &Node) {
    assert!(!node.bpffs().join("holdfast").exists());
    assert_nothing_on_root(node);
}

/// `holdfast cleanup --stay`, as in the pods of the hook's DaemonSet.
struct Staying {
    process: Child,
    address: SocketAddr,
}

impl Staying {
    fn start(node: &Node) -> Self {
        // Of an address of its own, from which nobody dials: its ports are nobody else's.
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let ip = Ipv4Addr::new(127, 88, 6, NEXT.fetch_add(1, Ordering::Relaxed));
        let address = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        let process = command(node)
            .arg("--stay")
            .arg(format!("--health-address={address}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("it serves /readyz", || TcpStream::connect(address).is_ok());
        Self { process, address }
    }

    fn readyz(&self) -> (u16, String) {
        get(self.address, "/readyz")
    }

    fn wait_ready(&self) {
        eventually("the node is clean", || self.readyz() == (200, "ok".to_owned()));
    }

    fn wait_unready(&self) {
        let waits = "an agent works on this node; waiting for its end\n".to_owned();
        eventually("an agent is seen", || self.readyz() == (503, waits.clone()));
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    /// Tells it to stop; how it ended, and what it has told.
    fn stop(mut self) -> (ExitStatus, String) {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    fn ended(&mut self) -> (ExitStatus, String) {
        let status = self.process.wait().unwrap();
        let mut told = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        (status, told)
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        // Of one that has ended there is nothing left to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn what_a_dead_agent_has_left_is_cleaned_up_and_what_a_live_one_has_is_not() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    let (pod, app) = held_pod(&node, &agent, "cart");
    let output = cleanup(&node);
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("an agent works on this node"));
    assert_waits(&app);
    agent.kill();
    let told_first = told(&cleanup(&node));
    assert!(told_first.contains("5 programs of holdfast taken off"), "{told_first}");
    assert_nothing_left(&node);
    eventually("no program is left", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    // Again is harmless.
    let told_again = told(&cleanup(&node));
    assert!(told_again.contains(": 0 programs"), "{told_again}");
}

#[test]
fn a_program_whose_cgroup_has_gone_is_not_counted() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    let gone = node.create_pod(PodSpec::new("shop", "gone")).unwrap();
    wait_for(&agent, &gone, "gate closed");
    let (_stays, app) = held_pod(&node, &agent, "stays");
    agent.kill();
    let directories = node.bpffs().join("holdfast");
    let links = names_below(&directories, "links");
    gone.delete().unwrap();
    assert_eq!(names_below(&directories, "links"), links, "nobody has taken its names away");
    // The kernel takes them off some time after the directory has gone.
    let attached = || Claim::try_take(&node.bpffs()).unwrap().expect("no agent works").attached();
    eventually("those of one pod are left", || attached() == Some(5));
    let told = told(&cleanup(&node));
    assert!(told.contains(": 5 programs of holdfast taken off"), "{links} names: {told}");
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
}

/// How many names there are below the directories of that name.
fn names_below(directory: &Path, below: &str) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let below = if entry.file_name() == below { "" } else { below };
            count += names_below(&entry.path(), below);
        } else {
            count += usize::from(below.is_empty());
        }
    }
    count
}

#[test]
fn who_stays_is_ready_only_while_no_agent_works_and_nothing_is_left() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    let (pod, app) = held_pod(&node, &agent, "cart");
    let staying = Staying::start(&node);
    staying.wait_unready();
    assert_waits(&app);
    assert_eq!(staying.readyz().0, 503);
    // As kubelet does when the grace period is over.
    agent.kill();
    staying.wait_ready();
    assert_nothing_left(&node);
    eventually("no program is left", || bpf::programs_below(pod.cgroup()).unwrap().is_empty());
    assert_eq!(app.wait_attempt(SOON).unwrap().outcome, "ECONNREFUSED");
    // One that kubelet has started once more, and killed.
    let agent = start_agent_with(&node, &keeping());
    staying.wait_unready();
    agent.kill();
    staying.wait_ready();
    assert_nothing_left(&node);
    let (status, told) = staying.stop();
    assert!(status.success(), "{status}: {told}");
    assert_eq!(told.matches("waiting for its end").count(), 2, "{told}");
    assert_eq!(told.matches("5 programs of holdfast taken off").count(), 2, "{told}");
}

#[test]
fn who_is_told_to_stop_looks_once_more_and_says_if_an_agent_still_works() {
    let node = enabled_node();
    let staying = Staying::start(&node);
    staying.wait_ready();
    let agent = start_agent_with(&node, &keeping());
    // What happens now it has not seen before it is told to stop.
    staying.signal(Signal::SIGSTOP);
    agent.kill();
    staying.signal(Signal::SIGTERM);
    staying.signal(Signal::SIGCONT);
    let (status, told) = { staying }.ended();
    assert!(status.success(), "{status}: {told}");
    assert_nothing_left(&node);

    let agent = start_agent_with(&node, &keeping());
    let staying = Staying::start(&node);
    staying.wait_unready();
    let (status, told) = staying.stop();
    assert_eq!(status.code(), Some(75), "{told}");
    assert!(told.contains("an agent works on this node and removes what is its own"), "{told}");
    assert!(node.bpffs().join("holdfast").is_dir());
    assert!(agent.stop(SOON).unwrap().success());
}

#[test]
fn a_sentry_that_is_being_posted_is_removed_with_the_rest() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &keeping());
    agent.kill();
    // In the middle of its work: it knows that no agent works, and has opened its maps.
    let absent = fs::File::open(node.bpffs().join("holdfast/agent")).unwrap();
    absent.lock().unwrap();
    let mut sentry = Sentry::open(&node.bpffs()).unwrap().unwrap();
    let pods = Kubepods::below(node.kubepods().path()).unwrap();
    let mut cleaner = command(&node).stdout(Stdio::piped()).spawn().unwrap();
    let has_the_place = || holder(&node.bpffs(), true, Path::new("/proc")).unwrap().is_some();
    eventually("cleanup has the agents' place", has_the_place);
    sentry.post(&pods, SOON).unwrap();
    assert_eq!(bpf::programs_on(node.kubepods().path()).unwrap().len(), 4);
    assert!(cleaner.try_wait().unwrap().is_none(), "it waits for who posts the sentry");
    drop(absent);
    let told = told(&cleaner.wait_with_output().unwrap());
    assert!(told.contains(" programs of holdfast taken off, nothing is left"), "{told}");
    assert_nothing_left(&node);
}

#[test]
fn agents_that_are_killed_beside_their_sentry_while_the_node_is_cleaned_leave_nothing() {
    let node = enabled_node();
    for _ in 0..5 {
        let sentry = node.start_sentry(&options()).unwrap();
        let agent = start_agent_with(&node, &keeping());
        let staying = Staying::start(&node);
        staying.wait_unready();
        // kubelet tells both at once; then somebody kills the agent.
        sentry.signal(Signal::SIGTERM);
        agent.kill();
        // It may post itself before the node is cleaned, or find nothing any more.
        assert!(sentry.wait(SOON).unwrap().success());
        staying.wait_ready();
        let (status, told) = staying.stop();
        assert!(status.success(), "{status}: {told}");
        assert_nothing_left(&node);
    }
}

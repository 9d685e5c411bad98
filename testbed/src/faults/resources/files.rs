//! What is written to is full or gone, and what is worked on is gone.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::stat::Mode,
    unistd::mkfifo,
};

use super::{
    super::{
        Due, Fault, NAMESPACE, Run, SOON, Tally, Trials,
        footprint::Footprint,
        light::{self, dial, eventually, wait_gate},
        node,
    },
    Waiting, start,
};
use crate::{Agent, AgentOptions, Cgroup, Node, PodSpec, bpf::programs_below};

pub(in super::super) const FAULTS: &[Fault] = &[
    Fault {
        name: "nobody reads the log",
        what: "the log's pipe is full, then without a reader, then a full disk; pods are held and \
               released meanwhile",
        trials: Trials { bounded: 3, full: 30 },
        run: log_full,
    },
    Fault {
        name: "disk full for a dump",
        what: "holdfast dump says so and leaves nothing; the connect waits meanwhile",
        trials: Trials { bounded: 1, full: 5 },
        run: dump_full,
    },
    Fault {
        name: "no BPF file system",
        what: "nothing can be pinned: one warning, and pods are held as ever",
        trials: Trials { bounded: 2, full: 20 },
        run: no_bpffs,
    },
    Fault {
        name: "cgroup removed under its links",
        what: "and made again by the same name before anything runs in the pod",
        trials: Trials { bounded: 4, full: 100 },
        run: cgroup_remade,
    },
    Fault {
        name: "network namespace gone while it is probed",
        what: "the sandbox ends while a connect waits, and another one takes its place; its connect \
               is counted",
        trials: Trials { bounded: 2, full: 20 },
        run: sandbox_replaced,
    },
];

/// The hold's time, the default.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A file system that a dump does not fit into.
const SMALL_DISK: &str = "size=4k";

const DUE: Due = Due { ready_ns: None, timeout: TIMEOUT };

fn log_full(run: &Run, tally: &mut Tally) -> Result<()> {
    let third = run.trials().div_ceil(3) as usize;
    pipe_full(run, third, tally)?;
    let node = node()?;
    let lanes = light::lanes(&node, third)?;
    let agent = start_unread(&node, &run.agent().wrapper(log_to(Path::new("/dev/full"))))?;
    Waiting::begin(&node, &lanes, "disk")?.release(run, DUE, tally)?;
    end(&agent)
}

/// A pipe that is full, and then has no reader.
fn pipe_full(run: &Run, pods: usize, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let lanes = light::lanes(&node, pods)?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let path = folder.path().join("log");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).context("make a pipe")?;
    // Open for both, so that nobody waits for the other end. Nothing is ever read.
    let pipe = File::options().read(true).write(true).open(&path).context("open the pipe")?;
    // The flag belongs to this open file, not to the agent's.
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("make the pipe non-blocking")?;
    let options = run.agent().log_level("info,holdfast=trace");
    let agent = start_unread(&node, &options.wrapper(log_to(&path)))?;
    fill_up(&pipe)?;
    Waiting::begin(&node, &lanes, "full")?.release(run, DUE, tally)?;
    drop(pipe);
    Waiting::begin(&node, &lanes, "closed")?.release(run, DUE, tally)?;
    end(&agent)
}

/// Writes until no more is taken.
fn fill_up(mut pipe: &File) -> Result<()> {
    loop {
        match pipe.write(b"\n") {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("fill the pipe"),
        }
    }
}

/// It can be told to stop as ever.
fn end(agent: &Agent) -> Result<()> {
    ensure!(agent.exit_status().is_none(), "the agent has ended");
    let status = agent.stop(SOON)?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(())
}

/// Runs the agent with its log in this file.
fn log_to(path: &Path) -> [String; 4] {
    let script = "exec \"$@\" 2> \"$0\"";
    ["sh", "-c", script, &path.display().to_string()].map(str::to_owned)
}

/// Starts an agent of whose log nothing is seen.
fn start_unread(node: &Node, options: &AgentOptions) -> Result<Agent> {
    let agent = node.start_agent(options)?;
    eventually("the agent works", || Ok(agent.command(["status"])?.status.success()))?;
    Ok(agent)
}

fn dump_full(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let lanes = light::lanes(&node, run.trials() as usize)?;
    let agent = start(&node, &run.agent())?;
    let waiting = Waiting::begin(&node, &lanes, "cart")?;
    let folder = tempfile::tempdir().context("make a folder")?;
    // Mounted for this command alone; what is left in it is printed.
    let script = format!(
        "mount -t tmpfs -o {SMALL_DISK} none \"$0\" && cd \"$0\" && \"$@\" dump; \
         code=$?; ls -A; exit $code"
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(folder.path()).arg(&run.binary);
    command.env("HOLDFAST_ADMIN_SOCKET", agent.socket());
    let output = command.output().context("run holdfast dump")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("No space left on device"), "{output:?}");
    ensure!(said.lines().count() == 1 && output.stdout.is_empty(), "{output:?}");
    waiting.release(run, DUE, tally)
}

fn no_bpffs(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let lanes = light::lanes(&node, run.trials() as usize)?;
    let agent = start(&node, &run.agent().without_bpffs())?;
    let warned = agent
        .logs()
        .into_iter()
        .filter(|line| line["level"] == "WARN" && line["message"].as_str().is_some_and(no_pins))
        .count();
    ensure!(warned == 1, "{warned} warnings");
    Waiting::begin(&node, &lanes, "cart")?.release(run, DUE, tally)?;
    let waiting = Waiting::begin(&node, &lanes, "left")?;
    agent.kill();
    eventually("its programs go with it", || {
        Ok(programs_below(&Cgroup::at(node.cgroup_root()))?.is_empty())
    })?;
    // As without holdfast: nobody is left who could let it go.
    for (_, app) in &waiting.pods {
        let attempt = app.wait_attempt(SOON)?;
        ensure!(attempt.outcome == "ECONNREFUSED", "{attempt:?}");
    }
    Ok(())
}

fn no_pins(message: &str) -> bool {
    message.starts_with("no BPF file system")
}

fn cgroup_remade(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let lane = node.lane()?;
    let agent = start(&node, &run.agent())?;
    let before = Footprint::of(&node, &agent)?;
    for number in 0..run.trials() {
        let pod = node.pod(PodSpec::new(NAMESPACE, format!("cart-{number}")))?;
        pod.publish()?;
        pod.create_cgroup()?;
        wait_gate(&pod)?;
        pod.remove_cgroup()?;
        pod.create_cgroup()?;
        wait_gate(&pod)?;
        pod.start_sandbox_in(&lane)?;
        let app = dial(&pod)?;
        Waiting { pods: vec![(pod, app)] }.release(run, DUE, tally)?;
    }
    before.compare(&node, &agent, None)?;
    ensure!(agent.logged("gate failed; the pod's connects are not held").is_empty());
    Ok(())
}

fn sandbox_replaced(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let agent = start(&node, &run.agent())?;
    for number in 0..run.trials() {
        let pod = node.create_pod(PodSpec::new(NAMESPACE, format!("cart-{number}")))?;
        wait_gate(&pod)?;
        let lost = dial(&pod)?;
        lost.wait_connecting(SOON)?;
        pod.recreate_sandbox()?;
        drop(lost);
        let app = dial(&pod)?;
        app.wait_connecting(SOON)?;
        Waiting { pods: vec![(pod, app)] }.release(run, DUE, tally)?;
    }
    ensure!(agent.exit_status().is_none(), "the agent has ended");
    Ok(())
}

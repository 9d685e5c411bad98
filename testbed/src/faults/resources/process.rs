//! The agent may not have more of what a process needs.

use std::{io, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    super::{
        Due, Fault, NAMESPACE, Run, SOON, Tally, Trials,
        footprint::Footprint,
        light::{self, LightProxy, dial, dial_many, wait_gate},
        node,
    },
    Waiting,
    control::Control,
    start,
};
use crate::{Agent, PodSpec, clock::monotonic_ns};

pub(in super::super) const FAULTS: &[Fault] = &[
    Fault {
        name: "out of file descriptors",
        what: "the agent may open no file while pods wait, become ready and start; half of the \
               connects have waited since before, half begin when the gates that failed are there",
        trials: Trials { bounded: 4, full: 40 },
        run: no_files,
    },
    Fault {
        name: "out of threads",
        what: "the agent may start no thread while pods start, wait and are released",
        trials: Trials { bounded: 3, full: 40 },
        run: no_threads,
    },
    Fault {
        name: "32 MiB of memory",
        what: "the agent in a cgroup with that limit, and pods with ten connects each",
        trials: Trials { bounded: 100, full: 1_000 },
        run: little_memory,
    },
    Fault {
        name: "2 % of a CPU",
        what: "pods that were attached before: half are released by the agent, half by the kernel at \
               their deadline",
        trials: Trials { bounded: 6, full: 40 },
        run: little_cpu,
    },
    Fault {
        name: "out of inotify instances at start",
        what: "the agent says so and ends; its successor takes over, and the connect has waited since \
               before",
        trials: Trials { bounded: 1, full: 5 },
        run: no_inotify,
    },
];

/// The hold's time, the default.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How many connects each pod has behind the limit of memory.
const SOCKETS: u32 = 10;

fn no_files(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let agent = start(&node, &run.agent())?;
    let half = run.trials() as usize / 2;
    let lanes = light::lanes(&node, 2 * half)?;
    let (early, late) = lanes.split_at(half);
    let before = Footprint::of(&node, &agent)?;
    let early = Waiting::begin(&node, early, "early")?;
    let limit = Files::limit(&agent)?;
    let mut pods = Vec::new();
    for (number, lane) in late.iter().enumerate() {
        let pod = node.pod(PodSpec::new(NAMESPACE, format!("late-{number}")))?;
        pod.publish()?;
        pod.create_cgroup()?;
        let failed = agent.wait_log(SOON, |line| {
            let is_failure = |message: &str| message.starts_with("gate failed");
            line["pod_uid"] == pod.uid() && line["message"].as_str().is_some_and(is_failure)
        })?;
        ensure!(failed["again"] == true, "{failed}");
        pod.start_sandbox_in(lane)?;
        pods.push(pod);
    }
    let mut proxies = Vec::new();
    for (pod, _) in &early.pods {
        let proxy = LightProxy::start(pod, &run.binary, Duration::ZERO)?;
        proxy.wait_ready()?;
        proxies.push(proxy);
    }
    drop(limit);
    let raised_ns = monotonic_ns();
    for (pod, app) in &early.pods {
        let due = Due { ready_ns: Some(raised_ns), timeout: TIMEOUT };
        tally.count(pod.name(), app.wait_attempt(TIMEOUT + SOON).ok().as_ref(), due);
    }
    let mut late = Waiting { pods: Vec::new() };
    for pod in pods {
        wait_gate(&pod)?;
        let app = dial(&pod)?;
        app.wait_connecting(SOON)?;
        late.pods.push((pod, app));
    }
    late.release(run, Due { ready_ns: None, timeout: TIMEOUT }, tally)?;
    drop((early, proxies));
    before.compare(&node, &agent, None)?;
    let status = agent.command(["status"])?;
    ensure!(status.status.success(), "{status:?}");
    Ok(())
}

/// No descriptor is left to a process, until this is dropped.
struct Files {
    pid: libc::pid_t,
    before: libc::rlimit,
}

impl Files {
    fn limit(agent: &Agent) -> Result<Self> {
        let pid = libc::pid_t::try_from(agent.pid())?;
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        set_files(pid, None, &mut before).context("read the agent's limit of files")?;
        // What is open stays open; the lowest free number is always above this.
        let none = libc::rlimit { rlim_cur: 1, ..before };
        let mut old = none;
        set_files(pid, Some(&none), &mut old).context("limit the agent's files")?;
        Ok(Self { pid, before })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let mut old = self.before;
        if let Err(error) = set_files(self.pid, Some(&self.before), &mut old) {
            eprintln!("testbed: raise the agent's limit of files: {error}");
        }
    }
}

fn set_files(
    pid: libc::pid_t,
    new: Option<&libc::rlimit>,
    old: &mut libc::rlimit,
) -> io::Result<()> {
    let new = new.map_or(std::ptr::null(), |new| &raw const *new);
    // SAFETY: both limits live as long as the call, or are null.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, new, &raw mut *old) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn no_threads(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let pids = Control::new("pids")?;
    let agent = start(&node, &run.agent())?;
    let lanes = light::lanes(&node, run.trials() as usize)?;
    pids.add(agent.pid())?;
    // Fewer than there are: a thread that ends makes no room, either.
    pids.limit_threads(Some(1))?;
    let waiting = Waiting::begin(&node, &lanes, "cart")?;
    waiting.release(run, Due { ready_ns: None, timeout: TIMEOUT }, tally)?;
    ensure!(agent.exit_status().is_none(), "the agent has ended");
    pids.limit_threads(None)?;
    drop(agent);
    Ok(())
}

fn little_memory(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let memory = Control::new("memory")?;
    memory.limit_memory(32 << 20)?;
    let enter = format!("echo $$ > {}; exec \"$@\"", memory.procs().display());
    let agent = start(&node, &run.agent().wrapper(["sh", "-c", &enter, "sh"]))?;
    let lanes = light::lanes(&node, (run.trials() / SOCKETS) as usize)?;
    let mut pods = Vec::new();
    for (number, lane) in lanes.iter().enumerate() {
        let pod = light::attached(&node, lane, format!("cart-{number}"))?;
        let app = dial_many(&pod, SOCKETS)?;
        pods.push((pod, app));
    }
    let mut proxies = Vec::new();
    for (pod, _) in &pods {
        proxies.push(LightProxy::start(pod, &run.binary, Duration::ZERO)?);
    }
    for ((pod, app), proxy) in pods.iter().zip(&proxies) {
        let ready_ns = Some(proxy.wait_ready()?);
        for attempt in app.wait_attempts(TIMEOUT + SOON, SOCKETS as usize)? {
            tally.count(pod.name(), Some(&attempt), Due { ready_ns, timeout: TIMEOUT });
        }
    }
    ensure!(agent.exit_status().is_none(), "the agent has ended");
    let look = Footprint::of(&node, &agent)?;
    let most = memory.most_memory()? / 1024;
    eprintln!("{} pods held: {most} KiB of the limit, VmRSS {} KiB", pods.len(), look.rss_kib);
    drop(agent);
    Ok(())
}

fn little_cpu(run: &Run, tally: &mut Tally) -> Result<()> {
    // Of those whom the kernel is to let go: all have begun to wait before the first one's time is up.
    let short = Duration::from_secs(if run.full { 20 } else { 4 });
    let short_annotation = format!("{}s", short.as_secs());
    let node = node()?;
    let cpu = Control::new("cpu")?;
    let agent = start(&node, &run.agent())?;
    let half = run.trials() as usize / 2;
    let lanes = light::lanes(&node, 2 * half)?;
    // All gates are there before the first connect is, and the agent knows of each connect before it
    // lacks the time: a deadline that nobody renews would pass before a slow machine has dialled.
    let mut pods = Vec::new();
    for (number, lane) in lanes.iter().enumerate() {
        let mut spec = PodSpec::new(NAMESPACE, format!("cart-{number}"));
        if number >= half {
            spec = spec.annotation("holdfast.dev/timeout", &short_annotation);
        }
        pods.push(light::attached_of(&node, lane, spec)?);
    }
    let mut apps = Vec::new();
    for pod in pods {
        let app = dial(&pod)?;
        agent.wait_log(SOON, |line| {
            line["message"] == "connect held" && line["pod_uid"] == pod.uid()
        })?;
        apps.push((pod, app));
    }
    cpu.limit_cpu(2)?;
    cpu.add(agent.pid())?;
    let without = Waiting { pods: apps.split_off(half) };
    let with = Waiting { pods: apps };
    // A deadline as short would let go whom the agent has forgotten.
    with.release(run, Due { ready_ns: None, timeout: TIMEOUT }, tally)?;
    for (pod, app) in &without.pods {
        let attempt = app.wait_attempt(short + SOON).ok();
        tally.count(pod.name(), attempt.as_ref(), Due { ready_ns: None, timeout: short });
    }
    ensure!(agent.exit_status().is_none(), "the agent has ended");
    ensure!(cpu.was_throttled()?, "the agent never wanted more than it might have");
    drop(agent);
    Ok(())
}

fn no_inotify(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let lanes = light::lanes(&node, run.trials() as usize)?;
    let agent = start(&node, &run.agent())?;
    let waiting = Waiting::begin(&node, &lanes, "cart")?;
    agent.kill();
    // A user namespace has limits of its own; nobody else's are lowered.
    let none = "echo 0 > /proc/sys/user/max_inotify_instances; exec \"$@\"";
    let wrapper = ["unshare", "--user", "--map-root-user", "sh", "-c", none, "sh"];
    let poor = node.start_agent(&run.agent().wrapper(wrapper))?;
    let status = poor.wait_exit(SOON)?;
    let said = poor.stderr().join("\n");
    ensure!(
        !status.success() && said.contains("fs.inotify.max_user_instances"),
        "{status}: {said}"
    );
    let _agent = start(&node, &run.agent())?;
    let works_ns = Some(monotonic_ns());
    waiting.release(run, Due { ready_ns: works_ns, timeout: TIMEOUT }, tally)
}

//! Pods that cost little: in a network that is there already, with the small proxy of a test pod.

use std::{
    ops::Range,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Command, Lane, Node, PROXY, PROXY_ID, Pod, PodSpec, Process, apps, backend_v4, bpf::is_gated,
};

/// Longer than anything takes that is not stuck.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The namespace of the pods that are held.
pub(crate) const NAMESPACE: &str = "shop";

/// The label that enables it.
pub(crate) const ENABLED: [(&str, &str); 1] = [("holdfast.dev/hold", "enabled")];

/// Between two looks at what nobody tells of.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Lanes that are made at the same time.
const BUILDERS: usize = 4;

/// `holdfast testpod proxy` in the place of Istio's: where many pods start at once, an Envoy in
/// each would be what is measured. It listens on the same ports, answers the same
/// readiness endpoint, and passes on what is redirected to it.
#[derive(Debug)]
pub(crate) struct LightProxy {
    process: Process,
}

/// A node whose namespace [`NAMESPACE`] is enabled.
pub(crate) fn node() -> Result<Node> {
    let node = Node::new()?;
    node.api().put_namespace(NAMESPACE, &ENABLED);
    Ok(node)
}

/// Makes `count` networks.
pub(crate) fn lanes(node: &Node, count: usize) -> Result<Vec<Lane>> {
    thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS)
            .map(|first| {
                let numbers = (first..count).step_by(BUILDERS);
                scope.spawn(|| numbers.map(|_| node.lane()).collect::<Result<Vec<Lane>>>())
            })
            .collect();
        let mut lanes = Vec::new();
        for builder in builders {
            lanes.extend(builder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(lanes)
    })
}

/// A pod of the enabled namespace whose gate is attached, and whose containers can start.
pub(crate) fn attached(node: &Node, lane: &Lane, name: impl Into<String>) -> Result<Pod> {
    attached_of(node, lane, PodSpec::new(NAMESPACE, name))
}

/// As [`attached`], a pod that says more of itself.
pub(crate) fn attached_of(node: &Node, lane: &Lane, spec: PodSpec) -> Result<Pod> {
    let pod = node.pod(spec)?;
    pod.publish()?;
    pod.create_cgroup()?;
    wait_gate(&pod)?;
    pod.start_sandbox_in(lane)?;
    Ok(pod)
}

/// Starts an application that dials once.
pub(crate) fn dial(pod: &Pod) -> Result<Process> {
    pod.start_container("app", apps::connect(backend_v4())?)
}

/// Starts an application that dials so many times at once, and waits until it has.
pub(crate) fn dial_many(pod: &Pod, count: u32) -> Result<Process> {
    let app =
        pod.start_container("app", apps::connect(backend_v4())?.nonblocking().count(count))?;
    let mut begun = 0;
    app.wait_record(SOON, |line| {
        begun += u32::from(line["event"] == "connecting");
        begun == count
    })?;
    Ok(app)
}

/// Waits until programs are on the pod's cgroup.
///
/// Kubelet takes hundreds of milliseconds from a pod's cgroup to its first process, in which its gate
/// is attached. Here a busy machine may take longer for the one, and nothing takes time for the other.
pub(crate) fn wait_gate(pod: &Pod) -> Result<()> {
    let path = pod.cgroup().path();
    eventually(&format!("programs on {}", path.display()), || is_gated(path))
}

/// Waits until something holds of which nobody tells.
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually_within(SOON, LOOK_EVERY, what, holds)
}

/// As [`eventually`], where a look costs more or all may take longer.
pub(crate) fn eventually_within(
    limit: Duration,
    look_every: Duration,
    what: &str,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds()? {
        ensure!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(look_every);
    }
    Ok(())
}

/// Does `work` for each of `numbers`, one every so often and each in a lane that nobody else uses
/// meanwhile; later, if all lanes are busy. `work` gets the number, the lane's own, and the lane.
pub(crate) fn paced(
    lanes: &[Lane],
    numbers: Range<u32>,
    every: Duration,
    work: impl Fn(u32, usize, &Lane) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicU32::new(numbers.start);
    let began = Instant::now();
    let worker = |lane_number: usize, lane: &Lane| -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return Ok(());
            }
            let due = began + every * (number - numbers.start);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            work(number, lane_number, lane).with_context(|| format!("pod {number}"))?;
        }
    };
    thread::scope(|scope| {
        let worker = &worker;
        let workers: Vec<_> = lanes
            .iter()
            .enumerate()
            .map(|(number, lane)| scope.spawn(move || worker(number, lane)))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

// === impl LightProxy ===

impl LightProxy {
    /// Starts the proxy's container; after `delay` it listens and is ready.
    pub(crate) fn start(pod: &Pod, holdfast: &Path, delay: Duration) -> Result<Self> {
        let delay = format!("{}ms", delay.as_millis());
        let command = Command::new(holdfast)
            .args(["testpod", "proxy", "--delay", &delay])
            .user(PROXY_ID, PROXY_ID);
        Ok(Self { process: pod.start_container(PROXY, command)? })
    }

    /// The instant (`CLOCK_MONOTONIC` nanoseconds) from which on it says that it is ready.
    pub(crate) fn wait_ready(&self) -> Result<u64> {
        let ready = self.process.wait_record(SOON, |line| line["event"] == "proxy_ready")?;
        ready["mono_ns"].as_u64().context("the proxy did not say when it became ready")
    }

    /// SIGKILL: the crash.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }
}

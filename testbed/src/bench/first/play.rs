//! One pod's start, as kubelet brings it about.

use std::{fs::File, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::way::{First, Waits, Way};
use crate::{
    Agent, AgentOptions, Node, Pod, PodSpec, Process, apps, backend_v4,
    bench::{Options, schedule::Stage},
    clock::{monotonic_ns, ms_between, sleep_until},
};

/// Namespaces whose pods are held, and are not.
const HELD: &str = "shop";
const PLAIN: &str = "plain";
/// The proxy's container.
const PROXY: &str = crate::PROXY;
/// For what normally takes milliseconds, and for a wait of any kind: the longest back-off is 20 s.
const SOON: Duration = Duration::from_secs(60);
/// kubelet's relist, by which it notices an end (`genericPlegRelistPeriod`).
const RELIST: Duration = Duration::from_secs(1);
/// kubelet's back-off between an end and the next start; the first start after an end owes none, and
/// each further one doubles it.
const BACK_OFF: Duration = Duration::from_secs(10);
/// An application that has not come to a connection after so many starts never will.
const STARTS: u32 = 5;

/// One pod to play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Case {
    pub(super) way: Way,
    pub(super) cell: Cell,
    /// Overlaps with no other.
    pub(super) is_alone: bool,
    /// Where in the spread of its delays the proxy's lies, from 0 to 1.
    pub(super) delay: f64,
    /// Where in a period that does not know of the pod the pod starts, from 0 to 1.
    pub(super) phase: f64,
}

/// How late the proxy is, and how long the application boots.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Cell {
    /// From the pod's start to the proxy's readiness, about.
    pub(crate) ready_ms: u64,
    /// From the application's start to its first connect.
    pub(crate) boot_ms: u64,
}

/// What came of it. Times are milliseconds from the pod's start.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Start {
    /// What was done.
    pub(crate) way: Way,
    /// In which cell.
    pub(crate) cell: Cell,
    /// Overlapped with no other.
    pub(crate) is_alone: bool,
    /// When the proxy was asked for the last time without being ready: whatever comes after readiness is
    /// counted from here, the same for each way.
    pub(crate) ready_ms: f64,
    /// How much later than that the first answer that said ready was there.
    pub(crate) resolution_ms: f64,
    /// From the end of a hook that kubelet waits for to the start of the application's process.
    pub(crate) handover_ms: Option<f64>,
    /// When the application would have dialled if it had been started with the pod, and had only booted.
    pub(crate) application_ms: f64,
    /// When its first connection was there.
    pub(crate) connected_ms: f64,
    /// How often it was started.
    pub(crate) starts: u32,
}

/// The node with its agent.
pub(super) fn node(options: &Options) -> Result<(Node, Agent)> {
    let node = Node::new()?;
    node.api().put_namespace(HELD, &[("holdfast.dev/hold", "enabled")]);
    node.api().put_namespace(PLAIN, &[]);
    let agent = node.start_agent(&AgentOptions::new(&options.agent))?;
    agent.wait_message(SOON, "agent armed")?;
    Ok((node, agent))
}

/// Plays one.
pub(super) fn play(case: &Case, stage: &Stage<'_>) -> Result<Start> {
    let Case { way, cell, is_alone, delay: _, phase } = *case;
    let spec = match way.mode() {
        Some(mode) => PodSpec::new(HELD, &stage.name).annotation("holdfast.dev/mode", mode),
        None => PodSpec::new(PLAIN, &stage.name),
    };
    let pod = stage.pod(spec)?;
    let started_ns = stage.wait_start();
    let proxy_ns = started_ns + nanos(stage.proxy_after);
    let bell = matches!(way.waits(), Waits::Beside).then(Bell::new).transpose()?;
    let start_proxy = || {
        let left = proxy_ns.saturating_sub(monotonic_ns());
        pod.start_proxy_watched(
            Duration::from_nanos(left),
            bell.as_ref().map(Bell::ringer).transpose()?,
        )
    };
    let application = Application {
        pod: &pod,
        way,
        boot: Duration::from_millis(cell.boot_ms),
        bell: bell.as_ref(),
    };
    // An injector appends the proxy's container, or puts it in front of all others if they are to
    // wait for it.
    let (proxy, first, hook_ns) = match way.waits() {
        Waits::Before { pause, first } => {
            let proxy = start_proxy()?;
            let first_ns = match first {
                First::AtOnce => started_ns,
                First::AfterPause => started_ns + nanos(pause),
                First::AnyTime => started_ns + nanos(pause.mul_f64(phase)),
            };
            let hook = pod.exec(PROXY, apps::waiter()?.every(pause).first_at(first_ns))?;
            let waited = hook.wait_record(SOON, |line| line["event"] == "waited")?;
            ensure!(hook.wait(SOON)?.success(), "the hook failed");
            (proxy, application.start()?, waited["ns"].as_u64())
        }
        Waits::Nobody | Waits::Inside { .. } | Waits::Beside => {
            let first = application.start()?;
            (start_proxy()?, first, None)
        }
    };
    let Connected { ns, begun_ns, starts } = application.until_connected(first, phase)?;
    // What waits in front of the application is no part of it: it might have been started at once.
    let application_start_ms = ms_between(hook_ns.unwrap_or(started_ns), begun_ns);
    let (ready_ns, resolution_ns) = proxy.wait_readiness(SOON)?.after()?;
    drop(proxy);
    stage.end(pod)?;
    Ok(Start {
        way,
        cell,
        is_alone,
        ready_ms: ms_between(started_ns, ready_ns),
        resolution_ms: ms_between(0, resolution_ns),
        handover_ms: hook_ns.map(|_| application_start_ms),
        application_ms: application_start_ms + cell.boot_ms as f64,
        connected_ms: ms_between(started_ns, ns),
        starts,
    })
}

/// A named pipe on which the application that knows the instant of readiness sleeps: nobody asks in vain
/// beside the proxy that starts.
struct Bell {
    // Held open, so that its other end can be opened, and read, at any time.
    file: File,
    path: PathBuf,
    _folder: TempDir,
}

impl Bell {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder")?;
        let path = folder.path().join("ready");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).context("make a named pipe")?;
        let file =
            File::options().read(true).write(true).open(&path).context("open a named pipe")?;
        Ok(Self { file, path, _folder: folder })
    }

    fn ringer(&self) -> Result<File> {
        self.file.try_clone().context("share a named pipe")
    }
}

/// The application's container, as kubelet starts it.
struct Application<'a> {
    pod: &'a Pod,
    way: Way,
    boot: Duration,
    bell: Option<&'a Bell>,
}

/// How it came to its connection.
struct Connected {
    ns: u64,
    /// When it was started first.
    begun_ns: u64,
    starts: u32,
}

impl Application<'_> {
    fn start(&self) -> Result<Process> {
        let Self { pod, way, boot, bell } = self;
        let waiter = apps::waiter()?.boot(*boot).to(backend_v4());
        let waiter = match way.waits() {
            Waits::Nobody | Waits::Before { .. } => waiter,
            Waits::Inside { pause } => waiter.every(pause),
            Waits::Beside => {
                let bell = bell.context("nobody tells the application")?;
                waiter.until(&bell.path).boot_beside()
            }
        };
        pod.start_container("app", waiter)
    }

    /// Starts it again after each end, as kubelet does, until it has its connection.
    fn until_connected(&self, first: Process, phase: f64) -> Result<Connected> {
        let mut app = first;
        let (mut starts, mut begun_ns) = (1, None);
        loop {
            let attempt = app.wait_attempt(SOON)?;
            let status = app.wait(SOON)?;
            let started = app.wait_record(SOON, |line| line["event"] == "started")?;
            let started_ns = started["ns"].as_u64().context("a start without its moment")?;
            let begun_ns = *begun_ns.get_or_insert(started_ns);
            if status.success() {
                return Ok(Connected { ns: attempt.end_ns, begun_ns, starts });
            }
            ensure!(starts < STARTS, "no connection after {STARTS} starts");
            sleep_until(attempt.end_ns + nanos(back_off(starts, phase)));
            app = self.start()?;
            starts += 1;
        }
    }
}

/// From the end of a container that was started so many times to its next start.
fn back_off(starts: u32, phase: f64) -> Duration {
    match starts {
        0 | 1 => RELIST.mul_f64(phase),
        starts => BACK_OFF * 2_u32.pow(starts - 2),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("less than centuries")
}

// === impl Start ===

impl Start {
    /// From the proxy's readiness to the connection.
    #[must_use]
    pub(crate) fn after_ready_ms(&self) -> f64 {
        self.connected_ms - self.ready_ms
    }

    /// By how much the connection came later than the later of application and proxy.
    #[must_use]
    pub(crate) fn excess_ms(&self) -> f64 {
        self.connected_ms - self.ready_ms.max(self.application_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_owes_nothing_at_first_and_doubles() {
        let back_offs = [1, 2, 3, 4].map(|starts| back_off(starts, 0.25));
        assert_eq!(back_offs, [250, 10_000, 20_000, 40_000].map(Duration::from_millis));
    }

    #[test]
    fn the_excess_is_over_the_later_of_both() {
        let cell = Cell { ready_ms: 500, boot_ms: 3000 };
        let mut start = Start {
            way: Way::Hold,
            cell,
            is_alone: false,
            ready_ms: 500.0,
            resolution_ms: 0.25,
            handover_ms: None,
            application_ms: 3002.0,
            connected_ms: 3004.0,
            starts: 1,
        };
        assert!((start.excess_ms() - 2.0).abs() < 1e-9);
        start.application_ms = 2.0;
        assert!((start.excess_ms() - 2504.0).abs() < 1e-9);
        assert!((start.after_ready_ms() - 2504.0).abs() < 1e-9);
    }
}

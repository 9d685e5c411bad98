//! One pod's start, as kubelet brings it about.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::way::{First, Waits, Way};
use crate::{
    Agent, AgentOptions, Node, Pod, PodSpec, apps, backend_v4,
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
    /// When the proxy became ready.
    pub(crate) ready_ms: f64,
    /// How long the application needed from its container's start to its connect, when nothing was
    /// in its way.
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
    let proxy = pod.start_proxy_after(stage.proxy_after)?;
    let proxy_ns = started_ns + nanos(stage.proxy_after);
    let mut waited_ns = None;
    if let Waits::Before { pause, first } = way.waits() {
        let first_ns = match first {
            First::AtOnce => started_ns,
            First::AfterPause => started_ns + nanos(pause),
            First::AnyTime => started_ns + nanos(pause.mul_f64(phase)),
        };
        let hook = pod.exec(PROXY, apps::waiter()?.every(pause).first_at(first_ns))?;
        let waited = hook.wait_record(SOON, |line| line["event"] == "waited")?;
        waited_ns = waited["ns"].as_u64();
        ensure!(hook.wait(SOON)?.success(), "the hook failed");
    }
    let boot = Duration::from_millis(cell.boot_ms);
    let application = run_application(&pod, way, boot, proxy_ns, phase)?;
    let observed_ns = proxy.wait_ready(SOON)?;
    // Whoever has heard it from the proxy first is right.
    let ready_ns =
        [waited_ns, application.waited_ns].into_iter().flatten().fold(observed_ns, u64::min);
    drop(proxy);
    stage.end(pod)?;
    Ok(Start {
        way,
        cell,
        is_alone,
        ready_ms: ms_between(started_ns, ready_ns),
        application_ms: application.own_ms,
        connected_ms: ms_between(started_ns, application.connected_ns),
        starts: application.starts,
    })
}

struct Application {
    connected_ns: u64,
    waited_ns: Option<u64>,
    own_ms: f64,
    starts: u32,
}

/// Starts the application, and starts it again, as kubelet does, until it has its connection.
fn run_application(
    pod: &Pod,
    way: Way,
    boot: Duration,
    proxy_ns: u64,
    phase: f64,
) -> Result<Application> {
    let mut waited_ns = None;
    for starts in 1..=STARTS {
        let waiter = apps::waiter()?.boot(boot).to(backend_v4());
        let waiter = match way.waits() {
            Waits::Nobody | Waits::Before { .. } => waiter,
            Waits::Inside { pause } => waiter.every(pause),
            Waits::Beside => waiter.every(Duration::ZERO).first_at(proxy_ns).boot_beside(),
        };
        let launched_ns = monotonic_ns();
        let app = pod.start_container("app", waiter)?;
        let attempt = app.wait_attempt(SOON)?;
        let status = app.wait(SOON)?;
        let waited = app.records().into_iter().find(|line| line["event"] == "waited");
        waited_ns = waited_ns.or(waited.and_then(|line| line["ns"].as_u64()));
        if status.success() {
            // What it waited before it booted is not its own.
            let from = match way.waits() {
                Waits::Inside { .. } => waited_ns.context("it has not waited")?,
                Waits::Nobody | Waits::Before { .. } | Waits::Beside => launched_ns,
            };
            let own_ms = match way.waits() {
                Waits::Beside => boot.as_secs_f64() * 1e3,
                _ => ms_between(from, attempt.start_ns),
            };
            return Ok(Application { connected_ns: attempt.end_ns, waited_ns, own_ms, starts });
        }
        sleep_until(attempt.end_ns + nanos(back_off(starts, phase)));
    }
    anyhow::bail!("no connection after {STARTS} starts")
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

//! Pods that overlap, so that thousands fit into half an hour, and yet become ready one at a time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    Lane, Node, Pod, PodSpec,
    clock::{monotonic_ns, sleep_until},
};

/// Between the starts of two pods' proxies, and so between their moments of readiness. A release and what it wakes are over in a tenth of it.
pub(super) const STAGGER: Duration = Duration::from_millis(400);
/// From the making of a pod's cgroup to its sandbox, as of [`Pod::set_up`].
const CGROUP_TO_SANDBOX: Duration = Duration::from_millis(250);
/// Networks beyond those of the pods that overlap by plan: applications that start anew hold theirs for longer.
const SPARE: u128 = 16;
/// Before its start a pod is set up: the time above, and the wait for two quiet moments.
const SETUP: Duration = Duration::from_millis(1500);
/// Which part of the time between two starts of a proxy is used for what takes much of a core, such
/// as setting a pod up: Envoy is ready a tenth of a second after its start, and what waited for it
/// has been dealt with soon after that.
const QUIET: [f64; 2] = [0.5, 0.8];

/// One pod to play: what it is for, and when it is to be ready.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned<T> {
    pub(super) case: T,
    /// From its start to its proxy's.
    pub(super) proxy_after: Duration,
    /// Its start in nanoseconds after the plan's.
    starts_ns: u64,
}

/// A pod's place in the plan while it is played.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    /// The pod's name.
    pub(super) name: String,
    /// From its start to its proxy's.
    pub(super) proxy_after: Duration,
    node: &'a Node,
    lane: Lane,
    grid: Grid,
    starts_ns: u64,
}

/// The pods' networks.
#[derive(Debug)]
struct Lanes {
    free: Mutex<Vec<Lane>>,
    freed: Condvar,
}

/// The moments at which proxies start.
#[derive(Clone, Copy, Debug)]
struct Grid {
    origin_ns: u64,
    step_ns: u64,
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("half an hour in nanoseconds fits")
}

/// Puts `cases`, each with the time from its start to its proxy's, in their order on a grid of
/// moments at which proxies start.
pub(super) fn plan<T>(
    cases: impl IntoIterator<Item = (T, Duration)>,
    step: Duration,
) -> Vec<Planned<T>> {
    let cases: Vec<_> = cases.into_iter().collect();
    // The first on the grid may be preceded by starts of pods that take longer.
    let longest = cases.iter().map(|(_, delay)| *delay).max().unwrap_or_default() + SETUP;
    let first = ns(longest).next_multiple_of(ns(step));
    let mut plan: Vec<_> = (0_u64..)
        .zip(cases)
        .map(|(number, (case, proxy_after))| {
            let starts_ns = first + ns(step) * number - ns(proxy_after);
            Planned { case, proxy_after, starts_ns }
        })
        .collect();
    plan.sort_by_key(|planned| planned.starts_ns);
    plan
}

/// Plays all of them, each when its time has come, and gives what came of each.
///
/// A machine that falls behind is not given more: where as many pods as it can have at a time are there, the
/// rest of the plan waits for one to end, and may become ready beside those that have begun.
pub(super) fn play<T: Sync, R: Send>(
    node: &Node,
    plan: &[Planned<T>],
    step: Duration,
    play: impl Fn(&T, &Stage<'_>) -> Result<R> + Sync,
) -> Result<Vec<Result<R>>> {
    let overlap = plan.iter().map(|planned| planned.proxy_after + SETUP).max().unwrap_or_default();
    let at_a_time = overlap.as_nanos() / step.as_nanos() + 1 + SPARE;
    let lanes = (0..at_a_time).map(|_| node.lane()).collect::<Result<Vec<_>>>()?;
    let lanes = Lanes { free: Mutex::new(lanes), freed: Condvar::new() };
    let mut behind_ns = 0;
    let grid = Grid { origin_ns: monotonic_ns(), step_ns: ns(step) };
    thread::scope(|scope| {
        let players: Vec<_> = plan
            .iter()
            .enumerate()
            .map(|(number, planned)| {
                let begins_ns = grid.origin_ns + planned.starts_ns - ns(SETUP);
                sleep_until(begins_ns + behind_ns);
                let lane = lanes.take();
                let late_ns = monotonic_ns().saturating_sub(begins_ns + behind_ns);
                if late_ns > grid.step_ns {
                    behind_ns += grid.whole_steps(late_ns);
                    eprintln!(
                        "the machine falls behind: pods start {} s later",
                        behind_ns / 1_000_000_000
                    );
                }
                let starts_ns = begins_ns + behind_ns + ns(SETUP);
                let (lanes, play) = (&lanes, &play);
                scope.spawn(move || {
                    let proxy_after = planned.proxy_after;
                    let name = format!("cart-{number}");
                    let stage = Stage { name, proxy_after, node, lane, grid, starts_ns };
                    let played = catch_unwind(AssertUnwindSafe(|| play(&planned.case, &stage)));
                    // After a panic, too: others wait for it.
                    lanes.put(stage.lane);
                    played
                        .unwrap_or_else(|panic| resume_unwind(panic))
                        .with_context(|| format!("play pod {}", stage.name))
                })
            })
            .collect();
        let join = |player: thread::ScopedJoinHandle<'_, Result<R>>| {
            player.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        Ok(players.into_iter().map(join).collect())
    })
}

// === impl Stage ===

impl Stage<'_> {
    /// Sets the pod up, in a network that served another one before.
    pub(super) fn pod(&self, spec: PodSpec) -> Result<Pod> {
        self.grid.wait_quiet();
        let pod = self.node.pod(spec)?;
        pod.publish()?;
        pod.create_cgroup()?;
        thread::sleep(CGROUP_TO_SANDBOX);
        self.grid.wait_quiet();
        pod.start_sandbox_in(&self.lane)?;
        Ok(pod)
    }

    /// Waits for the moment at which kubelet starts the containers, and gives it. Who has missed it is
    /// started between two of the others: all their moments are taken.
    pub(super) fn wait_start(&self) -> u64 {
        let late_ns = monotonic_ns().saturating_sub(self.starts_ns);
        if late_ns > 0 {
            eprintln!("{} was late by {} ms", self.name, late_ns / 1_000_000);
        }
        sleep_until(self.starts_ns + self.grid.between(late_ns));
        monotonic_ns()
    }

    /// Takes the pod off the node.
    pub(super) fn end(&self, pod: Pod) -> Result<()> {
        self.grid.wait_quiet();
        pod.delete()
    }
}

// === impl Lanes ===

impl Lanes {
    /// The next one that is free.
    fn take(&self) -> Lane {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(free, |free| free.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        free.pop().expect("waited until there is one")
    }

    fn put(&self, lane: Lane) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        self.freed.notify_one();
    }
}

// === impl Grid ===

impl Grid {
    /// Waits until nobody becomes ready now.
    fn wait_quiet(self) {
        sleep_until(self.next_quiet(monotonic_ns()));
    }

    /// The shortest number of steps that is not shorter than this.
    const fn whole_steps(self, ns: u64) -> u64 {
        ns.next_multiple_of(self.step_ns)
    }

    /// The shortest number of steps and a half that is not shorter than this, unless this is nothing.
    const fn between(self, ns: u64) -> u64 {
        let half = self.step_ns / 2;
        if ns == 0 { 0 } else { self.whole_steps(ns + half) - half }
    }

    fn next_quiet(self, now_ns: u64) -> u64 {
        let [from, to] = QUIET.map(|part| (part * self.step_ns as f64) as u64);
        let into = now_ns.saturating_sub(self.origin_ns) % self.step_ns;
        match into {
            into if into < from => now_ns + (from - into),
            into if into < to => now_ns,
            into => now_ns + (self.step_ns - into) + from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_any_length_become_ready_one_at_a_time() {
        let delays = [10_000, 500, 2_000, 9_999, 1].map(Duration::from_millis);
        let plan = plan(delays.map(|delay| (delay, delay)), STAGGER);
        assert!(plan.is_sorted_by_key(|planned| planned.starts_ns));
        assert!(plan.iter().all(|planned| planned.starts_ns >= ns(SETUP)), "{plan:?}");
        let mut ready: Vec<u64> =
            plan.iter().map(|planned| planned.starts_ns + ns(planned.proxy_after)).collect();
        ready.sort_unstable();
        assert!(ready.windows(2).all(|two| two[1] - two[0] == ns(STAGGER)), "{ready:?}");
        // What is quiet is measured from these same moments.
        assert!(ready.iter().all(|ready| ready % ns(STAGGER) == 0), "{ready:?}");
    }

    #[test]
    fn what_is_late_is_moved_to_where_it_meets_few() {
        let grid = Grid { origin_ns: 1_000, step_ns: 100 };
        assert_eq!([0, 1, 100, 101].map(|ns| grid.whole_steps(ns)), [0, 100, 100, 200]);
        assert_eq!([0, 1, 50, 51, 150].map(|ns| grid.between(ns)), [0, 50, 50, 150, 150]);
    }

    #[test]
    fn quiet_is_late_between_two_starts() {
        let grid = Grid { origin_ns: 1_000, step_ns: 100 };
        assert_eq!(grid.next_quiet(1_000), 1_050);
        assert_eq!(grid.next_quiet(1_060), 1_060);
        assert_eq!(grid.next_quiet(1_380), 1_450);
        assert_eq!(grid.next_quiet(1_399), 1_450);
    }
}

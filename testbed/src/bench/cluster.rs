//! What each node costs the API server: its watches and lists, what an API server's restart brings
//! upon it, Kubernetes Events; and from that, on paper, what thousands of nodes cost it.
//!
//! The agents are real, as many as fit on one machine, each with a node of its own and a full set of
//! BPF programs; their API server is the testbed's, which counts. Their pods are recorded objects of a
//! real cluster, and exist in the API only: what agents do with pods' cgroups costs no API server anything.

mod fleet;
mod model;
mod section;
mod storm;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use self::{
    fleet::{Fleet, Seen, Shape},
    model::{Linear, PerNode},
    storm::Storm,
};
use super::{
    Measure, Options, QuickRatio, Section,
    stats::{Percentiles, percentile},
};
use crate::Resource;

/// Fleets of which it is shown that what a node costs does not depend on how many there are.
const FLEETS: [usize; 4] = [5, 10, 20, 40];
/// As many as a cluster of the largest size that Kubernetes supports has on each of its 5,000 nodes.
const PODS: usize = 30;
/// On a node that is full (kubelet's default).
const FULL_NODE: usize = 110;
const NAMESPACES: usize = 20;
/// Three pages of them.
const MANY_NAMESPACES: usize = 1_020;
/// How many changes are made of what is watched: each watch's own bookmark is nothing next to them.
const CHANGES: usize = 100;

/// Of a process that crashed, and of a machine that was replaced. After the second the agents' pauses
/// have grown to their longest.
const AWAY: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(20)];
/// How often it goes away.
const RESTARTS: u32 = 2;

/// What was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// Bytes of one pod, as the API server writes it.
    pod_bytes: f64,
    /// With so many agents, each with as many pods.
    fleets: Vec<Starts>,
    /// With more pods, and with more namespaces.
    others: [Starts; 2],
    /// As the first fleet and these two, where the API server does not stream lists.
    unstreamed: [Starts; 3],
    restarts: Vec<Restart>,
    /// All watches end with 410.
    gone: Restart,
    /// The shortest and the longest time of a watch that an agent asks for, in seconds.
    watch_seconds: (f64, f64),
    per_node: PerNode,
    storm: Storm,
}

/// Agents that start, each figure of one agent.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Starts {
    agents: usize,
    pods: usize,
    namespaces: usize,
    /// The API server streams lists.
    streams: bool,
    requests: f64,
    /// Of these, pages of lists and watches that begin with one.
    lists: f64,
    bytes: f64,
    /// That are open then.
    watches: f64,
    /// Sent for a change of one of its pods.
    pod_change_bytes: f64,
    /// Sent for a change of a namespace.
    namespace_change_bytes: f64,
}

/// An API server that goes away and comes back, or forgets.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Restart {
    agents: usize,
    away_s: f64,
    /// It still has its history when it is back.
    history: bool,
    /// From its return to the agent's last watch, each agent.
    back_s: Vec<f64>,
    /// Of one agent.
    requests: f64,
    lists: f64,
    bytes: f64,
    /// In the second in which most came, of all.
    peak: f64,
}

// === impl Numbers ===

impl Measure for Numbers {
    fn measure(options: &Options) -> Result<Self> {
        let mut fleets = Vec::new();
        let mut restarts = Vec::new();
        let mut gone = None;
        let mut watch_seconds = (f64::INFINITY, 0.0);
        let mut pod_bytes = 0.0;
        for nodes in FLEETS {
            let (fleet, seen) = started(usual(nodes), options)?;
            let (shortest, longest) = seen.watch_seconds()?;
            watch_seconds =
                (f64::min(watch_seconds.0, shortest), f64::max(watch_seconds.1, longest));
            let starts = Starts::of(&fleet, &seen)?;
            eprintln!("  {nodes} agents: {:.1} requests each", starts.requests);
            fleets.push(starts);
            pod_bytes = fleet.pod_bytes()?;
            if nodes == FLEETS[FLEETS.len() - 1] {
                // First: agents wait longer if there was an error just before.
                gone = Some(Restart::of(&fleet, Duration::ZERO, false, &[fleet.expire()?]));
                for away in AWAY {
                    restarts.push(Restart::measure(&fleet, away, true, options)?);
                }
                restarts.push(Restart::measure(&fleet, AWAY[1], false, options)?);
            }
        }
        let other = |pods, namespaces, streams| {
            let shape = Shape { pods, namespaces, streams, ..usual(FLEETS[0]) };
            let (fleet, seen) = started(shape, options)?;
            Starts::of(&fleet, &seen)
        };
        let others = [other(FULL_NODE, NAMESPACES, true)?, other(PODS, MANY_NAMESPACES, true)?];
        let unstreamed = [
            other(PODS, NAMESPACES, false)?,
            other(FULL_NODE, NAMESPACES, false)?,
            other(PODS, MANY_NAMESPACES, false)?,
        ];
        eprintln!("  Events");
        let storm = Storm::measure(options)?;
        let [full, many] = others;
        let starts = [fleets[0], full, many];
        let per_node = per_node(starts, unstreamed, &restarts, watch_seconds, &storm)?;
        let gone = gone.context("no fleet was measured")?;
        Ok(Self {
            pod_bytes,
            fleets,
            others,
            unstreamed,
            restarts,
            gone,
            watch_seconds,
            per_node,
            storm,
        })
    }

    fn section(&self) -> Section {
        section::of(self)
    }

    fn quick(options: &Options) -> Result<Vec<QuickRatio>> {
        let (fleet, seen) = started(usual(3), options)?;
        let starts = Starts::of(&fleet, &seen)?;
        let pod_bytes = fleet.pod_bytes()?;
        let of_pods = starts.bytes / (pod_bytes * PODS as f64);
        Ok(vec![
            QuickRatio::lower("requests of an agent's start", starts.requests),
            QuickRatio::lower("watches of an agent", starts.watches),
            QuickRatio::lower("bytes of an agent's start to those of its pods", of_pods),
            QuickRatio::lower(
                "bytes of a pod's change to those of the pod",
                starts.pod_change_bytes / pod_bytes,
            ),
        ])
    }
}

/// Agents that watch. They are started once more if something fails: dozens of them on a few cores may
/// meet with anything, and the fleets before them took minutes.
fn started(shape: Shape, options: &Options) -> Result<(Fleet, Seen)> {
    let start = || {
        let mut fleet = Fleet::new(shape)?;
        let seen = fleet.start(options)?;
        Ok((fleet, seen))
    };
    start().or_else(|error: anyhow::Error| {
        eprintln!("cluster: {} agents, once more: {error:#}", shape.nodes);
        start()
    })
}

/// So many nodes of a usual cluster.
fn usual(nodes: usize) -> Shape {
    Shape { nodes, pods: PODS, namespaces: NAMESPACES, streams: true }
}

fn per_node(
    starts: [Starts; 3],
    unstreamed: [Starts; 3],
    restarts: &[Restart],
    (shortest, longest): (f64, f64),
    storm: &Storm,
) -> Result<PerNode> {
    let through = |[base, full, many]: [Starts; 3], value: fn(&Starts) -> f64| {
        Linear::through(
            (base.pods, base.namespaces, value(&base)),
            (full.pods, value(&full)),
            (many.namespaces, value(&many)),
        )
    };
    let longest_away = |history: bool| {
        let of = restarts.iter().filter(|restart| restart.history == history);
        of.max_by(|a, b| a.away_s.total_cmp(&b.away_s)).context("no restart was measured")
    };
    let (resumed, relisted) = (longest_away(true)?, longest_away(false)?);
    // The shorter it was away, the less the agents' pauses have drawn them apart.
    let with_history = restarts.iter().filter(|restart| restart.history);
    let resume_peak = with_history.map(Restart::peak_of_one).fold(0.0, f64::max);
    let [base, ..] = starts;
    Ok(PerNode {
        start_requests: through(starts, |starts| starts.requests),
        start_bytes: through(starts, |starts| starts.bytes),
        lists: through(starts, |starts| starts.lists),
        unstreamed_lists: through(unstreamed, |starts| starts.lists),
        resume_requests: resumed.requests,
        resume_peak,
        relist_peak: relisted.peak_of_one(),
        window_s: resumed.last_s(),
        relist_window_s: relisted.last_s(),
        watches: base.watches,
        watch_s: f64::midpoint(shortest, longest),
        pod_change_bytes: base.pod_change_bytes,
        namespace_change_bytes: base.namespace_change_bytes,
        events_per_hold: storm.events_per_hold,
    })
}

// === impl Starts ===

impl Starts {
    fn of(fleet: &Fleet, seen: &Seen) -> Result<Self> {
        let Shape { nodes, pods, namespaces, streams } = fleet.shape;
        let each = |all: u64| all as f64 / nodes as f64;
        let open = |of| fleet.api().cost("watch", of).open;
        let watches = open("pods") + open("namespaces");
        let pod_change_bytes = fleet.sent_for(Resource::Pods, CHANGES)? as f64 / CHANGES as f64;
        let namespace_changes = fleet.sent_for(Resource::Namespaces, CHANGES)?;
        Ok(Self {
            agents: nodes,
            pods,
            namespaces,
            streams,
            requests: each(seen.cost.requests),
            lists: each(seen.lists),
            bytes: each(seen.cost.sent),
            watches: each(watches),
            pod_change_bytes,
            namespace_change_bytes: each(namespace_changes) / CHANGES as f64,
        })
    }
}

// === impl Restart ===

impl Restart {
    fn measure(fleet: &Fleet, away: Duration, history: bool, options: &Options) -> Result<Self> {
        let seen = (0..options.runs_or(RESTARTS))
            .map(|_| fleet.restart_api(away, history))
            .collect::<Result<Vec<Seen>>>()?;
        eprintln!("  the API server was away for {away:?}");
        Ok(Self::of(fleet, away, history, &seen))
    }

    fn of(fleet: &Fleet, away: Duration, history: bool, seen: &[Seen]) -> Self {
        let agents = fleet.shape.nodes;
        let each = |of: &dyn Fn(&Seen) -> u64| {
            seen.iter().map(of).sum::<u64>() as f64 / (seen.len() * agents) as f64
        };
        let peak = seen.iter().map(Seen::peak_per_second).max().unwrap_or_default();
        let mut back_s: Vec<f64> = seen.iter().flat_map(|seen| seen.back.clone()).collect();
        back_s.sort_by(f64::total_cmp);
        Self {
            agents,
            away_s: away.as_secs_f64(),
            history,
            back_s,
            requests: each(&|seen| seen.cost.requests),
            lists: each(&|seen| seen.lists),
            bytes: each(&|seen| seen.cost.sent),
            peak: peak as f64,
        }
    }

    fn back(&self) -> Percentiles {
        Percentiles::of(&self.back_s).unwrap_or_default()
    }

    /// One agent's share of the second in which most came.
    fn peak_of_one(&self) -> f64 {
        self.peak / self.agents as f64
    }

    fn last_s(&self) -> f64 {
        self.back_s.last().copied().unwrap_or_default()
    }

    fn first_s(&self) -> f64 {
        percentile(&self.back_s, 0).unwrap_or_default()
    }
}

//! Every metric: its name, what tells its series apart, and what it means.

mod table;

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::{
    counter::{ConstCounter, Counter},
    family::Family,
    gauge::{ConstGauge, Gauge},
    info::Info,
};

pub use self::table::Description;
use self::table::Table;
use super::{
    Counts, Format, Reading, expose,
    labels::{self, OfBuild, OfKernel, OfMap, OfPod, OfResource, OfResult, OfState},
    pods,
    reading::Filled,
};
use crate::core::{AgentState, PodState};

/// All metrics, those of single pods among them.
#[must_use]
pub fn descriptions() -> Vec<Description> {
    table(&Counts::new(super::PodMetrics::On), None).described
}

/// The answer to a scrape.
#[must_use]
pub fn render(counts: &Counts, reading: &Reading, format: Format) -> String {
    expose::text(&table(counts, Some(reading)).registry, format)
}

fn table(counts: &Counts, reading: Option<&Reading>) -> Table {
    let mut table = Table::default();
    table.agent(reading);
    table.pods(reading);
    table.holds(counts);
    table.gates(counts);
    table.delays(counts, reading);
    table.losses(reading);
    table.watches(reading);
    table.maps(reading);
    if counts.0.pods.is_some() {
        table.single_pods(counts, reading);
    }
    table.process(reading);
    table
}

// === impl Table ===

impl Table {
    fn agent(&mut self, reading: Option<&Reading>) {
        let node = reading.map(|reading| &reading.node);
        let build = OfBuild { version: env!("CARGO_PKG_VERSION") };
        self.add("holdfast_build", &["version"], "The agent's version", Info::new(build));
        let kernel = node.map_or("", |node| &node.kernel);
        self.add(
            "holdfast_kernel",
            &["release"],
            "The node's kernel, as uname -r tells it",
            Info::new(OfKernel { release: kernel.into() }),
        );
        let states = Family::<OfState, Gauge>::default();
        for state in labels::STATES {
            let is_so = node.is_some_and(|node| node.state == state);
            states.get_or_create(&OfState { state: labels::state(state) }).set(is_so.into());
        }
        self.add(
            "holdfast_agent_state",
            &["state"],
            "What the agent does: 1 for the state in which it is, 0 for the others",
            states,
        );
        let armed =
            node.is_some_and(|node| node.state == AgentState::Working && node.missing.is_empty());
        self.add(
            "holdfast_armed",
            &[],
            "1 if the agent holds what it should: it works the gates, and all its sources have told what there is",
            ConstGauge::new(i64::from(armed)),
        );
    }

    fn pods(&mut self, reading: Option<&Reading>) {
        let states = Family::<OfState, Gauge>::default();
        let known = reading.filter(|reading| reading.waiting.is_some());
        if let Some(reading) = known {
            for state in PodState::ALL {
                let count = reading.node.pods.get(&state).copied().unwrap_or_default();
                states.get_or_create(&OfState { state: state.as_str() }).set(count as i64);
            }
        }
        self.add(
            "holdfast_pods",
            &["state"],
            "Pods of this node by state; left out as long as the agent does not work their gates",
            states,
        );
        self.add_known(
            "holdfast_held_connects",
            "Connects and queries that wait now",
            known.map(|reading| ConstGauge::new(reading.node.held as u64)),
        );
    }

    fn holds(&mut self, counts: &Counts) {
        let counts = &*counts.0;
        self.add(
            "holdfast_connects_held",
            &["namespace"],
            "Connects and DNS queries that waited",
            counts.held.clone(),
        );
        self.add(
            "holdfast_connects_refused",
            &["namespace"],
            "Connects that were refused (mode refuse, or after the deadline with on-timeout refuse)",
            counts.refused.clone(),
        );
        self.add(
            "holdfast_connects_observed",
            &["namespace"],
            "Connects that would have waited (mode observe)",
            counts.observed.clone(),
        );
        self.add(
            "holdfast_connects_released",
            &["namespace", "outcome"],
            "Connects and DNS queries that wait no longer, by what became of them",
            counts.released.clone(),
        );
        self.add(
            "holdfast_sentry_connects_held",
            &[],
            "Connects that the sentry held while no agent worked, counted when an agent relieves it; those that went on \
             waiting at a gate are in holdfast_connects_held_total as well",
            counts.by_sentry.clone(),
        );
        self.add(
            "holdfast_entries",
            &["kind"],
            "What has happened to pods, by kind: what holdfast events prints",
            counts.lines.clone(),
        );
    }

    fn gates(&mut self, counts: &Counts) {
        let counts = &*counts.0;
        self.add(
            "holdfast_gates_closed",
            &["reason"],
            "Gates that closed, by reason; that of a new pod closes before it is known whether it is to be held",
            counts.closed.clone(),
        );
        self.add(
            "holdfast_gates_opened",
            &["reason"],
            "Gates that opened, by reason",
            counts.opened.clone(),
        );
        self.add(
            "holdfast_gates_timed_out",
            &["namespace"],
            "Gates whose time was up before the proxy was ready",
            counts.timed_out.clone(),
        );
        self.add(
            "holdfast_gates_failed",
            &[],
            "Gates whose programs could not be worked; their pods are not held",
            counts.failed.clone(),
        );
    }

    fn delays(&mut self, counts: &Counts, reading: Option<&Reading>) {
        let counts = &*counts.0;
        self.add(
            "holdfast_hold_duration_seconds",
            &[],
            "How long a connect waited",
            counts.hold.clone(),
        );
        self.add(
            "holdfast_ready_to_release_seconds",
            &[],
            "From the moment in which the agent knew that the proxy is ready to the connection's being established",
            counts.ready_to_release.clone(),
        );
        self.add(
            "holdfast_found_to_attached_seconds",
            &[],
            "From the news of a new pod's cgroup to its gate's being closed, programs attached",
            counts.found_to_attached.clone(),
        );
        let probes = Family::<OfResult, Counter>::default();
        for &(result, count) in reading.into_iter().flat_map(|reading| &reading.probes) {
            probes.get_or_create(&OfResult { result }).inc_by(count);
        }
        self.add(
            "holdfast_probe_rounds",
            &["result"],
            "Rounds of the readiness probes, by result",
            probes,
        );
        let replays = reading.map(|reading| reading.replays).unwrap_or_default();
        self.add(
            "holdfast_replays_sent",
            &[],
            "Packets that were sent again when their gate opened",
            ConstCounter::new(replays.sent),
        );
        self.add(
            "holdfast_replays_failed",
            &[],
            "Packets that could not be sent again; what they belong to goes on with its own retransmission",
            ConstCounter::new(replays.failed),
        );
    }

    fn losses(&mut self, reading: Option<&Reading>) {
        let count = |of: fn(&Reading) -> u64| ConstCounter::new(reading.map_or(0, of));
        self.add(
            "holdfast_kernel_reports_lost",
            &[],
            "Reports of the kernel that found the ring full; their holds are held and released, but not named",
            count(|reading| reading.node.totals.lost_reports),
        );
        self.add(
            "holdfast_kubernetes_events_published",
            &[],
            "Kubernetes Events that the API server has taken",
            count(|reading| reading.events.published),
        );
        self.add(
            "holdfast_kubernetes_events_dropped",
            &[],
            "Kubernetes Events that were left out: over the limit of their pod, or too many at a time",
            count(|reading| reading.events.dropped),
        );
        self.add(
            "holdfast_kubernetes_events_failed",
            &[],
            "Kubernetes Events that the API server has not taken",
            count(|reading| reading.events.failed),
        );
        self.add(
            "holdfast_log_lines_dropped",
            &[],
            "Lines of the log that its reader did not take in time",
            count(|reading| reading.log_lines_dropped),
        );
        self.add(
            "holdfast_stream_entries_lost",
            &[],
            "Entries that slow readers of holdfast events have lost",
            count(|reading| reading.stream_entries_lost),
        );
    }

    fn watches(&mut self, reading: Option<&Reading>) {
        let ages = Family::<OfResource, Gauge<f64, AtomicU64>>::default();
        let lists = Family::<OfResource, Counter>::default();
        let errors = Family::<OfResource, Counter>::default();
        for node in reading.iter().map(|reading| &reading.node) {
            for watch in &node.watches {
                let of = OfResource { resource: watch.resource.as_str() };
                if let Some(heard_at) = watch.heard_at {
                    ages.get_or_create(&of).set(node.at.since(heard_at).as_secs_f64());
                }
                lists.get_or_create(&of).inc_by(watch.lists);
                errors.get_or_create(&of).inc_by(watch.errors);
            }
        }
        self.add(
            "holdfast_watch_age_seconds",
            &["resource"],
            "How long the API server has said nothing; it says something about once a minute even if nothing changes",
            ages,
        );
        self.add(
            "holdfast_watch_lists",
            &["resource"],
            "How often all objects were listed: at the start, and when the API server no longer knew from where to go on",
            lists,
        );
        self.add(
            "holdfast_watch_errors",
            &["resource"],
            "How often a watch was interrupted, or could not be started again",
            errors,
        );
    }

    fn maps(&mut self, reading: Option<&Reading>) {
        let maps = reading.and_then(|reading| reading.maps);
        let used = Family::<OfMap, Gauge<u64, AtomicU64>>::default();
        let max = Family::<OfMap, Gauge<u64, AtomicU64>>::default();
        if let Some(maps) = maps {
            for (map, filled) in [("sockets", maps.sockets), ("datagrams", maps.datagrams)] {
                let Filled { used: entries, max: most } = filled;
                used.get_or_create(&OfMap { map }).set(entries);
                max.get_or_create(&OfMap { map }).set(most);
            }
        }
        self.add(
            "holdfast_map_entries",
            &["map"],
            "Entries of the tables of held sockets and of their DNS queries",
            used,
        );
        self.add(
            "holdfast_map_max_entries",
            &["map"],
            "Entries that these tables take; what is held beyond is not named, and goes on with its own retransmission",
            max,
        );
        self.add_known(
            "holdfast_dropped_packets",
            "Packets that closed gates have dropped: one for each held connect or query, the others are retransmissions, \
             which the node's TcpRetransSegs and TCPTimeouts count as well",
            maps.map(|maps| ConstCounter::new(maps.dropped)),
        );
    }

    fn single_pods(&mut self, counts: &Counts, reading: Option<&Reading>) {
        const LABELS: &[&str] = &["namespace", "pod", "uid"];
        let held = Family::<OfPod, Counter>::default();
        let waited = Family::<OfPod, Counter<f64, AtomicU64>>::default();
        let waiting = Family::<OfPod, Gauge>::default();
        for pod in counts.0.pods.iter().flat_map(pods::Pods::all) {
            held.get_or_create(&pod.labels).inc_by(pod.held);
            waited.get_or_create(&pod.labels).inc_by(pod.waited.as_secs_f64());
        }
        let pods = reading.into_iter().flat_map(|reading| &reading.waiting).flatten();
        for (pod, count) in pods.take(pods::MAX) {
            waiting.get_or_create(&pods::labels(pod)).set(*count as i64);
        }
        self.add(
            "holdfast_pod_connects_held",
            LABELS,
            "Connects and queries of the pod that waited (--pod-metrics)",
            held,
        );
        self.add(
            "holdfast_pod_hold_seconds",
            LABELS,
            "How long they waited, all together; those that still wait are not in it (--pod-metrics)",
            waited,
        );
        self.add(
            "holdfast_pod_held_connects",
            LABELS,
            "Connects and queries of the pod that wait now; left out where none does (--pod-metrics)",
            waiting,
        );
    }

    fn process(&mut self, reading: Option<&Reading>) {
        let process = reading.and_then(|reading| reading.process);
        self.add_known(
            "process_cpu_seconds",
            "Processor time of the agent",
            process.map(|process| ConstCounter::new(process.cpu.as_secs_f64())),
        );
        self.add_known(
            "process_start_time_seconds",
            "When the agent was started, in seconds since 1970",
            process.map(|process| ConstGauge::new(process.started_at.as_secs_f64())),
        );
        self.add_known(
            "process_resident_memory_bytes",
            "Memory of the agent; what the kernel keeps for its maps is not in it",
            process.map(|process| ConstGauge::new(process.resident)),
        );
        self.add_known(
            "process_virtual_memory_bytes",
            "Address space of the agent",
            process.map(|process| ConstGauge::new(process.virtual_memory)),
        );
        self.add_known(
            "process_open_fds",
            "Open file descriptors of the agent",
            process.map(|process| ConstGauge::new(process.open_fds)),
        );
        self.add_known(
            "process_max_fds",
            "File descriptors that the agent may have; left out where there is no limit",
            process.and_then(|process| process.max_fds).map(ConstGauge::new),
        );
        self.add_known(
            "process_threads",
            "Threads of the agent",
            process.map(|process| ConstGauge::new(process.threads)),
        );
    }
}

#[cfg(test)]
mod tests;

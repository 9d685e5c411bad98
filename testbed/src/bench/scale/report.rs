//! What the sizes and releases say.

use super::{ApiUse, IDLE, RUNS, Release, Scale, Size, Start, USUAL_PODS, release};
use crate::bench::{
    Axis, Plot, Section, Series,
    growth::Growth,
    stats::Percentiles,
    table::{number, table},
    target::{Target, targets},
};

/// What was promised, beside [`USUAL_PODS`] pods.
const ARMED_AFTER_LIST_MS: f64 = 300.0;
const ATTACH_P99_MS: f64 = 5.0;
const RSS_MIB: f64 = 25.0;
/// What the manifest requests for each container: while it takes no more, no other pod pays for it.
const REQUESTED_MIB: f64 = 32.0;
const SENTRY_REQUESTED_MIB: f64 = 8.0;
const IDLE_CPU_PERCENT: f64 = 0.2;
const RELEASED_SOCKETS: u32 = 10_000;
const RELEASE_MS: f64 = 250.0;

/// A number of each size, or of each release, and its name.
type Figure<T> = (&'static str, fn(&T) -> f64);

/// What grows with the pods.
const OF_PODS: [Figure<Size>; 9] = [
    ("process start to list, ms", |size| median(size, |start| start.listed_ms)),
    ("list to armed, ms", |size| median(size, |start| start.armed_after_list_ms)),
    ("attach p99, ms", |size| size.attach_ms.p99),
    ("attach p99 in a storm, ms", |size| size.storm.attach_ms.p99),
    ("CPU of a pod in a storm, ms", |size| size.storm.cpu_ms_a_pod()),
    ("memory, MiB", |size| size.rss_mib),
    ("memory at most, MiB", |size| size.storm.peak_rss_mib),
    ("idle CPU, % of a core", |size| size.idle.cpu_percent),
    ("API KiB of a start", |size| median(size, |start| start.api.received as f64 / 1024.0)),
];
/// Of these, those in milliseconds and in MiB: what a plot can have on one axis.
const IN_MS: std::ops::Range<usize> = 0..5;
const IN_MIB: std::ops::Range<usize> = 5..7;

/// What grows with the sockets.
const OF_SOCKETS: [Figure<Release>; 3] = [
    ("p50, ms", |release| release.after_ready_ms.p50),
    ("p99, ms", |release| release.after_ready_ms.p99),
    ("all, ms", |release| release.all_ms),
];

pub(super) fn section(scale: &Scale) -> Section {
    let text = format!(
        "One node with so many pods, three processes each, whose gates have been opened; the pods share eight networks, each with one proxy. \
A pod's object has {} KiB, as one recorded from a real cluster. The agent runs as the manifest has it, and the manifest's *sentry*, the same program as a second \
container, beside it. At each size {} agents start, one after another, each on a node without a trace of holdfast; the last one is watched \
while nothing happens for {} s, while {} pods come one after another, and while a storm of pods comes.\n\n\
### Start\n\n\
*list* is the moment at which the API server begins its last answer with all pods or namespaces; sending them is a part of *list to armed*. \
Bytes are those of bodies, uncompressed.\n\n\
{}\n\
### Nothing happens\n\n\
*attach* is from the moment before a pod's cgroup is made to the moment at which its gate, the last of the programs that hold connects, is seen on it; one pod \
after another. Memory is resident; what of it is not the program (and its mapped files) is heap and stacks. A watch that is taken up again \
every two minutes is no request of so short a time, and this API server sends a bookmark every second, a real one every minute.\n\n\
{}\n\
### Storm\n\n\
Pods that start, dial, connect and go, 50 a second, or as many as the testbed manages, which starts three processes and a network for each on the \
same cores; so the CPU is told for each pod: times 50 it is what 50 a second take. An attached gate is looked for each millisecond here: more \
looks would be in its way. Where the testbed has every core busy, the agent waits for one as everybody does: that is in the times here. What of a pod failed, whatever it was, is *lost*; memory *at most* is since the agent's start.\n\n\
{}\n\
### Sockets that wait\n\n\
Beside {USUAL_PODS} pods, in pods with at most 250 each, whose proxies are told to become ready at the same moment; *spread* is from the first one's \
readiness to the last one's. *ready* is from a socket's own proxy's readiness to its connection, as the application sees it, *gate* from the opening \
of its gate; *all* from the first proxy's readiness to the last connection, so that nothing is left out. The proxies only listen, and are ready by that: one \
that accepts would take the cores from what is measured. Medians of {} runs, *worst* is the slowest run's *all*.{}\n\n\
{}\n\
### Targets, beside {USUAL_PODS} pods\n\n\
Those of memory at most and of the sentry are what the manifest requests: while they take no more, no other pod pays for it.\n\n\
{}\n\
### Growth\n\n\
What one more costs: among few, and among many. Worse than linear is what costs more than one and a half times as much among many, and \
comes by that to more than a tenth above the straight line. The sockets begin with ten: one alone takes the probe's time.\n\n\
{}",
        number(scale.pod_bytes / 1024.0),
        scale.sizes.first().map_or(RUNS as usize, |size| size.starts.len()),
        IDLE.as_secs(),
        scale.sizes.first().map_or(0, |size| size.attach_ms.count),
        starts(scale),
        sizes(scale),
        storms(scale),
        runs(scale),
        match scale.repeated {
            0 => String::new(),
            times => format!(" {times} in which something failed were repeated."),
        },
        releases(scale),
        targets(&all_targets(scale)),
        growth(scale),
    );
    Section { title: "Scale of one node".into(), text, plots: plots(scale) }
}

fn median(size: &Size, figure: impl Fn(&Start) -> f64) -> f64 {
    let samples: Vec<f64> = size.starts.iter().map(figure).collect();
    Percentiles::of(&samples).map_or(f64::NAN, |samples| samples.p50)
}

fn starts(scale: &Scale) -> String {
    let row = |size: &Size| {
        let of = |figure: fn(&Start) -> f64| number(median(size, figure));
        vec![
            size.pods.to_string(),
            of(|start| start.listed_ms),
            of(|start| start.armed_after_list_ms),
            of(|start| start.armed_ms),
            of(|start| start.api.requests as f64),
            of(|start| start.api.received as f64 / 1024.0),
        ]
    };
    let rows: Vec<Vec<String>> = scale.sizes.iter().map(row).collect();
    let head = [
        "pods",
        "start to list ms",
        "list to armed ms",
        "start to armed ms",
        "API requests",
        "KiB received",
    ];
    table(&head, &rows)
}

fn per_minute(idle: &super::Idle) -> (f64, f64) {
    let ApiUse { requests, sent, received } = idle.api;
    let minutes = idle.seconds / 60.0;
    (requests as f64 / minutes, (sent + received) as f64 / minutes)
}

fn sizes(scale: &Scale) -> String {
    let row = |size: &Size| {
        let (requests, bytes) = per_minute(&size.idle);
        vec![
            size.pods.to_string(),
            number(size.attach_ms.p50),
            number(size.attach_ms.p99),
            number(size.rss_mib),
            number(size.anonymous_mib),
            number(size.peak_rss_mib),
            number(size.idle.cpu_percent),
            number(size.sentry.rss_mib),
            number(size.idle.sentry_cpu_percent),
            number(requests),
            number(bytes / 1024.0),
        ]
    };
    let rows: Vec<Vec<String>> = scale.sizes.iter().map(row).collect();
    let head = [
        "pods",
        "attach p50 ms",
        "p99",
        "memory MiB",
        "not the program",
        "at most",
        "CPU %",
        "sentry MiB",
        "CPU %",
        "requests/min",
        "KiB/min",
    ];
    table(&head, &rows)
}

fn storms(scale: &Scale) -> String {
    let row = |size: &Size| {
        let storm = &size.storm;
        let a_pod = |count: u64| count as f64 / f64::from(storm.pods);
        vec![
            size.pods.to_string(),
            number(f64::from(storm.pods) / storm.seconds),
            storm.lost.to_string(),
            number(storm.cpu_ms_a_pod()),
            number(storm.attach_ms.p50),
            number(storm.attach_ms.p99),
            number(storm.rss_mib),
            number(storm.peak_rss_mib),
            number(a_pod(storm.api.requests)),
            number(a_pod(storm.api.sent + storm.api.received) / 1024.0),
        ]
    };
    let rows: Vec<Vec<String>> = scale.sizes.iter().map(row).collect();
    let head = [
        "beside pods",
        "starts/s",
        "lost",
        "CPU ms a pod",
        "attach p50 ms",
        "p99",
        "memory MiB",
        "at most",
        "requests a pod",
        "KiB a pod",
    ];
    table(&head, &rows)
}

/// The median over the runs with so many sockets.
fn of_release(scale: &Scale, sockets: u32, figure: impl Fn(&Release) -> f64) -> Option<f64> {
    let of = scale.releases.iter().filter(|release| release.sockets == sockets);
    Some(Percentiles::of(&of.map(figure).collect::<Vec<_>>())?.p50)
}

/// The slowest of the runs with so many sockets.
fn worst(scale: &Scale, sockets: u32) -> Option<f64> {
    let of = scale.releases.iter().filter(|release| release.sockets == sockets);
    of.map(|release| release.all_ms).max_by(f64::total_cmp)
}

/// How often so many sockets were released.
fn runs(scale: &Scale) -> usize {
    let first = scale.releases.first().map(|release| release.sockets);
    scale.releases.iter().filter(|release| Some(release.sockets) == first).count()
}

fn all_sockets(scale: &Scale) -> Vec<u32> {
    let mut all: Vec<u32> = scale.releases.iter().map(|release| release.sockets).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn releases(scale: &Scale) -> String {
    let row = |sockets: u32| {
        let of = |figure: fn(&Release) -> f64| {
            of_release(scale, sockets, figure).map_or_else(|| "-".into(), number)
        };
        vec![
            sockets.to_string(),
            release::pods(sockets).to_string(),
            of(|release| release.after_ready_ms.p50),
            of(|release| release.after_ready_ms.p99),
            of(|release| release.after_open_ms.p50),
            of(|release| release.after_open_ms.p99),
            of(|release| release.ready_spread_ms),
            of(|release| release.all_ms),
            worst(scale, sockets).map_or_else(|| "-".into(), number),
        ]
    };
    let rows: Vec<Vec<String>> = all_sockets(scale).into_iter().map(row).collect();
    let head = [
        "sockets",
        "pods",
        "ready p50 ms",
        "p99",
        "gate p50 ms",
        "p99",
        "spread ms",
        "all ms",
        "worst",
    ];
    table(&head, &rows)
}

fn all_targets(scale: &Scale) -> Vec<Target> {
    let usual = scale.sizes.iter().find(|size| size.pods == USUAL_PODS);
    let of_size = |what, limit, figure: fn(&Size) -> f64, unit| {
        usual.map(|size| Target::at_most(what, limit, figure(size), unit))
    };
    let released = of_release(scale, RELEASED_SOCKETS, |release| release.all_ms);
    let released = released.map(|is| {
        Target::at_most(format!("{RELEASED_SOCKETS} sockets released"), RELEASE_MS, is, "ms")
    });
    [
        of_size(
            "list to armed",
            ARMED_AFTER_LIST_MS,
            |size| median(size, |start| start.armed_after_list_ms),
            "ms",
        ),
        of_size("attach p99", ATTACH_P99_MS, |size| size.attach_ms.p99, "ms"),
        of_size("attach p99 in a storm", ATTACH_P99_MS, |size| size.storm.attach_ms.p99, "ms"),
        of_size("memory", RSS_MIB, |size| size.rss_mib, "MiB"),
        of_size("memory after a storm", RSS_MIB, |size| size.storm.rss_mib, "MiB"),
        of_size("memory at most", REQUESTED_MIB, |size| size.storm.peak_rss_mib, "MiB"),
        of_size(
            "sentry's memory at most",
            SENTRY_REQUESTED_MIB,
            |size| size.sentry.peak_rss_mib,
            "MiB",
        ),
        of_size(
            "idle CPU, with the sentry",
            IDLE_CPU_PERCENT,
            |size| size.idle.cpu_percent + size.idle.sentry_cpu_percent,
            "%",
        ),
        released,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn of_pods(scale: &Scale, figure: fn(&Size) -> f64) -> Vec<(f64, f64)> {
    scale.sizes.iter().map(|size| (f64::from(size.pods), figure(size))).collect()
}

fn of_sockets(scale: &Scale, figure: fn(&Release) -> f64) -> Vec<(f64, f64)> {
    let point = |sockets| Some((f64::from(sockets), of_release(scale, sockets, figure)?));
    all_sockets(scale).into_iter().filter_map(point).collect()
}

fn growth(scale: &Scale) -> String {
    let of_pods: Vec<_> = OF_PODS
        .iter()
        .map(|(name, figure)| ((*name).to_owned(), of_pods(scale, *figure)))
        .collect();
    let of_sockets: Vec<_> = OF_SOCKETS
        .iter()
        .map(|(name, figure)| {
            let points = of_sockets(scale, *figure);
            (format!("release {name}"), points.get(1..).unwrap_or_default().to_vec())
        })
        .collect();
    [("a pod", of_pods), ("100 sockets", of_sockets)]
        .into_iter()
        .map(|(of, rows)| growth_table(of, if of == "a pod" { 1.0 } else { 100.0 }, &rows))
        .collect::<Vec<String>>()
        .join("\n")
}

/// What `many` more cost, which are called `of`.
fn growth_table(of: &str, many: f64, rows: &[(String, Vec<(f64, f64)>)]) -> String {
    let Some([first, .., before, last]) = rows.first().map(|(_, points)| points.as_slice()) else {
        return String::new();
    };
    let between = |from: &(f64, f64), to: &(f64, f64)| format!("{of}, {} to {}", from.0, to.0);
    let row = |(what, points): &(String, Vec<(f64, f64)>)| {
        let growth = Growth::of(points)?;
        let verdict =
            if growth.is_worse_than_linear { "worse than linear" } else { "linear or better" };
        let [few, more] = [growth.among_few, growth.among_many].map(|cost| number(many * cost));
        Some(vec![what.clone(), few, more, verdict.to_owned()])
    };
    let rows: Vec<Vec<String>> = rows.iter().filter_map(row).collect();
    table(&["", &between(first, before), &between(before, last), "growth"], &rows)
}

fn plots(scale: &Scale) -> Vec<Plot> {
    let by_pods = |figures: std::ops::Range<usize>| {
        let series = |(name, figure): &Figure<Size>| Series {
            name: (*name).into(),
            points: of_pods(scale, *figure),
        };
        OF_PODS[figures].iter().map(series).collect()
    };
    let times = Plot {
        name: "scale-pods".into(),
        title: "Times that may grow with a node's pods".into(),
        x: Axis::log("pods"),
        y: Axis::log("ms"),
        series: by_pods(IN_MS),
    };
    let memory = Plot {
        name: "scale-memory".into(),
        title: "Memory, by a node's pods".into(),
        x: Axis::linear("pods"),
        y: Axis::linear("MiB"),
        series: by_pods(IN_MIB),
    };
    let by_sockets = Plot {
        name: "scale-sockets".into(),
        title: "From the proxy's readiness to the connection, by sockets that wait".into(),
        x: Axis::log("sockets"),
        y: Axis::log("ms"),
        series: OF_SOCKETS
            .iter()
            .map(|(name, figure)| Series {
                name: (*name).into(),
                points: of_sockets(scale, *figure),
            })
            .collect(),
    };
    let (sizes, releases) = (!scale.sizes.is_empty(), !scale.releases.is_empty());
    let drawn = [(sizes, times), (sizes, memory), (releases, by_sockets)];
    drawn.into_iter().filter_map(|(is_there, plot)| is_there.then_some(plot)).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Idle, Sentry},
        *,
    };
    use crate::bench::scale::load::Storm;

    fn percentiles(value: f64) -> Percentiles {
        Percentiles { count: 100, p50: value, p90: value, p99: value }
    }

    /// A node on which everything costs so much a pod.
    fn size(pods: u32, a_pod: f64) -> Size {
        let cost = f64::from(pods) * a_pod;
        let api = ApiUse { requests: u64::from(pods), sent: 0, received: u64::from(pods) * 100 };
        let start = Start { listed_ms: cost, armed_after_list_ms: cost, armed_ms: 2.0 * cost, api };
        Size {
            pods,
            starts: vec![start; 3],
            rss_mib: cost,
            anonymous_mib: cost,
            peak_rss_mib: cost,
            idle: Idle { seconds: 10.0, cpu_percent: cost, sentry_cpu_percent: 0.0, api },
            attach_ms: percentiles(cost),
            storm: Storm {
                pods: 500,
                seconds: 10.0,
                lost: 0,
                cpu_percent: cost,
                rss_mib: cost,
                peak_rss_mib: cost,
                attach_ms: percentiles(cost),
                api,
            },
            sentry: Sentry { rss_mib: cost, peak_rss_mib: cost },
        }
    }

    fn scale(sizes: Vec<Size>, releases: Vec<Release>) -> Scale {
        Scale { pod_bytes: 12_700.0, sizes, releases, repeated: 0 }
    }

    fn released(sockets: u32, ms: f64) -> Release {
        let (after_ready_ms, after_open_ms) = (percentiles(ms), percentiles(ms));
        Release {
            sockets,
            pods: 1,
            after_ready_ms,
            after_open_ms,
            ready_spread_ms: 1.0,
            all_ms: ms,
        }
    }

    #[test]
    fn targets_are_kept_to_by_the_usual_size_and_the_most_sockets() {
        let sizes = vec![size(10, 100.0), size(USUAL_PODS, 0.0001)];
        let releases = vec![released(1, 900.0), released(RELEASED_SOCKETS, 200.0)];
        let text = section(&scale(sizes, releases)).text;
        assert_eq!(text.matches(" met |").count(), 9, "{text}");
        let sizes = vec![size(USUAL_PODS, 0.1)];
        let releases = vec![released(RELEASED_SOCKETS, 300.0)];
        let text = section(&scale(sizes, releases)).text;
        assert!(text.contains("missed by 50.0 ms") && text.contains("missed by 20.0 ms"), "{text}");
    }

    #[test]
    fn growth_that_is_worse_than_linear_is_told() {
        let square = |pods: u32| size(pods, f64::from(pods));
        let table = |sizes| growth(&scale(sizes, Vec::new()));
        let linear = table([10, 100, 250].map(|pods| size(pods, 1.0)).to_vec());
        assert!(!linear.contains("worse"), "{linear}");
        assert!(linear.contains("a pod, 10 to 100 | a pod, 100 to 250 |"), "{linear}");
        let worse = table([10, 100, 250].map(square).to_vec());
        assert_eq!(worse.matches("worse than linear").count(), OF_PODS.len() - 1, "{worse}");
    }

    #[test]
    fn what_is_drawn_can_be_drawn() {
        let sizes = [10, 100, 250].map(|pods| size(pods, 1.0)).to_vec();
        let plots = section(&scale(sizes, vec![released(10, 5.0), released(100, 7.0)])).plots;
        assert_eq!(plots.len(), 3);
        for plot in plots {
            plot.svg().unwrap();
        }
    }
}

//! What the sizes and releases say.

use super::{ApiUse, IDLE, RUNS, Release, Scale, Size, Start, USUAL_PODS};
use crate::bench::{
    Axis, Plot, Section, Series,
    growth::exponent,
    stats::Percentiles,
    table::{number, table},
    target::{Target, targets},
};

/// What was promised, beside [`USUAL_PODS`] pods.
const ARMED_AFTER_LIST_MS: f64 = 300.0;
const ATTACH_P99_MS: f64 = 5.0;
const RSS_MIB: f64 = 25.0;
const IDLE_CPU_PERCENT: f64 = 0.2;
const RELEASED_SOCKETS: u32 = 10_000;
const RELEASE_MS: f64 = 250.0;

/// An exponent of a power law up to here is linear: as much as two decades and some noise tell.
const LINEAR: f64 = 1.1;

/// A number of each size, or of each release, and its name.
type Figure<T> = (&'static str, fn(&T) -> f64);

/// What grows with the pods.
const OF_PODS: [Figure<Size>; 8] = [
    ("process start to list, ms", |size| median(size, |start| start.listed_ms)),
    ("list to armed, ms", |size| median(size, |start| start.armed_after_list_ms)),
    ("attach p99, ms", |size| size.attach_ms.p99),
    ("attach p99 in a storm, ms", |size| size.storm.attach_ms.p99),
    ("memory, MiB", |size| size.rss_mib),
    ("idle CPU, % of a core", |size| size.idle.cpu_percent),
    ("CPU in a storm, % of a core", |size| size.storm.cpu_percent),
    ("API bytes of a start", |size| median(size, |start| start.api.received as f64)),
];

/// What grows with the sockets.
const OF_SOCKETS: [Figure<Release>; 3] = [
    ("p50", |release| release.after_ready_ms.p50),
    ("p99", |release| release.after_ready_ms.p99),
    ("all", |release| release.all_ms),
];

pub(super) fn section(scale: &Scale) -> Section {
    let text = format!(
        "One node with so many pods, three processes each, whose gates have been opened; the pods share eight networks, each with one proxy. \
At each size {} agents start, one after another, each on a node without a trace of holdfast; the last one is watched while nothing happens \
for {} s, while {} pods come one after another, and while a storm of pods comes that start, dial, connect and go. *attach* is from the \
moment before a pod's cgroup is made to the moment at which its gate, the last of the programs that hold connects, is seen on it. API bytes are those of bodies, \
uncompressed; a watch that is taken up again every two minutes is no request of so short a time, and this API server sends a bookmark \
every second, a real one every minute. *memory* is resident; what of it is not the program (and its mapped files) is heap and stacks.\n\n\
{}\n{}\n\
### Storm\n\n{}\n\
### Sockets that wait\n\n\
Beside {USUAL_PODS} pods, in pods with at most 250 each, whose proxies become ready at nearly the same moment. *ready* is from a socket's own \
proxy's readiness to its connection, as the application sees it, *gate* from the opening of its gate; *all* from the last proxy's readiness to \
the last connection. The proxies only listen, and are ready by that: one that accepts would take the cores from what is measured. Medians of \
the runs.\n\n{}\n\
### Targets, beside {USUAL_PODS} pods\n\n{}\n\
### Growth\n\n\
The exponent of the power law that fits best: 1 is linear, 0 does not grow. The smallest number is left out with the sockets, whose time \
is the probe's.\n\n{}",
        scale.sizes.first().map_or(RUNS as usize, |size| size.starts.len()),
        IDLE.as_secs(),
        scale.sizes.first().map_or(0, |size| size.attach_ms.count),
        starts(scale),
        sizes(scale),
        storms(scale),
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
        "idle CPU %",
        "idle requests/min",
        "idle KiB/min",
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
            number(storm.cpu_percent),
            number(storm.attach_ms.p50),
            number(storm.attach_ms.p99),
            number(storm.rss_mib),
            number(a_pod(storm.api.requests)),
            number(a_pod(storm.api.sent + storm.api.received) / 1024.0),
        ]
    };
    let rows: Vec<Vec<String>> = scale.sizes.iter().map(row).collect();
    let head = [
        "beside pods",
        "starts/s",
        "CPU %",
        "attach p50 ms",
        "p99",
        "memory MiB",
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
            of(|release| f64::from(release.pods)),
            of(|release| release.after_ready_ms.p50),
            of(|release| release.after_ready_ms.p99),
            of(|release| release.after_open_ms.p50),
            of(|release| release.after_open_ms.p99),
            of(|release| release.all_ms),
        ]
    };
    let rows: Vec<Vec<String>> = all_sockets(scale).into_iter().map(row).collect();
    let head = ["sockets", "pods", "ready p50 ms", "p99", "gate p50 ms", "p99", "all ms"];
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
        of_size("memory", RSS_MIB, |size| size.rss_mib, "MiB"),
        of_size("idle CPU", IDLE_CPU_PERCENT, |size| size.idle.cpu_percent, "%"),
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
    let row = |what: String, points: &[(f64, f64)]| {
        let exponent = exponent(points)?;
        let verdict = if exponent <= LINEAR { "linear or better" } else { "worse than linear" };
        Some(vec![what, format!("{exponent:.2}"), verdict.to_owned()])
    };
    let of_pods = OF_PODS
        .iter()
        .filter_map(|(name, figure)| row(format!("{name}, by pods"), &of_pods(scale, *figure)));
    let of_sockets = OF_SOCKETS.iter().filter_map(|(name, figure)| {
        let points = of_sockets(scale, *figure);
        row(format!("release {name}, by sockets"), points.get(1..)?)
    });
    let rows: Vec<Vec<String>> = of_pods.chain(of_sockets).collect();
    table(&["", "exponent", "growth"], &rows)
}

fn plots(scale: &Scale) -> Vec<Plot> {
    let by_pods = Plot {
        name: "scale-pods".into(),
        title: "What grows with a node's pods".into(),
        x: Axis::log("pods"),
        y: Axis::log("ms, MiB, % of a core"),
        // Bytes are of another size than all others.
        series: OF_PODS[..OF_PODS.len() - 1]
            .iter()
            .map(|(name, figure)| Series { name: (*name).into(), points: of_pods(scale, *figure) })
            .collect(),
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
    let drawn = [(!scale.sizes.is_empty(), by_pods), (!scale.releases.is_empty(), by_sockets)];
    drawn.into_iter().filter_map(|(is_there, plot)| is_there.then_some(plot)).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Idle, *};
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
            idle: Idle { seconds: 10.0, cpu_percent: cost, api },
            attach_ms: percentiles(cost),
            storm: Storm {
                pods: 500,
                seconds: 10.0,
                cpu_percent: cost,
                rss_mib: cost,
                attach_ms: percentiles(cost),
                api,
            },
        }
    }

    fn release(sockets: u32, ms: f64) -> Release {
        let (after_ready_ms, after_open_ms) = (percentiles(ms), percentiles(ms));
        Release { sockets, pods: 1, after_ready_ms, after_open_ms, all_ms: ms }
    }

    #[test]
    fn targets_are_kept_to_by_the_usual_size_and_the_most_sockets() {
        let sizes = vec![size(10, 100.0), size(USUAL_PODS, 0.0001)];
        let releases = vec![release(1, 900.0), release(RELEASED_SOCKETS, 200.0)];
        let text = section(&Scale { sizes, releases }).text;
        assert_eq!(text.matches(" met |").count(), 5, "{text}");
        let sizes = vec![size(USUAL_PODS, 0.1)];
        let releases = vec![release(RELEASED_SOCKETS, 300.0)];
        let text = section(&Scale { sizes, releases }).text;
        assert!(text.contains("missed by 50.0 ms") && text.contains("missed by 20.0 ms"), "{text}");
    }

    #[test]
    fn growth_that_is_worse_than_linear_is_told() {
        let square = |pods: u32| size(pods, f64::from(pods));
        let table = |sizes| growth(&Scale { sizes, releases: Vec::new() });
        let linear = table(vec![size(10, 1.0), size(100, 1.0)]);
        assert!(linear.contains(" 1.00 |") && !linear.contains("worse"), "{linear}");
        let worse = table(vec![square(10), square(100)]);
        assert_eq!(worse.matches("worse than linear").count(), OF_PODS.len() - 1, "{worse}");
    }
}

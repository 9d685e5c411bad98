//! What the starts say.

use anyhow::{Context as _, Result};

use super::{ALONE_CELL, Cell, First, Start, Way};
use crate::bench::{
    Axis, Plot, QuickRatio, Section, Series,
    schedule::STAGGER,
    stats::{Percentiles, Ratio, middle_mean, p99_name},
    table::{number, table},
    target::{self, Target},
};

/// What was promised: from readiness to the connection, in milliseconds, and from the later of
/// application and proxy to the connection.
const AFTER_READY_P50_MS: f64 = 5.0;
const AFTER_READY_P99_MS: f64 = 20.0;
const EXCESS_MS: f64 = 10.0;

/// The cells that are drawn: after readiness, and from the pod's start.
const DRAWN_AFTER_READY: Cell = Cell { ready_ms: 2_000, boot_ms: 0 };
const DRAWN_FROM_START: Cell = Cell { ready_ms: 2_000, boot_ms: 3_000 };

type Figure = fn(&Start) -> f64;

pub(super) fn section(first: &First) -> Section {
    let mut cells: Vec<Cell> =
        first.starts.iter().filter(|start| !start.is_alone).map(|start| start.cell).collect();
    cells.sort_unstable();
    cells.dedup();
    let mut text = summary(first, &cells);
    text += &introduction(first);
    for cell in &cells {
        let Cell { ready_ms, boot_ms } = cell;
        let [ready, boot] = [ready_ms, boot_ms].map(|ms| *ms as f64 / 1e3);
        text += &format!("\n### Proxy ready after {ready} s, application boots {boot} s\n\n");
        text += &cell_table(first, *cell);
    }
    text += "\n### Targets\n\n";
    text += &targets(first, &cells);
    text += &alone(first).unwrap_or_default();
    let plots = [
        plot(
            first,
            DRAWN_AFTER_READY,
            "first-after-ready",
            "From the proxy's readiness to the first connection (proxy ready after 2 s, boot 0 s)",
            Axis::log("ms"),
            Start::after_ready_ms,
        ),
        plot(
            first,
            DRAWN_FROM_START,
            "first-from-start",
            "From the pod's start to the first connection (proxy ready after 2 s, boot 3 s)",
            Axis::log("s"),
            |start| start.connected_ms / 1e3,
        ),
    ];
    Section {
        title: "Time to first connection".into(),
        text,
        plots: plots.into_iter().flatten().collect(),
    }
}

fn introduction(first: &First) -> String {
    let ways: String = Way::ALL
        .iter()
        .map(|way| {
            format!(
                "- **{}**: {}
",
                way.as_str(),
                way.what()
            )
        })
        .collect();
    let total = first.starts.len();
    let figure = |figure: fn(&Start) -> Option<f64>| {
        Percentiles::of(&first.starts.iter().filter_map(figure).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let resolution = figure(|start| Some(start.resolution_ms));
    let handover = figure(|start| start.handover_ms);
    format!(
        "One application, one Envoy that comes late, Istio's iptables rules; {} pods for each way in each cell, {total} in all, shuffled. \
A pod's start is the moment at which its sandbox is there and kubelet starts containers. Readiness is a 200 of \
`/healthz/ready`; an observer in the pod's network namespace, with a real-time priority and no part in any of the ways, asks for it again 0.1 ms after each answer. All ways are \
measured from the observer's last question that was not answered so, which is never too late; its first 200 came {} ms after that (p50; {} {} ms), and \
no number is known better than that (a question that Envoy takes and does not answer yet is part of it). \
A proxy is ready up to half a second earlier or later than its cell says (an eighth of a second where that says 0.5 s), so that loops with fixed \
periods are neither lucky nor unlucky. What waits is a real process in the pod. Where kubelet starts the application after a hook or a probe, the testbed's own start of a \
container is in the numbers: {} ms (p50). Pods overlap: a proxy is started each {} ms, and what takes \
a lot of CPU is done between.\n\n{}\n\n\
*ready* is from the proxy's readiness to the connection, *start* from the pod's start to it. Where the application boots for longer than \
the proxy takes, *ready* is mostly its boot. Of fewer than a hundred pods the slowest is shown (max).{} \
A pod has failed if it came to no connection, or the testbed could not play it.\n",
        first.runs,
        number(resolution.p50),
        p99_name([resolution.count]),
        number(resolution.p99),
        number(handover.p50),
        STAGGER.as_millis(),
        ways.trim_end(),
        if is_any_ahead(first) {
            " A way marked \\* is ahead of the ideal by more than the moment of readiness is known."
        } else {
            ""
        },
    )
}

/// For who decides: all cells at once.
fn summary(first: &First, cells: &[Cell]) -> String {
    let percentiles = |way, figure: Figure, wanted: fn(&&Cell) -> bool| {
        let cells = cells.iter().filter(wanted);
        let samples: Vec<f64> =
            cells.flat_map(|cell| of(first, way, *cell, false, figure)).collect();
        Percentiles::of(&samples)
    };
    let figures = Way::ALL.into_iter().filter_map(|way| {
        // Where the application is there first; elsewhere its boot is in it.
        let ready = percentiles(way, Start::after_ready_ms, |cell| cell.boot_ms == 0)?;
        Some((way, ready, percentiles(way, Start::excess_ms, |_| true)?))
    });
    let figures: Vec<(Way, Percentiles, Percentiles)> = figures.collect();
    let row = |(way, ready, excess): &(Way, Percentiles, Percentiles)| {
        let name = [way.as_str().to_owned()].into_iter();
        name.chain([ready.p50, ready.p99, excess.p50, excess.p99].map(number)).collect()
    };
    let rows: Vec<Vec<String>> = figures.iter().map(row).collect();
    let ready_p99 = p99_name(figures.iter().map(|(_, ready, _)| ready.count));
    let excess_p99 = p99_name(figures.iter().map(|(_, _, excess)| excess.count));
    let head =
        ["way", "after ready, p50 ms", ready_p99, "start over the later, p50 ms", excess_p99];
    format!(
        "What an application waits for its first connection when its proxy is late. *After ready* is from the proxy's readiness to the \
connection, of an application that is there first; *start over the later* is by how much the first connection comes after both application, \
started with the pod, and proxy could have had it, whichever of them takes longer. All cells below together; the ways are explained there.\n\n{}\n\
### How\n\n",
        table(&head, &rows)
    )
}

/// Whether connections of this way came before the ideal's, by more than the moment of readiness is known.
fn is_ahead(first: &First, way: Way, cell: Cell) -> bool {
    let p50 = |way, figure: Figure| {
        Percentiles::of(&of(first, way, cell, false, figure)).map(|samples| samples.p50)
    };
    let ahead = || {
        let resolution = p50(Way::Ideal, |start| start.resolution_ms)?;
        Some(p50(way, Start::excess_ms)? < p50(Way::Ideal, Start::excess_ms)? - resolution)
    };
    ahead().unwrap_or_default()
}

fn is_any_ahead(first: &First) -> bool {
    let ahead = |start: &Start| is_ahead(first, start.way, start.cell);
    let mut seen = Vec::new();
    first.starts.iter().any(|start| {
        let case = (start.way, start.cell);
        let is_new = !seen.contains(&case);
        if is_new {
            seen.push(case);
        }
        is_new && ahead(start)
    })
}

fn of(first: &First, way: Way, cell: Cell, is_alone: bool, figure: Figure) -> Vec<f64> {
    let wanted =
        |start: &&Start| start.way == way && start.cell == cell && start.is_alone == is_alone;
    first.starts.iter().filter(wanted).map(figure).collect()
}

fn cell_table(first: &First, cell: Cell) -> String {
    let ideal = |figure: Figure| of(first, Way::Ideal, cell, false, figure);
    let mut rows = Vec::new();
    let mut counts = Vec::new();
    for way in Way::ALL {
        let mark = if is_ahead(first, way, cell) { " \\*" } else { "" };
        let count = of(first, way, cell, false, |start| start.connected_ms).len();
        let failed = first
            .failures
            .iter()
            .filter(|failure| !failure.is_alone && (failure.way, failure.cell) == (way, cell))
            .count();
        if count + failed == 0 {
            continue;
        }
        let mut row =
            vec![format!("{}{mark}", way.as_str()), count.to_string(), failed.to_string()];
        let figures: [(Figure, f64); 2] =
            [(Start::after_ready_ms, 1.0), (|start| start.connected_ms, 1e3)];
        for (figure, unit) in figures {
            let samples = of(first, way, cell, false, figure);
            let Some(Percentiles { count: _, p50, p90, p99 }) = Percentiles::of(&samples) else {
                row.extend(["-"; 4].map(str::to_owned));
                continue;
            };
            row.extend([p50, p90, p99].map(|figure| number(figure / unit)));
            let ratio = Percentiles::of(&ideal(figure)).map(|ideal| p50 / ideal.p50);
            row.push(ratio.map_or_else(|| "-".into(), number));
        }
        let starts = of(first, way, cell, false, |start| f64::from(start.starts));
        row.push(Percentiles::of(&starts).map_or_else(|| "-".into(), |p| p.p50.to_string()));
        row.push(starts.iter().copied().fold(0.0, f64::max).to_string());
        rows.push(row);
        counts.push(count);
    }
    let p99 = p99_name(counts);
    let head = [
        "way",
        "pods",
        "failed",
        "ready p50 ms",
        "p90",
        p99,
        "to ideal",
        "start p50 s",
        "p90",
        p99,
        "to ideal",
        "starts p50",
        "max",
    ];
    table(&head, &rows)
}

fn targets(first: &First, cells: &[Cell]) -> String {
    let all = |figure: Figure, wanted: &dyn Fn(&Cell) -> bool| -> Vec<f64> {
        let cells = cells.iter().filter(|cell| wanted(cell));
        cells.flat_map(|cell| of(first, Way::Hold, *cell, false, figure)).collect()
    };
    let row = |what: String, target: f64, figure: fn(&Percentiles) -> f64, samples: &[f64]| {
        let percentiles = Percentiles::of(samples)?;
        Some(Target::at_most(what, target, figure(&percentiles), "ms"))
    };
    let mut delays: Vec<u64> = cells.iter().map(|cell| cell.ready_ms).collect();
    delays.dedup();
    let mut all_targets = Vec::new();
    for ready_ms in delays {
        // Where the application is there first; elsewhere nothing is held.
        let held = all(Start::after_ready_ms, &|cell| {
            cell.ready_ms == ready_ms && cell.boot_ms < ready_ms
        });
        let p99 = p99_name([held.len()]);
        let after = ready_ms as f64 / 1e3;
        let what = |name: &str| format!("ready to connected, {name}, proxy ready after {after} s");
        all_targets.push(row(what("p50"), AFTER_READY_P50_MS, |p| p.p50, &held));
        all_targets.push(row(what(p99), AFTER_READY_P99_MS, |p| p.p99, &held));
    }
    let any = all(Start::excess_ms, &|_| true);
    let excess = |name: &str| format!("start over max(application, proxy), {name}");
    all_targets.push(row(excess("p50"), EXCESS_MS, |p| p.p50, &any));
    all_targets.push(row(excess(p99_name([any.len()])), EXCESS_MS, |p| p.p99, &any));
    let all_targets: Vec<Target> = all_targets.into_iter().flatten().collect();
    format!("Of mode hold.\n\n{}", target::targets(&all_targets))
}

/// What the overlap does to the numbers.
fn alone(first: &First) -> Option<String> {
    let ratio = |way| {
        let [together, alone] =
            [false, true].map(|alone| of(first, way, ALONE_CELL, alone, Start::after_ready_ms));
        Ratio::of_medians(&together, &alone).map(|ratio| (ratio, alone.len()))
    };
    let (hold, count) = ratio(Way::Hold)?;
    let (ideal, _) = ratio(Way::Ideal)?;
    Some(format!(
        "\nWhat the overlap does to these numbers: {count} pods one after another, with proxies ready after 0.5 s, give these ratios of *ready* \
p50, overlapping to alone, with 95% intervals: hold {}, ideal {}.\n",
        hold.show(number),
        ideal.show(number)
    ))
}

/// The share of pods that are connected after a time.
fn plot(
    first: &First,
    cell: Cell,
    name: &str,
    title: &str,
    x: Axis,
    figure: Figure,
) -> Option<Plot> {
    let series = |way: Way| {
        let mut samples = of(first, way, cell, false, figure);
        samples.sort_by(f64::total_cmp);
        let count = samples.len() as f64;
        let points =
            samples.into_iter().zip(1..).map(|(x, nth)| (x, 100.0 * f64::from(nth) / count));
        Series { name: way.as_str().into(), points: points.collect() }
    };
    let series: Vec<Series> =
        Way::ALL.into_iter().map(series).filter(|series| !series.points.is_empty()).collect();
    let y = Axis::linear("% of the pods are connected");
    let (name, title) = (name.into(), title.into());
    (!series.is_empty()).then_some(Plot { name, title, x, y, series })
}

/// By the mean of the middle half: with so few pods the median of times that a probe's period
/// spreads evenly is known half as well.
pub(super) fn quick(starts: &[Start]) -> Result<Vec<QuickRatio>> {
    let middle = |way: Way, figure: Figure| {
        let samples: Vec<f64> =
            starts.iter().filter(|start| start.way == way).map(figure).collect();
        middle_mean(&samples).with_context(|| format!("no start of {:?}", way.as_str()))
    };
    let ratio = |figure: Figure| Ok(middle(Way::Hold, figure)? / middle(Way::Ideal, figure)?);
    let after_ready: Result<f64> = ratio(Start::after_ready_ms);
    let from_start = ratio(|start| start.connected_ms)?;
    Ok(vec![
        QuickRatio::lower("ready to connected, hold to ideal", after_ready?),
        QuickRatio::lower("pod start to connected, hold to ideal", from_start),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(way: Way, cell: Cell, is_alone: bool, after_ready_ms: f64) -> Start {
        let ready_ms = cell.ready_ms as f64;
        Start {
            way,
            cell,
            is_alone,
            ready_ms,
            resolution_ms: 0.25,
            handover_ms: None,
            application_ms: cell.boot_ms as f64,
            connected_ms: ready_ms + after_ready_ms,
            starts: 1,
        }
    }

    fn first(hold_ms: f64) -> First {
        let cells = [ALONE_CELL, DRAWN_AFTER_READY];
        let mut starts: Vec<Start> = cells
            .into_iter()
            .flat_map(|cell| {
                [start(Way::Hold, cell, false, hold_ms), start(Way::Ideal, cell, false, 0.5)]
            })
            .collect();
        starts.push(start(Way::Hold, ALONE_CELL, true, 2.0));
        starts.push(start(Way::Ideal, ALONE_CELL, true, 0.5));
        First { runs: 1, starts, failures: Vec::new() }
    }

    #[test]
    fn a_target_is_met_or_missed_by_so_much() {
        let text = section(&first(4.0)).text;
        assert_eq!(text.matches(" met |").count(), 6, "{text}");
        let text = section(&first(12.0)).text;
        assert_eq!(text.matches("missed by 7.00 ms").count(), 2, "{text}");
        assert_eq!(text.matches("missed by 2.00 ms").count(), 2, "{text}");
        assert_eq!(text.matches(" met |").count(), 2, "{text}");
    }

    #[test]
    fn each_cell_has_a_table_with_ratios_to_the_ideal() {
        let section = section(&first(4.0));
        assert!(section.text.contains("### Proxy ready after 0.5 s, application boots 0 s"));
        assert!(section.text.contains("### Proxy ready after 2 s, application boots 0 s"));
        let row = section
            .text
            .lines()
            .find(|line| line.contains("| holdfast, mode hold ") && line.contains("8.00"));
        assert!(row.is_some(), "{}", section.text);
        assert!(!section.text.contains("\\*"), "{}", section.text);
        assert!(section.text.contains("hold 2.00, ideal 1.00"), "{}", section.text);
        let names: Vec<&str> = section.plots.iter().map(|plot| plot.name.as_str()).collect();
        assert_eq!(names, ["first-after-ready"]);
        assert_eq!(section.plots[0].series.len(), 2);
    }

    #[test]
    fn who_decides_finds_all_cells_in_one_table_above_all_others() {
        let mut first = first(4.0);
        // Its application is there long after the proxy: what follows readiness tells nothing of it.
        let boots = Cell { ready_ms: 2_000, boot_ms: 3_000 };
        first.starts.push(start(Way::Hold, boots, false, 1_006.0));
        let text = section(&first).text;
        let row = text.lines().find(|line| line.contains("| holdfast, mode hold ")).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[2..6], ["4.00", "4.00", "4.00", "6.00"], "{text}");
        assert!(text.find("mode hold").unwrap() < text.find("### How").unwrap(), "{text}");
    }

    #[test]
    fn who_is_ahead_of_the_ideal_by_more_than_is_known_of_it_is_marked() {
        let mut first = first(0.3);
        assert!(!section(&first).text.contains("\\*"));
        for start in &mut first.starts {
            start.resolution_ms = 0.1;
        }
        let text = section(&first).text;
        assert_eq!(text.matches("| holdfast, mode hold \\* ").count(), 2, "{text}");
        assert!(text.contains("A way marked \\* is ahead"), "{text}");
    }

    #[test]
    fn a_pod_that_failed_is_counted_beside_those_that_did_not() {
        let mut first = first(4.0);
        let failure = |way, cell| crate::bench::first::Failure {
            way,
            cell,
            is_alone: false,
            error: "why".into(),
        };
        first.failures = vec![failure(Way::Hold, ALONE_CELL), failure(Way::Retry, ALONE_CELL)];
        let text = section(&first).text;
        let row = |name: &str| {
            let table = text.split_once("### Proxy ready after 0.5 s").unwrap().1;
            let line = table.lines().find(|line| line.starts_with(name)).unwrap();
            line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(row("| holdfast, mode hold")[2..5], ["1", "1", "4.00"]);
        assert_eq!(row("| holdfast, mode retry")[2..5], ["0", "1", "-"]);
    }

    #[test]
    fn the_quick_ratios_are_hold_s_to_the_ideal_s() {
        let ratios = quick(&first(2.0).starts).unwrap();
        assert!((ratios[0].value - 4.0).abs() < 1e-9, "{ratios:?}");
        assert!(quick(&[]).is_err());
    }
}

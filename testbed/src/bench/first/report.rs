//! What the starts say.

use anyhow::{Context as _, Result};

use super::{ALONE_CELL, Cell, First, Start, Way};
use crate::bench::{
    Axis, Plot, QuickRatio, Section, Series,
    schedule::STAGGER,
    stats::{Percentiles, Ratio, middle_mean},
    table::{number, table},
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
    let mut text = introduction(first);
    let mut cells: Vec<Cell> =
        first.starts.iter().filter(|start| !start.is_alone).map(|start| start.cell).collect();
    cells.sort_unstable();
    cells.dedup();
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
    format!(
        "One application, one Envoy that comes late, Istio's iptables rules; {} pods for each way in each cell, {total} in all, shuffled. \
A pod's start is the moment at which its sandbox is there and kubelet starts containers; readiness is the first 200 of \
`/healthz/ready`, as a thread in the pod's network namespace sees it that asks every 0.1 ms, or as who waits sees it, whichever is first. \
A proxy is ready up to half a second earlier or later than its cell says, so that loops with fixed periods are neither lucky nor unlucky. \
What waits is a real process in the pod. Pods overlap: a proxy is started each {} ms, and what takes \
a lot of CPU is done between.\n\n{}\n\n\
*ready* is from the proxy's readiness to the connection, *start* from the pod's start to it. Where the application boots for longer than \
the proxy takes, *ready* is mostly its boot. Of fewer than a hundred pods p99 is the slowest.\n",
        first.runs,
        STAGGER.as_millis(),
        ways.trim_end(),
    )
}

fn of(first: &First, way: Way, cell: Cell, is_alone: bool, figure: Figure) -> Vec<f64> {
    let wanted =
        |start: &&Start| start.way == way && start.cell == cell && start.is_alone == is_alone;
    first.starts.iter().filter(wanted).map(figure).collect()
}

fn cell_table(first: &First, cell: Cell) -> String {
    let ideal = |figure: Figure| of(first, Way::Ideal, cell, false, figure);
    let mut rows = Vec::new();
    for way in Way::ALL {
        let mut row = vec![way.as_str().to_owned()];
        let figures: [(Figure, f64); 2] =
            [(Start::after_ready_ms, 1.0), (|start| start.connected_ms, 1e3)];
        for (figure, unit) in figures {
            let samples = of(first, way, cell, false, figure);
            let Some(Percentiles { count: _, p50, p90, p99 }) = Percentiles::of(&samples) else {
                continue;
            };
            row.extend([p50, p90, p99].map(|figure| number(figure / unit)));
            let ratio = Percentiles::of(&ideal(figure)).map(|ideal| p50 / ideal.p50);
            row.push(ratio.map_or_else(|| "-".into(), number));
        }
        let starts = of(first, way, cell, false, |start| f64::from(start.starts));
        row.push(Percentiles::of(&starts).map_or_else(|| "-".into(), |p| format!("{}", p.p50)));
        rows.push(row);
    }
    let head = [
        "way",
        "ready p50 ms",
        "p90",
        "p99",
        "to ideal",
        "start p50 s",
        "p90",
        "p99",
        "to ideal",
        "starts",
    ];
    table(&head, &rows)
}

fn targets(first: &First, cells: &[Cell]) -> String {
    let all = |figure: Figure, wanted: &dyn Fn(&Cell) -> bool| -> Vec<f64> {
        let cells = cells.iter().filter(|cell| wanted(cell));
        cells.flat_map(|cell| of(first, Way::Hold, *cell, false, figure)).collect()
    };
    let any = all(Start::excess_ms, &|_| true);
    let row = |what: String, target: f64, figure: fn(&Percentiles) -> f64, samples: &[f64]| {
        let Some(percentiles) = Percentiles::of(samples) else { return Vec::new() };
        let is = figure(&percentiles);
        let verdict = if is <= target {
            "met".to_owned()
        } else {
            format!("missed by {} ms", number(is - target))
        };
        vec![what, format!("{target} ms"), format!("{} ms", number(is)), verdict]
    };
    let mut delays: Vec<u64> = cells.iter().map(|cell| cell.ready_ms).collect();
    delays.dedup();
    let mut rows: Vec<Vec<String>> = delays
        .into_iter()
        .flat_map(|ready_ms| {
            // Where the application is there first; elsewhere nothing is held.
            let held = all(Start::after_ready_ms, &|cell| {
                cell.ready_ms == ready_ms && cell.boot_ms < ready_ms
            });
            let what = |percentile: &str| {
                let after = ready_ms as f64 / 1e3;
                format!("ready to connected, {percentile}, proxy ready after {after} s")
            };
            [
                row(what("p50"), AFTER_READY_P50_MS, |p| p.p50, &held),
                row(what("p99"), AFTER_READY_P99_MS, |p| p.p99, &held),
            ]
        })
        .collect();
    let excess = |percentile: &str| format!("start over max(application, proxy), {percentile}");
    rows.push(row(excess("p50"), EXCESS_MS, |p| p.p50, &any));
    rows.push(row(excess("p99"), EXCESS_MS, |p| p.p99, &any));
    rows.retain(|row| !row.is_empty());
    table(&["mode hold", "target", "is", ""], &rows)
}

/// What the overlap does to the numbers.
fn alone(first: &First) -> Option<String> {
    let ratio = |way| {
        let [together, alone] =
            [false, true].map(|alone| of(first, way, ALONE_CELL, alone, Start::after_ready_ms));
        Ratio::of_medians(&together, &alone).map(|ratio| (ratio, alone.len()))
    };
    let shown = |ratio: Ratio| {
        format!("{} ({} to {})", number(ratio.median), number(ratio.low), number(ratio.high))
    };
    let (hold, count) = ratio(Way::Hold)?;
    let (ideal, _) = ratio(Way::Ideal)?;
    Some(format!(
        "\nWhat the overlap does to these numbers: {count} pods one after another, with proxies ready after 0.5 s, give these ratios of *ready* \
p50, overlapping to alone, with 95% intervals: hold {}, ideal {}.\n",
        shown(hold),
        shown(ideal)
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
        First { runs: 1, starts }
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
        assert!(section.text.contains("hold 2.00 (2.00 to 2.00), ideal 1.00"), "{}", section.text);
        let names: Vec<&str> = section.plots.iter().map(|plot| plot.name.as_str()).collect();
        assert_eq!(names, ["first-after-ready"]);
        assert_eq!(section.plots[0].series.len(), 2);
    }

    #[test]
    fn the_quick_ratios_are_hold_s_to_the_ideal_s() {
        let ratios = quick(&first(2.0).starts).unwrap();
        assert!((ratios[0].value - 4.0).abs() < 1e-9, "{ratios:?}");
        assert!(quick(&[]).is_err());
    }
}

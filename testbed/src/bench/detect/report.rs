//! What the detections say.

use anyhow::{Context as _, Result};

use super::{Cost, Detect, Detection, READY_S, Source, cost::Proxies};
use crate::bench::{
    Axis, Plot, QuickRatio, Section, Series,
    stats::{Percentiles, p99_name},
    table::{number, table},
};

/// The agent's intervals during the first 2 s, in seconds (`readiness/interval.rs`): while the kernel is to
/// tell of a listener, and while one answers that it is not ready.
const TOLD_INTERVAL_S: f64 = 0.05;
const ASKED_INTERVAL_S: f64 = 0.005;

type Figure = fn(&Detection) -> f64;

pub(super) fn section(detect: &Detect) -> Section {
    let of_probes = detect.detections.iter().filter(|one| one.source == Source::Probe);
    let resolutions: Vec<f64> = of_probes.map(|one| one.resolution_ms).collect();
    let resolution = Percentiles::of(&resolutions).unwrap_or_default();
    let mut text = format!(
        "How a proxy's readiness comes to the agent. *known* is from readiness to the opening of the gate, which follows the news in the same \
task; *released* is from there to the connection. Readiness is measured as for the time to first connection: from the last question of an \
observer that was not answered with ready. Its first answer that was came {} ms later (p50; {} {} ms); *known* is too long by that at most, and never \
too short; *at least* is without it. A question that Envoy takes and does not answer yet is part of it, for the observer and for the agent alike. Of {} pods {} failed. `probe` is the agent's own look from inside the pod's network namespace: \
at once when the kernel tells that somebody begins to listen at the proxy's ports, and then after 1 ms and after each eighth of the time that has passed \
since. While somebody listens and is not ready it is each 5 ms at first and the less often the longer somebody waits (a 400th of the wait, 50 ms at most); \
while nobody listens, each 50 ms. `kube` is kubelet's word, from the \
moment at which the API server has it; kubelet's own lateness (its probe's period) comes on top. What the kernel's word has gained over looking alone \
stands in [performance.md](performance.md).\n\n",
        number(resolution.p50),
        p99_name([resolution.count]),
        number(resolution.p99),
        detect.detections.len() + detect.failed,
        detect.failed,
    );
    text += &detections(detect);
    text += "\n### What asking costs\n\n\
For a pod that waits, from its connect on; the agent's processor time is its cgroup's, without what it takes when nobody waits. While nobody \
listens on the proxy's port a round is a question to the kernel alone (sock_diag); a request is sent only to who listens.\n\n";
    text += &costs(&detect.costs);
    Section { title: "Detection".into(), text, plots: plot(detect).into_iter().collect() }
}

fn of(detect: &Detect, source: Source, ready_after_s: f64, figure: Figure) -> Vec<f64> {
    let wanted = |one: &&Detection| {
        one.source == source && one.ready_after_s.total_cmp(&ready_after_s).is_eq()
    };
    detect.detections.iter().filter(wanted).map(figure).collect()
}

fn detections(detect: &Detect) -> String {
    let mut kinds: Vec<(Source, f64)> =
        detect.detections.iter().map(|one| (one.source, one.ready_after_s)).collect();
    kinds.sort_by(|a, b| {
        (a.0 == Source::Kube).cmp(&(b.0 == Source::Kube)).then(a.1.total_cmp(&b.1))
    });
    kinds.dedup();
    let counts: Vec<usize> = kinds
        .iter()
        .map(|(source, ready)| of(detect, *source, *ready, |one| one.known_ms).len())
        .collect();
    let p99 = p99_name(counts);
    let rows: Vec<Vec<String>> = kinds
        .into_iter()
        .filter_map(|(source, ready)| {
            let figure = |figure| Percentiles::of(&of(detect, source, ready, figure));
            let known = figure(|one| one.known_ms)?;
            let released = figure(|one| one.released_ms)?;
            let total = figure(|one| one.known_ms + one.released_ms)?;
            let what = format!("{}, ready after {ready} s", source.as_str());
            let mut row = vec![what, known.count.to_string()];
            let at_least = figure(|one| (one.known_ms - one.resolution_ms).max(0.0))?;
            row.extend([known.p50, known.p90, known.p99].map(number));
            row.push(number(at_least.p50));
            row.extend([released.p50, released.p99].map(number));
            row.push(format!("{:.0}%", 100.0 * known.p50 / total.p50));
            Some(row)
        })
        .collect();
    let head = [
        "source",
        "pods",
        "known p50 ms",
        "p90",
        p99,
        "at least, p50",
        "released p50 ms",
        p99,
        "known, of both",
    ];
    table(&head, &rows)
}

fn costs(costs: &[Cost]) -> String {
    let rows: Vec<Vec<String>> = costs
        .iter()
        .map(|cost| {
            let Cost { proxies, until_s, rounds, requests, cpu_ms } = cost;
            let what = match proxies {
                Proxies::Absent => "nobody listens",
                Proxies::NotReady => "answers \"not ready\"",
            };
            vec![
                format!("{what}, {until_s} s"),
                number(*rounds),
                number(*requests),
                number(*cpu_ms),
                format!("{}%", number(100.0 * cpu_ms / (1e3 * until_s))),
                number(1e3 * cpu_ms / rounds),
            ]
        })
        .collect();
    let head = ["a proxy that", "rounds", "requests", "CPU ms", "of a core", "us a round"];
    table(&head, &rows)
}

fn plot(detect: &Detect) -> Option<Plot> {
    let counts = READY_S.map(|ready| of(detect, Source::Probe, ready, |one| one.known_ms).len());
    let p99 = p99_name(counts.into_iter().filter(|count| *count > 0));
    let series = |name: String, figure: Figure, of_percentiles: fn(&Percentiles) -> f64| {
        let point = |ready: f64| {
            let percentiles = Percentiles::of(&of(detect, Source::Probe, ready, figure))?;
            Some((ready, of_percentiles(&percentiles)))
        };
        Series { name, points: READY_S.into_iter().filter_map(point).collect() }
    };
    let series = vec![
        series("known, p50".into(), |one| one.known_ms, |p| p.p50),
        series(format!("known, {p99}"), |one| one.known_ms, |p| p.p99),
        series("released, p50".into(), |one| one.released_ms, |p| p.p50),
        series(format!("released, {p99}"), |one| one.released_ms, |p| p.p99),
    ];
    series.iter().any(|series| !series.points.is_empty()).then(|| Plot {
        name: "detect-known".into(),
        title: "From readiness to the agent's knowing, and from there to the connection".into(),
        x: Axis::log("proxy ready after, s"),
        y: Axis::log("ms"),
        series,
    })
}

/// How often the agent asks does not depend on the machine, as long as that keeps up.
pub(super) fn quick(costs: &[Cost]) -> Result<Vec<QuickRatio>> {
    let ratio = |proxies: Proxies, interval_s: f64, name: &str| -> Result<QuickRatio> {
        let cost = costs.iter().find(|cost| cost.proxies == proxies).context("no cost")?;
        Ok(QuickRatio::lower(name, cost.rounds / (cost.until_s / interval_s)))
    };
    Ok(vec![
        ratio(Proxies::Absent, TOLD_INTERVAL_S, "probe rounds to one each 50 ms, nobody listens")?,
        ratio(Proxies::NotReady, ASKED_INTERVAL_S, "probe rounds to one each 5 ms, not ready")?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect() -> Detect {
        let detection = |source, known_ms| Detection {
            source,
            ready_after_s: 2.0,
            known_ms,
            resolution_ms: 0.25,
            released_ms: 1.0,
        };
        let cost = |proxies, rounds, requests| Cost {
            proxies,
            until_s: 2.0,
            rounds,
            requests,
            cpu_ms: 20.0,
        };
        Detect {
            detections: vec![detection(Source::Kube, 4.0), detection(Source::Probe, 3.0)],
            failed: 1,
            costs: vec![cost(Proxies::Absent, 40.0, 0.0), cost(Proxies::NotReady, 200.0, 200.0)],
        }
    }

    #[test]
    fn the_share_of_knowing_and_the_cost_of_a_round_are_told() {
        let Section { title: _, text, plots } = section(&detect());
        let row = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
            line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(row("| probe, ready after 2 s")[9], "75%", "{text}");
        assert_eq!(row("| kube, ready after 2 s")[9], "80%", "{text}");
        assert_eq!(row("| probe, ready after 2 s")[6], "2.75", "{text}");
        assert!(text.contains("0.250 ms later") && text.contains("Of 3 pods 1 failed"), "{text}");
        assert_eq!(row("| nobody listens, 2 s")[2..7], ["40.0", "0", "20.0", "1.00%", "500"]);
        assert_eq!(row("| answers")[6], "100", "{text}");
        assert_eq!(plots.len(), 1);
        assert!(plots[0].svg().is_ok());
    }

    #[test]
    fn rounds_are_compared_with_the_agent_s_own_interval() {
        let ratios = quick(&detect().costs).unwrap();
        assert!((ratios[0].value - 1.0).abs() < 1e-9 && (ratios[1].value - 0.5).abs() < 1e-9);
        assert!(quick(&[]).is_err());
    }
}

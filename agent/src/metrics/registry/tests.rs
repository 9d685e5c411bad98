//! What is said of the metrics is what is scraped.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    core::{NodeReport, PodRef, PodUid, Stamp, Totals, WatchReport, Watched},
    metrics::{
        EventReading, MapReading, PodMetrics, ProcessReading, ReplayReading, fixtures::node_report,
    },
};

fn full() -> Reading {
    let second = std::time::Duration::from_secs(1);
    let stamp = |seconds: u32| Stamp::new(seconds * second);
    Reading {
        node: NodeReport {
            at: stamp(100),
            kernel: "6.1.0\"".to_owned(),
            state: AgentState::Working,
            pods: BTreeMap::from([(PodState::Closed, 1)]),
            held: 3,
            totals: Totals { lost_reports: 4, ..Totals::default() },
            watches: vec![
                WatchReport {
                    resource: Watched::Pods,
                    heard_at: Some(stamp(70)),
                    lists: 1,
                    errors: 2,
                },
                WatchReport { resource: Watched::Namespaces, heard_at: None, lists: 0, errors: 3 },
            ],
            ..node_report()
        },
        waiting: Some(vec![(PodRef::new(PodUid::new("1-2"), None), 3)]),
        maps: Some(MapReading {
            dropped: 17,
            sockets: Filled { used: 3, max: 65_536 },
            datagrams: Filled { used: 0, max: 65_536 },
        }),
        probes: vec![("ready", 1), ("timeout", 5)],
        replays: ReplayReading { sent: 6, failed: 7 },
        events: EventReading { published: 8, dropped: 9, failed: 10 },
        log_lines_dropped: 11,
        stream_entries_lost: 12,
        process: Some(ProcessReading {
            cpu: second / 4,
            started_at: 1000 * second,
            resident: 1 << 24,
            virtual_memory: 1 << 30,
            threads: 4,
            open_fds: 20,
            max_fds: Some(1024),
        }),
    }
}

/// One line of each kind that makes series.
fn touched() -> Counts {
    use crate::core::{Line, Noted};
    let counts = Counts::new(PodMetrics::On);
    let name = crate::core::PodName::new("shop", "cart");
    let pod = PodRef::new(PodUid::new("1-2"), Some(name));
    let line = Line::GateInherited { reason: None, held: 1 };
    counts.record(&pod, &line, &Noted::default());
    counts
}

fn value(text: &str, series: &str) -> Option<f64> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    values.next().map(|value| value.parse().unwrap())
}

#[test]
fn a_scrape_says_what_was_read() {
    let text = render(&touched(), &full(), Format::Classic);
    for (series, expected) in [
        ("holdfast_kernel_info{release=\"6.1.0\\\"\"}", 1.0),
        ("holdfast_agent_state{state=\"working\"}", 1.0),
        ("holdfast_agent_state{state=\"stuck\"}", 0.0),
        ("holdfast_armed", 1.0),
        ("holdfast_pods{state=\"closed\"}", 1.0),
        ("holdfast_pods{state=\"guarded\"}", 0.0),
        ("holdfast_held_connects", 3.0),
        ("holdfast_probe_rounds_total{result=\"timeout\"}", 5.0),
        ("holdfast_replays_sent_total", 6.0),
        ("holdfast_replays_failed_total", 7.0),
        ("holdfast_kernel_reports_lost_total", 4.0),
        ("holdfast_kubernetes_events_published_total", 8.0),
        ("holdfast_kubernetes_events_dropped_total", 9.0),
        ("holdfast_kubernetes_events_failed_total", 10.0),
        ("holdfast_log_lines_dropped_total", 11.0),
        ("holdfast_stream_entries_lost_total", 12.0),
        ("holdfast_watch_age_seconds{resource=\"pods\"}", 30.0),
        ("holdfast_watch_errors_total{resource=\"namespaces\"}", 3.0),
        ("holdfast_watch_lists_total{resource=\"pods\"}", 1.0),
        ("holdfast_map_entries{map=\"sockets\"}", 3.0),
        ("holdfast_map_max_entries{map=\"sockets\"}", 65_536.0),
        ("holdfast_dropped_packets_total", 17.0),
        ("holdfast_pod_held_connects{namespace=\"\",pod=\"\",uid=\"1-2\"}", 3.0),
        ("process_cpu_seconds_total", 0.25),
        ("process_start_time_seconds", 1000.0),
        ("process_resident_memory_bytes", 16_777_216.0),
        ("process_max_fds", 1024.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}\n{text}");
    }
    // Nothing has been heard of it yet.
    assert_eq!(value(&text, "holdfast_watch_age_seconds{resource=\"namespaces\"}"), None);
}

#[test]
fn what_is_not_known_is_not_told() {
    let full = full();
    let stuck = Reading {
        node: NodeReport { state: AgentState::Stuck, ..full.node },
        waiting: None,
        maps: None,
        ..full
    };
    let text = render(&touched(), &stuck, Format::Classic);
    assert_eq!(value(&text, "holdfast_agent_state{state=\"stuck\"}"), Some(1.0));
    assert_eq!(value(&text, "holdfast_armed"), Some(0.0));
    assert_eq!(value(&text, "holdfast_connects_held_total{namespace=\"shop\"}"), Some(1.0));
    // A counter that fell to 0 would be taken for one that began anew.
    for metric in ["holdfast_pods", "holdfast_held_connects", "holdfast_map_", "holdfast_dropped_"]
    {
        assert!(!text.contains(metric), "{metric}");
    }
}

#[test]
fn every_metric_is_described_as_it_is_scraped() {
    let text = render(&touched(), &full(), Format::OpenMetrics);
    assert!(text.ends_with("# EOF\n"));
    let mut kinds = BTreeMap::new();
    let mut units = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                kinds.insert(format!("{name}{}", expose::suffix(kind)), kind.to_owned());
            }
            (Some("#"), Some("UNIT"), Some(name), Some(unit)) => {
                units.insert(name.to_owned(), unit.to_owned());
            }
            _ => {}
        }
    }
    let described = descriptions();
    let names: BTreeSet<&String> = described.iter().map(|one| &one.name).collect();
    assert_eq!(names.len(), described.len(), "one of them is there twice");
    for Description { name, kind, unit, labels, help } in &described {
        assert!(name.starts_with("holdfast_") || name.starts_with("process_"), "{name}");
        assert!(!help.ends_with('.'), "the format puts a full stop behind it: {help}");
        // Refused and observed connects make their series when there are any.
        let Some(scraped) = kinds.remove(name) else {
            assert!(["refused", "observed"].iter().any(|word| name.contains(word)), "{name}");
            continue;
        };
        assert_eq!(&scraped, kind, "{name}");
        let stem = name.strip_suffix(expose::suffix(kind)).unwrap();
        assert_eq!(units.get(stem), unit.as_ref(), "{name}");
        let series = text.lines().find(|line| {
            let rest =
                line.strip_prefix(&**name).map(|rest| rest.strip_prefix("_sum").unwrap_or(rest));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let series = series.unwrap_or_else(|| panic!("{name} has no series"));
        let found: Vec<&str> = series
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(labels, _)| labels.split(',').map(|label| label.split('=').next().unwrap()))
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(&found, labels, "{series}");
    }
    assert!(kinds.is_empty(), "not described: {kinds:?}");
}

use std::{net::SocketAddr, time::Duration};

use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::{
    command::table::WIDTH,
    core::{FirstConnect, Origin, Stamp, Workload},
};

fn facts(namespace: &str, name: &str, failed: u64, enabled_by: Option<Origin>) -> WorkloadFacts {
    let destination: SocketAddr = "10.96.0.10:8080".parse().unwrap();
    let (container, comm) = (Some("app".to_owned()), "curl".to_owned());
    WorkloadFacts {
        namespace: namespace.to_owned(),
        workload: Workload::new("Deployment", name),
        enabled_by,
        tally: Tally {
            starts: 3,
            starts_with_failures: u64::from(failed > 0),
            failed,
            ..Tally::default()
        },
        first: Some(FirstConnect { destination, container, comm, at: Stamp::default() }),
        ready_after: Some(Duration::from_millis(3_090)),
        ready_after_max: Some(Duration::from_millis(3_090)),
        last_seen: Stamp::default(),
    }
}

fn report(observe: bool, workloads: Vec<WorkloadFacts>) -> ObservedReport {
    let at = Stamp::new(Duration::from_secs(1_700_003_600));
    let since = Stamp::new(Duration::from_secs(1_700_000_000));
    ObservedReport { at, since, node: "node-1".to_owned(), observe, workloads }
}

fn shown(observe: bool, workloads: Vec<WorkloadFacts>) -> String {
    table(&report(observe, workloads), Style::PLAIN)
}

#[test]
fn the_worst_come_first_and_the_last_line_is_the_command_that_helps() {
    let mut saved = facts("bank", "ledger", 0, Some(Origin::Namespace));
    saved.tally.saved = 4;
    let text =
        shown(true, vec![saved, facts("shop", "cart", 2, None), facts("shop", "web", 5, None)]);
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(at("Deployment/web") < at("Deployment/cart"), "{text}");
    assert!(at("Deployment/cart") < at("Deployment/ledger"), "{text}");
    assert!(text.contains("10.96.0.10:8080") && text.contains("3.09 s"), "{text}");
    assert!(text.contains("Node node-1, since the agent was started 1h ago."), "{text}");
    assert!(
        text.ends_with("\n  kubectl label namespace shop holdfast.dev/hold=enabled\n"),
        "{text}"
    );
    let first = "\
NAMESPACE  WORKLOAD           STARTS  FAILED-CONNECTS  FIRST-DESTINATION  READY-AFTER  ENABLED?
shop       Deployment/web     3       5 in 1 start     10.96.0.10:8080    3.09 s       no
";
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("yes, 4 saved"), "{text}");
    assert!(text.contains("7 connects of namespace shop would have waited"), "{text}");
    assert!(!text.contains("disabled"), "{text}");
    assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
}

#[test]
fn nothing_to_report_is_said_and_how_to_have_more() {
    let text = shown(false, Vec::new());
    assert!(text.starts_with("Nothing to report of node node-1 yet"), "{text}");
    assert!(text.contains("observe is disabled"), "{text}");
    assert!(text.contains("--set config.observe=enabled"), "{text}");
    assert!(text.contains("HOLDFAST_OBSERVE=enabled"), "{text}");
    assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
    let text = shown(true, Vec::new());
    assert!(text.contains("no pod that is observed"), "{text}");
    assert!(!text.contains("config.observe"), "{text}");
}

#[test]
fn where_nothing_failed_nothing_is_advised() {
    let text = shown(true, vec![facts("shop", "cart", 0, None)]);
    assert!(
        text.ends_with(
            "No connect of a pod that nobody enabled has failed for want of its proxy.\n"
        )
    );
    let text = shown(true, vec![facts("shop", "cart", 3, Some(Origin::Pod))]);
    assert!(!text.contains("kubectl"), "{text}");
}

#[test]
fn whatever_somebody_calls_his_things_the_table_holds() {
    let mut wild = facts("shop\x1b[31m", &"very-long-name-".repeat(8), 1_000_000, None);
    wild.ready_after_max = Some(Duration::from_secs(4000));
    wild.first.as_mut().unwrap().destination =
        "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
    let text = shown(true, vec![wild]);
    assert!(!text.contains('\x1b'), "{text:?}");
    assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
    assert!(text.contains("(≤ 1h 6m 40s)"), "{text}");
}

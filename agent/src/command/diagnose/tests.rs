use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::{
    command::table::WIDTH,
    core::{Exemption, Finding, PodRef, PodReport, PodState, PodUid, WatchRefusal, Workload},
};

fn diagnosis(refusal: Option<WatchRefusal>) -> Diagnosis {
    let uid = PodUid::new("0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11");
    let name = Some(PodName::new("shop", "cart-7d9f"));
    let workload = Some(Workload::new("Deployment", "cart\x1b[2J"));
    let pod = PodRef { uid, name, workload };
    let mut pod = PodReport::new(pod, PodState::Exempt, Stamp::default());
    pod.exemption = Some(Exemption::NotEnabled);
    let finding = Finding::NobodyListens { ports: vec![15001] };
    Diagnosis::new(pod, Some(finding), None, false, refusal)
}

fn facts(tally: Tally) -> WorkloadFacts {
    WorkloadFacts {
        namespace: "shop".to_owned(),
        workload: Workload::new("Deployment", "cart\x1b[2J"),
        enabled_by: None,
        tally,
        first: None,
        ready_after: Some(Duration::from_secs(9)),
        ready_after_max: Some(Duration::from_secs(9)),
        last_seen: Stamp::default(),
    }
}

#[test]
fn it_fits_and_nothing_of_it_acts_on_a_terminal() {
    for refusal in [None, Some(WatchRefusal::NoProxy), Some(WatchRefusal::Enabled)] {
        let diagnosis = diagnosis(refusal);
        let text = text(&diagnosis, Stamp::default(), Style::PLAIN);
        assert!(text.starts_with("shop/cart-7d9f\n"), "{text}");
        assert!(text.contains("nobody listens on port 15001"), "{text}");
        let all = [text, begins(&diagnosis, Duration::from_secs(600))].concat();
        assert!(!all.contains('\x1b'), "{all:?}");
        assert!(all.lines().all(|line| line.width() <= WIDTH), "{all}");
    }
}

#[test]
fn who_may_be_observed_is_told_how() {
    let text = |refusal| text(&diagnosis(refusal), Stamp::default(), Style::PLAIN);
    assert!(text(None).contains("holdfast diagnose shop/cart-7d9f --for 10m"));
    assert!(!text(Some(WatchRefusal::Disabled)).contains("--for"));
}

#[test]
fn the_end_tells_what_was_seen_since_the_beginning_alone() {
    let diagnosis = diagnosis(None);
    let before = facts(Tally { starts: 4, starts_with_failures: 4, failed: 9, ..Tally::default() });
    assert_eq!(
        ends(&diagnosis, Some(&before), Some(&before)),
        "No start of Deployment/cart\\u{1b}[2J of namespace shop was seen.\n"
    );
    assert_eq!(ends(&diagnosis, None, None), ends(&diagnosis, Some(&before), Some(&before)));
    let after = facts(Tally { starts: 5, starts_with_failures: 5, failed: 11, ..Tally::default() });
    let told = ends(&diagnosis, Some(&before), Some(&after));
    assert_eq!(
        told,
        "1 start of Deployment/cart\\u{1b}[2J seen; in 1 of them 2 connections failed because \
         nobody was there\nto take it. The proxy was ready 9.00 s after the first one.\n"
    );
    let idle = facts(Tally { starts: 5, ..before.tally });
    let told = ends(&diagnosis, Some(&before), Some(&idle));
    assert!(told.replace('\n', " ").trim().ends_with("1 start of Deployment/cart\\u{1b}[2J seen, and no connection failed for want of a proxy."), "{told}");
}

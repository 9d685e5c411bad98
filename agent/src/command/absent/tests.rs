use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::command::table::WIDTH;

fn at(seconds: u64) -> Stamp {
    Stamp::new(Duration::from_secs(1_700_000_000 + seconds))
}

fn report() -> AbsentReport {
    AbsentReport {
        at: at(42),
        state: Presence::Absent,
        agent_pid: None,
        agent_pod: Some(PodUid::new("0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11")),
        gates: 1,
        sentry: SentryReport {
            posted: true,
            since: Some(at(0)),
            until: Some(at(600)),
            held: 2,
            error: None,
        },
    }
}

#[test]
fn without_an_agent_it_is_told_who_minds_the_pods_and_for_how_long() {
    let expected = "\
holdfast  NOT healthy: no agent works on this node
agent     the last was that of the pod with uid 0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11
gates     of 1 pod stand, each as it is until its deadline at most
sentry    posted for 42s, and 9m 18s more at most: what pods that start dial at a proxy's port waits
          while nobody listens there
so far    2 connections held by it
mend      whatever keeps the agent from working here: its last words say it, kubectl -n holdfast
          logs POD -c agent --previous
";
    assert_eq!(text(&report(), Style::PLAIN), expected);
}

#[test]
fn each_way_in_which_pods_are_not_minded_is_told() {
    let sentry = |change: fn(&mut SentryReport)| {
        let mut report = report();
        change(&mut report.sentry);
        text(&report, Style::PLAIN)
    };
    let over = sentry(|sentry| (sentry.posted, sentry.until) = (false, Some(at(42))));
    assert!(over.contains("its time is up: pods that start are NOT held"), "{over}");
    let none = sentry(|sentry| *sentry = SentryReport::default());
    assert!(none.contains("sentry    NOT posted: pods that start are not held"), "{none}");
    let other = sentry(|sentry| sentry.until = None);
    assert!(other.contains("sentry    one of another version is posted\n"), "{other}");
    let unknown = sentry(|sentry| sentry.error = Some("Operation not permitted".to_owned()));
    assert!(unknown.contains("it cannot be looked at: Operation not permitted"), "{unknown}");
    for shown in [over, none, other, unknown] {
        assert!(shown.lines().all(|line| line.width() <= WIDTH), "{shown}");
    }
}

#[test]
fn an_agent_that_is_there_is_named() {
    let there = AbsentReport { agent_pid: Some(4711), ..report() };
    let starting = text(&AbsentReport { state: Presence::Starting, ..there.clone() }, Style::PLAIN);
    assert!(starting.contains("an agent has begun and is not armed yet"), "{starting}");
    assert!(starting.contains("agent     process 4711 of the pod with uid 0e2f3a44"), "{starting}");
    let sentry = SentryReport::default();
    let working = text(&AbsentReport { state: Presence::Working, sentry, ..there }, Style::PLAIN);
    assert!(working.contains("-c agent -- holdfast status"), "{working}");
    assert!(working.contains("not posted: the agent minds the pods that start"), "{working}");
    assert!(!working.contains("NOT"), "{working}");
}

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::*;
use crate::core::{Caller, HeldConnect, Mode, Origin, Outcome, PodName, SocketCookie, Stamp};

fn at(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000_000)
}

fn pod(number: u32) -> PodRef {
    let uid = PodUid::new(&format!("{number:08}-9d5c-4a53-9b1e-7a1f0c3d2e11"));
    PodRef::new(uid, Some(PodName::new("shop", &format!("cart-{number}"))))
}

fn connect(cookie: u64, called_ms: u64, port: u16) -> HeldConnect {
    HeldConnect {
        cookie: SocketCookie(cookie),
        container: Some("app".to_owned()),
        by_sentry: false,
        caller: Caller {
            container: None,
            pid: Some(7),
            uid: 0,
            comm: "curl".to_owned(),
            destination: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port)),
            connect_at: at(called_ms),
            query: None,
        },
    }
}

fn closed(ms: u64, reason: CloseReason, known: bool) -> Line {
    Line::GateClosed {
        at: at(ms),
        reason,
        profile: "istio".to_owned(),
        proxy: "istio-proxy".to_owned(),
        mode: Mode::Hold,
        enabled_by: known.then_some(Origin::Namespace),
        observes: false,
        timeout: Duration::from_secs(60),
    }
}

fn opened(ms: u64, reason: OpenReason) -> Line {
    Line::GateOpened { at: at(ms), reason, held: 0, finding: None }
}

fn started(ms: u64, container: &str) -> Line {
    let (container, is_proxy) = (container.to_owned(), container == "istio-proxy");
    Line::ContainerStarted { container, role: None, is_proxy, at: at(ms) }
}

fn released(connect: HeldConnect, waited_ms: u64, outcome: Outcome) -> Line {
    Line::Released { connect, waited: Duration::from_millis(waited_ms), outcome }
}

/// A history that has been told these lines of one pod, at these instants.
fn told(lines: &[(u64, Line)]) -> (History, Vec<Noted>) {
    let mut history = History::new(Epoch::default());
    let noted = lines.iter().map(|(ms, line)| history.record(&pod(1), line, at(*ms))).collect();
    (history, noted)
}

#[test]
fn a_start_is_one_episode_from_the_closing_to_the_detaching() {
    let (history, noted) = told(&[
        (0, closed(0, CloseReason::Start, true)),
        (100, started(90, "app")),
        (110, Line::Held(connect(1, 105, 80))),
        (111, Line::Held(connect(2, 106, 80))),
        (200, started(200, "istio-proxy")),
        (4_390, opened(4_390, OpenReason::ProbeReady)),
        (4_391, released(connect(1, 105, 80), 4_286, Outcome::Connected)),
        (4_392, released(connect(2, 106, 80), 4_286, Outcome::Refused)),
        (4_393, Line::GateDetached),
    ]);
    let episode = history.episodes().next().unwrap();
    assert_eq!((episode.held, episode.touched(), episode.unnamed()), (2, 2, 0));
    assert_eq!(episode.ready_after(), Some(Duration::from_millis(4_190)));
    assert_eq!(episode.longest, Duration::from_millis(4_286));
    assert_eq!(episode.ended_as(Outcome::Connected), 1);
    assert_eq!(episode.ended_as(Outcome::Refused), 1);
    assert_eq!(episode.connects[0].outcome, Some(Outcome::Connected));
    assert_eq!(episode.connects[1].ended_at, Some(Stamp::new(Duration::from_millis(4_392))));
    assert_eq!(episode.first_connect_at, Some(Stamp::new(Duration::from_millis(105))));
    let now = Stamp::new(Duration::from_secs(60));
    let (start, end) = episode.span(now);
    assert_eq!((start.as_micros(), end.as_micros()), (0, 4_393_000));
    assert_eq!(history.episodes().count(), 1);
    let firsts: Vec<bool> = noted.iter().map(|noted| noted.first).collect();
    assert_eq!(firsts.iter().position(|first| *first), Some(2));
    assert_eq!(firsts.iter().filter(|first| **first).count(), 1);
    assert_eq!(noted.last().unwrap().ended.as_deref(), Some(episode));
}

#[test]
fn what_began_at_the_sentry_counts_from_there() {
    let before = HeldConnect { by_sentry: true, ..connect(1, 200, 80) };
    let lines = [
        (10_000, closed(10_000, CloseReason::NotReady, true)),
        // It has run before: that is only when it was found.
        (10_003, started(10_003, "istio-proxy")),
        (10_100, Line::Held(before.clone())),
        (10_200, Line::Held(connect(2, 10_200, 80))),
        (25_800, opened(25_800, OpenReason::ProbeReady)),
        (25_810, released(before, 25_610, Outcome::Connected)),
        (25_811, released(connect(2, 10_200, 80), 15_611, Outcome::Connected)),
        (25_812, Line::GateDetached),
    ];
    let (history, _) = told(&lines);
    let episode = history.episodes().next().unwrap();
    assert_eq!((episode.held, episode.by_sentry), (2, 1));
    assert_eq!(episode.began_at_sentry(), Some(Stamp::new(Duration::from_millis(200))));
    assert_eq!(episode.ready_after(), Some(Duration::from_millis(25_600)));
    assert!(
        episode.longest >= episode.ready_after().unwrap(),
        "it waited until the proxy was ready"
    );
    assert_eq!(
        episode.in_words(),
        "istio-proxy was not ready when the agent came; 2 connections waited, the longest for 25.6 s; \
         1 of them at the sentry until the agent came; istio-proxy was ready 25.6 s after the first of \
         them; all of them went through"
    );
}

#[test]
fn a_pod_that_turns_out_not_to_be_enabled_is_quiet_and_forgotten() {
    let (history, noted) = told(&[
        (0, closed(0, CloseReason::Start, false)),
        (5, opened(5, OpenReason::Exempt(Exemption::NotEnabled))),
        (35, Line::GateDetached),
    ]);
    assert!(noted.iter().all(|noted| noted.quiet));
    assert_eq!(history.episodes().count(), 0);
    assert!(history.running(&pod(1).uid).is_none());
}

#[test]
fn a_pod_that_turns_out_to_be_enabled_is_one_episode_and_told() {
    let (history, noted) = told(&[
        (0, closed(0, CloseReason::Start, false)),
        (
            1,
            Line::ContainerStarted {
                container: "istio-proxy".to_owned(),
                role: None,
                is_proxy: false,
                at: at(1),
            },
        ),
        (5, closed(0, CloseReason::Start, true)),
    ]);
    assert_eq!(noted.iter().map(|noted| noted.quiet).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(history.episodes().count(), 1);
    assert_eq!(history.running(&pod(1).uid).unwrap().enabled_by, Some(Origin::Namespace));
    let containers = &history.running(&pod(1).uid).unwrap().containers;
    assert!(containers[0].is_proxy, "as was not known when it was told");
}

#[test]
fn a_gate_that_closes_again_begins_another_episode() {
    let (history, _) = told(&[
        (0, closed(0, CloseReason::Start, true)),
        (10, opened(10, OpenReason::KubeReady)),
        (20, closed(20, CloseReason::ProxyDied, true)),
    ]);
    let reasons: Vec<_> = history.episodes().map(|episode| episode.reason).collect();
    assert_eq!(reasons, [Some(CloseReason::ProxyDied), Some(CloseReason::Start)]);
    assert!(history.episodes().last().unwrap().ended_at.is_some());
}

#[test]
fn a_connect_before_the_closing_that_it_causes_belongs_to_it() {
    let (history, _) = told(&[
        (0, closed(0, CloseReason::Start, true)),
        (10, opened(10, OpenReason::ProbeReady)),
        (15, Line::GateGuards),
        (50, Line::Held(connect(1, 49, 80))),
        (51, closed(51, CloseReason::NobodyListens, true)),
    ]);
    let episode = history.running(&pod(1).uid).unwrap();
    assert_eq!((episode.held, episode.reason), (1, Some(CloseReason::NobodyListens)));
    assert_eq!(history.episodes().count(), 2);
}

#[test]
fn what_is_read_after_the_end_belongs_to_what_has_ended() {
    let (history, _) = told(&[
        (0, closed(0, CloseReason::Start, true)),
        (10, opened(10, OpenReason::ProbeReady)),
        (15, Line::GateDetached),
        (20, Line::Held(connect(1, 9, 80))),
        (20, released(connect(1, 9, 80), 11, Outcome::StillConnecting)),
    ]);
    let episode = history.episodes().next().unwrap();
    assert_eq!((episode.held, episode.ended_as(Outcome::StillConnecting)), (1, 1));
    assert_eq!(history.episodes().count(), 1);
    assert!(history.running(&pod(1).uid).is_none());
}

#[test]
fn of_many_connects_each_destination_is_told_then_one_in_five_seconds() {
    let mut history = History::new(Epoch::default());
    history.record(&pod(1), &closed(0, CloseReason::Start, true), at(0));
    let mut said = Vec::new();
    // Ten a millisecond for six seconds, to three destinations.
    for number in 0..60_000 {
        let line = Line::Held(connect(number, number / 10, (number % 3) as u16));
        let noted = history.record(&pod(1), &line, at(number / 10));
        if let Saying::Say { untold } = noted.saying {
            said.push((number, untold));
        }
    }
    assert_eq!(said.len(), 4, "{said:?}");
    assert_eq!(said[..3], [(0, 0), (1, 0), (2, 0)]);
    let (number, untold) = said[3];
    assert_eq!((number, untold), (50_000, 49_997));
    let episode = history.running(&pod(1).uid).unwrap();
    assert_eq!(episode.held, 60_000);
    assert_eq!(episode.connects.len(), Episode::MAX_CONNECTS);
    assert_eq!(episode.unnamed(), 60_000 - Episode::MAX_CONNECTS as u64);
}

#[test]
fn a_flood_of_callers_that_are_all_new_is_bounded_too() {
    let mut history = History::new(Epoch::default());
    history.record(&pod(1), &closed(0, CloseReason::Start, true), at(0));
    let said = (0..1000_u16).filter(|number| {
        let line = Line::Held(connect(u64::from(*number), 1, *number));
        matches!(history.record(&pod(1), &line, at(1)).saying, Saying::Say { .. })
    });
    assert_eq!(said.count(), 16);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut history = History::new(Epoch::default());
    for number in 0..10_000 {
        history.record(&pod(number), &closed(0, CloseReason::Start, true), at(0));
    }
    assert_eq!(history.running.len(), MAX_RUNNING);
    for number in 0..10_000 {
        history.record(&pod(number), &Line::GateDetached, at(1));
    }
    assert_eq!((history.running.len(), history.ended.len()), (0, MAX_ENDED));
    assert_eq!(history.episodes().next().unwrap().pod, pod(9_999));
}

#[test]
fn an_episode_and_an_entry_can_be_read_again_from_json() {
    let (history, _) = told(&[
        (0, closed(0, CloseReason::Start, true)),
        (110, Line::Held(connect(1, 105, 80))),
        (4_391, released(connect(1, 105, 80), 4_286, Outcome::Connected)),
    ]);
    let episode = history.running(&pod(1).uid).unwrap();
    let json = serde_json::to_value(episode).unwrap();
    assert_eq!(json["pod"], "cart-1");
    assert_eq!(json["outcomes"]["connected"], 1);
    assert_eq!(json["timeout_ms"], 60_000.0);
    let again: Episode = serde_json::from_value(json).unwrap();
    assert_eq!(again.connects, episode.connects);
    assert_eq!(again.pod, episode.pod);

    let line = Line::Held(connect(1, 105, 80));
    let entry = Entry::new(3, Stamp::default(), pod(1), &line);
    let json = serde_json::to_value(&entry).unwrap();
    assert_eq!((&json["kind"], &json["message"]), (&"held".into(), &"connect held".into()));
    assert_eq!(json["fields"]["destination"], "10.0.0.1:80");
    assert_eq!(json["fields"].get("query"), None);
    assert!(Line::KINDS.contains(&entry.kind.as_str()));
    assert_eq!(serde_json::from_value::<Entry>(json).unwrap(), entry);
}

fn inherited(reason: CloseReason, held: usize) -> Line {
    Line::GateInherited { reason: Some(reason), held }
}

#[test]
fn a_gate_that_goes_on_under_another_agent_is_one_episode_and_closes_once() {
    let (history, noted) = told(&[
        (10, inherited(CloseReason::ProxyDied, 1)),
        // The API has told of the pod: with the instant at which the agent before closed it.
        (20, closed(3, CloseReason::ProxyDied, true)),
        (500, opened(500, OpenReason::ProbeReady)),
        (501, released(connect(1, 4, 80), 497, Outcome::Connected)),
        (510, Line::GateDetached),
    ]);
    assert_eq!(history.episodes().count(), 1);
    let episode = history.episodes().next().unwrap();
    assert_eq!((episode.held, episode.ended_as(Outcome::Connected)), (1, 1));
    assert_eq!(episode.closed_at, Stamp::new(Duration::from_millis(3)));
    // The agent before has told of it.
    assert!(noted.iter().all(|noted| !noted.closes && !noted.becomes_known && !noted.first));
    assert_eq!(noted.last().unwrap().ended.as_deref(), Some(episode));
}

#[test]
fn a_gate_closes_once_however_often_and_in_whatever_order_it_is_told() {
    let closes = |lines: &[(u64, Line)]| -> Vec<(bool, bool)> {
        told(lines).1.iter().map(|noted| (noted.closes, noted.becomes_known)).collect()
    };
    assert_eq!(closes(&[(0, closed(0, CloseReason::Start, true))]), [(true, true)]);
    assert_eq!(
        closes(&[
            (0, closed(0, CloseReason::Start, false)),
            (5, closed(0, CloseReason::Start, true)),
        ]),
        [(true, false), (false, true)]
    );
    // A guarded gate: what it closes for is told first.
    assert_eq!(
        closes(&[
            (50, Line::Held(connect(1, 49, 80))),
            (51, closed(51, CloseReason::NobodyListens, true)),
        ]),
        [(false, false), (true, true)]
    );
}

#[test]
fn a_report_that_is_read_late_begins_nothing_at_a_guarded_gate() {
    let (mut history, _) = told(&[
        (0, closed(0, CloseReason::Start, true)),
        (10, opened(10, OpenReason::ProbeReady)),
        (15, Line::GateGuards),
        (20, Line::Held(connect(1, 9, 80))),
        (20, released(connect(1, 9, 80), 11, Outcome::StillConnecting)),
    ]);
    assert!(history.running(&pod(1).uid).is_none());
    assert_eq!(history.episodes().next().unwrap().held, 1);
    // What is called after it is another matter, and its episode begins with the closing.
    history.record(&pod(1), &Line::Held(connect(2, 3_600_000, 80)), at(3_600_001));
    history.record(&pod(1), &closed(3_600_002, CloseReason::NobodyListens, true), at(3_600_002));
    let episode = history.running(&pod(1).uid).unwrap();
    assert_eq!(
        (episode.held, episode.closed_at),
        (1, Stamp::new(Duration::from_millis(3_600_002)))
    );
}

#[test]
fn a_connect_that_is_reported_late_makes_a_story_of_an_end_that_was_none() {
    let (history, _) = told(&[
        (0, closed(0, CloseReason::Start, false)),
        (5, opened(5, OpenReason::Exempt(Exemption::NotEnabled))),
        (35, Line::GateDetached),
        (40, Line::Held(connect(1, 4, 80))),
    ]);
    assert!(history.running(&pod(1).uid).is_none());
    assert_eq!(history.episodes().map(|episode| episode.held).collect::<Vec<_>>(), [1]);
    assert_eq!(history.untouched.len(), 0);
}

#[test]
fn a_proxy_that_dies_while_its_gate_opens_leaves_two_episodes_with_what_is_theirs() {
    let (history, noted) = told(&[
        (0, closed(0, CloseReason::Start, true)),
        (5, Line::Held(connect(1, 4, 80))),
        (100, opened(100, OpenReason::ProbeReady)),
        (150, closed(150, CloseReason::ProxyDied, true)),
        (151, released(connect(1, 4, 80), 147, Outcome::Connected)),
        (160, Line::Held(connect(2, 159, 80))),
        (200, released(connect(2, 159, 80), 41, Outcome::Connected)),
    ]);
    let sums: Vec<_> = history
        .episodes()
        .map(|episode| (episode.reason, episode.held, episode.ended_as(Outcome::Connected)))
        .collect();
    assert_eq!(sums, [(Some(CloseReason::ProxyDied), 1, 1), (Some(CloseReason::Start), 1, 1)]);
    assert_eq!(noted[3].ended.as_ref().map(|episode| episode.id), Some(1));
}

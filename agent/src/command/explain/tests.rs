use std::time::Duration;

use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::core::{PodName, PodRef, PodUid, Reason, SocketCookie};

fn at(ms: u64) -> Stamp {
    Stamp::new(Duration::from_secs(1_700_000_000) + Duration::from_millis(ms))
}

fn pod(name: &str) -> PodReport {
    let pod = PodRef::new(PodUid::new("4d0b6cfa"), Some(PodName::new("shop", name)));
    PodReport::new(pod, PodState::Closed, at(0))
}

fn waiting(comm: &str) -> ConnectReport {
    ConnectReport {
        cookie: SocketCookie(1),
        container: None,
        comm: comm.to_owned(),
        pid: None,
        destination: ([10, 96, 0, 10], 53).into(),
        query: true,
        by_sentry: false,
        since: at(0),
    }
}

#[test]
fn who_is_not_named_is_counted() {
    let mut pod = pod("cart");
    (pod.held, pod.waiting) = (1_000, vec![waiting("dig")]);
    pod.deadline = Some(at(60_000));
    let text = text(&pod, &[], at(2_500), Style::PLAIN);
    let expected = "\
shop/cart

state        closed for 2s, 1000 connections waiting now
waiting      a container that is not known yet (dig) asks 10.96.0.10:53, for 2.50 s so far
             and 999 more
             The kernel lets them go on in 57.5 s at the latest.
";
    assert_eq!(text, expected);
}

#[test]
fn who_is_not_known_has_no_empty_name() {
    let unseen = ConnectReport { query: false, ..waiting("") };
    let text = waits(&unseen, at(2_500));
    let expected = "a container that is not known yet connects to 10.96.0.10:53, for 2.50 s so far";
    assert_eq!(text, expected);
    let container = Some("app".to_owned());
    let text = waits(&ConnectReport { by_sentry: true, container, ..unseen }, at(2_500));
    let expected = "app (held by the sentry at first) connects to 10.96.0.10:53, for 2.50 s so far";
    assert_eq!(text, expected);
}

#[test]
fn a_long_command_is_broken_so_that_a_shell_takes_it_for_one() {
    let mut pod = pod("cart");
    let command =
        format!("kubectl -n {} logs {} -c {}", "n".repeat(63), "p".repeat(63), "c".repeat(63));
    let text_of = "To look".to_owned();
    let (source, command) = (None, Some(command.clone()));
    pod.reasons =
        vec![Reason { topic: Topic::Next, text: text_of, source, command: command.clone() }];
    let text = text(&pod, &[], at(0), Style::PLAIN);
    assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
    let shown = text.split_once("To look:\n").unwrap().1;
    let joined = shown.replace("\\\n", "");
    assert_eq!(joined.split_whitespace().collect::<Vec<_>>().join(" "), command.unwrap());
}

#[test]
fn whatever_a_tenant_chooses_stays_text() {
    let bad = "\x1b]0;gone\x07\r\n\u{202e}";
    let mut pod = pod(bad);
    pod.reasons = [Topic::State, Topic::Problem, Topic::Next]
        .map(|topic| Reason {
            topic,
            text: bad.repeat(30),
            source: None,
            command: Some(bad.to_owned()),
        })
        .into();
    (pod.held, pod.waiting) = (1, vec![waiting(bad)]);
    let text = text(&pod, &[], at(0), Style::PLAIN);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
    assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
}

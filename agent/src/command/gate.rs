//! What `holdfast gate` prints: what has come of the order, in words.

use super::{
    table::{WIDTH, wrap},
    terminal::safe,
};
use crate::{
    admin::OrderWish,
    core::{Exemption, Mode, OrderReport, PodReport, PodState, Stamp},
};

/// One sentence on what becomes of the pod's connects now.
#[must_use]
pub fn words(report: &PodReport, order: OrderWish) -> String {
    let PodReport { pod, state, exemption, held, .. } = report;
    let name = pod.name.as_ref().map_or_else(|| pod.uid.to_string(), ToString::to_string);
    let until = match report.order {
        Some(OrderReport::Open { until }) => until,
        Some(OrderReport::Closed { until }) => Some(until),
        None => None,
    };
    let until = match until {
        Some(until) => format!("until {}, then as the facts say", time(until)),
        None => "until the order auto, or this agent's end".to_owned(),
    };
    let what = match (order, state, exemption) {
        (OrderWish::Open, _, None | Some(Exemption::Operator)) => format!("open {until}"),
        (OrderWish::Open, _, Some(exemption)) => {
            let why = exemption.as_str();
            format!("nothing of it is held anyway ({why}); should that change, it is open {until}")
        }
        (OrderWish::Close, PodState::Closed, _) => {
            format!("closed {until}; {}", consequence(report))
        }
        (OrderWish::Close, PodState::Pending, _) => {
            format!("nothing of it runs yet; it closes when something does, {until}")
        }
        (OrderWish::Close, _, _) => format!("{}; to be closed {until}", state.as_str()),
        (OrderWish::Auto, _, Some(exemption)) => {
            format!("as the facts say: open ({})", exemption.as_str())
        }
        (OrderWish::Auto, _, None) => format!("as the facts say: {}", state.as_str()),
    };
    let waiting = match held {
        0 => String::new(),
        1 => "; 1 connect waits".to_owned(),
        held => format!("; {held} connects wait"),
    };
    let words = format!("{}: {what}{waiting}", safe(&name));
    wrap(&words, WIDTH).iter().map(|line| format!("{line}\n")).collect()
}

/// What a closed gate does, by its mode.
fn consequence(report: &PodReport) -> &'static str {
    let mode = report.setting("mode").map_or(Mode::default().as_str(), |mode| &mode.value);
    if mode == Mode::Refuse.as_str() {
        "connects to its proxy fail"
    } else if mode == Mode::Observe.as_str() {
        "connects to its proxy are noted, and pass: its mode is observe"
    } else {
        "connects to its proxy wait"
    }
}

/// The time of day, UTC.
pub(super) fn time(at: Stamp) -> String {
    let text = at.to_string();
    // RFC 3339: 2023-11-14T22:13:20.000001Z.
    text.get(11..23).unwrap_or(&text).to_owned()
}

//! One start of a pod: what came of it, in words and as a picture.

use std::time::Duration;

use maud::{Markup, html};

use super::{
    Form, Tone, badge, pod_link, text,
    timeline::{self, Detail, Timeline},
};
use crate::core::{Episode, Mode, OpenReason, Outcome, Stamp};

/// The article of an episode; `heading` is its pod, or what else tells it from its neighbours.
pub(super) fn whole(episode: &Episode, now: Stamp, heading: &Markup, detail: Detail) -> Markup {
    let (word, tone) = verdict(episode);
    html! {
        article {
            header {
                h3 { (heading) " " (badge(word, tone)) }
                p.ago { (text::ago(episode.closed_at, now)) " ago" }
            }
            (inside(episode, now, detail))
        }
    }
}

/// The same behind one line, which opens it.
pub(super) fn folded(episode: &Episode, now: Stamp, form: Form, detail: Detail) -> Markup {
    let (word, tone) = verdict(episode);
    html! {
        details {
            summary {
                span.pod { bdi { (text::pod_name(&episode.pod)) } } " "
                (badge(word, tone)) " "
                span.ago { (text::ago(episode.closed_at, now)) " ago" }
            }
            @if matches!(form, Form::Served { .. }) { p { (pod_link(&episode.pod, form)) } }
            (inside(episode, now, detail))
        }
    }
}

fn inside(episode: &Episode, now: Stamp, detail: Detail) -> Markup {
    let story = story(episode, now);
    let about = format!("{}. {story}", text::pod_name(&episode.pod));
    html! {
        p.story { (story) }
        (timeline::draw(&Timeline::new(episode, now, detail), &about, episode.id))
        (circumstances(episode))
    }
}

/// In a word, and whether that is good.
fn verdict(episode: &Episode) -> (&'static str, Tone) {
    let waited = episode.touched() > 0;
    let failed = failed(episode) > 0;
    match (&episode.error, episode.opened_at, episode.open_reason) {
        (Some(_), ..) => ("failed", Tone::Bad),
        (None, None, _) if episode.ended_at.is_some() => ("pod gone", Tone::Plain),
        (None, None, _) if episode.refuses_at.is_some() => ("refusing", Tone::Bad),
        (None, None, _) if waited => (mode_word(episode.mode), Tone::Busy),
        (None, None, _) => ("closed", Tone::Busy),
        (None, Some(_), Some(OpenReason::Deadline)) => ("deadline passed", Tone::Bad),
        (None, Some(_), Some(OpenReason::Exempt(_))) => ("let go", Tone::Plain),
        (None, Some(_), _) if failed => ("released, some failed", Tone::Bad),
        (None, Some(_), _) if waited => ("released", Tone::Good),
        (None, Some(_), _) => ("nothing waited", Tone::Plain),
    }
}

const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Hold | Mode::Retry => "holding",
        Mode::Refuse => "refusing",
        Mode::Observe => "observing",
    }
}

fn failed(episode: &Episode) -> u64 {
    [Outcome::Refused, Outcome::TimedOut, Outcome::QueryExpired]
        .into_iter()
        .map(|outcome| episode.ended_as(outcome))
        .sum()
}

/// What happened, in a sentence or two.
fn story(episode: &Episode, now: Stamp) -> String {
    let mut parts = Vec::new();
    let is_over = episode.opened_at.is_some() || episode.ended_at.is_some();
    if episode.held > 0 {
        let connects = text::count(episode.held, "connect");
        match (is_over, episode.first_connect_at) {
            (false, Some(first)) => {
                let verb = if episode.held == 1 { "waits" } else { "wait" };
                parts.push(format!(
                    "{connects} {verb}, the first for {}",
                    text::duration(now.since(first))
                ));
            }
            _ if episode.longest.is_zero() => parts.push(format!("{connects} waited")),
            _ => parts
                .push(format!("{connects} waited, {} at most", text::duration(episode.longest))),
        }
    }
    if episode.refused > 0 {
        parts.push(format!("{} refused", text::count(episode.refused, "connect")));
    }
    if episode.observed > 0 {
        parts.push(format!("{} would have waited", text::count(episode.observed, "connect")));
    }
    if episode.observed_refused > 0 {
        parts.push(format!("{} of these failed", episode.observed_refused));
    }
    if parts.is_empty() {
        parts.push(if is_over { "nothing waited" } else { "nothing waits yet" }.to_owned());
    }
    for (outcome, count) in &episode.outcomes {
        if !matches!(outcome, Outcome::Connected | Outcome::QuerySent) {
            parts.push(format!("{count} {}", outcome.as_str()));
        }
    }
    let end = match (episode.open_reason, episode.ready_after()) {
        (Some(_), Some(after)) => ready(episode, after),
        (Some(OpenReason::Deadline), None) => not_ready(episode),
        (Some(reason), None) => reason.as_str().to_owned(),
        (None, _) if episode.ended_at.is_some() => {
            "the pod went before its proxy was ready".to_owned()
        }
        (None, _) if episode.refuses_at.is_some() => not_ready(episode),
        (None, _) => "the proxy is not ready yet".to_owned(),
    };
    let mut story = format!("{}; {end}.", parts.join(", "));
    if let Some(first) = story.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if let Some(error) = &episode.error {
        story += &format!(" {}", text::plain(error));
    }
    story
}

/// That the time was up, and what was seen of the proxy last.
fn not_ready(episode: &Episode) -> String {
    let within = text::duration(episode.timeout);
    match &episode.finding {
        Some(finding) => {
            let seen = text::plain(&finding.to_string());
            format!("the proxy was not ready within {within} (seen last: {seen})")
        }
        None => format!("the proxy was not ready within {within}"),
    }
}

/// When the proxy was ready, and how much of that was its own start.
fn ready(episode: &Episode, after: Duration) -> String {
    let after = text::duration(after);
    if episode.began_at_sentry().is_some() {
        return format!(
            "the sentry held the first until the agent came, and the proxy was ready {after} after it"
        );
    }
    let proxies = episode.containers.iter().filter(|container| container.is_proxy);
    match proxies.map(|proxy| proxy.started_at).max() {
        Some(started) if started > episode.closed_at => {
            let started = text::duration(started.since(episode.closed_at));
            format!("the proxy started after {started} and was ready {after} later")
        }
        _ => format!("the proxy was ready after {after}"),
    }
}

/// What the gate was closed for, and by whose choice.
fn circumstances(episode: &Episode) -> Markup {
    let Episode { reason, profile, proxy, mode, enabled_by, timeout, .. } = episode;
    html! {
        dl.facts {
            @if let Some(reason) = reason { div { dt { "Why" } dd { (reason.as_str()) } } }
            @if !profile.is_empty() {
                div {
                    dt { "Proxy" }
                    dd { (text::foreign(proxy)) @if profile != proxy { " (" (text::foreign(profile)) ")" } }
                }
            }
            div {
                dt { "Chosen by" }
                dd { @match enabled_by { Some(origin) => (origin.as_str()), None => "not known yet" } }
            }
            div { dt { "Mode" } dd { (mode.as_str()) ", " (text::duration(*timeout)) " at most" } }
            @if let Some(pod) = &episode.pod.workload {
                div { dt { "Workload" } dd { (text::foreign(&pod.to_string())) } }
            }
        }
    }
}

//! The node's page: what the agent knows, for a browser. One HTML document that needs nothing else:
//! no script, no further request. It only shows; nothing can be changed through it.

mod episode;
mod pod;
mod routes;
mod text;
mod timeline;

use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

pub use self::routes::{PageAddress, PageAddressError, serve};
use self::timeline::Detail;
use crate::core::{
    AgentState, CloseReason, Episode, NodeReport, Outcome, PodRef, PodReport, PodState, Stamp,
};

/// How often a page that is served asks for itself again.
const REFRESH: Duration = Duration::from_secs(5);

/// Episodes that are drawn at once; older ones open on a click.
const DRAWN: usize = 8;

/// What is drawn of one episode, where there are many.
const OF_MANY: Detail = Detail { containers: 6, connects: 8 };

/// What is drawn of one where there are few: all that is remembered.
const OF_FEW: Detail =
    Detail { containers: Episode::MAX_CONTAINERS, connects: Episode::MAX_CONNECTS };

/// What a browser may do with the page. Styles are part of it; a script, whoever gets one into it,
/// is not run, and nothing is loaded from anywhere.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("page/style.css");

/// A gate that stands half open.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
    %3Crect width='16' height='16' rx='3.5' fill='%231b7d52'/%3E\
    %3Cpath d='M4.5 3.5v9M4.5 8h4.2M11.5 3.5v2.8M11.5 9.7v2.8' stroke='%23fff' stroke-width='1.8' \
    stroke-linecap='round'/%3E%3C/svg%3E";

/// What is known of the node.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The agent, and the node in sum.
    pub node: &'a NodeReport,
    /// The pods, by name.
    pub pods: &'a [PodReport],
    /// What has happened to them lately, the latest first.
    pub episodes: &'a [Episode],
}

/// For whom the page is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A browser that can ask for more.
    Served {
        /// It shows itself anew from time to time.
        refresh: bool,
    },
    /// A file, which shows what was so when it was written.
    File,
}

/// The page of the whole node.
#[must_use]
pub fn node(facts: &Facts<'_>, form: Form) -> String {
    let Facts { node, pods, episodes } = facts;
    let (left_alone, worked): (Vec<&PodReport>, Vec<&PodReport>) =
        pods.iter().partition(|pod| !pod.is_concerned());
    let (drawn, older) = episodes.split_at(episodes.len().min(DRAWN));
    let body = html! {
        (summary(node))
        section aria-labelledby="starts" {
            h2 #starts { "Starts" }
            @if episodes.is_empty() {
                p.none { "No gate has been closed since this agent started." }
            } @else {
                (timeline::legend())
            }
            @for episode in drawn {
                (episode::whole(episode, node.at, &pod_link(&episode.pod, form), OF_MANY))
            }
            @if !older.is_empty() {
                h3 { "Earlier" }
                div.earlier { @for episode in older { (episode::folded(episode, node.at, form, OF_MANY)) } }
            }
        }
        section aria-labelledby="pods" {
            h2 #pods { "Pods" }
            @if worked.is_empty() {
                p.none { "No pod of this node is held." }
            } @else {
                (pod::table(&worked, node.at, form))
            }
            @if !left_alone.is_empty() {
                details.alone {
                    summary { (text::count(left_alone.len() as u64, "pod")) " left alone" }
                    (pod::left_alone(&left_alone, form))
                }
            }
        }
    };
    document(None, node, form, &body)
}

/// The page of one pod; `None`: nothing is known of it.
#[must_use]
pub fn pod(facts: &Facts<'_>, namespace: &str, name: &str, form: Form) -> Option<String> {
    let Facts { node, pods, episodes } = facts;
    let is_it = |pod: &PodRef| {
        pod.name.as_ref().is_some_and(|of| *of.namespace == *namespace && *of.name == *name)
    };
    // While one with its name is being deleted there may be two.
    let reports: Vec<&PodReport> = pods.iter().filter(|report| is_it(&report.pod)).collect();
    let episodes: Vec<&Episode> = episodes.iter().filter(|episode| is_it(&episode.pod)).collect();
    if reports.is_empty() && episodes.is_empty() {
        return None;
    }
    let body = html! {
        @for report in &reports { (pod::state(report, node.at)) }
        @if reports.is_empty() {
            p.none { "The pod is gone; this is what happened to it." }
        }
        @for report in &reports { @if !report.waiting.is_empty() { (pod::waiting(report, node.at)) } }
        section aria-labelledby="starts" {
            h2 #starts { "Starts" }
            @if episodes.is_empty() {
                p.none { "Its gate has not been closed since this agent started." }
            } @else {
                (timeline::legend())
            }
            @for episode in &episodes {
                @let why = episode.reason.map_or("not known yet", CloseReason::as_str);
                (episode::whole(episode, node.at, &html! { (why) }, OF_FEW))
            }
        }
        @for report in &reports { (pod::nature(report)) }
    };
    Some(document(Some(&format!("{namespace}/{name}")), node, form, &body))
}

/// The page of an agent that works no gates, or does not answer.
#[must_use]
pub fn without_pods(node: &NodeReport, form: Form) -> String {
    let why = match node.state {
        AgentState::Starting => "The agent does not work the gates of this node yet.",
        AgentState::StandingBy => {
            "Another agent works the gates of this node; this one goes on when that one ends."
        }
        AgentState::Working | AgentState::Stuck => "The agent does not tell of its pods.",
    };
    document(None, node, form, &html! { (summary(node)) p.none { (why) } })
}

fn document(pod: Option<&str>, node: &NodeReport, form: Form, body: &Markup) -> String {
    let name = text::plain(&node.node);
    let title = match pod {
        Some(pod) => format!("{} · {name} · holdfast", text::plain(pod)),
        None => format!("{name} · holdfast"),
    };
    let content = html! {
        header {
            p.product { "holdfast " span { (node.version) } }
            @if let Some(pod) = pod {
                h1 { (text::foreign(pod)) }
                nav { a href="/" { "All of node " (text::foreign(&node.node)) } }
            } @else {
                h1 { (text::foreign(&node.node)) }
                nav {
                    a href="#starts" { "Starts" }
                    a href="#pods" { "Pods" }
                    @if matches!(form, Form::Served { .. }) { a href="/?save" { "Save as a file" } }
                }
            }
            p.at {
                "As of " time datetime=(node.at) title=(node.at) { (clock(node.at)) }
                @match form {
                    Form::Served { refresh: true } => {
                        ", anew every " (REFRESH.as_secs()) " s. " a href="?refresh=off" { "Stand still" }
                    },
                    Form::Served { refresh: false } => { ". " a href="?" { "Go on" } },
                    Form::File => ", kept in this file.",
                }
            }
        }
        main { (body) }
    };
    frame(&title, form == Form::Served { refresh: true }, &content)
}

fn frame(title: &str, refreshes: bool, content: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                @if refreshes { meta http-equiv="refresh" content=(REFRESH.as_secs()); }
                title { (title) }
                link rel="icon" href=(ICON);
                // Constant, and free of what would end the element: see the tests.
                style { (PreEscaped(STYLE)) }
            }
            body { (content) }
        }
    }
    .into_string()
}

/// The figures that tell at a glance whether all is well.
fn summary(node: &NodeReport) -> Markup {
    let NodeReport {
        at,
        node: _,
        version: _,
        kernel,
        pid: _,
        started_at,
        state,
        // The problems have them as well.
        missing: _,
        pods,
        held,
        totals,
        watches: _,
        problems,
    } = node;
    let in_state = |state| pods.get(&state).copied().unwrap_or_default();
    let closed = in_state(PodState::Closed) + in_state(PodState::Refusing);
    let ended = |outcomes: &[Outcome]| -> u64 {
        outcomes.iter().filter_map(|outcome| totals.outcomes.get(outcome)).sum()
    };
    let went_on = ended(&[Outcome::Connected, Outcome::QuerySent]);
    let failed = ended(&[Outcome::Refused, Outcome::TimedOut, Outcome::QueryExpired]);
    let when = |is: bool, tone| if is { tone } else { Tone::Plain };
    let agent = match state {
        AgentState::Working => when(problems.is_empty(), Tone::Good),
        AgentState::Starting | AgentState::StandingBy => Tone::Busy,
        AgentState::Stuck => Tone::Bad,
    };
    html! {
        section.summary aria-label="Summary" {
            (figure("Agent", state.as_str(), &html! { "for " (text::ago(*started_at, *at)) ", Linux " (kernel) }, agent))
            (figure("Waiting now", *held, &html! { "connects and queries" }, when(*held > 0, Tone::Busy)))
            (figure("Gates closed", closed, &html! { "of " (text::count(pods.values().sum::<usize>() as u64, "pod")) },
                when(closed > 0, Tone::Busy)))
            (figure("Waited so far", totals.held, &html! {
                (went_on) " went on"
                @if failed > 0 { ", " strong { (failed) " failed" } }
                @if totals.refused > 0 { ", " (totals.refused) " more refused" }
                @if totals.observed > 0 { ", " (totals.observed) " more would have" }
            }, Tone::Plain))
            (figure("Gates given up", totals.timed_out_gates + totals.failed_gates, &html! {
                (totals.timed_out_gates) " by deadline, " (totals.failed_gates) " by an error"
            }, when(in_state(PodState::GivenUp) + in_state(PodState::Failed) > 0, Tone::Bad)))
        }
        @if !problems.is_empty() {
            ul.problems aria-label="Problems" { @for problem in problems { li { (text::foreign(problem)) } } }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
}

// === impl Tone ===

impl Tone {
    const fn class(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Bad => "bad",
        }
    }
}

fn figure(name: &str, value: impl Render, note: &Markup, tone: Tone) -> Markup {
    html! {
        div class=(tone.class()) {
            h3 { (name) }
            p.value { (value) }
            p.note { (note) }
        }
    }
}

/// A word with a colour behind it.
fn badge(word: &str, tone: Tone) -> Markup {
    html! { span class={ "badge " (tone.class()) } { (word) } }
}

/// A pod's name, which leads to its page where there is one.
fn pod_link(pod: &PodRef, form: Form) -> Markup {
    let shown = text::pod_name(pod);
    match (&pod.name, form) {
        (Some(name), Form::Served { .. }) => {
            let (namespace, name) = (text::segment(&name.namespace), text::segment(&name.name));
            html! { a href={ "/pods/" (namespace) "/" (name) } { bdi { (shown) } } }
        }
        _ => html! { bdi { (shown) } },
    }
}

/// Time of day; whoever wants the date finds it in the element.
fn clock(at: Stamp) -> String {
    let text = at.to_string();
    let time = text.split_once('T').map_or(text.as_str(), |(_, time)| time);
    format!("{} UTC", time.split('.').next().unwrap_or(time))
}

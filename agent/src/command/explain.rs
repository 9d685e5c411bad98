//! What `holdfast explain` prints. The sentences are made in `core/report/explain.rs`.

use super::{
    pods::{name, paint},
    table::{WIDTH, wrap},
    terminal::{Paint, Style, safe},
};
use crate::core::{
    ConnectReport, Episode, Mode, PodReport, PodState, Reason, Stamp, Topic, age, in_words,
};

/// The column of headings, with the gap behind it.
const HEADINGS: usize = 13;

/// How far the lines of a paragraph stand in that follow its first.
const HANGING: usize = 2;

/// What tells a shell that a command goes on in the next line.
const CONTINUES: &str = " \\";

/// Starts that are told: enough to tell a rule from an exception.
const EPISODES: usize = 5;

/// How a pod stands, why, and what to do; `episodes`: what has happened to it lately, the latest
/// first.
#[must_use]
pub fn text(pod: &PodReport, episodes: &[Episode], now: Stamp, style: Style) -> String {
    use Topic::{Container, Hold, Next, Order, Problem, Proxy, Ready, Setting, State};
    let mut page = Page::new(style);
    page.title(pod, now);
    page.sentences(&pod.reasons, State);
    page.section("waiting", &waiting(pod, now), Some(Paint::Warning));
    page.section("seen last", &seen(pod, now), None);
    for topic in [Hold, Order, Proxy, Ready, Container, Setting] {
        page.sentences(&pod.reasons, topic);
    }
    page.section("lately", &lately(episodes, now), None);
    for topic in [Problem, Next] {
        page.sentences(&pod.reasons, topic);
    }
    page.text
}

/// What is put together: a title, and paragraphs beside their headings.
pub(super) struct Page {
    pub(super) text: String,
    style: Style,
}

// === impl Page ===

impl Page {
    pub(super) const fn new(style: Style) -> Self {
        Self { text: String::new(), style }
    }

    pub(super) fn title(&mut self, pod: &PodReport, now: Stamp) {
        self.lines(&name(pod), Paint::Heading);
        if let Some(workload) = &pod.pod.workload {
            self.lines(&format!("of {workload}"), Paint::Faint);
        }
        self.text.push('\n');
        self.section("state", &[state(pod, now)], paint(pod.state));
    }

    fn lines(&mut self, text: &str, paint: Paint) {
        for line in wrap(&safe(text), WIDTH) {
            self.text += &self.style.paint(paint, &line);
            self.text.push('\n');
        }
    }

    pub(super) fn sentences(&mut self, reasons: &[Reason], topic: Topic) {
        let paint = match topic {
            Topic::Problem => Some(Paint::Bad),
            _ => None,
        };
        let mut heading = topic.as_str();
        for reason in reasons.iter().filter(|reason| reason.topic == topic) {
            match &reason.command {
                Some(command) => {
                    self.section(heading, &[format!("{}:", reason.text)], paint);
                    self.command(command);
                }
                None => self.section(heading, &[&reason.text], paint),
            }
            heading = "";
        }
    }

    /// A command to be copied: where it is broken a shell takes the lines for one.
    fn command(&mut self, command: &str) {
        let blanks = " ".repeat(HEADINGS + HANGING);
        let lines = wrap(&safe(command), WIDTH - HEADINGS - 2 * HANGING - CONTINUES.len());
        let lines = lines.join(&format!("{CONTINUES}\n{blanks}{}", " ".repeat(HANGING)));
        self.text += &format!("{blanks}{lines}\n");
    }

    /// Paragraphs beside their heading; nothing if there are none.
    pub(super) fn section<T: AsRef<str>>(
        &mut self,
        heading: &str,
        paragraphs: &[T],
        paint: Option<Paint>,
    ) {
        let mut heading = Some(heading);
        for paragraph in paragraphs {
            let lines = wrap(&safe(paragraph.as_ref()), WIDTH - HEADINGS - HANGING);
            for (index, line) in lines.iter().enumerate() {
                let heading = heading.take().unwrap_or_default();
                let blanks = HEADINGS - heading.len() + if index == 0 { 0 } else { HANGING };
                self.text += &self.style.paint(Paint::Heading, heading);
                self.text += &" ".repeat(blanks);
                let line = line.trim_end();
                let line = paint.map_or_else(|| line.to_owned(), |p| self.style.paint(p, line));
                self.text += &line;
                self.text.push('\n');
            }
        }
    }
}

/// Where its gate stands, and since when.
fn state(pod: &PodReport, now: Stamp) -> String {
    let since = age(now.since(pod.since));
    let held = match pod.held {
        0 => String::new(),
        1 => ", 1 connection waiting now".to_owned(),
        held => format!(", {held} connections waiting now"),
    };
    format!("{} for {since}{held}", pod.state.as_str())
}

/// What was seen of the proxy last, and since when it has been so.
fn seen(pod: &PodReport, now: Stamp) -> Vec<String> {
    let seen = pod.reasons.iter().filter(|reason| reason.topic == Topic::Seen);
    let since = pod.probe.as_ref().map(|probe| age(now.since(probe.since)));
    let since = since.map(|since| format!(" So it has been for {since}.")).unwrap_or_default();
    seen.map(|reason| format!("{}{since}", reason.text)).collect()
}

/// Who waits, since when, and how long at most.
fn waiting(pod: &PodReport, now: Stamp) -> Vec<String> {
    let mut lines: Vec<String> = pod.waiting.iter().map(|connect| waits(connect, now)).collect();
    let unnamed = pod.held.saturating_sub(lines.len());
    if unnamed > 0 {
        lines.push(format!("and {unnamed} more"));
    }
    let holds = matches!(pod.mode(), Mode::Hold | Mode::Retry);
    if pod.state == PodState::Closed && holds {
        lines.push(match pod.deadline {
            Some(deadline) if pod.held > 0 => {
                format!(
                    "The kernel lets them go on in {} at the latest.",
                    in_words(deadline.since(now))
                )
            }
            _ if pod.settings.is_none() => {
                "Nobody waits yet. Who comes waits until more is known of this pod.".to_owned()
            }
            _ => format!("Nobody waits yet. Who comes waits for {} at most.", pod.timeout()),
        });
    }
    lines
}

fn waits(connect: &ConnectReport, now: Stamp) -> String {
    let ConnectReport { cookie: _, container, comm, pid, destination, query, by_sentry, since } =
        connect;
    let container = container.as_deref().unwrap_or("a container that is not known yet");
    let pid = pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let who = match (comm.as_str(), by_sentry) {
        ("", false) => String::new(),
        ("", true) => " (held by the sentry at first)".to_owned(),
        (comm, _) => format!(" ({comm}{pid})"),
    };
    let what = if *query { "asks" } else { "connects to" };
    let since = in_words(now.since(*since));
    format!("{container}{who} {what} {destination}, for {since} so far")
}

/// What happened at the last starts.
fn lately(episodes: &[Episode], now: Stamp) -> Vec<String> {
    // What goes on is told above.
    let told = episodes.iter().filter(|episode| episode.ended_at.is_some()).take(EPISODES);
    told.map(|episode| {
        let age = age(now.since(episode.closed_at));
        format!("{age} ago: {}.", episode.in_words())
    })
    .collect()
}

#[cfg(test)]
mod tests;

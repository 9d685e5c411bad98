//! Where things stand on the picture of an episode: instants become shares of its width.

mod svg;

use std::time::Duration;

use super::text;
use crate::core::{
    ConnectSpan, ContainerRole, ContainerSpan, Episode, Fate, OpenReason, Outcome, Stamp,
};

pub(super) use self::svg::{draw, legend};

/// What happened before the gate closed is shown from here on: a container that has run for days
/// would squeeze the seconds of interest into a line.
const LEAD: Duration = Duration::from_millis(500);
/// As a part of what happened afterwards.
const LEAD_PART: u32 = 4;
/// Less would divide by nothing.
const SHORTEST: Duration = Duration::from_millis(1);
/// Room behind the last instant.
const TRAIL_PART: u32 = 12;
/// Labels of the axis: as many as a telephone has room for.
const MAX_TICKS: u64 = 6;
/// What a letter of a flag's name takes on a telephone, in percent of the width.
const LETTER: f64 = 2.8;

/// An episode, laid out.
#[derive(Debug, PartialEq)]
pub(super) struct Timeline {
    pub(super) rows: Vec<Row>,
    pub(super) flags: Vec<Flag>,
    pub(super) ticks: Vec<Tick>,
    /// Containers and connects that have no row.
    pub(super) containers_left: u64,
    pub(super) connects_left: u64,
}

/// How much of an episode is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detail {
    pub(super) containers: usize,
    pub(super) connects: usize,
}

/// A container or a connect.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// What it is.
    pub(super) title: String,
    /// What else is known of it.
    pub(super) detail: String,
    /// Its bar, in percent of the width.
    pub(super) from: f64,
    pub(super) to: f64,
    /// It is not over.
    pub(super) goes_on: bool,
    /// What stands at the bar.
    pub(super) label: String,
}

/// What a row shows, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Container,
    Proxy,
    /// A connect that waits, or whose end is not known.
    Waiting,
    /// It waited and went on.
    Released,
    /// It waited, and failed.
    Failed,
    /// Nothing waited: it failed at once, or passed.
    Refused,
    Observed,
}

/// An instant of the gate.
#[derive(Debug, PartialEq)]
pub(super) struct Flag {
    pub(super) at: f64,
    pub(super) name: &'static str,
    pub(super) mark: Mark,
    /// The line on which its name stands.
    pub(super) lane: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Closed,
    Ready,
    Deadline,
    Opened,
}

/// A label of the axis.
#[derive(Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) label: String,
}

/// From the first instant that is shown to the last.
#[derive(Clone, Copy, Debug)]
struct Axis {
    from: Stamp,
    width: Duration,
}

// === impl Timeline ===

impl Timeline {
    /// Lays out an episode as it stands at `now`.
    pub(super) fn new(episode: &Episode, now: Stamp, detail: Detail) -> Self {
        let axis = Axis::of(episode, now);
        let end = episode.ended_at.unwrap_or(now);
        let mut containers: Vec<&ContainerSpan> = episode.containers.iter().collect();
        // Where there is no room for all, the proxy is the one not to miss.
        containers.sort_by_key(|container| (!container.is_proxy, container.started_at));
        let containers_left = containers.len().saturating_sub(detail.containers);
        containers.truncate(detail.containers);
        containers.sort_by_key(|container| (container.started_at, container.is_proxy));
        let mut connects: Vec<&ConnectSpan> = episode.connects.iter().collect();
        connects.sort_by_key(|connect| connect.called_at);
        connects.truncate(detail.connects);
        let connects_left = episode.touched().saturating_sub(connects.len() as u64);
        let rows = containers
            .into_iter()
            .map(|container| container_row(container, axis, end))
            .chain(connects.into_iter().map(|connect| connect_row(connect, axis, episode, end)))
            .collect();
        Self {
            rows,
            flags: flags(episode, axis),
            ticks: axis.ticks(episode.closed_at),
            containers_left: containers_left as u64,
            connects_left,
        }
    }
}

fn container_row(container: &ContainerSpan, axis: Axis, end: Stamp) -> Row {
    let ContainerSpan { name, role, is_proxy, started_at, ended_at } = container;
    let detail = match (is_proxy, role) {
        (true, _) => "the proxy".to_owned(),
        (false, Some(ContainerRole::Init)) => "init container".to_owned(),
        (false, Some(ContainerRole::Sidecar)) => "sidecar".to_owned(),
        (false, Some(ContainerRole::Ephemeral)) => "for debugging".to_owned(),
        (false, Some(ContainerRole::App) | None) => "container".to_owned(),
    };
    Row {
        kind: if *is_proxy { Kind::Proxy } else { Kind::Container },
        title: text::plain(name),
        detail,
        from: axis.percent(*started_at),
        to: axis.percent(ended_at.unwrap_or(end)),
        goes_on: ended_at.is_none(),
        label: match ended_at {
            Some(ended_at) => format!("ran {}", text::duration(ended_at.since(*started_at))),
            None if *started_at < axis.from => "runs".to_owned(),
            None => "started".to_owned(),
        },
    }
}

fn connect_row(connect: &ConnectSpan, axis: Axis, episode: &Episode, end: Stamp) -> Row {
    let ConnectSpan {
        cookie: _,
        query,
        container,
        comm,
        pid,
        uid,
        destination,
        by_sentry,
        fate,
        called_at,
        ended_at,
        outcome,
    } = connect;
    let until = ended_at.unwrap_or(end);
    let goes_on = *fate == Fate::Held && ended_at.is_none() && episode.ended_at.is_none();
    let kind = match (fate, outcome) {
        (Fate::Refused, _) => Kind::Refused,
        (Fate::Observed, _) => Kind::Observed,
        (Fate::Held, None | Some(Outcome::StillConnecting)) => Kind::Waiting,
        (Fate::Held, Some(Outcome::Connected | Outcome::QuerySent)) => Kind::Released,
        (
            Fate::Held,
            Some(
                Outcome::Refused
                | Outcome::TimedOut
                | Outcome::ClosedByApplication
                | Outcome::QueryExpired,
            ),
        ) => Kind::Failed,
    };
    let label = match fate {
        Fate::Refused => "refused".to_owned(),
        Fate::Observed if *outcome == Some(Outcome::Refused) => "failed".to_owned(),
        Fate::Observed => "passed".to_owned(),
        Fate::Held => text::duration(until.since(*called_at)),
    };
    let what = if query.is_some() { " (DNS)" } else { "" };
    let mut detail: Vec<String> = Some(comm)
        .filter(|comm| !comm.is_empty())
        .map(|comm| text::plain(comm))
        .into_iter()
        .collect();
    if *by_sentry {
        detail.push("at the sentry first".to_owned());
    }
    match outcome {
        Some(Outcome::Connected) => {}
        Some(outcome) => detail.push(outcome.as_str().to_owned()),
        None if goes_on => detail.push("waits".to_owned()),
        None => {}
    }
    detail.extend(container.as_deref().map(text::plain));
    detail.extend(pid.map(|pid| format!("pid {pid} · uid {uid}")));
    Row {
        kind,
        title: format!("→ {destination}{what}"),
        detail: detail.join(" · "),
        from: axis.percent(*called_at),
        to: if *fate == Fate::Held { axis.percent(until) } else { axis.percent(*called_at) },
        goes_on,
        label,
    }
}

/// What the gate did and when, on as many lines as keep the names apart.
fn flags(episode: &Episode, axis: Axis) -> Vec<Flag> {
    let opened = episode.opened_at.map(|at| {
        let (name, mark) = match episode.open_reason {
            Some(OpenReason::ProbeReady | OpenReason::KubeReady) => ("proxy ready", Mark::Ready),
            Some(OpenReason::Deadline) => ("deadline", Mark::Deadline),
            Some(OpenReason::Exempt(_)) | None => ("opened", Mark::Opened),
        };
        (at, name, mark)
    });
    let refuses = episode.refuses_at.map(|at| (at, "deadline", Mark::Deadline));
    let mut flags: Vec<Flag> = Vec::new();
    for (at, name, mark) in
        [(episode.closed_at, "closed", Mark::Closed)].into_iter().chain(refuses).chain(opened)
    {
        let mut flag = Flag { at: axis.percent(at), name, mark, lane: 0 };
        while flags.iter().any(|other| other.is_in_the_way_of(&flag)) {
            flag.lane += 1;
        }
        flags.push(flag);
    }
    flags
}

// === impl Flag ===

impl Flag {
    /// Whether its name stands to the left of its line: there is more room.
    pub(super) fn points_left(&self) -> bool {
        self.at > 50.0
    }

    fn is_in_the_way_of(&self, other: &Self) -> bool {
        let extent = |flag: &Self| {
            // With a gap of one letter, where it ends.
            let letters = u32::try_from(flag.name.len() + 1).unwrap_or(u32::MAX);
            let width = f64::from(letters) * LETTER;
            if flag.points_left() { (flag.at - width, flag.at) } else { (flag.at, flag.at + width) }
        };
        let ((from, to), (other_from, other_to)) = (extent(self), extent(other));
        self.lane == other.lane && from < other_to && other_from < to
    }
}

// === impl Axis ===

impl Axis {
    fn of(episode: &Episode, now: Stamp) -> Self {
        let (start, end) = episode.span(now);
        let after = end.since(episode.closed_at);
        let lead = episode.closed_at.since(start).min(LEAD.max(after / LEAD_PART));
        let from = episode.closed_at - lead;
        let shown = end.since(from).max(SHORTEST);
        Self { from, width: shown + shown / TRAIL_PART }
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes; it becomes a pixel")]
    fn percent(self, at: Stamp) -> f64 {
        let since = at.since(self.from).as_micros() as f64;
        (since / self.width.as_micros() as f64 * 100.0).min(100.0)
    }

    /// Labels at round times since `zero`.
    fn ticks(self, zero: Stamp) -> Vec<Tick> {
        let width = u64::try_from(self.width.as_micros()).unwrap_or(u64::MAX);
        let step = round_step(width / MAX_TICKS);
        let last = Duration::from_micros(width).saturating_sub(zero.since(self.from));
        let mut ticks = Vec::new();
        let mut at = Duration::ZERO;
        while at <= last {
            ticks.push(Tick { at: self.percent(zero + at), label: tick_label(at, step) });
            at += step;
        }
        ticks
    }
}

/// The next of 1, 2, 5, 10, ... milliseconds or seconds, 15, 30, 60, ... seconds or minutes, hours.
fn round_step(micros: u64) -> Duration {
    const MILLIS: [u64; 9] = [1, 2, 5, 10, 20, 50, 100, 200, 500];
    const SECONDS: [u64; 13] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
    const HOUR: u64 = 3_600_000_000;
    MILLIS
        .into_iter()
        .map(Duration::from_millis)
        .chain(SECONDS.into_iter().map(Duration::from_secs))
        .find(|step| step.as_micros() >= u128::from(micros))
        .unwrap_or_else(|| Duration::from_micros(micros.div_ceil(HOUR).saturating_mul(HOUR)))
}

fn tick_label(at: Duration, step: Duration) -> String {
    let (seconds, millis) = (at.as_secs(), at.as_millis());
    if at.is_zero() {
        "0".to_owned()
    } else if step < Duration::from_millis(100) {
        format!("{millis} ms")
    } else if step < Duration::from_secs(1) {
        format!("{:.1} s", at.as_secs_f64())
    } else if step < Duration::from_secs(60) {
        format!("{seconds} s")
    } else if step < Duration::from_secs(3600) {
        format!("{} min", seconds / 60)
    } else {
        format!("{} h", seconds / 3600)
    }
}

#[cfg(test)]
mod tests;

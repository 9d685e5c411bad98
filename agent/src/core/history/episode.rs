//! One closing of one pod's gate, from its first instant to its last.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Noted,
    pace::{Pace, Saying},
};
use crate::core::{
    CloseReason, ContainerRole, Epoch, Finding, HeldConnect, Line, Mode, Monotonic, OpenReason,
    Origin, Outcome, PodRef, QueryId, SocketCookie, Stamp, stamp::millis,
};

/// One closing of one pod's gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// Counts up from 1 as long as the agent runs.
    pub id: u64,
    /// The pod.
    #[serde(flatten)]
    pub pod: PodRef,
    /// Why the gate closed; `None`: a connect was held before that is known.
    pub reason: Option<CloseReason>,
    /// The proxy's profile.
    pub profile: String,
    /// The proxy's container.
    pub proxy: String,
    /// What the gate does.
    pub mode: Mode,
    /// Whose choice it is to hold the pod; `None`: the API has not told of it.
    pub enabled_by: Option<Origin>,
    /// Nobody enabled the pod: what would have been held is noted, and nothing was.
    #[serde(default)]
    pub observes: bool,
    /// How long a connect waits at most.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
    /// When it closed.
    pub closed_at: Stamp,
    /// The containers that ran, in the order of their starts; [`Self::MAX_CONTAINERS`] at most.
    pub containers: Vec<ContainerSpan>,
    /// The connects, in the order in which they were told; [`Self::MAX_CONNECTS`] at most.
    pub connects: Vec<ConnectSpan>,
    /// When the first of them was called.
    pub first_connect_at: Option<Stamp>,
    /// How many waited.
    pub held: u64,
    /// How many of these began to at the sentry, before there was a gate.
    #[serde(default)]
    pub by_sentry: u64,
    /// How many were refused (mode refuse).
    pub refused: u64,
    /// How many would have waited (mode observe).
    pub observed: u64,
    /// How many of these failed, because nobody listened on the proxy's port.
    #[serde(default)]
    pub observed_refused: u64,
    /// How those that waited ended.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// How long one waited at most.
    #[serde(rename = "longest_ms", with = "millis")]
    pub longest: Duration,
    /// When the time was up and connects began to fail (on-timeout refuse).
    pub refuses_at: Option<Stamp>,
    /// When it opened.
    pub opened_at: Option<Stamp>,
    /// Why it opened.
    pub open_reason: Option<OpenReason>,
    /// What the probe had found last when it opened, or when connects began to fail.
    pub finding: Option<Finding>,
    /// When it was over: its programs were off, or stayed on to guard.
    pub ended_at: Option<Stamp>,
    /// Its programs stayed on to guard.
    pub guards: bool,
    /// Why its programs could not be worked.
    pub error: Option<String>,
    /// An agent before this one has closed it, and what it is has not been told to this one.
    #[serde(skip)]
    pub(super) is_inherited: bool,
    #[serde(skip)]
    paces: Paces,
}

/// A container that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpan {
    /// Its name.
    pub name: String,
    /// Its role, if the API has told.
    pub role: Option<ContainerRole>,
    /// It is the proxy.
    pub is_proxy: bool,
    /// When its first process was seen.
    pub started_at: Stamp,
    /// When it had none any more.
    pub ended_at: Option<Stamp>,
}

/// A connect or a DNS query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectSpan {
    /// The socket.
    pub cookie: SocketCookie,
    /// The id of the DNS query.
    pub query: Option<QueryId>,
    /// The container's name, as far as known.
    pub container: Option<String>,
    /// Command name of the caller. Chosen by the tenant: any bytes.
    pub comm: String,
    /// Thread group id of the caller.
    pub pid: Option<u32>,
    /// Uid of the caller.
    pub uid: u32,
    /// Where it wanted to go.
    pub destination: SocketAddr,
    /// It began to wait at the sentry, where nobody notes who calls.
    #[serde(default)]
    pub by_sentry: bool,
    /// What the gate did with it.
    pub fate: Fate,
    /// When it was called.
    pub called_at: Stamp,
    /// When it waited no longer.
    pub ended_at: Option<Stamp>,
    /// What became of it.
    pub outcome: Option<Outcome>,
}

/// What had been told of an episode before the closing of its gate was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// A connect that found nobody listening, for which it closes.
    OfConnect,
    /// That an agent before this one had closed it.
    Inherited,
    /// The closing itself.
    Closing,
}

/// What a gate did with a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It waited.
    Held,
    /// It failed.
    Refused,
    /// It passed, and would have waited.
    Observed,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Paces {
    held: Pace,
    refused: Pace,
    observed: Pace,
    released: Pace,
}

// === impl Episode ===

impl Episode {
    /// Connects that are kept one by one; all are counted.
    pub const MAX_CONNECTS: usize = 64;
    /// Containers that are kept.
    pub const MAX_CONTAINERS: usize = 32;

    pub(super) fn new(id: u64, pod: PodRef, closed_at: Stamp) -> Self {
        Self {
            id,
            pod,
            reason: None,
            profile: String::new(),
            proxy: String::new(),
            mode: Mode::default(),
            enabled_by: None,
            observes: false,
            timeout: Duration::ZERO,
            closed_at,
            containers: Vec::new(),
            connects: Vec::new(),
            first_connect_at: None,
            held: 0,
            by_sentry: 0,
            refused: 0,
            observed: 0,
            observed_refused: 0,
            outcomes: BTreeMap::new(),
            longest: Duration::ZERO,
            refuses_at: None,
            opened_at: None,
            open_reason: None,
            finding: None,
            ended_at: None,
            guards: false,
            error: None,
            is_inherited: false,
            paces: Paces::default(),
        }
    }

    /// Whether a closing at this instant is this one, and what of it had been told before.
    pub(super) fn goes_on_as(&self, closed_at: Stamp) -> Option<Before> {
        if self.reason.is_none() {
            Some(Before::OfConnect)
        } else if self.is_inherited {
            Some(Before::Inherited)
        } else {
            (self.closed_at == closed_at).then_some(Before::Closing)
        }
    }

    /// Whether the end of each that waited has been told.
    pub(super) fn has_ended_all(&self) -> bool {
        self.outcomes.values().sum::<u64>() >= self.held
    }

    /// How many connects waited, failed or were observed.
    #[must_use]
    pub const fn touched(&self) -> u64 {
        self.held + self.refused + self.observed
    }

    /// Connects that are only counted.
    #[must_use]
    pub const fn unnamed(&self) -> u64 {
        self.touched().saturating_sub(self.connects.len() as u64)
    }

    /// How many of those that waited ended so.
    #[must_use]
    pub fn ended_as(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }

    /// When the proxy was ready.
    #[must_use]
    pub fn ready_at(&self) -> Option<Stamp> {
        self.opened_at.filter(|_| {
            matches!(self.open_reason, Some(OpenReason::ProbeReady | OpenReason::KubeReady))
        })
    }

    /// From the proxy's start, or else from the gate's closing, to its readiness. Where the sentry has held
    /// before there was an agent, nobody has seen a start: from the first connect on.
    #[must_use]
    pub fn ready_after(&self) -> Option<Duration> {
        let proxies = self.containers.iter().filter(|container| container.is_proxy);
        let start = proxies.map(|proxy| proxy.started_at).max().unwrap_or(self.closed_at);
        let start = self.began_at_sentry().unwrap_or(start);
        self.ready_at().map(|ready| ready.since(start))
    }

    /// When the first connect began to wait, if that was at the sentry.
    #[must_use]
    pub fn began_at_sentry(&self) -> Option<Stamp> {
        self.first_connect_at.filter(|_| self.by_sentry > 0)
    }

    /// Its first instant and its last, as far as it has come: what a drawing of it has to show.
    #[must_use]
    pub fn span(&self, now: Stamp) -> (Stamp, Stamp) {
        let starts = self.containers.iter().map(|container| container.started_at);
        let start = starts.chain(self.first_connect_at).chain([self.closed_at]).min();
        let ends = self.connects.iter().filter_map(|connect| connect.ended_at);
        let end = ends.chain(self.opened_at).chain(self.ended_at).max();
        let end = if self.ended_at.is_some() { end } else { Some(now) };
        (start.unwrap_or(self.closed_at), end.unwrap_or(self.closed_at))
    }

    pub(super) fn record(&mut self, line: &Line, now: Monotonic, epoch: Epoch) -> Noted {
        let touched = self.touched();
        let saying = match line {
            Line::GateClosed {
                at: _,
                reason,
                profile,
                proxy,
                mode,
                enabled_by,
                observes,
                timeout,
            } => {
                self.reason = Some(*reason);
                self.profile.clone_from(profile);
                self.proxy.clone_from(proxy);
                (self.mode, self.timeout, self.observes) = (*mode, *timeout, *observes);
                self.enabled_by = enabled_by.or(self.enabled_by);
                // Which container is the proxy is known now, and those that came before count, too.
                for container in &mut self.containers {
                    container.is_proxy = container.name == *proxy;
                }
                Saying::default()
            }
            Line::GateInherited { reason, held } => {
                self.reason = *reason;
                self.held = self.held.max(*held as u64);
                Saying::default()
            }
            Line::ContainerStarted { container, role, is_proxy, at } => {
                if self.containers.len() < Self::MAX_CONTAINERS {
                    self.containers.push(ContainerSpan {
                        name: container.clone(),
                        role: *role,
                        is_proxy: *is_proxy,
                        started_at: epoch.stamp(*at),
                        ended_at: None,
                    });
                }
                Saying::default()
            }
            Line::ContainerEnded { container } => {
                let runs =
                    |span: &&mut ContainerSpan| span.name == *container && span.ended_at.is_none();
                if let Some(span) = self.containers.iter_mut().rev().find(runs) {
                    span.ended_at = Some(epoch.stamp(now));
                }
                Saying::default()
            }
            Line::Held(connect) => {
                self.held += 1;
                self.by_sentry += u64::from(connect.by_sentry);
                self.connect(connect, Fate::Held, epoch);
                self.paces.held.say(connect, None, now)
            }
            Line::Refused { connect, errno: _ } => {
                self.refused += 1;
                self.connect(connect, Fate::Refused, epoch);
                self.paces.refused.say(connect, None, now)
            }
            Line::Observed { connect, refused } => {
                self.observed += 1;
                self.observed_refused += u64::from(*refused);
                let span = self.connect(connect, Fate::Observed, epoch);
                if let Some(span) = span.filter(|_| *refused) {
                    span.ended_at = Some(span.called_at);
                    span.outcome = Some(Outcome::Refused);
                }
                self.paces.observed.say(connect, None, now)
            }
            Line::Released { connect, waited, outcome } => {
                *self.outcomes.entry(*outcome).or_default() += 1;
                self.longest = self.longest.max(*waited);
                let ended_at = epoch.stamp(connect.caller.connect_at + *waited);
                let same = |span: &&mut ConnectSpan| {
                    span.cookie == connect.cookie
                        && span.query == connect.caller.query
                        && span.ended_at.is_none()
                };
                if let Some(span) = self.connects.iter_mut().find(same) {
                    span.ended_at = Some(ended_at);
                    span.outcome = Some(*outcome);
                    span.container = connect.container.clone().or(span.container.take());
                }
                self.paces.released.say(connect, Some(*outcome), now)
            }
            Line::DeadlineRefuses { held: _, finding } => {
                self.finding.clone_from(finding);
                self.refuses_at = Some(epoch.stamp(now));
                Saying::default()
            }
            Line::GateOpened { at, reason, held: _, finding } => {
                self.finding.clone_from(finding);
                self.opened_at = Some(epoch.stamp(*at));
                self.open_reason = Some(*reason);
                Saying::default()
            }
            Line::GateFailed { error, again: _, trials: _ } => {
                self.error = Some(error.clone());
                Saying::default()
            }
            Line::InitPassed { .. }
            | Line::GateGuards
            | Line::GateDetached
            | Line::NotHeld { .. }
            | Line::NotRedirected { .. }
            | Line::Ordered { .. }
            | Line::InvalidSetting(_) => Saying::default(),
        };
        let first = line.connect().is_some() && touched == 0 && self.touched() > 0;
        let after_ready = self.after_ready(line, epoch);
        let (quiet, observes) = (self.is_quiet(), self.observes);
        Noted {
            saying,
            quiet,
            observes,
            first,
            closes: false,
            becomes_known: false,
            after_ready,
            ended: None,
        }
    }

    /// How long after the proxy was ready a connect was established. Those that were before it, as
    /// when kubelet's word comes late, have not waited for the agent.
    fn after_ready(&self, line: &Line, epoch: Epoch) -> Option<Duration> {
        let Line::Released { connect, waited, outcome: Outcome::Connected } = line else {
            return None;
        };
        let connected_at = epoch.stamp(connect.caller.connect_at + *waited);
        self.ready_at()
            .filter(|ready| *ready <= connected_at)
            .map(|ready| connected_at.since(ready))
    }

    /// Takes in a connect; one that is only counted has no span.
    fn connect(
        &mut self,
        connect: &HeldConnect,
        fate: Fate,
        epoch: Epoch,
    ) -> Option<&mut ConnectSpan> {
        let HeldConnect { cookie, container, by_sentry, caller } = connect;
        let called_at = epoch.stamp(caller.connect_at);
        let first = self.first_connect_at.map_or(called_at, |first| first.min(called_at));
        self.first_connect_at = Some(first);
        if self.connects.len() == Self::MAX_CONNECTS {
            return None;
        }
        self.connects.push(ConnectSpan {
            cookie: *cookie,
            query: caller.query,
            container: container.clone(),
            comm: caller.comm.clone(),
            pid: caller.pid,
            uid: caller.uid,
            destination: caller.destination,
            by_sentry: *by_sentry,
            fate,
            called_at,
            ended_at: None,
            outcome: None,
        });
        self.connects.last_mut()
    }
}

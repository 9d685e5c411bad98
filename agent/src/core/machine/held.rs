//! The connects and queries that wait: what the kernel reports of them.

use std::time::Duration;

use super::{gate::GatePhase, pod::Pod};
use crate::core::{
    Action, Caller, CgroupId, CloseReason, HeldConnect, KernelEvent, KernelEventKind, Line,
    Monotonic, Outcome, Pace, RefuseErrno, SocketCookie,
};

/// How long a DNS query waits at most, see `agent_ebpf::gate::DNS_BUDGET_NS`.
const DNS_BUDGET: Duration = Duration::from_nanos(agent_ebpf::gate::DNS_BUDGET_NS);

impl Pod {
    /// Takes in what the kernel reports of one of the pod's sockets.
    pub(super) fn kernel(&mut self, event: KernelEvent, actions: &mut Vec<Action>) {
        let KernelEvent { at, cookie, pod: _, kind } = event;
        self.note_heard(&kind, at);
        match kind {
            KernelEventKind::Held(caller) => self.hold(cookie, caller, at, actions),
            KernelEventKind::Refused(caller) => {
                self.note_wait(caller.connect_at);
                let errno = self.errno(&caller, at);
                let connect = self.connect(cookie, caller);
                self.log(Line::Refused { connect, errno }, actions);
            }
            KernelEventKind::Observed { caller, refused } => {
                self.note_wait(caller.connect_at);
                let line = Line::Observed { connect: self.connect(cookie, caller), refused };
                self.log(line, actions);
            }
            KernelEventKind::InitPassed(caller) => {
                let connect = self.connect(cookie, caller);
                self.tell_init_passed(connect, actions);
            }
            KernelEventKind::Connected => self.released(cookie, at, Outcome::Connected, actions),
            KernelEventKind::Closed => {
                self.released(cookie, at, Outcome::ClosedByApplication, actions);
            }
            KernelEventKind::Failed => {
                let outcome = self.failure(at);
                self.released(cookie, at, outcome, actions);
            }
        }
    }

    fn hold(
        &mut self,
        cookie: SocketCookie,
        caller: Caller,
        at: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        // The kernel tells it once a socket; an agent before this one may have been told, and this one has
        // found it in the table since.
        if self.held.contains(cookie, caller.query) {
            return;
        }
        let by_sentry = self.is_sentrys(&caller);
        let connect = HeldConnect { by_sentry, ..self.connect(cookie, caller) };
        self.log(Line::Held(connect.clone()), actions);
        let stale = match self.gate {
            GatePhase::Guarded { since } => at < since,
            phase => !phase.is_attached(),
        };
        if stale {
            // Read so late that its gate has passed on: nobody will report its end.
            self.log_released(connect, at, Outcome::StillConnecting, actions);
            return;
        }
        self.note_wait(connect.caller.connect_at);
        if self.held.is_empty() && self.gate.is_probing() {
            let uid = self.uid.clone();
            actions.push(Action::SetPace { uid, pace: Pace::Held(at) });
        }
        self.held.insert(connect);
    }

    /// Notes what the kernel counts as well, see [`agent_ebpf::GateCounts::reached`].
    fn note_heard(&mut self, kind: &KernelEventKind, at: Monotonic) {
        let counts = matches!(
            kind,
            KernelEventKind::Held(_)
                | KernelEventKind::Refused(_)
                | KernelEventKind::Observed { .. }
        );
        if let Some((heard, attached_at)) = &mut self.heard
            && counts
            && at >= *attached_at
        {
            *heard += 1;
        }
    }

    /// Whether somebody may wait: one who is known to, or one whose report has not been read, or was
    /// lost, and who has not been sent again with the others.
    pub(super) fn may_wait(&self) -> bool {
        let all_heard =
            self.heard.zip(self.reached).is_some_and(|((heard, _), reached)| heard >= reached);
        !self.held.is_empty() || !all_heard
    }

    /// From the first wait the deadline counts.
    fn note_wait(&mut self, connect_at: Monotonic) {
        if self.gate.is_closed() {
            self.first_wait = self.first_wait.or(Some(connect_at));
        }
    }

    /// What a refused connect fails with, if it is the setting's to say. The hook of connect() refuses
    /// in the moment of the call; a SYN comes later, and is answered by the kernel itself.
    fn errno(&self, caller: &Caller, at: Monotonic) -> Option<RefuseErrno> {
        let in_hook = caller.pid.is_some() && caller.connect_at == at;
        self.applied.as_ref().filter(|_| in_hook).map(|plan| plan.settings.errno.value)
    }

    /// It may be started again and again; its owner is told once.
    pub(super) fn tell_init_passed(&mut self, connect: HeldConnect, actions: &mut Vec<Action>) {
        // Whose name nobody has told counts as one of that name.
        if self.told_init.insert(connect.container.clone().unwrap_or_default()) {
            let hint = self.applied.as_ref().and_then(|plan| plan.proxy.exclusion_hint.clone());
            self.log(Line::InitPassed { connect, hint }, actions);
        }
    }

    fn connect(&self, cookie: SocketCookie, caller: Caller) -> HeldConnect {
        self.named(HeldConnect { cookie, container: None, by_sentry: false, caller })
    }

    /// Whether a connect that waits began to at the sentry: before its pod had a gate there was nobody else.
    /// Of those that the gate's own hooks have seen it is known who called.
    fn is_sentrys(&self, caller: &Caller) -> bool {
        let closed_first = matches!(
            self.gate,
            GatePhase::Closed { reason: CloseReason::Start | CloseReason::NotReady, .. }
        );
        let before_gate = self.closed_since.is_some_and(|since| caller.connect_at < since);
        closed_first && before_gate && caller.pid.is_none() && caller.query.is_none()
    }

    /// With what its container is called by now: the API may have named it since. Where nothing is
    /// known of it any more it keeps the name it had.
    pub(super) fn named(&self, connect: HeldConnect) -> HeldConnect {
        let container = self.container_name(connect.caller.container).or(connect.container);
        HeldConnect { container, ..connect }
    }

    fn released(
        &mut self,
        cookie: SocketCookie,
        at: Monotonic,
        outcome: Outcome,
        actions: &mut Vec<Action>,
    ) {
        // One whose hold was not reported, or which was given up, is not there.
        let ended = self.held.remove(cookie);
        self.release(ended, at, outcome, actions);
    }

    /// The queries of an open gate have been sent again; whether they are answered is the proxy's
    /// and the resolver's business.
    pub(super) fn send_queries(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let ended = self.held.remove_queries(|_| true);
        self.release(ended, now, Outcome::QuerySent, actions);
    }

    /// A query that has waited so long is not waited for any more.
    pub(super) fn expire_queries(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let ended =
            self.held.remove_queries(|query| now.since(query.caller.connect_at) >= DNS_BUDGET);
        self.release(ended, now, Outcome::QueryExpired, actions);
    }

    /// When the first of the waiting queries expires.
    pub(super) fn queries_expire(&self) -> Option<Monotonic> {
        self.held.first_query().map(|first| first + DNS_BUDGET)
    }

    /// The last word on connects whose end will not be reported any more.
    pub(super) fn give_up_waiting(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        for connect in self.held.take() {
            self.log_released(connect, now, Outcome::StillConnecting, actions);
        }
    }

    fn release(
        &mut self,
        ended: Vec<HeldConnect>,
        at: Monotonic,
        outcome: Outcome,
        actions: &mut Vec<Action>,
    ) {
        if ended.is_empty() {
            return;
        }
        for connect in ended {
            self.log_released(connect, at, outcome, actions);
        }
        if self.held.is_empty() && self.gate.is_probing() {
            actions.push(Action::SetPace { uid: self.uid.clone(), pace: Pace::Idle });
        }
    }

    fn log_released(
        &self,
        connect: HeldConnect,
        at: Monotonic,
        outcome: Outcome,
        actions: &mut Vec<Action>,
    ) {
        let waited = at.since(connect.caller.connect_at);
        let connect = self.named(connect);
        self.log(Line::Released { connect, waited, outcome }, actions);
    }

    /// Behind a closed gate the kernel gives up by a timeout; through an open one it is refused. The
    /// report may be read when the gate has closed again, for the death of the very proxy that refused.
    fn failure(&self, at: Monotonic) -> Outcome {
        let had_closed = self.closed_since.is_some_and(|since| since <= at);
        match self.gate {
            GatePhase::Closed { deadline, .. } if had_closed && at < deadline && !self.observes => {
                Outcome::TimedOut
            }
            _ => Outcome::Refused,
        }
    }

    fn container_name(&self, cgroup: Option<CgroupId>) -> Option<String> {
        let cgroup = cgroup?;
        let found = self.containers.iter().find(|(_, container)| container.cgroup == cgroup);
        let Some((id, container)) = found else {
            let ended = self.ended.iter().find(|(ended, _)| *ended == cgroup);
            return ended.map(|(_, name)| name.clone());
        };
        let name = container.identity.as_ref().map(|identity| identity.name.clone());
        Some(name.unwrap_or_else(|| id.to_string()))
    }
}

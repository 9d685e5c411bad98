//! The connects that wait: what the kernel reports of them.

use super::{gate::GatePhase, pod::Pod};
use crate::core::{
    Action, CgroupId, HeldConnect, KernelEvent, KernelEventKind, Line, Monotonic, Outcome, Pace,
    SocketCookie,
};

impl Pod {
    /// Takes in what the kernel reports of one of the pod's sockets.
    pub(super) fn kernel(&mut self, event: KernelEvent, actions: &mut Vec<Action>) {
        let KernelEvent { at, cookie, pod: _, kind } = event;
        match kind {
            KernelEventKind::Held { container, pid, uid, comm, destination, connect_at } => {
                let connect = HeldConnect {
                    cookie,
                    container: self.container_name(container),
                    container_cgroup: container,
                    pid,
                    uid,
                    comm,
                    destination,
                    connect_at,
                };
                let (uid, name) = (self.uid.clone(), self.name());
                let line = Line::Held { uid, name, connect: connect.clone() };
                actions.push(Action::Log(line));
                if !self.gate.is_attached() {
                    // Read so late that the programs are off: nobody will report its end.
                    actions.push(Action::Log(self.still_connecting(connect, at)));
                    return;
                }
                if self.is_closed() {
                    self.first_wait = self.first_wait.or(Some(connect_at));
                }
                if self.held.is_empty() && self.is_closed() {
                    let uid = self.uid.clone();
                    actions.push(Action::SetPace { uid, pace: Pace::Held(at) });
                }
                self.held.insert(cookie, connect);
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

    /// The last word on a connect whose end will not be reported any more.
    pub(super) fn still_connecting(&self, connect: HeldConnect, now: Monotonic) -> Line {
        let (uid, name) = (self.uid.clone(), self.name());
        let waited = now.since(connect.connect_at);
        Line::Released { uid, name, connect, waited, outcome: Outcome::StillConnecting }
    }

    fn released(
        &mut self,
        cookie: SocketCookie,
        at: Monotonic,
        outcome: Outcome,
        actions: &mut Vec<Action>,
    ) {
        // The report of its hold was lost, or it was given up as still connecting.
        let Some(mut connect) = self.held.remove(&cookie) else {
            return;
        };
        // The API may have named the container since; one that has ended is not known any more.
        if let Some(container) = self.container_name(connect.container_cgroup) {
            connect.container = Some(container);
        }
        let (uid, name) = (self.uid.clone(), self.name());
        let waited = at.since(connect.connect_at);
        actions.push(Action::Log(Line::Released { uid, name, connect, waited, outcome }));
        if self.held.is_empty() && self.is_closed() {
            actions.push(Action::SetPace { uid: self.uid.clone(), pace: Pace::Idle });
        }
    }

    /// Behind a closed gate the kernel gives up by a timeout; through an open one it is refused.
    fn failure(&self, at: Monotonic) -> Outcome {
        match self.gate {
            GatePhase::Closed { deadline, renew_at: _ } if at < deadline => Outcome::TimedOut,
            _ => Outcome::Refused,
        }
    }

    const fn is_closed(&self) -> bool {
        matches!(self.gate, GatePhase::Closed { .. })
    }

    fn container_name(&self, cgroup: Option<CgroupId>) -> Option<String> {
        let cgroup = cgroup?;
        let (id, container) =
            self.containers.iter().find(|(_, container)| container.cgroup == cgroup)?;
        let name = container.identity.as_ref().map(|identity| identity.name.clone());
        Some(name.unwrap_or_else(|| id.to_string()))
    }
}

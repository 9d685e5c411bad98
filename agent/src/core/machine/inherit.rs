//! The gates that an agent before this one has left: they go on as they stand.

use super::{
    evaluate::Context,
    gate::{AfterOpening, GatePhase},
    pod::{Pod, Standing},
};
use crate::core::{Action, HeldConnect, InheritedGate, InheritedState, Line, Mode, Monotonic};

impl Pod {
    /// Goes on with what is on the pod's cgroup. What waits has a deadline that an agent's end does
    /// not move: it counts from when it counted before.
    pub(super) fn inherit(
        &mut self,
        inherited: InheritedGate,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let InheritedGate { state, waiting, reached } = inherited;
        for (cookie, caller) in waiting {
            let connect =
                self.named(HeldConnect { cookie, container: None, by_sentry: false, caller });
            self.held.insert(connect);
        }
        let held = self.held.len();
        let reason = match state {
            InheritedState::Closed { reason, .. } | InheritedState::Refusing { reason } => {
                Some(reason)
            }
            InheritedState::Guarded | InheritedState::Open => None,
        };
        self.log(Line::GateInherited { reason, held }, actions);
        let now = context.now;
        self.inherits_verdicts = true;
        self.heard = None;
        match state {
            InheritedState::Closed { reason, since, reached_before, deadline } => {
                // Whoever has reached the gate may wait still, whether or not that can be known.
                let new = reached_before.map(|before| reached.saturating_sub(before));
                self.first_wait = match new {
                    // Each of them is known. Who came before it was closed, and waits still, does so from then on.
                    Some(new) if new <= held as u64 => self.held.first().map(|at| at.max(since)),
                    Some(_) | None => Some(since),
                };
                // As the other one has noted it, if it has: what was read when this agent started may be old.
                self.counted = reached_before.map(|before| (before, since));
                // Not before it is known whose time it is.
                let renew_at = self.first_wait.is_none().then_some(deadline);
                self.keeps_settings = true;
                (self.closed_since, self.closed_unknown) = (Some(since), Some(since));
                self.gate = GatePhase::Closed { reason, deadline, renew_at };
                self.start_probe(context.plan, Some(reason), actions);
                true
            }
            InheritedState::Refusing { reason } => {
                self.start_probe(context.plan, Some(reason), actions);
                // The plan that the kernel goes by is that of the other agent.
                self.applied = None;
                self.go(GatePhase::Refusing { reason, renew_at: now })
            }
            InheritedState::Guarded => self.go(GatePhase::Guarded { since: now }),
            // Its pod may have run for a while since: its proxy is asked once it is detached.
            InheritedState::Open => {
                let (uid, cgroup) = (self.uid.clone(), context.cgroup);
                self.reached = None;
                let replays = context.plan.settings.mode.value != Mode::Retry;
                let replay = replays.then(|| self.held.sockets());
                actions.push(Action::OpenGate { uid, cgroup, replay });
                self.go(GatePhase::Opening { since: now, then: AfterOpening::Exempt })
            }
        }
    }

    /// Whether the gate's settings stay those of an earlier agent: until the API has told what they
    /// are to be. The first time that it has, the kernel and the probe are told anew.
    pub(super) fn keeps_inherited(&mut self, standing: Standing, now: Monotonic) -> bool {
        if self.keeps_settings && standing != Standing::Unknown {
            self.keeps_settings = false;
            self.applied = None;
            if let GatePhase::Closed { renew_at: Some(at), .. } = &mut self.gate {
                *at = now;
            }
        }
        self.keeps_settings
    }
}

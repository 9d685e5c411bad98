//! When a closed gate opens by itself: its deadline, and what moves it.

use std::time::Duration;

use super::{
    evaluate::Context,
    gate::GatePhase,
    pod::{Pod, Standing},
    steps::{REFUSE_AHEAD, refuses_late},
};
use crate::core::{Action, CloseReason, GateSetting, Line, Monotonic, Order};

/// For how long a gate goes on after an order to close it, for the agent to wake up and look: a
/// thousand times what a timer of a machine that is not overloaded is late.
const HAND_OVER: Duration = Duration::from_secs(1);

impl Pod {
    /// When the kernel opens a gate that the operator wants closed: when the order ends, or when the
    /// hold would end that the facts may ask for then. Between the two it must not be open, so where
    /// nobody is known to wait it goes on until the agent has looked at the order's end.
    pub(super) fn ordered_deadline(&self, context: &Context<'_>) -> Option<Monotonic> {
        let Some(Order::Closed { until }) = self.order else { return None };
        if context.standing == Standing::Observe {
            return None;
        }
        let timeout = context.plan.settings.timeout.value;
        Some(match (self.first_wait, self.counted) {
            (Some(first), _) => until.max(first + timeout),
            (None, Some((_, nobody_at))) => (until + HAND_OVER).max(nobody_at + timeout),
            // Somebody may have come to it since it was closed.
            (None, None) => {
                let facts = self.closed_deadline().unwrap_or(context.now + timeout);
                (until + HAND_OVER).max(facts)
            }
        })
    }

    /// When the kernel opens the gate, if that is closed.
    pub(super) const fn closed_deadline(&self) -> Option<Monotonic> {
        match self.gate {
            GatePhase::Closed { deadline, .. } => Some(deadline),
            _ => None,
        }
    }

    /// How long this closing holds a connect at most.
    pub(super) fn timeout(&self, context: &Context<'_>) -> Duration {
        match self.order {
            Some(Order::Closed { until }) if context.standing != Standing::Observe => {
                until.since(context.now)
            }
            _ => context.plan.settings.timeout.value,
        }
    }

    pub(super) fn closed_until(
        &self,
        deadline: Monotonic,
        reason: CloseReason,
        context: &Context<'_>,
    ) -> GateSetting {
        let refuses = refuses_late(context.plan);
        let (reached_before, nobody_at) = match (self.first_wait, self.counted) {
            (None, Some((reached, at))) => (Some(reached), Some(at)),
            (Some(_), _) | (None, None) => (None, None),
        };
        GateSetting::Closed {
            reason,
            // Since nobody was known to wait; not since it is set anew: the next agent counts from it for
            // whoever has come meanwhile.
            since: self.first_wait.or(nobody_at).or(self.closed_since).unwrap_or(context.now),
            reached_before,
            deadline,
            refuse_until: refuses.then(|| deadline + REFUSE_AHEAD),
        }
    }

    /// The deadline counts from the first connect that waits. Until there is one it is moved on,
    /// always well before it passes, so that the kernel has one at any time; but only once the
    /// kernel has said that nobody waits, since the report of one who does may have been lost.
    pub(super) fn move_deadline(
        &mut self,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> Monotonic {
        let GatePhase::Closed { reason, deadline, renew_at } = self.gate else {
            return context.now;
        };
        // The kernel could not be told just now.
        if let Some(again) = self.renew_again_at {
            let renew_at = renew_at.map(|at| at.max(again));
            self.gate = GatePhase::Closed { reason, deadline, renew_at };
            return deadline;
        }
        let (now, timeout) = (context.now, context.plan.settings.timeout.value);
        if let Some(ordered) = self.ordered_deadline(context) {
            if ordered != deadline {
                self.set_gate(self.closed_until(ordered, reason, context), context, actions);
            }
            // The order's end is looked at, and nothing before it.
            self.gate = GatePhase::Closed { reason, deadline: ordered, renew_at: None };
            return ordered;
        }
        // After an order, or of all that was known to wait none does any more.
        let renew_at = if self.first_wait.is_none() { renew_at.or(Some(now)) } else { renew_at };
        let (new, renew_at) = match (self.first_wait, renew_at) {
            (Some(first), Some(_)) => (first + timeout, None),
            // The user has chosen another time.
            (Some(first), None) => (first + timeout, None),
            (None, Some(at)) if now >= at && self.counted.is_some_and(|(_, at)| at >= now) => {
                (now + timeout, Some(now + timeout / 2))
            }
            (None, Some(at)) if now >= at && at < deadline => {
                // Where it could not be told how many had come before it closed, more says nothing.
                if self.counted.is_some() {
                    let (uid, cgroup) = (self.uid.clone(), context.cgroup);
                    actions.push(Action::CountGate { uid, cgroup });
                }
                self.gate = GatePhase::Closed { reason, deadline, renew_at: Some(deadline) };
                return deadline;
            }
            _ => return deadline,
        };
        if new == deadline && renew_at.is_none() {
            self.gate = GatePhase::Closed { reason, deadline, renew_at };
            return deadline;
        }
        self.set_gate(self.closed_until(new, reason, context), context, actions);
        self.gate = GatePhase::Closed { reason, deadline: new, renew_at };
        new
    }

    /// Takes in what the kernel has counted.
    ///
    /// While the gate is closed it shows whether somebody waits whose report was lost: the deadline
    /// then counts from the last time at which nobody did. When it has opened, a pod that connected
    /// and never to its proxy is not redirected, or only dialled what its mesh leaves out.
    pub(super) fn counted(
        &mut self,
        reached: u64,
        around: u64,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        match self.gate {
            GatePhase::Closed { reason, deadline, renew_at: Some(_) } => match self.counted {
                Some((before, at)) if reached > before => {
                    self.first_wait = self.first_wait.or(Some(at));
                }
                Some(_) => {
                    self.counted = Some((reached, now));
                    self.gate = GatePhase::Closed { reason, deadline, renew_at: Some(now) };
                }
                None => self.counted = self.known_of(reached, now),
            },
            // By an order; what has been counted before it closed counts once that is over.
            GatePhase::Closed { renew_at: None, .. } if self.first_wait.is_none() => {
                self.counted = self.counted.or_else(|| self.known_of(reached, now));
            }
            GatePhase::Opening { .. } => {
                self.reached = Some(reached);
                self.tell_not_redirected(reached, around, actions);
            }
            _ => {}
        }
    }

    /// What counts as none for a gate that closes again: of those who have reached it before, whoever has
    /// not been reported may wait still.
    fn known_of(&self, reached: u64, now: Monotonic) -> Option<(u64, Monotonic)> {
        self.heard.map(|(heard, _)| (heard.min(reached), now))
    }

    fn tell_not_redirected(&mut self, reached: u64, around: u64, actions: &mut Vec<Action>) {
        let Some(Ok(plan)) = &self.judged else { return };
        if reached > 0 || around == 0 || !plan.proxy.redirects || self.told_not_redirected {
            return;
        }
        let profile = plan.proxy.profile.clone();
        self.told_not_redirected = true;
        self.log(Line::NotRedirected { around, profile }, actions);
    }
}

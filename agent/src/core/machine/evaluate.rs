//! The transitions of one pod's gate: what its facts ask for, state by state.

use std::sync::Arc;

use super::{
    gate::{AfterOpening, GatePhase},
    pod::{Pod, Standing},
    steps::{guarded, guards, refuses_late},
};
use crate::core::{Action, CgroupId, CloseReason, Exemption, Monotonic, OpenReason, Order, Plan};

/// Transitions in a row, without waiting between them: no path through the states is longer.
const MAX_STEPS: usize = 8;

impl Pod {
    /// Draws the consequences of the facts; called after every change.
    pub(super) fn evaluate(
        &mut self,
        unknown: &Arc<Plan>,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        self.expire_order(now);
        self.renew_again(now);
        self.watched_until = self.watched_until.filter(|until| now < *until);
        let standing = self.standing();
        self.tell_exemption(standing, actions);
        let Some(cgroup) = self.cgroup else { return };
        let plan = self.plan(standing, unknown);
        self.name_containers();
        if !matches!(standing, Standing::Exempt(_)) {
            self.tell_containers(&plan, actions);
        }
        self.note_proxy(&plan);
        self.expire_queries(now, actions);
        let context = &Context { standing, plan: &plan, cgroup, now };
        // Facts that contradict each other must not keep the agent busy: it goes on at the next event.
        let settled = (0..MAX_STEPS).any(|_| !self.step(context, actions));
        debug_assert!(settled, "{:?} does not settle", self.gate);
        self.note_phase(now);
    }

    /// One transition; `false`: the state stays.
    fn step(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) -> bool {
        match (self.gate, context.standing) {
            (GatePhase::Absent, _) => self.leave_absent(context, actions),
            (GatePhase::Closed { reason, deadline, renew_at: _ }, _) => {
                self.leave_closed(reason, deadline, context, actions)
            }
            (GatePhase::Refusing { reason, renew_at }, _) => {
                self.leave_refusing(reason, renew_at, context, actions)
            }
            (GatePhase::Opening { then, .. }, _) => self.leave_opening(then, context, actions),
            // Behind the other gates nobody waits who would have to be let go first.
            (_, Standing::Exempt(_)) => {
                self.let_go(context.now, actions);
                self.go(GatePhase::Absent)
            }
            (GatePhase::Checking, _) => self.leave_checking(context, actions),
            (GatePhase::Failed { retry_at }, _) => self.prove(retry_at, context, actions),
            // The API cannot take back what it has told, but namespaces may be listed anew.
            (_, Standing::Unknown) => false,
            (GatePhase::Guarded { .. }, _) => self.leave_guarded(context, actions),
            (GatePhase::Open, _) => self.leave_open(context, actions),
            (GatePhase::GivenUp { reason }, _) => self.leave_given_up(reason, context, actions),
        }
    }

    fn leave_absent(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) -> bool {
        if let Some(inherited) = self.inherited.take() {
            return self.inherit(inherited, context, actions);
        }
        match context.standing {
            Standing::Exempt(_) => {
                self.late = true;
                false
            }
            _ if self.is_ordered_closed() => self.close(CloseReason::Operator, context, actions),
            Standing::Unknown if self.late => false,
            Standing::Hold | Standing::Observe if self.late && self.kube_ready(context.plan) => {
                self.note_ready(context.plan);
                self.arm(context, actions)
            }
            Standing::Hold | Standing::Observe if self.late => {
                self.start_probe(context.plan, None, actions);
                self.go(GatePhase::Checking)
            }
            Standing::Hold | Standing::Observe | Standing::Unknown => {
                self.close(CloseReason::Start, context, actions)
            }
        }
    }

    fn leave_checking(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) -> bool {
        if self.ready(context.plan).is_some() {
            self.note_ready(context.plan);
            self.stop_probe(actions);
            return self.arm(context, actions);
        }
        if self.is_ordered_closed() {
            return self.close(CloseReason::Operator, context, actions);
        }
        if self.probed == Some(false) {
            return self.close(CloseReason::NotReady, context, actions);
        }
        if self.is_outdated(context.plan) {
            self.start_probe(context.plan, None, actions);
        }
        false
    }

    fn leave_closed(
        &mut self,
        closed_for: CloseReason,
        deadline: Monotonic,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        // Nothing is told to its gate any more but to open.
        if let Standing::Exempt(exemption) = context.standing {
            return self.open(closed_for, OpenReason::Exempt(exemption), context, actions);
        }
        let deadline = if self.keeps_inherited(context.standing, context.now) {
            deadline
        } else {
            let found_out = context.is_known().then(|| self.closed_unknown.take()).flatten();
            if found_out.is_some() {
                self.observes = context.standing == Standing::Observe;
            } else if let Some(exemption) = self.changes_sides(context.standing) {
                return self.open(closed_for, OpenReason::Exempt(exemption), context, actions);
            }
            if let Some(at) = found_out {
                self.tell_closed(closed_for, at, context, actions);
            }
            if self.is_outdated(context.plan) {
                self.start_probe(context.plan, Some(closed_for), actions);
                let state = self.closed_until(deadline, closed_for, context);
                self.set_gate(state, context, actions);
                if found_out.is_some() && self.observes {
                    self.send_on(context, actions);
                }
            }
            self.ask_again(Some(closed_for), context, actions);
            self.tell_verdicts(context, actions);
            let deadline = self.move_deadline(context, actions);
            if self.tells_again {
                let state = self.closed_until(deadline, closed_for, context);
                self.set_gate(state, context, actions);
            }
            deadline
        };
        let reason = match self.ready_since(closed_for, context.plan) {
            Some(reason) if !self.is_ordered_closed() => reason,
            // The order is over, or was given to an agent before this one; the proxy is asked by now.
            _ if self.outlives_order(closed_for) && context.is_known() => {
                return self.close(CloseReason::NotReady, context, actions);
            }
            _ if context.now < deadline => return false,
            _ if refuses_late(context.plan) => return self.refuse(closed_for, context, actions),
            _ => OpenReason::Deadline,
        };
        self.open(closed_for, reason, context, actions)
    }

    /// Whether the gate was closed for an order that is no more, and its proxy has been found not to be
    /// ready.
    fn outlives_order(&self, closed_for: CloseReason) -> bool {
        closed_for == CloseReason::Operator
            && !self.is_ordered_closed()
            && self.probed == Some(false)
    }

    fn leave_refusing(
        &mut self,
        closed_for: CloseReason,
        renew_at: Monotonic,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        self.ask_again(Some(closed_for), context, actions);
        let reason = match (context.standing, self.ready_since(closed_for, context.plan)) {
            (Standing::Exempt(exemption), _) => OpenReason::Exempt(exemption),
            (Standing::Observe, _) => OpenReason::Exempt(Exemption::NotEnabled),
            _ if self.is_ordered_closed() => {
                return self.close(CloseReason::Operator, context, actions);
            }
            (_, Some(reason)) => reason,
            _ if !refuses_late(context.plan) => OpenReason::Deadline,
            _ => {
                if self.is_outdated(context.plan) {
                    self.start_probe(context.plan, Some(closed_for), actions);
                    return self.go_on_refusing(closed_for, context, actions);
                }
                self.tell_verdicts(context, actions);
                return (self.tells_again || context.now >= renew_at)
                    && self.go_on_refusing(closed_for, context, actions);
            }
        };
        self.open(closed_for, reason, context, actions)
    }

    fn leave_opening(
        &mut self,
        then: AfterOpening,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let died = then == AfterOpening::Ready && self.proxy_died(context.plan);
        if died && context.is_known() {
            return self.close(CloseReason::ProxyDied, context, actions);
        }
        if self.gate.ends(self.may_wait()).is_none_or(|end| context.now < end) {
            return false;
        }
        match then {
            // What is not to be held any more is not guarded either, not for an instant.
            AfterOpening::Ready if !matches!(context.standing, Standing::Exempt(_)) => {
                // The news of its container may have come after its answer.
                if self.ready_proxy.is_none() {
                    self.note_ready(context.plan);
                }
                self.arm(context, actions)
            }
            AfterOpening::GivenUp { reason } => {
                self.detach(context.now, actions);
                self.gate = GatePhase::GivenUp { reason };
                self.start_probe(context.plan, Some(reason), actions);
                true
            }
            AfterOpening::Ready | AfterOpening::Exempt => {
                self.detach(context.now, actions);
                self.late = true;
                self.go(GatePhase::Absent)
            }
        }
    }

    fn leave_guarded(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) -> bool {
        if let Some(reason) = self.reason_to_close_again(context.plan) {
            return self.close(reason, context, actions);
        }
        if !guards(context.plan) {
            self.detach(context.now, actions);
            return self.go(GatePhase::Open);
        }
        self.tell_verdicts(context, actions);
        if self.tells_again || self.is_outdated(context.plan) {
            self.set_gate(guarded(context.plan), context, actions);
        }
        false
    }

    fn leave_open(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) -> bool {
        if self.is_ordered_closed() {
            return self.close(CloseReason::Operator, context, actions);
        }
        if self.proxy_died(context.plan) {
            return self.close(CloseReason::ProxyDied, context, actions);
        }
        guards(context.plan) && self.arm(context, actions)
    }

    fn leave_given_up(
        &mut self,
        closed_for: CloseReason,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        if self.is_ordered_closed() {
            return self.close(CloseReason::Operator, context, actions);
        }
        if self.ready_since(closed_for, context.plan).is_some() {
            self.note_ready(context.plan);
            self.stop_probe(actions);
            return self.arm(context, actions);
        }
        if self.is_outdated(context.plan) {
            self.start_probe(context.plan, Some(closed_for), actions);
        }
        false
    }

    /// Why a gate that has been open for a ready proxy closes again. Failed probes are no reason:
    /// nobody asks any more, and a busy proxy is not a dead one.
    fn reason_to_close_again(&self, plan: &Plan) -> Option<CloseReason> {
        if self.is_ordered_closed() {
            Some(CloseReason::Operator)
        } else if self.proxy_died(plan) {
            Some(CloseReason::ProxyDied)
        } else if self.held.is_empty() {
            None
        } else {
            Some(CloseReason::NobodyListens)
        }
    }

    /// Asks anew where the proxy has died since it answered: what waits must not be sent to a dead one.
    fn ask_again(
        &mut self,
        closed_for: Option<CloseReason>,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let is_old = self.probed == Some(true) && self.proxy_is_gone(context.plan);
        if is_old && context.is_known() {
            self.start_probe(context.plan, closed_for, actions);
        }
    }

    /// Whichever says ready first opens the gate.
    fn ready(&self, plan: &Plan) -> Option<OpenReason> {
        if self.probed == Some(true) {
            Some(OpenReason::ProbeReady)
        } else if self.kube_ready(plan) {
            Some(OpenReason::KubeReady)
        } else {
            None
        }
    }

    /// As [`Self::ready`], for a gate that was closed for this reason. Where nobody listens although
    /// the container runs kubelet has not noticed yet, and its word is an old one.
    fn ready_since(&self, closed_for: CloseReason, plan: &Plan) -> Option<OpenReason> {
        self.ready(plan).filter(|reason| {
            closed_for != CloseReason::NobodyListens || *reason == OpenReason::ProbeReady
        })
    }

    /// An order to close is one to hold, which a pod that nobody enabled never is.
    pub(super) fn is_ordered_closed(&self) -> bool {
        matches!(self.order, Some(Order::Closed { .. })) && self.standing() != Standing::Observe
    }

    /// Why a gate that was closed for the one purpose is not left closed for the other: what holds
    /// must not begin in the middle of a pod's life without having asked its proxy, and what is held
    /// is let go in order.
    fn changes_sides(&self, standing: Standing) -> Option<Exemption> {
        let changed = match standing {
            Standing::Hold => self.observes,
            Standing::Observe => !self.observes,
            Standing::Exempt(_) | Standing::Unknown => false,
        };
        changed.then_some(Exemption::NotEnabled)
    }

    /// The kernel and the probe were told something else.
    fn is_outdated(&self, plan: &Arc<Plan>) -> bool {
        self.applied.as_ref() != Some(plan)
    }
}

/// What a step looks at besides the pod itself.
pub(super) struct Context<'a> {
    pub(super) standing: Standing,
    pub(super) plan: &'a Arc<Plan>,
    pub(super) cgroup: CgroupId,
    pub(super) now: Monotonic,
}

impl Context<'_> {
    /// The API has told what the pod is, and it is one that has a gate.
    pub(super) const fn is_known(&self) -> bool {
        matches!(self.standing, Standing::Hold | Standing::Observe)
    }
}

//! The steps from one state of a gate to the next: what is done, in which order. Those that change
//! the state return `true`.

use std::{sync::Arc, time::Duration};

use super::{
    evaluate::Context,
    gate::{AfterOpening, GatePhase},
    pod::{Pod, Standing},
};
use crate::core::{
    Action, CloseReason, GateSetting, Line, Mode, Monotonic, OnTimeout, OpenReason, Pace, Plan,
    Proxy, ReadyCheck, SetGate, Verdict, classify,
};

/// For how long the kernel goes on refusing without an agent, where `on-timeout` says so. Renewed
/// at half of it.
pub(super) const REFUSE_AHEAD: Duration = Duration::from_secs(10);

impl Pod {
    pub(super) const fn go(&mut self, phase: GatePhase) -> bool {
        self.gate = phase;
        true
    }

    pub(super) fn close(
        &mut self,
        reason: CloseReason,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let now = context.now;
        let standing = self.closed_deadline();
        // A connect that waits already has made the proxy's absence known.
        let known = self.held.first();
        if standing.is_some() {
            // Whoever waits at it unreported goes on to.
            self.first_wait = known.or(self.first_wait);
        } else {
            (self.first_wait, self.closed_since) = (known, Some(now));
            // The kernel counts from the attaching on. What it has counted by now is asked before it
            // closes: whoever comes after that has come to a closed gate, whether or not it is reported.
            self.counted = (!self.gate.is_attached()).then_some((0, now));
            if self.counted.is_none() && known.is_none() {
                let (uid, cgroup) = (self.uid.clone(), context.cgroup);
                actions.push(Action::CountGate { uid, cgroup });
            }
        }
        self.keeps_settings = false;
        let timeout = context.plan.settings.timeout.value;
        let (deadline, renew_at) = match (self.ordered_deadline(context), self.first_wait) {
            (Some(ordered), _) => (ordered, None),
            (None, Some(first)) => (first + timeout, None),
            // Whether anybody has come to it since it was closed for something else is asked first.
            (None, None) => standing
                .map_or((now + timeout, Some(now + timeout / 2)), |stands| (stands, Some(now))),
        };
        self.set_gate(self.closed_until(deadline, reason, context), context, actions);
        self.gate = GatePhase::Closed { reason, deadline, renew_at };
        (self.opened, self.error) = (None, None);
        self.closed_unknown = (!context.is_known()).then_some(now);
        self.observes = context.standing == Standing::Observe;
        self.tell_closed(reason, now, context, actions);
        self.start_probe(context.plan, Some(reason), actions);
        self.tell_verdicts(context, actions);
        true
    }

    /// Tells that the gate was closed.
    pub(super) fn tell_closed(
        &self,
        reason: CloseReason,
        at: Monotonic,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        let Plan { settings, proxy } = &**context.plan;
        let line = Line::GateClosed {
            at,
            reason,
            profile: proxy.profile.clone(),
            proxy: proxy.container.clone(),
            mode: settings.mode.value,
            enabled_by: (context.standing == Standing::Hold).then_some(settings.hold.origin),
            observes: self.observes,
            timeout: self.timeout(context),
        };
        self.log(line, actions);
    }

    pub(super) fn set_gate(
        &mut self,
        state: GateSetting,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) {
        if !self.gate.is_attached() {
            self.heard = Some((0, context.now));
        }
        let Plan { settings, proxy } = &**context.plan;
        // One that refuses and is to hold is closed anew: what is being sent, to be refused, must not
        // pass it.
        let goes_on_refusing = matches!(self.gate, GatePhase::Refusing { .. })
            && matches!(state, GateSetting::Closed { since, deadline, .. } if deadline <= since);
        actions.push(Action::SetGate(SetGate {
            uid: self.uid.clone(),
            cgroup: context.cgroup,
            state,
            renews: matches!(
                (state, self.gate),
                (GateSetting::Closed { .. }, GatePhase::Closed { .. })
                    | (GateSetting::Guarded { .. }, GatePhase::Guarded { .. })
            ) || goes_on_refusing,
            mode: settings.mode.value,
            errno: settings.errno.value,
            proxy_uid: proxy.uid,
            ports: proxy.ports.clone(),
            dns_port: proxy.dns_port,
        }));
        self.applied = Some(Arc::clone(context.plan));
        (self.renew_again_at, self.tells_again) = (None, false);
    }

    pub(super) fn refuse(
        &mut self,
        reason: CloseReason,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let held = self.held.len();
        self.log(Line::DeadlineRefuses { held, finding: self.last_finding() }, actions);
        // The SYNs go out once more, to be refused.
        let (uid, cgroup) = (self.uid.clone(), context.cgroup);
        self.go_on_refusing(reason, context, actions);
        let held = self.held.sockets();
        actions.push(Action::Replay { uid, cgroup, container: None, held });
        true
    }

    /// Sends on what has waited behind a gate that from now on only observes, known to wait or not.
    pub(super) fn send_on(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        let (uid, cgroup) = (self.uid.clone(), context.cgroup);
        let held = self.held.sockets();
        actions.push(Action::Replay { uid, cgroup, container: None, held });
        self.send_queries(context.now, actions);
    }

    pub(super) fn go_on_refusing(
        &mut self,
        reason: CloseReason,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let refuse_until = Some(context.now + REFUSE_AHEAD);
        let (since, deadline) = (context.now, context.now);
        let state =
            GateSetting::Closed { reason, since, reached_before: None, deadline, refuse_until };
        self.set_gate(state, context, actions);
        self.go(GatePhase::Refusing { reason, renew_at: context.now + REFUSE_AHEAD / 2 })
    }

    pub(super) fn open(
        &mut self,
        closed_for: CloseReason,
        reason: OpenReason,
        context: &Context<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let replays = context.plan.settings.mode.value != Mode::Retry;
        actions.push(Action::OpenGate {
            uid: self.uid.clone(),
            cgroup: context.cgroup,
            replay: replays.then(|| self.held.sockets()),
        });
        (self.renew_again_at, self.tells_again) = (None, false);
        self.stop_probe(actions);
        (self.opened, self.reached) = (Some((context.now, reason)), None);
        let held = self.held.len();
        let finding = self.last_finding();
        self.log(Line::GateOpened { at: context.now, reason, held, finding }, actions);
        let then = match reason {
            OpenReason::ProbeReady | OpenReason::KubeReady => {
                self.note_ready(context.plan);
                AfterOpening::Ready
            }
            OpenReason::Deadline => AfterOpening::GivenUp { reason: closed_for },
            OpenReason::Exempt(_) => AfterOpening::Exempt,
        };
        // Nobody asks any more, whoever has waited.
        self.gate = GatePhase::Opening { since: context.now, then };
        if replays {
            self.send_queries(context.now, actions);
        }
        true
    }

    /// The proxy has been ready: from now on its gate is guarded, or gone. Which container was ready
    /// is for whoever has seen it to note: by the end of an opening another one may run.
    pub(super) fn arm(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) -> bool {
        if !guards(context.plan) {
            if self.gate.is_attached() {
                self.detach(context.now, actions);
            }
            return self.go(GatePhase::Open);
        }
        self.give_up_waiting(context.now, actions);
        self.set_gate(guarded(context.plan), context, actions);
        self.tell_verdicts(context, actions);
        self.log(Line::GateGuards, actions);
        self.go(GatePhase::Guarded { since: context.now })
    }

    /// Asks whether the proxy is ready, from now on; `closed_for`: why its gate is closed.
    pub(super) fn start_probe(
        &mut self,
        plan: &Arc<Plan>,
        closed_for: Option<CloseReason>,
        actions: &mut Vec<Action>,
    ) {
        self.probed = None;
        self.finding = None;
        self.applied = Some(Arc::clone(plan));
        let pace = match self.held.first() {
            _ if matches!(self.gate, GatePhase::GivenUp { .. }) => Pace::GivenUp,
            Some(first) => Pace::Held(first),
            None => Pace::Idle,
        };
        let Proxy { ready, ports, guessed, .. } = &plan.proxy;
        // Kubelet does not notice a listener that goes and comes back; who was ready before is
        // again when somebody listens.
        let kube_alone = ready.iter().all(|check| *check == ReadyCheck::Kube);
        let checks = if closed_for == Some(CloseReason::NobodyListens) && kube_alone {
            ports.iter().map(|&port| ReadyCheck::Tcp { port }).collect()
        } else {
            ready.clone()
        };
        actions.push(Action::StartProbe {
            uid: self.uid.clone(),
            checks,
            ports: ports.clone(),
            any_port: *guessed,
            pace,
        });
    }

    pub(super) fn stop_probe(&self, actions: &mut Vec<Action>) {
        actions.push(Action::StopProbe(self.uid.clone()));
    }

    /// Ends what the gate has going, whatever its state: its probe, and its programs.
    pub(super) fn let_go(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        if self.gate.is_probing() {
            self.stop_probe(actions);
        }
        if self.gate.is_attached() {
            self.detach(now, actions);
        }
    }

    pub(super) fn detach(&mut self, now: Monotonic, actions: &mut Vec<Action>) {
        let Some(cgroup) = self.cgroup else { return };
        let containers = self.containers.values().map(|container| container.cgroup).collect();
        actions.push(Action::DetachGate { uid: self.uid.clone(), cgroup, containers });
        for container in self.containers.values_mut() {
            container.told = None;
        }
        self.applied = None;
        (self.renew_again_at, self.tells_again) = (None, false);
        self.untold = None;
        self.give_up_waiting(now, actions);
        self.log(Line::GateDetached, actions);
    }

    /// Brings the kernel's verdicts up to date with what is known of the containers.
    pub(super) fn tell_verdicts(&mut self, context: &Context<'_>, actions: &mut Vec<Action>) {
        if self.leaves_untold() {
            return;
        }
        let view = self.view.as_ref();
        let inherits_verdicts = self.inherits_verdicts;
        let mut passing = Vec::new();
        for container in self.containers.values_mut() {
            let Some(identity) = &container.identity else {
                continue;
            };
            let verdict = classify::ground(identity, view, &context.plan.proxy).verdict();
            // No entry means hold.
            let told = container.told.or((!inherits_verdicts).then_some(Verdict::Hold));
            if told == Some(verdict) {
                continue;
            }
            container.told = Some(verdict);
            let cgroup = container.cgroup;
            actions.push(Action::SetVerdict { container: cgroup, verdict });
            if verdict != Verdict::Hold {
                passing.push((cgroup, verdict));
            }
        }
        for (container, verdict) in passing {
            let Some(first) = self.held.of_container(container).next().cloned() else {
                continue;
            };
            let held = self.held.of_container(container).map(|held| held.cookie).collect();
            // Whoever waited for nothing does not use up the others' time, nor is it taken for one whose
            // report was lost.
            let waits = self.held.iter().filter(|held| held.caller.container != Some(container));
            let first_wait = waits.map(|held| held.caller.connect_at).min();
            // Without a count there may be another one, which only an agent before this one has known.
            if first_wait.is_some() || self.counted.is_some() {
                self.first_wait = first_wait;
            }
            let ours = |at| {
                self.held.of_container(container).filter(move |held| held.caller.connect_at >= at)
            };
            self.counted =
                self.counted.map(|(reached, at)| (reached + ours(at).count() as u64, at));
            let (uid, container) = (self.uid.clone(), Some(container));
            actions.push(Action::Replay { uid, cgroup: context.cgroup, container, held });
            // It was held before the kernel knew that its passing is to be told.
            if verdict == Verdict::PassAndTell {
                self.tell_init_passed(self.named(first), actions);
            }
        }
    }
}

/// Whether connects fail once the time is up. Who only wants to look is in nobody's way.
pub(super) fn refuses_late(plan: &Plan) -> bool {
    plan.settings.on_timeout.value == OnTimeout::Refuse && plan.settings.mode.value != Mode::Observe
}

/// Whether the open gate of a ready proxy stays attached. Where connects do not wait there is
/// nothing to guard.
pub(super) fn guards(plan: &Plan) -> bool {
    plan.settings.guard.value && matches!(plan.settings.mode.value, Mode::Hold | Mode::Retry)
}

pub(super) fn guarded(plan: &Plan) -> GateSetting {
    GateSetting::Guarded { budget: plan.settings.timeout.value }
}

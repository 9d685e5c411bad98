//! Whatever the interleaving of events.

use proptest::prelude::*;

use super::{super::pod::Standing, observe::watched, *};
use crate::core::{Finding, InheritedGate, InheritedState, Mode, SetGate};

fn any_event() -> impl Strategy<Value = Event> {
    let hold = prop_oneof![Just(None), Just(Some("enabled")), Just(Some("disabled"))];
    let view = (any::<bool>(), any::<bool>(), any::<bool>(), hold.clone()).prop_map(
        |(ready, leaving, named, own)| {
            let mut view = if ready { ready_view() } else { view() };
            view.terminating = leaving;
            view.labels = labels(own);
            if named {
                view.containers[2].id = Some(id_of(PROXY));
            }
            view
        },
    );
    let populated = (prop_oneof![Just(APP), Just(PROXY)], any::<bool>())
        .prop_map(|(cgroup, populated)| self::populated(cgroup, populated));
    let order = prop_oneof![
        Just(None),
        Just(Some(Order::Open { until: None })),
        Just(Some(Order::Closed { until: at(30_000) })),
    ];
    prop_oneof![
        hold.clone().prop_map(|hold| Event::NamespacesListed(vec![namespace(hold)])),
        hold.prop_map(|hold| Event::NamespaceApplied(namespace(hold))),
        proptest::collection::vec(view.clone(), 0..2).prop_map(Event::PodsListed),
        view.prop_map(Event::PodApplied),
        Just(Event::NamespacesListed(vec![])),
        Just(Event::PodDeleted(uid())),
        any::<bool>().prop_map(found),
        Just(Event::PodCgroupGone(uid())),
        Just(container(APP, Some("app"))),
        Just(container(PROXY, Some("istio-proxy"))),
        populated,
        Just(Event::ContainerGone { uid: uid(), id: id_of(PROXY) }),
        Just(Event::ProxyReady(uid())),
        Just(Event::ProxyNotReady(uid())),
        Just(Event::ProbeFound { uid: uid(), finding: Finding::NoProcess }),
        any::<bool>().prop_map(|may_pass| {
            Event::GateFailed { uid: uid(), error: String::new(), may_pass }
        }),
        Just(Event::GateProven(uid())),
        proptest::option::of(0_u64..120_000).prop_map(|deadline| Event::GateNotRenewed {
            uid: uid(),
            error: String::new(),
            deadline: deadline.map(at),
        }),
        order.prop_map(|order| Event::Ordered { uid: uid(), order }),
        prop_oneof![Just(0), Just(20_000), Just(400_000)].prop_map(watched),
        (1_u64..4).prop_map(|cookie| held(0, cookie)),
        (1_u64..4).prop_map(|cookie| query(0, cookie, cookie)),
        (1_u64..4).prop_map(|cookie| kernel(0, cookie, KernelEventKind::Connected)),
        (1_u64..4).prop_map(|cookie| kernel(0, cookie, KernelEventKind::Closed)),
        Just(Event::Tick),
    ]
}

/// A gate that an agent before this one has left, which may have had other settings.
fn any_inherited() -> impl Strategy<Value = InheritedGate> {
    let reason = || {
        prop_oneof![
            Just(CloseReason::Start),
            Just(CloseReason::NotReady),
            Just(CloseReason::ProxyDied),
            Just(CloseReason::NobodyListens),
            Just(CloseReason::Operator),
        ]
    };
    let reached_before = proptest::option::of(0_u64..3);
    let closed =
        (reason(), reached_before, 1_u64..60_000).prop_map(|(reason, reached_before, deadline)| {
            InheritedState::Closed { reason, since: at(0), reached_before, deadline: at(deadline) }
        });
    let state = prop_oneof![
        closed,
        reason().prop_map(|reason| InheritedState::Refusing { reason }),
        Just(InheritedState::Guarded),
        Just(InheritedState::Open),
    ];
    (state, proptest::collection::vec(1_u64..4, 0..3), 0_u64..4).prop_map(
        |(state, waiting, reached)| {
            let waiting = waiting.into_iter().map(|cookie| (SocketCookie(cookie), caller(0)));
            InheritedGate { state, waiting: waiting.collect(), reached }
        },
    )
}

/// Events, each so long after the one before. What another agent has left is found with the pod's
/// cgroup, the first time that this is.
fn any_events(most: usize, step: u64) -> impl Strategy<Value = Vec<(Event, u64)>> {
    let events = proptest::collection::vec((any_event(), 0..step), 0..most);
    (events, proptest::option::of(any_inherited())).prop_map(|(mut events, left)| {
        let mut all = events.iter_mut().map(|(event, _)| event);
        if let Some(Event::PodCgroupFound { inherited, .. }) =
            all.find(|event| matches!(event, Event::PodCgroupFound { .. }))
        {
            *inherited = left;
        }
        events
    })
}

/// Whether a gate is on the pod's cgroup already.
fn leaves_gate(event: &Event) -> bool {
    matches!(event, Event::PodCgroupFound { inherited: Some(_), .. })
}

fn any_rules() -> impl Strategy<Value = TestRules> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(guard, refuse, observe)| TestRules {
        guard,
        refuse,
        observe,
    })
}

/// Facts that may come in any order, each from one source in its own order.
fn last_facts() -> Vec<Event> {
    vec![
        Event::NamespacesListed(vec![namespace(Some("enabled"))]),
        Event::PodsListed(vec![view()]),
        container(APP, Some("app")),
        container(PROXY, Some("istio-proxy")),
        populated(APP, true),
        populated(PROXY, true),
    ]
}

/// What goes on with the pod's connects at a gate that is set so.
fn lets_all_pass(set: &SetGate) -> bool {
    let closed = matches!(set.state, GateSetting::Closed { refuse_until: None, .. });
    closed && set.mode == Mode::Observe
}

proptest! {
    #[test]
    fn what_is_observed_is_never_in_anybodys_way(
        rules in any_rules(),
        events in any_events(60, 5_000)
    ) {
        let mut run = Run::with(rules);
        let mut now = 0;
        // The last setting of the gate; `None`: it is open or gone.
        let mut gate: Option<SetGate> = None;
        for (event, step) in events {
            now += step;
            for action in run.apply(now, event) {
                match action {
                    Action::SetGate(set) => gate = Some(set),
                    Action::OpenGate { .. } | Action::DetachGate { .. } => gate = None,
                    _ => {}
                }
            }
            let standing = run.machine.pods.get(&uid()).map(Pod::standing);
            match (standing, &gate) {
                (Some(Standing::Observe), Some(set)) => {
                    prop_assert!(lets_all_pass(set), "{:?}", set);
                }
                // Nor is anybody looked at who has said no, or is not one to look at.
                (Some(Standing::Exempt(_)) | None, gate) => prop_assert!(gate.is_none()),
                // Nor does it begin when less is known again.
                (Some(Standing::Unknown), Some(set)) => {
                    let observes = run.is_closed() && run.machine.pods[&uid()].observes;
                    prop_assert!(!observes || lets_all_pass(set), "{:?}", set);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn every_closed_gate_has_a_deadline_and_ends(
        rules in any_rules(),
        events in any_events(60, 5_000)
    ) {
        let mut run = Run::with(rules);
        let mut now = 0;
        let mut attached = false;
        let inherits = events.iter().any(|(event, _)| leaves_gate(event));
        for (event, step) in events {
            now += step;
            attached |= leaves_gate(&event);
            for action in run.apply(now, event) {
                match action {
                    Action::SetGate(set) => {
                        match set.state {
                            GateSetting::Closed { deadline, refuse_until, .. } => {
                                prop_assert!(deadline <= at(now + 60_000));
                                let bounded = refuse_until.is_none_or(|until| {
                                    rules.refuse && until <= deadline + Duration::from_secs(10)
                                });
                                prop_assert!(bounded, "refuses until {refuse_until:?}");
                            }
                            GateSetting::Guarded { budget } => {
                                prop_assert!(rules.guard);
                                prop_assert_eq!(budget, Duration::from_secs(60));
                            }
                        }
                        attached = true;
                    }
                    Action::OpenGate { .. } => prop_assert!(attached),
                    Action::DetachGate { .. } => attached = false,
                    _ => {}
                }
            }
            prop_assert_eq!(run.machine.attached() == 1, attached);
            if let Some(GatePhase::Closed { .. } | GatePhase::Opening { .. }) = run.gate() {
                prop_assert!(run.machine.next_wakeup().is_some());
            }
        }
        // Once somebody waits, the gate lets go of everything within its deadline and the grace
        // after it; only a gate that guards, or refuses by the user's will, stays.
        run.apply(now, held(now, 9));
        for _ in 0..8 {
            if let Some(end) = run.machine.next_wakeup() {
                now = end.0 / 1_000_000 + 1;
                run.machine.apply(Event::Tick, at(now));
            }
        }
        let pod = run.machine.pods.get(&uid());
        let waits = pod.is_some_and(|pod| pod.gate.is_closed());
        prop_assert!(!waits, "still closed: {:?}", run.gate());
        // An earlier agent's may be of another will, until the API has told this one's.
        let keeps = inherits && pod.is_some_and(|pod| pod.standing() == Standing::Unknown);
        if !rules.guard && !rules.refuse && !keeps {
            prop_assert_eq!(run.machine.attached(), 0);
        }
    }

    #[test]
    fn proxies_and_init_containers_end_up_passed_whatever_came_before(
        events in any_events(40, 1_000)
    ) {
        let mut run = Run::new();
        let mut now = 0;
        for (event, step) in events {
            now += step;
            run.apply(now, event);
        }
        // The last facts: a starting pod whose containers are all known.
        let mut view = view();
        view.containers.insert(1, migrate("id103"));
        for event in [
            Event::Ordered { uid: uid(), order: None },
            Event::NamespacesListed(vec![namespace(Some("enabled"))]),
            Event::PodCgroupGone(uid()),
            Event::PodsListed(vec![view]),
            found(false),
            container(PROXY, Some("istio-proxy")),
            container(CgroupId(103), Some("migrate")),
            container(APP, Some("app")),
        ] {
            run.apply(now, event);
        }
        prop_assert!(run.is_closed());
        let told = |cgroup: CgroupId| run.machine.pods[&uid()].containers[&id_of(cgroup)].told;
        prop_assert_eq!(told(PROXY), Some(Verdict::Pass));
        prop_assert_eq!(told(CgroupId(103)), Some(Verdict::PassAndTell));
        prop_assert_eq!(told(APP).unwrap_or(Verdict::Hold), Verdict::Hold);
    }

    #[test]
    fn the_last_facts_decide_whatever_came_before(
        rules in any_rules(),
        events in any_events(60, 5_000),
        alive in any::<bool>()
    ) {
        let mut run = Run::with(rules);
        let mut now = 0;
        for (event, step) in events {
            now += step;
            run.apply(now, event);
        }
        // A gate that could not be worked stays off until its pod is gone.
        prop_assume!(!matches!(run.gate(), Some(GatePhase::Failed { .. })));
        let mut view = if alive { ready_view() } else { view() };
        view.containers[2].id = Some(id_of(PROXY));
        for event in [
            Event::Ordered { uid: uid(), order: None },
            Event::NamespacesListed(vec![namespace(Some("enabled"))]),
            Event::PodsListed(vec![view]),
            found(true),
            container(PROXY, Some("istio-proxy")),
            container(APP, Some("app")),
            populated(APP, true),
            populated(PROXY, true),
            populated(PROXY, alive),
            if alive { Event::ProxyReady(uid()) } else { Event::ProxyNotReady(uid()) },
        ] {
            run.apply(now, event);
        }
        // What an earlier opening or hold has still to wait for.
        for _ in 0..4 {
            if let Some(end) = run.machine.next_wakeup() {
                run.apply(end.0 / 1_000_000 + 1, Event::Tick);
                let answer = if alive { Event::ProxyReady } else { Event::ProxyNotReady };
                run.apply(end.0 / 1_000_000 + 1, answer(uid()));
            }
        }
        let passes = matches!(run.gate(), Some(GatePhase::Open | GatePhase::Guarded { .. }));
        prop_assert_eq!(passes, alive, "{:?}", run.gate());
    }

    #[test]
    fn the_order_of_facts_does_not_matter_for_where_they_end(
        rules in any_rules(),
        order in Just(last_facts()).prop_shuffle()
    ) {
        // A container's own events keep their order: its source has one.
        let settle = |facts: Vec<Event>| {
            let mut run = Run::with(rules);
            run.apply(0, found(false));
            let (late, early): (Vec<_>, Vec<_>) = facts
                .into_iter()
                .partition(|event| matches!(event, Event::ContainerPopulated { .. }));
            for event in early.into_iter().chain(late) {
                run.apply(10, event);
            }
            let closed = run.is_closed();
            run.apply(20, Event::ProxyReady(uid()));
            run.apply(5_000, Event::Tick);
            let mut told: Vec<_> = run.machine.pods[&uid()]
                .containers
                .values()
                .map(|container| (container.cgroup, container.told, container.populated))
                .collect();
            told.sort_by_key(|(cgroup, ..)| *cgroup);
            let guarded = matches!(run.gate(), Some(GatePhase::Guarded { .. }));
            (closed, guarded, run.machine.attached(), told)
        };
        prop_assert_eq!(settle(order), settle(last_facts()));
    }
}

//! Faults that random sequences have shown, each cut down to the steps that matter.

use super::{
    super::*,
    random::Random,
    step::{Hold, Moment, Setup, Shape, Source, Step, Who, Wish},
    world::World,
};
use crate::core::Mode;

/// Plays the steps, each right after the one before it.
fn play(setup: Setup, steps: &[Step]) -> World {
    let mut world = World::new(setup, true);
    for step in steps {
        world.step(*step).unwrap_or_else(|error| panic!("{error:#}"));
    }
    world
}

/// The same, and ends in all ways.
fn play_to_the_end(setup: Setup, moments: &[Moment]) {
    for end in 0..8 {
        let mut world = World::new(setup, true);
        let result = world.play(moments).and_then(|()| world.finish(&mut Random::of(end, end)));
        result.unwrap_or_else(|error| panic!("{error:#}"));
    }
}

fn at_once(steps: &[Step]) -> Vec<Moment> {
    steps.iter().map(|step| Moment::new(0, *step)).collect()
}

const fn start(who: Who) -> Step {
    Step::Start { slot: 0, who, has_bundle: true, reuses: false }
}

const CONNECT: Step = Step::Connect { slot: 0, who: Who::App, recorded: true };

/// A pod to hold, of which all has been told, with a proxy and an application that run.
const STARTS: [Step; 8] = [
    Step::LabelNamespace(Hold::Enabled),
    Step::News(Source::Namespaces, 2),
    Step::MakeObject(0, Shape::Classic, Hold::Unset),
    Step::News(Source::Pods, 2),
    Step::MakeCgroup { slot: 0, reuses: false },
    start(Who::Proxy),
    start(Who::App),
    Step::News(Source::Cgroups, 8),
];

fn then(steps: &[Step]) -> Vec<Step> {
    [&STARTS, steps].concat()
}

#[test]
fn the_order_of_actions_does_not_depend_on_a_hash() {
    // Two verdicts are forgotten, and two connects given up: `World` plays it a second time.
    let steps =
        then(&[CONNECT, CONNECT, Step::News(Source::Kernel, 4), Step::Order(0, Wish::Open)]);
    let mut world = play(Setup::PLAIN, &steps);
    world.pass(Duration::from_secs(10), true).unwrap();
    world.end_agent().unwrap();
}

#[test]
fn an_answer_of_a_proxy_that_has_died_since_opens_nothing() {
    let steps = then(&[
        CONNECT,
        Step::End(0, Who::Proxy),
        Step::News(Source::Cgroups, 2),
        Step::ProbeSays(0, true),
    ]);
    let world = play(Setup::PLAIN, &steps);
    let gate = world.agent.as_ref().and_then(|agent| agent.phase(&world.cluster.uid(0)));
    assert!(matches!(gate, Some(GatePhase::Closed { .. })), "{gate:?}");
    assert_eq!(world.kernel.sockets.len(), 1, "it has not been sent to a dead proxy");
    play_to_the_end(Setup::PLAIN, &at_once(&steps));
}

#[test]
fn a_verdict_goes_with_its_container_also_if_that_is_found_after_the_gate_has_gone() {
    let setup = Setup { guard: true, ..Setup::PLAIN };
    let mut moments = at_once(&then(&[Step::Listen(0, true), Step::Probe(0)]));
    moments.push(Moment::new(10_000, Step::Terminate(0)));
    // The next agent knows that it is terminating before it finds it.
    moments.extend(at_once(&[
        Step::StartAgent,
        Step::News(Source::Namespaces, 2),
        Step::News(Source::Pods, 2),
        Step::News(Source::Cgroups, 8),
        Step::StartAgent,
    ]));
    play_to_the_end(setup, &moments);
}

#[test]
fn nobody_is_told_to_ask_less_often_who_has_been_told_to_ask_no_more() {
    let steps = then(&[Step::Query(0), Step::News(Source::Kernel, 1), Step::ProbeSays(0, true)]);
    play_to_the_end(Setup::PLAIN, &at_once(&steps));
}

#[test]
fn what_goes_on_by_itself_is_not_sent_again_by_the_next_agent_either() {
    let setup = Setup { mode: Mode::Retry, ..Setup::PLAIN };
    let steps = then(&[
        Step::ProbeSays(0, true),
        Step::StartAgent,
        Step::News(Source::Namespaces, 2),
        Step::News(Source::Pods, 2),
        Step::News(Source::Cgroups, 8),
    ]);
    play_to_the_end(setup, &at_once(&steps));
}

#[test]
fn who_comes_to_a_gate_that_has_closed_again_has_a_deadline_also_if_its_report_is_lost() {
    let setup = Setup { guard: true, ..Setup::PLAIN };
    let mut moments = at_once(&then(&[Step::Listen(0, true), Step::Probe(0)]));
    moments.push(Moment::new(10_000, Step::End(0, Who::Proxy)));
    moments.extend(at_once(&[Step::News(Source::Cgroups, 2), CONNECT, Step::LoseReport]));
    moments.push(Moment::new(100_000, Step::Wait));
    let mut world = World::new(setup, true);
    world.play(&moments).unwrap();
    assert!(world.kernel.sockets.is_empty(), "it waits still: {:?}", world.kernel.sockets);
    play_to_the_end(setup, &moments);
}

#[test]
fn a_new_plan_for_a_gate_does_not_move_what_the_next_agent_counts_from() {
    let mut moments = at_once(&[&STARTS[..3], &STARTS[4..], &[CONNECT]].concat());
    // The API tells, which sets the gate anew; that somebody waits is read by nobody.
    moments.push(Moment::new(20_000, Step::News(Source::Pods, 2)));
    moments.extend(at_once(&[
        Step::StartAgent,
        Step::News(Source::Namespaces, 2),
        Step::News(Source::Pods, 2),
        Step::News(Source::Cgroups, 8),
    ]));
    let mut world = World::new(Setup::PLAIN, true);
    world.play(&moments).unwrap();
    world.pass(Duration::from_secs(41), true).unwrap();
    assert!(world.kernel.sockets.is_empty(), "it waits still: {:?}", world.kernel.sockets);
}

#[test]
fn a_sandbox_is_nobodys_proxy() {
    let steps = [
        Step::MakeCgroup { slot: 0, reuses: false },
        start(Who::Sandbox),
        Step::News(Source::Cgroups, 8),
        Step::LabelNamespace(Hold::Enabled),
        Step::News(Source::Namespaces, 2),
        Step::MakeObject(0, Shape::Classic, Hold::Unset),
        Step::News(Source::Pods, 2),
        start(Who::App),
        Step::Start { slot: 0, who: Who::Proxy, has_bundle: false, reuses: false },
        Step::News(Source::Cgroups, 8),
        Step::ProbeSays(0, true),
    ];
    let mut world = play(Setup::PLAIN, &steps);
    world.pass(Duration::from_secs(1), true).unwrap();
    let gate = world.agent.as_ref().and_then(|agent| agent.phase(&world.cluster.uid(0)));
    assert_eq!(gate, Some(GatePhase::Open), "its proxy has never run, so it has not died");
}

#[test]
fn times_at_the_end_of_the_clock_do_not_overflow() {
    for timeout_ms in [0, 60_000, Setup::CENTURY_MS, u64::MAX / 1_000_000, u64::MAX] {
        for on_timeout in [OnTimeout::Open, OnTimeout::Refuse] {
            let mut world = World::new(Setup { timeout_ms, on_timeout, ..Setup::PLAIN }, true);
            world.now = Monotonic(u64::MAX - 100_000_000_000);
            let steps = then(&[CONNECT, Step::Query(0), Step::News(Source::Kernel, 2)]);
            world.play(&at_once(&steps)).unwrap();
            world.pass(Duration::from_secs(30), true).unwrap();
            world.hear(Event::Tick).unwrap();
        }
    }
}

#[test]
fn a_pod_that_ends_while_its_gate_opens_is_not_guarded() {
    let setup = Setup { guard: true, ..Setup::PLAIN };
    let mut moments = at_once(&then(&[Step::ProbeSays(0, true), Step::Finish(0)]));
    moments.extend(at_once(&[Step::News(Source::Pods, 1)]));
    moments.push(Moment::new(1_000, Step::Wait));
    let mut world = World::new(setup, true);
    world.play(&moments).unwrap();
    let guards = |(_, _, actions): &(Event, Monotonic, Vec<Action>)| {
        actions.iter().any(|action| {
            matches!(action, Action::SetGate(set) if matches!(set.state, GateSetting::Guarded { .. }))
        })
    };
    let record = world.agent.as_ref().and_then(|agent| agent.record.as_ref());
    assert!(!record.unwrap().iter().any(guards), "{record:?}");
}

#[test]
fn who_comes_unreported_to_a_guarded_gate_that_an_order_closes_has_a_deadline() {
    let setup = Setup { guard: true, ..Setup::PLAIN };
    let mut moments = at_once(&then(&[Step::Listen(0, true), Step::Probe(0)]));
    moments.push(Moment::new(10_000, Step::Order(0, Wish::CloseFor(30_000))));
    moments.push(Moment::new(1_000, CONNECT));
    moments.push(Moment::new(0, Step::LoseReport));
    moments.push(Moment::new(100_000, Step::Wait));
    let mut world = World::new(setup, true);
    world.play(&moments).unwrap();
    assert!(world.kernel.sockets.is_empty(), "it waits still: {:?}", world.kernel.sockets);
}

#[test]
fn an_order_for_a_gate_that_was_to_be_renewed_does_not_keep_the_agent_busy() {
    let mut moments = at_once(&then(&[]));
    moments.push(Moment::new(0, Step::Order(0, Wish::CloseFor(50_000))));
    let mut world = World::new(Setup::PLAIN, false);
    world.play(&moments).unwrap();
    // When the gate would have been renewed without the order: `pass` counts the wake-ups.
    world.pass(Duration::from_secs(49), true).unwrap();
    let agent = world.agent.as_ref().unwrap();
    assert!(agent.machine.next_wakeup() > Some(world.now));
}

#[test]
fn who_is_only_observed_is_not_held_because_its_gate_could_not_be_renewed() {
    let setup = Setup { observe: true, ..Setup::PLAIN };
    let steps = [
        Step::MakeObject(0, Shape::Classic, Hold::Unset),
        Step::MakeCgroup { slot: 0, reuses: false },
        Step::News(Source::Cgroups, 6),
        Step::FailGates { count: 1, may_pass: true },
        Step::News(Source::Namespaces, 3),
        Step::News(Source::Pods, 3),
    ];
    play_to_the_end(setup, &at_once(&steps));
}

#[test]
fn the_end_of_an_order_does_not_move_the_deadline_of_one_whose_report_is_lost() {
    let mut moments =
        at_once(&then(&[Step::ProbeSays(0, false), Step::Order(0, Wish::CloseFor(100_000))]));
    moments.push(Moment::new(50_000, CONNECT));
    moments.push(Moment::new(0, Step::LoseReport));
    // A timeout after its connect, and a retransmission.
    moments.push(Moment::new(60_500, Step::Wait));
    let mut world = World::new(Setup::PLAIN, true);
    world.play(&moments).unwrap();
    assert!(world.kernel.sockets.is_empty(), "it waits still: {:?}", world.kernel.sockets);
    play_to_the_end(Setup::PLAIN, &moments);
}

#[test]
fn a_gate_does_not_open_for_an_instant_when_an_order_ends() {
    let mut moments =
        at_once(&then(&[Step::ProbeSays(0, false), Step::Order(0, Wish::CloseFor(100_000))]));
    // Nobody waits, and the agent is late by half a second.
    moments.push(Moment { on_time: false, ..Moment::new(100_500, CONNECT) });
    let mut world = World::new(Setup::PLAIN, true);
    world.play(&moments).unwrap();
    assert_eq!(world.kernel.sockets.len(), 1, "it has gone to a proxy that is not ready");
    play_to_the_end(Setup::PLAIN, &moments);
}

#[test]
fn who_waits_unreported_at_a_guarded_gate_has_a_deadline_when_that_closes() {
    let setup = Setup { guard: true, ..Setup::PLAIN };
    let mut moments = at_once(&then(&[Step::ProbeSays(0, true)]));
    moments.push(Moment::new(30_000, CONNECT));
    moments.push(Moment::new(0, Step::LoseReport));
    moments.push(Moment::new(0, Step::Order(0, Wish::CloseFor(30_000))));
    moments.push(Moment::new(60_500, Step::Wait));
    let mut world = World::new(setup, true);
    world.play(&moments).unwrap();
    assert!(world.kernel.sockets.is_empty(), "it waits still: {:?}", world.kernel.sockets);
    play_to_the_end(setup, &moments);
}

#[test]
fn who_comes_before_the_next_agent_has_found_the_pod_is_among_those_who_wait() {
    let mut moments = at_once(&then(&[Step::StartAgent, CONNECT, Step::LoseReport]));
    moments.push(Moment::new(1_000, Step::News(Source::Cgroups, 8)));
    moments.extend(at_once(&[Step::News(Source::Namespaces, 2), Step::News(Source::Pods, 2)]));
    moments.push(Moment::new(59_500, Step::Wait));
    let mut world = World::new(Setup::PLAIN, true);
    world.play(&moments).unwrap();
    assert!(world.kernel.sockets.is_empty(), "it waits still: {:?}", world.kernel.sockets);
    play_to_the_end(Setup::PLAIN, &moments);
}

#[test]
fn who_has_no_record_waits_still_when_another_one_turns_out_to_pass() {
    let begins = [&STARTS[..1], &STARTS[2..]].concat();
    let mut moments = at_once(&begins);
    let proxy = Step::Connect { slot: 0, who: Who::Proxy, recorded: true };
    let app = Step::Connect { slot: 0, who: Who::App, recorded: false };
    moments.push(Moment::new(500, proxy));
    moments.extend(at_once(&[app, Step::News(Source::Kernel, 4)]));
    moments.push(Moment::new(800, Step::StartAgent));
    let told = [Source::Cgroups, Source::Namespaces, Source::Pods];
    moments.extend(at_once(&told.map(|source| Step::News(source, 8))));
    moments.push(Moment::new(60_200, Step::Wait));
    let mut world = World::new(Setup::PLAIN, true);
    world.play(&moments).unwrap();
    assert!(world.kernel.sockets.is_empty(), "it waits still: {:?}", world.kernel.sockets);
    play_to_the_end(Setup::PLAIN, &moments);
}

#[test]
fn a_count_that_comes_while_a_gate_cannot_be_renewed_wakes_nobody_without_end() {
    let setup = Setup { timeout_ms: 3_153_600_000_000, mode: Mode::Observe, ..Setup::PLAIN };
    let mut moments = at_once(&[
        Step::LabelNamespace(Hold::Enabled),
        Step::MakeObject(0, Shape::Classic, Hold::Unset),
        Step::MakeCgroup { slot: 0, reuses: false },
        Step::News(Source::Cgroups, 8),
        Step::FailGates { count: 1, may_pass: true },
        Step::StartAgent,
    ]);
    moments.push(Moment::new(1_712, Step::News(Source::Namespaces, 3)));
    moments.extend(at_once(&[Step::News(Source::Cgroups, 6), Step::News(Source::Pods, 3)]));
    moments.push(Moment::new(4, Step::Counts(true)));
    play_to_the_end(setup, &moments);
}

#[test]
fn an_opened_gate_stays_until_whoever_was_not_reported_has_sent_again() {
    let mut moments = at_once(&then(&[CONNECT, Step::LoseReport, Step::ProbeSays(0, true)]));
    // Sooner than its retransmission.
    moments.push(Moment::new(40, Step::Order(0, Wish::CloseFor(30_000))));
    moments.push(Moment::new(600, Step::Wait));
    let mut world = World::new(Setup::PLAIN, true);
    world.play(&moments).unwrap();
    assert!(world.kernel.sockets.is_empty(), "nobody knows of it: {:?}", world.kernel.sockets);
    play_to_the_end(Setup::PLAIN, &moments);
}

#[test]
fn who_came_before_a_gate_was_closed_anew_waits_no_longer_with_the_next_agent() {
    // Seed 31, sequence 9915.
    let setup = Setup { mode: Mode::Retry, on_timeout: OnTimeout::Refuse, ..Setup::PLAIN };
    let steps = [
        Step::LabelNamespace(Hold::Enabled),
        Step::News(Source::Namespaces, 2),
        Step::MakeObject(0, Shape::Native, Hold::Unset),
        Step::News(Source::Pods, 2),
        Step::MakeCgroup { slot: 0, reuses: false },
        Step::News(Source::Cgroups, 8),
        start(Who::App),
        CONNECT,
        Step::ProbeSays(0, true),
        Step::Order(0, Wish::CloseFor(30_000)),
    ];
    play_to_the_end(setup, &at_once(&steps));
}

#[test]
fn an_order_outlives_the_cgroup_of_its_pod() {
    // Seed 8, sequence 34707.
    let setup = Setup { on_timeout: OnTimeout::Refuse, timeout_ms: 5_000, ..Setup::PLAIN };
    let steps = [
        Step::LabelNamespace(Hold::Enabled),
        Step::MakeObject(0, Shape::Classic, Hold::Unset),
        Step::MakeCgroup { slot: 0, reuses: true },
        Step::News(Source::Pods, 3),
        Step::RemoveCgroup(0),
        Step::MakeCgroup { slot: 0, reuses: false },
        Step::Order(0, Wish::CloseFor(30_000)),
        Step::News(Source::Cgroups, 6),
    ];
    play_to_the_end(setup, &at_once(&steps));
}

#[test]
fn whose_report_was_read_before_the_next_agent_found_the_pod_is_known_to_it() {
    let mut moments = at_once(&then(&[Step::StartAgent, CONNECT]));
    moments.push(Moment::new(0, Step::News(Source::Kernel, 1)));
    let told = [Source::Cgroups, Source::Namespaces, Source::Pods];
    moments.extend(at_once(&told.map(|source| Step::News(source, 8))));
    let mut world = World::new(Setup::PLAIN, true);
    world.play(&moments).unwrap();
    let agent = world.agent.as_ref().unwrap();
    assert_eq!(agent.machine.pods[&world.cluster.uid(0)].held.len(), 1);
    play_to_the_end(Setup::PLAIN, &moments);
}

#[test]
fn what_is_sent_on_waits_no_longer_if_the_gate_could_not_be_told_to_only_look() {
    let setup = Setup { guard: true, observe: true, ..Setup::PLAIN };
    let mut moments = at_once(&[
        Step::MakeObject(0, Shape::Classic, Hold::Unset),
        Step::News(Source::Pods, 2),
        Step::MakeCgroup { slot: 0, reuses: false },
        start(Who::Proxy),
    ]);
    moments.push(Moment::new(27_292, Step::News(Source::Cgroups, 6)));
    moments.extend(at_once(&[
        Step::Connect { slot: 0, who: Who::Proxy, recorded: true },
        Step::FailGates { count: 1, may_pass: true },
        Step::News(Source::Kernel, 4),
        Step::News(Source::Namespaces, 3),
    ]));
    moments.push(Moment::new(600, Step::Wait));
    let mut world = World::new(setup, true);
    world.play(&moments).unwrap();
    assert!(world.kernel.sockets.is_empty(), "it waits still: {:?}", world.kernel.sockets);
    play_to_the_end(setup, &moments);
}

#[test]
fn a_number_that_is_another_pods_now_is_the_former_ones_no_more() {
    let setup = Setup { guard: true, mode: Mode::Observe, ..Setup::PLAIN };
    let steps = [
        Step::MakeCgroup { slot: 0, reuses: false },
        Step::News(Source::Cgroups, 6),
        Step::RemoveCgroup(0),
        Step::LoseCgroupNews,
        Step::MakeCgroup { slot: 0, reuses: true },
        Step::News(Source::Cgroups, 6),
    ];
    play_to_the_end(setup, &at_once(&steps));
}

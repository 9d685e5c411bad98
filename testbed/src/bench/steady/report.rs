//! What the rounds say.

use super::{
    Round, State, Steady, Work, pairs,
    programs::{ProgramCost, Situation},
    rate::{Rate, Side},
    ratio,
    scene::SLICE,
};
use crate::bench::{
    Axis, Plot, Section, Series,
    stats::{Percentiles, Ratio},
    table::{number, table},
    target::{Target, targets},
};

/// What was promised: of the rates without holdfast so much is left.
const TARGET: f64 = 0.99;

/// What is known of a guarded gate's price.
const WHY_GUARDED: &str = "the guard's programs stay on the pod. Part of that is not their own time but the kernel's, which gets to a cgroup's \
programs for each packet, also for one that they pass at once. So the guard is a setting, and off unless it is asked for";

/// A situation's programs with their runs of a connection.
const PER_CONNECTION: [Situation; 2] = [Situation::GuardedConnects, Situation::Closed];

pub(super) fn section(steady: &Steady) -> Section {
    let Steady { slices, rounds, programs } = steady;
    let turns = rounds.len() / Work::ALL.len();
    let slice = SLICE.as_millis();
    let total = slices * rounds.len() as u64;
    let text = format!(
        "One pod with Istio's rules and one Envoy whose gate has been opened, in three states, turn by turn: no holdfast at all (no agent \
runs), holdfast with the gate open (its programs are off), and with `holdfast.dev/guard` (they stay). {turns} rounds in each \
state for each kind of work, in a closed loop with one connection at a time: connect, request and close; requests over one connection; \
and answers of 1 MiB over one connection. Clients, Envoys and backend share one processor, so that what any of them takes longer counts; what many connections at once would contend for does not show.\n\n\
A second pod of a namespace that is not enabled has an Envoy of its own and does the same all the while, {slice} ms the one pod, {slice} ms the other, {slices} times each a round: \
a virtual machine's processor is half as fast from one second to the next, and that is the same for both, as is what holdfast costs all of a node and not its gate's pod; \
that is below, and its processor time under *Scale*. A round counts as the pod's share of the other's rate, the median of its \
slices. In a turn each state has one round of each kind; the six orders of the three states come in turn. A ratio is the median \
of all turns' ratios to the turn's own round without holdfast, with its 95% interval if there were at least 6 turns. A target is met or missed only \
if the whole interval lies on one side of it.\n\n\
{}\n\
### Targets\n\n{}\n\
### Without the comparison\n\n\
The rates themselves, to the turn's own round without holdfast, of the pod and of the other one, which has no gate in any state: what a machine's moods leave of them.\n\n{}\n\
*Lost* is a slice in which nothing was done, of {total} in each pod and state; *longest* is what took longest of all, connects with their request or requests: a SYN that is lost takes a second.\n\n{}\n\
### In the kernel\n\n\
What a program's run takes, by the kernel's own count (`BPF_ENABLE_STATS`), which the reading of the clock is part of. *per connection* is \
all its runs for one connection, request and close, or for one connect that waits, its SYN dropped and its socket closed. \
What the kernel takes to get to a program is not in it.\n\n{}",
        rates(steady),
        targets(&all_targets(steady)),
        raw(steady),
        stalls(steady),
        programs_table(programs),
    );
    let plot = ratios_plot(steady);
    Section {
        title: "Steady-state cost".into(),
        text,
        plots: if turns > 0 { vec![plot] } else { Vec::new() },
    }
}

fn rates(steady: &Steady) -> String {
    let rate = |work: Work, state| {
        let of = steady.rounds.iter().filter(|round| round.work == work);
        let rates: Vec<f64> =
            of.filter_map(|round| Some(round.rates.get(&state)?.served.per_second)).collect();
        Percentiles::of(&rates).map_or_else(|| "-".into(), |rates| number(rates.p50 / work.unit()))
    };
    let row = |work: Work| {
        let mut row = vec![format!("{}/s", work.counted())];
        row.extend(State::ALL.map(|state| rate(work, state)));
        row.extend([State::Open, State::Guarded].map(|state| {
            let ratio = ratio(&steady.rounds, work, state);
            ratio.map_or_else(|| "-".into(), |ratio| ratio.show(|n| format!("{n:.3}")))
        }));
        row
    };
    let head = ["median", "no holdfast", "open", "guarded", "open, ratio", "guarded, ratio"];
    table(&head, &Work::ALL.map(row))
}

/// One pod's part of a rate.
type Of = fn(&Rate) -> Side;

/// What the rates are without the other pod's beside them, and what the other pod's own are.
fn raw(steady: &Steady) -> String {
    let ratio = |work: Work, state, of: Of| {
        let rounds = steady.rounds.iter().filter(|round| round.work == work);
        let pair = |Round { rates, .. }: &Round| {
            let [without, with] = [State::Without, state].map(|state| rates.get(&state).map(of));
            Some((without?.per_second, with?.per_second))
        };
        let ratio = Ratio::of_pairs(&rounds.filter_map(pair).collect::<Vec<_>>());
        ratio.map_or_else(|| "-".into(), |ratio| ratio.show(|n| format!("{n:.2}")))
    };
    let columns: [(&str, State, Of); 4] = [
        ("open", State::Open, |rate| rate.served),
        ("other pod", State::Open, |rate| rate.other),
        ("guarded", State::Guarded, |rate| rate.served),
        ("other pod", State::Guarded, |rate| rate.other),
    ];
    let row = |work: Work| {
        let mut row = vec![format!("{}/s", work.counted())];
        row.extend(columns.map(|(_, state, of)| ratio(work, state, of)));
        row
    };
    let head: Vec<&str> = [""].into_iter().chain(columns.map(|(name, ..)| name)).collect();
    table(&head, &Work::ALL.map(row))
}

/// What stood still: a median does not tell.
fn stalls(steady: &Steady) -> String {
    let row = |(state, name): (State, &str)| {
        let rates: Vec<&Rate> =
            steady.rounds.iter().filter_map(|round| round.rates.get(&state)).collect();
        let lost = |of: Of| rates.iter().map(|rate| of(rate).lost).sum::<usize>();
        let longest =
            |of: Of| number(rates.iter().map(|rate| of(rate).longest_ms).fold(0.0, f64::max));
        let (served, other): (Of, Of) = (|rate| rate.served, |rate| rate.other);
        let name = name.to_owned();
        vec![
            name,
            lost(served).to_string(),
            longest(served),
            lost(other).to_string(),
            longest(other),
        ]
    };
    let states =
        [(State::Without, "no holdfast"), (State::Open, "open"), (State::Guarded, "guarded")];
    let head = ["", "lost", "longest ms", "other pod: lost", "longest ms"];
    table(&head, &states.map(row))
}

fn all_targets(steady: &Steady) -> Vec<Target> {
    let target = |work: Work, (state, name)| {
        let ratio = ratio(&steady.rounds, work, state)?;
        let what = format!("{}/s, {name}", work.counted());
        let target = Target::at_least(what, TARGET, ratio, "");
        Some(if state == State::Guarded { target.why(WHY_GUARDED) } else { target })
    };
    let states = [(State::Open, "open"), (State::Guarded, "guarded")];
    Work::ALL
        .into_iter()
        .flat_map(|work| states.map(|state| target(work, state)))
        .flatten()
        .collect()
}

fn programs_table(programs: &[ProgramCost]) -> String {
    let row = |cost: &ProgramCost| {
        let per_connection = PER_CONNECTION
            .contains(&cost.situation)
            .then(|| number(cost.nanos as f64 / cost.done as f64));
        vec![
            format!("`{}` ({}), {}", cost.program(), cost.hook, cost.situation.as_str()),
            cost.runs.to_string(),
            number(cost.nanos_a_run()),
            per_connection.unwrap_or_else(|| "-".into()),
        ]
    };
    let rows: Vec<Vec<String>> = programs.iter().map(row).collect();
    table(&["program", "runs", "ns a run", "ns per connection"], &rows)
}

/// Each pair's ratios, sorted: how sure a median is.
fn ratios_plot(steady: &Steady) -> Plot {
    let series = |(work, state, name): (Work, State, &str)| {
        let pairs = pairs(&steady.rounds, work, state);
        let mut ratios: Vec<f64> = pairs.iter().map(|(without, with)| with / without).collect();
        ratios.sort_by(f64::total_cmp);
        let count = ratios.len() as f64;
        let points =
            ratios.into_iter().zip(1..).map(|(x, nth)| (100.0 * f64::from(nth) / count, x));
        Series { name: format!("{}/s, {name}", work.counted()), points: points.collect() }
    };
    let states = [(State::Open, "open"), (State::Guarded, "guarded")];
    let all =
        Work::ALL.into_iter().flat_map(|work| states.map(|(state, name)| (work, state, name)));
    Plot {
        name: "steady-ratios".into(),
        title: "Rates with holdfast to those without, round by round".into(),
        x: Axis::linear("% of the rounds"),
        y: Axis::linear("ratio, at most"),
        series: all.map(series).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(guarded: f64) -> Steady {
        let side = |per_second, lost| Side { per_second, lost, longest_ms: 1.5 };
        let rate = |to_other| Rate { served: side(1000.0, 1), other: side(500.0, 0), to_other };
        let shares = [(State::Without, 1.0), (State::Open, 1.0), (State::Guarded, guarded)];
        let rates = shares.map(|(state, to_other)| (state, rate(to_other)));
        let of_a_turn = Work::ALL.map(|work| Round { work, rates: rates.into() });
        let rounds = (0..6).flat_map(|_| of_a_turn.clone()).collect();
        let situation = Situation::GuardedConnects;
        let gate =
            ProgramCost { hook: "egress".into(), situation, runs: 90, nanos: 1800, done: 10 };
        Steady { slices: 30, rounds, programs: vec![gate] }
    }

    #[test]
    fn a_rate_that_falls_misses_its_target() {
        let text = section(&steady(1.0)).text;
        assert_eq!(text.matches(" met |").count(), 6, "{text}");
        assert!(!text.contains(WHY_GUARDED), "{text}");
        let text = section(&steady(0.97)).text;
        assert_eq!(text.matches(" met |").count(), 3, "{text}");
        assert_eq!(text.matches("missed by 0.0200").count(), 3, "{text}");
        assert!(text.contains("0.970 (0.970 to 0.970)"), "{text}");
        assert!(text.contains(WHY_GUARDED), "{text}");
        // Of fewer turns nothing is known.
        let mut few = steady(0.97);
        few.rounds.truncate(5 * Work::ALL.len());
        assert_eq!(section(&few).text.matches("not decided").count(), 6);
    }

    #[test]
    fn what_stood_still_and_what_the_node_pays_is_told() {
        let text = section(&steady(1.0)).text;
        // 18 rounds in each state, a lost slice in each.
        assert_eq!(text.matches("|   18 |").count(), 3, "{text}");
        assert!(text.contains("of 540 in each pod"), "{text}");
        assert_eq!(text.matches("1.00 (1.00 to 1.00)").count(), 4 * 3 + 3 * 2, "{text}");
    }

    #[test]
    fn a_program_s_price_is_told_by_run_and_by_connection() {
        let text = section(&steady(1.0)).text;
        let row = text.lines().find(|line| line.contains("`gate`")).unwrap();
        assert!(row.contains(" 20.0 |") && row.contains(" 180 |"), "{row}");
    }
}

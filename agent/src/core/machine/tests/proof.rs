//! The machine against random sequences of everything that can happen to a node: pods that come and go,
//! news that is late, doubled, stale or lost, agents that die, a kernel that does what it is told.
//!
//! The sequences are the same in each run, so that a change is judged by itself; `HOLDFAST_PROOF_SEED`
//! chooses others, `HOLDFAST_PROOF_SEQUENCES` makes it longer. A sequence that shows
//! a fault is cut down to the steps that matter and printed; as a test of its own it goes into
//! `proof/cases.rs`.

use std::{env, num::NonZero, panic, thread};

use anyhow::{Result, anyhow};

use self::{
    coverage::Coverage,
    random::Random,
    step::{Moment, Setup},
    world::World,
};

mod agent;
mod cases;
mod check;
mod cluster;
mod coverage;
mod end;
mod kernel;
mod random;
mod step;
mod told;
mod world;

/// Sequences of one run.
const SEQUENCES: u64 = 100_000;

/// Any number would do.
const SEED: u64 = 1;

/// One of so many is played a second time, to see whether it comes to the same.
const TWICE: u64 = 16;

/// A sequence, all of which follows from its seed and its number.
struct Sequence {
    setup: Setup,
    moments: Vec<Moment>,
    end: Random,
}

impl Sequence {
    fn of(seed: u64, number: u64) -> Self {
        let mut random = Random::of(seed, number);
        let setup = Setup::random(&mut random);
        let moments = step::sequence(&mut random);
        Self { setup, moments, end: random }
    }

    /// `records`: what each agent hears is kept, and played to a second one.
    fn play(&self, moments: &[Moment], records: bool, coverage: &mut Coverage) -> Result<()> {
        let played = panic::catch_unwind(|| {
            let mut world = World::new(self.setup, records);
            let result = world.play(moments).and_then(|()| world.finish(&mut self.end.clone()));
            (world.coverage, result)
        });
        let (seen, result) = played.map_err(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            anyhow!("a panic: {}", text.unwrap_or("without words"))
        })?;
        coverage.add(&seen);
        result
    }

    /// The fault that it shows, if these steps are all of it.
    fn fault(&self, moments: &[Moment]) -> Option<String> {
        self.play(moments, true, &mut Coverage::default()).err().map(|error| format!("{error:#}"))
    }

    /// As few steps as show a fault of the same kind.
    fn shrink(&self) -> (Vec<Moment>, String) {
        let mut moments = self.moments.clone();
        let mut fault = self.fault(&moments).expect("it has shown one");
        let kind = kind(&fault);
        let same = |moments: &[Moment]| self.fault(moments).filter(|one| self::kind(one) == kind);
        let mut chunk = moments.len();
        while chunk > 0 {
            let mut at = 0;
            while at < moments.len() {
                let mut fewer = moments.clone();
                fewer.drain(at..(at + chunk).min(moments.len()));
                match same(&fewer) {
                    Some(smaller) => (moments, fault) = (fewer, smaller),
                    None => at += chunk,
                }
            }
            chunk /= 2;
        }
        for at in 0..moments.len() {
            let mut sooner = moments.clone();
            (sooner[at].after_ms, sooner[at].on_time) = (0, true);
            if let Some(smaller) = same(&sooner) {
                (moments, fault) = (sooner, smaller);
            }
        }
        (moments, fault)
    }
}

/// What a fault says, without what is of one sequence only: its numbers, and all but its first words.
fn kind(fault: &str) -> String {
    let words = fault.split(": ").find(|part| !part.starts_with("after ")).unwrap_or(fault);
    words.chars().filter(|c| !c.is_ascii_digit()).take(40).collect()
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Plays every so-many-th sequence; the first that shows a fault ends it.
fn play_some(seed: u64, first: u64, step: u64, count: u64) -> (Coverage, Option<u64>) {
    let mut coverage = Coverage::default();
    for sequence in (first..count).step_by(usize::try_from(step).expect("a count of threads")) {
        let played = Sequence::of(seed, sequence);
        let twice = sequence.is_multiple_of(TWICE);
        if played.play(&played.moments, twice, &mut coverage).is_err() {
            return (coverage, Some(sequence));
        }
    }
    (coverage, None)
}

#[test]
#[expect(clippy::print_stdout, reason = "what a run came through, for who asks with --nocapture")]
fn whatever_happens_nobody_waits_in_vain() {
    let seed = number("HOLDFAST_PROOF_SEED").unwrap_or(SEED);
    let count = number("HOLDFAST_PROOF_SEQUENCES").unwrap_or(SEQUENCES);
    let threads = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let (mut coverage, mut faulty) = (Coverage::default(), None);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || play_some(seed, first, threads, count)))
            .collect();
        for worker in workers {
            let (seen, fault) = worker.join().expect("faults are results");
            coverage.add(&seen);
            faulty = faulty.or(fault);
        }
    });
    if let Some(sequence) = faulty {
        let faulty = Sequence::of(seed, sequence);
        let (moments, fault) = faulty.shrink();
        let steps: String = moments.iter().map(|moment| format!("    {moment:?},\n")).collect();
        panic!(
            "{fault}\nsequence {sequence} of HOLDFAST_PROOF_SEED={seed}, cut down, with {:?}:\n{steps}",
            faulty.setup
        );
    }
    println!("HOLDFAST_PROOF_SEED={seed}, {count} sequences\n{}", coverage.table());
    let missing = coverage.missing();
    // A short run need not come through everything.
    assert!(count < SEQUENCES || missing.is_empty(), "seed {seed} never came through {missing:?}");
}

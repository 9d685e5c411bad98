//! What the programs cost the kernel, compared with what was recorded: a change of the code that
//! makes the verifier's work jump shows here, long before a kernel refuses the program.

use std::{collections::BTreeMap, env};

use holdfast::{
    bpf::{self, LoadOptions, ProgramCost},
    preflight::Kernel,
};
use serde_json::Value;

/// By kernel, then by program.
const RECORD: &str = include_str!("programs.json");

/// Set while a new record is made.
const RECORDING: &str = "HOLDFAST_RECORD";

/// How much more than recorded is a jump, in percent. Another compiler moves the counts by some
/// percent, an unrolled loop doubles them.
const TOLERANCE: u64 = 20;

/// The same for a kernel without a record of its own, compared with its neighbours: its verifier goes
/// other ways. Between recorded kernels, which are further apart, they differ by half at most.
const OTHER_KERNELS_TOLERANCE: u64 = 60;

#[test]
#[expect(clippy::print_stdout, reason = "libtest shows it to `cargo xtask kernels`")]
fn no_program_costs_much_more_than_recorded() {
    let costs = bpf::costs(&LoadOptions::default()).unwrap();
    for ProgramCost { name, instructions, verified, peak_states, duration } in &costs {
        // For `cargo xtask kernels`.
        let micros = duration.as_micros();
        println!("holdfast-cost: {name} {instructions} {verified} {peak_states} {micros}");
    }
    let record: Value = serde_json::from_str(RECORD).unwrap();
    if env::var_os(RECORDING).is_some() {
        println!("its record is being made");
        return;
    }
    let running = Kernel::running().version.expect("a kernel has a version");
    let problems: Vec<_> = yardsticks(&record, running)
        .iter()
        .map(|yardstick| (yardstick.kernel, problems(yardstick, &costs)))
        .collect();
    assert!(!problems.is_empty(), "no kernel is recorded");
    assert!(
        problems.iter().any(|(_, problems)| problems.is_empty()),
        "compared with other runs: {problems:#?}\nif it has to be so: `cargo xtask kernels --record`",
    );
}

/// What a kernel's costs are compared with.
#[derive(Debug)]
struct Yardstick<'a> {
    kernel: &'a str,
    recorded: &'a Value,
    /// In percent.
    tolerance: u64,
}

/// The kernel's own record, or those of its nearest neighbours. To be like one of them is enough:
/// between them a part came to the kernel, and with it some code of ours to the verifier.
fn yardsticks(record: &Value, running: (u32, u32)) -> Vec<Yardstick<'_>> {
    let version = |kernel: &str| -> (u32, u32) {
        let (major, minor) = kernel.split_once('.').expect("a recorded kernel has two numbers");
        (major.parse().unwrap(), minor.parse().unwrap())
    };
    let record = record.as_object().unwrap();
    let known: BTreeMap<_, _> = record
        .iter()
        .map(|(kernel, recorded)| (version(kernel), (kernel.as_str(), recorded)))
        .collect();
    let (found, tolerance) = match known.get(&running) {
        Some(own) => ([Some(own), None], TOLERANCE),
        None => {
            let (older, newer) =
                (known.range(..running).next_back(), known.range(running..).next());
            ([older, newer].map(|one| one.map(|(_, one)| one)), OTHER_KERNELS_TOLERANCE)
        }
    };
    let yardstick = |&(kernel, recorded)| Yardstick { kernel, recorded, tolerance };
    found.into_iter().flatten().map(yardstick).collect()
}

fn problems(yardstick: &Yardstick<'_>, costs: &[ProgramCost]) -> Vec<String> {
    let Yardstick { kernel: _, recorded, tolerance } = *yardstick;
    let mut problems = Vec::new();
    for ProgramCost { name, instructions, verified, peak_states: _, duration: _ } in costs {
        let numbers = [("instructions", *instructions), ("verified", *verified)];
        for (what, found) in numbers {
            match recorded[name][what].as_u64() {
                None => problems.push(format!("{name} has no record")),
                Some(before) if u64::from(found) * 100 > before * (100 + tolerance) => {
                    problems.push(format!("{name}: {what} {found}, recorded {before}"));
                }
                Some(_) => {}
            }
        }
    }
    for name in recorded.as_object().into_iter().flat_map(|programs| programs.keys()) {
        if !costs.iter().any(|cost| cost.name == *name) {
            problems.push(format!("{name} is recorded and not there any more"));
        }
    }
    problems.dedup();
    problems
}

#[test]
fn a_jump_and_a_gap_in_the_record_are_noticed() {
    let cost = |name: &str, instructions, verified| {
        let (peak_states, duration) = (1, std::time::Duration::ZERO);
        ProgramCost { name: name.to_owned(), instructions, verified, peak_states, duration }
    };
    let recorded = serde_json::json!({"gate": {"instructions": 100, "verified": 1_000}});
    let yardstick = Yardstick { kernel: "6.1", recorded: &recorded, tolerance: TOLERANCE };
    assert!(problems(&yardstick, &[cost("gate", 120, 1_200)]).is_empty());
    assert_eq!(
        problems(&yardstick, &[cost("gate", 121, 1_201), cost("sentry", 1, 1)]),
        [
            "gate: instructions 121, recorded 100",
            "gate: verified 1201, recorded 1000",
            "sentry has no record"
        ]
    );
    assert_eq!(problems(&yardstick, &[]), ["gate is recorded and not there any more"]);
}

#[test]
fn a_kernel_without_a_record_is_compared_with_its_neighbours() {
    let record = serde_json::json!({"5.10": 1, "6.1": 2, "6.12": 3});
    let found = |major, minor| -> Vec<_> {
        let found = yardsticks(&record, (major, minor));
        found.iter().map(|yardstick| (yardstick.kernel.to_owned(), yardstick.tolerance)).collect()
    };
    let other = |kernel: &str| (kernel.to_owned(), OTHER_KERNELS_TOLERANCE);
    assert_eq!(found(6, 1), [("6.1".to_owned(), TOLERANCE)]);
    assert_eq!(found(6, 11), [other("6.1"), other("6.12")]);
    assert_eq!(found(7, 0), [other("6.12")]);
    assert_eq!(found(5, 4), [other("5.10")]);
}

//! What the programs cost the kernel, compared with what was recorded: a change of the code that
//! makes the verifier's work jump shows here, long before a kernel refuses the program.

use std::env;

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
    let (major, minor) = Kernel::running().version.expect("a kernel has a version");
    let recorded = record.get(format!("{major}.{minor}"));
    let (Some(recorded), None) = (recorded, env::var_os(RECORDING)) else {
        println!("Linux {major}.{minor} has no record to compare with, or it is being made");
        return;
    };
    let problems = problems(recorded, &costs);
    assert!(
        problems.is_empty(),
        "{}\nif it has to be so: `cargo xtask kernels --record`",
        problems.join("\n")
    );
}

fn problems(recorded: &Value, costs: &[ProgramCost]) -> Vec<String> {
    let mut problems = Vec::new();
    for ProgramCost { name, instructions, verified, peak_states: _, duration: _ } in costs {
        let numbers = [("instructions", *instructions), ("verified", *verified)];
        for (what, found) in numbers {
            match recorded[name][what].as_u64() {
                None => problems.push(format!("{name} has no record")),
                Some(before) if u64::from(found) * 100 > before * (100 + TOLERANCE) => {
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
    assert!(problems(&recorded, &[cost("gate", 120, 1_200)]).is_empty());
    assert_eq!(
        problems(&recorded, &[cost("gate", 121, 1_201), cost("sentry", 1, 1)]),
        [
            "gate: instructions 121, recorded 100",
            "gate: verified 1201, recorded 1000",
            "sentry has no record"
        ]
    );
    assert_eq!(problems(&recorded, &[]), ["gate is recorded and not there any more"]);
}

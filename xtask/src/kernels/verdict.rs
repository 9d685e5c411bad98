//! Reads what the tests said, on the console of a virtual machine or on this one.

use std::collections::BTreeMap;

/// Whatever the tests found out on one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// As in `uname -r`.
    pub(crate) kernel: String,
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// Why it counts as failed; `None` is success.
    pub(crate) failure: Option<String>,
    /// All tests have ended, one way or the other, and have told what they found.
    pub(crate) is_complete: bool,
    /// Each test that ended, and whether it passed.
    pub(crate) tests: BTreeMap<String, bool>,
    /// Features of which this kernel has less, and what is left of them.
    pub(crate) lacks: BTreeMap<String, String>,
    /// What each program costs here.
    pub(crate) costs: BTreeMap<String, Cost>,
}

/// What one program costs, as `agent/tests/kernel/cost.rs` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) instructions: u32,
    pub(crate) verified: u32,
    pub(crate) peak_states: u32,
    /// How long the verifier took, in microseconds.
    pub(crate) verifier_us: u32,
}

/// One test at a time, and in the end what each printed. `init.sh` has the same.
pub(crate) const TEST_OPTIONS: [&str; 2] = ["--test-threads=1", "--show-output"];

/// How timeout(1) of busybox passes the signal on: 128 + SIGTERM.
pub(crate) const OUT_OF_TIME: i32 = 143;

/// What `init.sh` writes in front of the lines that are for us.
const MARK: &str = "holdfast-vm: ";

/// What the tests print in front of theirs.
const LACKS: &str = "holdfast-lacks: ";
const COST: &str = "holdfast-cost: ";

/// How the kernel begins its last words.
const PANIC: &str = "Kernel panic - not syncing";

/// Whether nothing more can come after this line.
pub(crate) fn is_last(line: &str) -> bool {
    line.contains(PANIC)
}

/// What a machine's console would have shown of tests that ran elsewhere.
pub(crate) fn console(release: &str, output: &str, status: i32) -> String {
    format!("{MARK}kernel {}\n{output}\n{MARK}tests ended with status {status}\n", release.trim())
}

/// Judges a console's whole output.
pub(crate) fn judge(console: &str) -> Verdict {
    let marked = |prefix: &str| {
        console.lines().find_map(|line| {
            let (_, text) = line.split_once(MARK)?;
            text.trim().strip_prefix(prefix)
        })
    };
    let kernel = marked("kernel ").unwrap_or("?").to_owned();
    let result = console.lines().rev().find_map(test_result);
    let (passed, failed) = result.unwrap_or_default();
    let panic = console.lines().find_map(|line| line.find(PANIC).map(|at| line[at..].trim()));
    let status = marked("tests ended with status ").map(|status| status.parse::<i32>().ok());
    let failure = match (panic, status, result) {
        (Some(panic), _, _) => Some(panic.to_owned()),
        (None, None, _) => Some("the machine ended without a verdict".into()),
        (None, Some(Some(0)), Some((1.., 0))) => None,
        (None, Some(Some(0)), _) => Some("no test was run".into()),
        (None, Some(Some(OUT_OF_TIME)), _) => Some("the tests ran out of time".into()),
        (None, Some(status), _) => {
            Some(format!("the tests ended with status {}", status.unwrap_or(-1)))
        }
    };
    let lacks = console.lines().filter_map(|line| {
        let (feature, left) = line.trim().strip_prefix(LACKS)?.split_once(": ")?;
        Some((feature.to_owned(), left.to_owned()))
    });
    Verdict {
        kernel,
        passed,
        failed,
        failure,
        is_complete: result.is_some(),
        tests: console.lines().filter_map(test).collect(),
        lacks: lacks.collect(),
        costs: console.lines().filter_map(cost).collect(),
    }
}

/// The tests' own output, without the kernel's messages before it.
pub(crate) fn test_output(console: &str) -> &str {
    let start = console.find(MARK).unwrap_or(0);
    console.get(start..).unwrap_or(console).trim_end()
}

/// Passed and failed of libtest's `test result: ok. 5 passed; 0 failed; ...`.
fn test_result(line: &str) -> Option<(u32, u32)> {
    let (_, counts) = line.split_once("test result: ")?;
    let number = |what: &str| {
        let (before, _) = counts.split_once(what)?;
        before.split_whitespace().last()?.parse().ok()
    };
    Some((number(" passed")?, number(" failed")?))
}

/// libtest's `test hold::a_test ... ok`; nothing of those that are ignored.
fn test(line: &str) -> Option<(String, bool)> {
    let (name, result) = line.trim().strip_prefix("test ")?.split_once(" ... ")?;
    let passed = match result {
        "ok" => true,
        "FAILED" => false,
        _ => return None,
    };
    Some((name.to_owned(), passed))
}

fn cost(line: &str) -> Option<(String, Cost)> {
    let mut words = line.trim().strip_prefix(COST)?.split(' ');
    let name = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    let cost = Cost {
        instructions: number()?,
        verified: number()?,
        peak_states: number()?,
        verifier_us: number()?,
    };
    Some((name, cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[    0.5] Run /init as init process\r\n\
        holdfast-vm: kernel 5.10.0-46-cloud-amd64\r\n\
        running 2 tests\r\ntest a ... ok\r\ntest b ... ok\r\n\
        successes:\r\n---- a stdout ----\r\nholdfast-lacks: refuse: ECONNREFUSED only\r\n\
        holdfast-cost: gate 812 3123 40 5100\r\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\r\n\
        holdfast-vm: tests ended with status 0\r\n";

    #[test]
    fn a_good_run_is_recognised() {
        let cost = Cost { instructions: 812, verified: 3_123, peak_states: 40, verifier_us: 5_100 };
        assert_eq!(
            judge(GOOD),
            Verdict {
                kernel: "5.10.0-46-cloud-amd64".into(),
                passed: 2,
                failed: 0,
                failure: None,
                is_complete: true,
                tests: [("a".to_owned(), true), ("b".to_owned(), true)].into(),
                lacks: [("refuse".to_owned(), "ECONNREFUSED only".to_owned())].into(),
                costs: [("gate".to_owned(), cost)].into(),
            }
        );
        assert!(test_output(GOOD).starts_with("holdfast-vm: kernel"));
    }

    #[test]
    fn a_run_on_this_machine_is_judged_alike() {
        let output = "test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let verdict = judge(&console("6.18.1\n", output, 0));
        assert_eq!((verdict.kernel.as_str(), verdict.passed), ("6.18.1", 1));
        assert_eq!(verdict.failure, None);
        let late = judge(&console("6.18.1\n", "test a ... ", OUT_OF_TIME));
        assert_eq!(late.failure.as_deref(), Some("the tests ran out of time"));
        assert!(verdict.is_complete && !late.is_complete);
    }

    #[test]
    fn a_failed_test_is_a_failure() {
        let console = GOOD
            .replace("test b ... ok", "test b ... FAILED")
            .replace("2 passed; 0 failed", "1 passed; 1 failed")
            .replace("status 0", "status 101");
        let verdict = judge(&console);
        assert_eq!((verdict.passed, verdict.failed), (1, 1));
        assert_eq!(verdict.failure.as_deref(), Some("the tests ended with status 101"));
        assert_eq!(verdict.tests, [("a".to_owned(), true), ("b".to_owned(), false)].into());
    }

    #[test]
    fn silence_panic_and_emptiness_are_failures() {
        let failure = |console: &str| judge(console).failure.unwrap_or_default();
        assert_eq!(failure(""), "the machine ended without a verdict");
        assert_eq!(failure(&GOOD.replace("2 passed", "0 passed")), "no test was run");
        let panic = format!("{GOOD}[ 1.2] Kernel panic - not syncing: Attempted to kill init!\r\n");
        assert_eq!(failure(&panic), "Kernel panic - not syncing: Attempted to kill init!");
        assert!(is_last(panic.lines().next_back().unwrap_or_default()));
        assert_eq!(failure(&GOOD.replace("status 0", "status 143")), "the tests ran out of time");
    }
}

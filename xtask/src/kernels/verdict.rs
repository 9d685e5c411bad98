//! Reads what a virtual machine said on its console.

/// How the tests ended on one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// As in `uname -r`.
    pub(crate) kernel: String,
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// Why it counts as failed; `None` is success.
    pub(crate) failure: Option<String>,
}

/// What `init.sh` writes in front of the lines that are for us.
const MARK: &str = "holdfast-vm: ";

/// How the kernel begins its last words.
const PANIC: &str = "Kernel panic - not syncing";

/// Whether nothing more can come after this line.
pub(crate) fn is_last(line: &str) -> bool {
    line.contains(PANIC)
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
    let failure = match (panic, marked("tests ended with status "), result) {
        (Some(panic), _, _) => Some(panic.to_owned()),
        (None, None, _) => Some("the machine ended without a verdict".into()),
        (None, Some("0"), Some((1.., 0))) => None,
        (None, Some("0"), _) => Some("no test was run".into()),
        // timeout(1) of busybox passes the signal on as 128 + SIGTERM.
        (None, Some("143"), _) => Some("the tests ran out of time".into()),
        (None, Some(status), _) => Some(format!("the tests ended with status {status}")),
    };
    Verdict { kernel, passed, failed, failure }
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[    0.5] Run /init as init process\r\n\
        holdfast-vm: kernel 5.10.0-46-cloud-amd64\r\n\
        running 2 tests\r\ntest a ... ok\r\ntest b ... ok\r\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\r\n\
        holdfast-vm: tests ended with status 0\r\n";

    #[test]
    fn a_good_run_is_recognised() {
        assert_eq!(
            judge(GOOD),
            Verdict { kernel: "5.10.0-46-cloud-amd64".into(), passed: 2, failed: 0, failure: None }
        );
        assert!(test_output(GOOD).starts_with("holdfast-vm: kernel"));
    }

    #[test]
    fn a_failed_test_is_a_failure() {
        let console = GOOD
            .replace("2 passed; 0 failed", "1 passed; 1 failed")
            .replace("status 0", "status 101");
        let verdict = judge(&console);
        assert_eq!((verdict.passed, verdict.failed), (1, 1));
        assert_eq!(verdict.failure.as_deref(), Some("the tests ended with status 101"));
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

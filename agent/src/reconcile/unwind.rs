//! What becomes of the gates if the task that works them panics.

use std::{process, thread};

/// Kept by whoever owns gates. A panic that unwound through him would drop them, which takes them off,
/// and refuse whoever waits; the process ends here instead, and leaves them to the next agent as
/// after `kill -9`.
pub(super) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            // What has happened was said by the panic's hook.
            process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::Command};

    use super::*;

    /// Set in the process that panics.
    const PANICS: &str = "HOLDFAST_TEST_PANICS";

    #[test]
    fn nothing_is_dropped_after_a_panic() {
        struct Gates;
        impl Drop for Gates {
            fn drop(&mut self) {
                process::exit(0);
            }
        }
        if std::env::var_os(PANICS).is_some() {
            let _gates = Gates;
            let _abort = AbortOnPanic;
            panic!("as it should");
        }
        // The tests' names are without the crate's.
        let (_, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::nothing_is_dropped_after_a_panic");
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", &name]).env(PANICS, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    }
}

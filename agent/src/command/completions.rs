//! What `holdfast completions` prints.

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate};

use crate::cli::Cli;

/// The program, as it is called on the command line.
const NAME: &str = "holdfast";

/// The script for a shell. What `--help` does not show is for test pods, and left out.
#[must_use]
pub fn script(shell: Shell) -> String {
    let whole = Cli::command();
    let mut shown = Command::new(NAME)
        .args(whole.get_arguments())
        .subcommands(whole.get_subcommands().filter(|command| !command.is_hide_set()));
    let mut script = Vec::new();
    generate(shell, &mut shown, NAME, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_gets_every_command_that_is_shown() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for told in ["check", "profiles", "cgroup-root", "completions"] {
                assert!(script.contains(told), "{shell}: {told}");
            }
            assert!(!script.contains("testpod"), "{shell}");
        }
    }
}

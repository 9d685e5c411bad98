//! This program in the compiler's place: cargo calls it for each of holdfast's crates
//! (`RUSTC_WORKSPACE_WRAPPER`), and keeps what comes of it apart from other builds.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

/// Set where cargo is to call this program for a compiler.
pub(crate) const WANTED: &str = "HOLDFAST_FUZZ_RUSTC";

/// What is fuzzed. Build scripts and proc macros run where libFuzzer is not.
const CRATES: [&str; 3] = ["agent_ebpf", "holdfast", "holdfast_fuzz"];

/// SanitizerCoverage as libFuzzer wants it (<https://clang.llvm.org/docs/SanitizerCoverage.html>): a
/// counter for each edge, the addresses to tell them by, and a call for each comparison, as `cargo fuzz`
/// asks for. Without optimization, which would take longer than the short run that every change pays.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Calls the compiler, which is the first argument, in this process' stead. `None`: this program was
/// started by somebody else.
pub(crate) fn run() -> Option<ExitCode> {
    env::var_os(WANTED)?;
    let mut arguments = env::args_os().skip(1);
    let compiler = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = Command::new(&compiler);
    command.args(&arguments);
    if is_fuzzed(&arguments) {
        command.args(FLAGS);
    }
    let error = command.exec();
    eprintln!("error: failed to run {}: {error}", compiler.display());
    Some(ExitCode::FAILURE)
}

fn is_fuzzed(arguments: &[OsString]) -> bool {
    let name = arguments.iter().skip_while(|argument| *argument != "--crate-name").nth(1);
    name.is_some_and(|name| CRATES.iter().any(|fuzzed| name == fuzzed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_fuzzed_is_instrumented() {
        let call = |text: &str| -> Vec<OsString> { text.split(' ').map(OsString::from).collect() };
        assert!(is_fuzzed(&call("--crate-name holdfast --edition=2024 agent/src/lib.rs")));
        assert!(!is_fuzzed(&call("--crate-name build_script_build agent/build.rs")));
        assert!(!is_fuzzed(&call("-vV")));
        assert!(!is_fuzzed(&call("--crate-name")));
    }
}

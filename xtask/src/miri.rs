//! `cargo xtask miri`: the tests of the ABI's bytes (`agent-ebpf/tests/abi.rs`) in an interpreter that
//! sees each undefined behaviour. Miri is a component of rustup's nightly; where it is not to be had
//! the same tests run with AddressSanitizer and the standard library's own checks.

use std::{
    error, fmt,
    process::{Command, Stdio},
};

use anyhow::Result;

use crate::{console, workspace::Workspace};

/// What holds the tests.
const TESTS: [&str; 6] = ["--package", "agent-ebpf", "--features", "bytes", "--test", "abi"];

/// Alignment is checked by what is promised, not by where something happens to stand, and an address
/// that was made of a number is an error: maps and ring hold neither.
const MIRI_FLAGS: &str = "-Zmiri-symbolic-alignment-check -Zmiri-strict-provenance";

/// What a compiler that is there finds: accesses outside of what was given out, and calls of unsafe
/// functions that break their contract.
const SANITIZER_FLAGS: &str = "-Zsanitizer=address -Zub-checks=yes -Cdebug-assertions=on";

/// Nobody has installed Miri.
#[derive(Debug)]
pub(crate) struct NoMiri;

/// `cargo xtask miri`.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    console::headline("bytes of maps and ring, under Miri");
    if !is_there(workspace) {
        return Err(NoMiri.into());
    }
    interpret(workspace)
}

/// The same where Miri is, and what comes nearest to it elsewhere.
pub(crate) fn run_or_sanitize(workspace: &Workspace) -> Result<()> {
    if is_there(workspace) {
        console::headline("bytes of maps and ring, under Miri");
        return interpret(workspace);
    }
    console::headline("bytes of maps and ring, with AddressSanitizer");
    console::line("Miri is not installed (rustup +nightly component add miri)");
    let host = host(workspace)?;
    let mut command = workspace.cargo();
    command
        .arg("test")
        .args(TESTS)
        // With a target of its own what runs while it is built, such as derive macros, is as always.
        .args(["--target", &host])
        .arg("--target-dir")
        .arg(workspace.target.join("sanitized"))
        .env("RUSTFLAGS", SANITIZER_FLAGS)
        // A stable compiler, and its flags that are not.
        .env("RUSTC_BOOTSTRAP", "1");
    console::run_visible(&mut command)
}

fn interpret(workspace: &Workspace) -> Result<()> {
    let mut command = nightly(workspace);
    command.args(["miri", "test"]).args(TESTS).env("MIRIFLAGS", MIRI_FLAGS);
    console::run_visible(&mut command)
}

fn is_there(workspace: &Workspace) -> bool {
    let mut command = nightly(workspace);
    command.args(["miri", "--version"]).stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

/// Rustup's own cargo, which starts that of another toolchain.
fn nightly(workspace: &Workspace) -> Command {
    let mut command = Command::new("cargo");
    command
        .arg("+nightly")
        .current_dir(&workspace.root)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC");
    command
}

/// The machine that this compiler builds for.
fn host(workspace: &Workspace) -> Result<String> {
    let output = workspace.cargo().arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or_else(|| anyhow::anyhow!("cargo -vV names no host"))?.to_owned())
}

// === impl NoMiri ===

impl NoMiri {
    /// `EX_UNAVAILABLE` of sysexits.h, as the agent uses it.
    pub(crate) const EXIT_CODE: u8 = 69;
}

impl fmt::Display for NoMiri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "Miri is not installed: rustup toolchain install nightly --component miri,rust-src",
        )
    }
}

impl error::Error for NoMiri {}

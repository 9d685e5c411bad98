//! Builds the eBPF programs and puts the object where `include_bytes!` finds it.
//!
//! aya-build would do the same through `rustup run nightly`; Debian's compiler, the second of the
//! two supported ways, is not rustup's. Detecting both is shared with `cargo xtask setup`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

#[path = "../xtask/src/ebpf_toolchain.rs"]
#[expect(dead_code, reason = "xtask uses the rest")]
mod ebpf_toolchain;

/// Writes an empty object instead: for linters and documentation on machines without the toolchain.
const SKIP: &str = "AYA_BUILD_SKIP";

/// The commit, where git does not know it, or where another run has asked git already, as that of an
/// image, so that the binary and the image's label tell the same.
const COMMIT: &str = "HOLDFAST_COMMIT";

#[expect(clippy::print_stderr, reason = "cargo shows it when the build script fails")]
fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let agent = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = agent.parent().ok_or("agent/ has no parent directory")?;
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let embedded = out_dir.join(ebpf_toolchain::BIN);

    println!("cargo::rerun-if-env-changed={SKIP}");
    for input in [
        "Cargo.lock",
        "Cargo.toml",
        "agent-ebpf/Cargo.toml",
        "agent-ebpf/src",
        "agent/build.rs",
        "xtask/src/ebpf_toolchain.rs",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }

    println!("cargo::rerun-if-env-changed={COMMIT}");
    println!("cargo::rustc-env=HOLDFAST_BUILD_COMMIT={}", commit(workspace));
    println!("cargo::rustc-env=HOLDFAST_BUILD_RUSTC={}", rustc()?);
    println!("cargo::rustc-env=HOLDFAST_BUILD_TARGET={}", variable("TARGET")?);

    if env::var_os(SKIP).is_some_and(|value| value == "1") {
        println!(
            "cargo::warning={SKIP}=1: this agent has no eBPF programs and cannot hold anything"
        );
        return fs::write(&embedded, []).map_err(|error| cannot("write", &embedded, &error));
    }
    if variable("CARGO_CFG_TARGET_ENDIAN")? != "little" {
        return Err("holdfast supports little-endian machines only".into());
    }

    let toolchain = ebpf_toolchain::detect(workspace).map_err(|incomplete| {
        format!("{incomplete}`cargo xtask setup` installs what is missing")
    })?;
    // A target directory of its own: the outer cargo holds the lock of the other one until this
    // script has ended.
    let target_dir = out_dir.join("ebpf-target");
    let mut cargo = toolchain.build(workspace, &target_dir, &variable("CARGO_CFG_TARGET_ARCH")?);
    let output =
        cargo.arg("--quiet").output().map_err(|error| cannot("run", &toolchain.cargo, &error))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!(
            "{messages}\nthe eBPF programs were not built ({}) by {toolchain}\n\
             if the code is right: `cargo xtask setup` checks and mends the toolchain",
            output.status
        ));
    }
    for line in messages.lines() {
        println!("cargo::warning={line}");
    }

    let object = ebpf_toolchain::object(&target_dir);
    fs::copy(&object, &embedded).map_err(|error| cannot("copy", &object, &error))?;
    Ok(())
}

/// The commit that is built, marked when the checkout differs from it; "unknown" outside of git, as
/// in an unpacked tarball. Asked for again when another one is checked out or made: later edits alone
/// are not worth building the eBPF programs for.
fn commit(workspace: &Path) -> String {
    if let Some(commit) = env::var(COMMIT).ok().filter(|commit| !commit.is_empty()) {
        return commit;
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(workspace).output().ok()?;
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !answer.is_empty()).then_some(answer)
    };
    // The repository in which a tarball has been unpacked is another's.
    let top = git(&["rev-parse", "--show-toplevel"]);
    if top.is_none_or(|top| Path::new(&top).canonicalize().ok() != workspace.canonicalize().ok()) {
        return "unknown".to_owned();
    }
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file]).map(|path| workspace.join(path));
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let commit = git(&["rev-parse", "HEAD"]);
    let dirty = if git(&["status", "--porcelain"]).is_some() { "-dirty" } else { "" };
    commit.map_or("unknown".to_owned(), |commit| commit + dirty)
}

/// The compiler's version, such as `1.95.0 (59807616e 2026-04-14)`.
fn rustc() -> Result<String, String> {
    let rustc = variable("RUSTC")?;
    let output = Command::new(&rustc)
        .arg("--version")
        .output()
        .map_err(|error| cannot("run", Path::new(&rustc), &error))?;
    let version = String::from_utf8_lossy(&output.stdout);
    Ok(version.trim().trim_start_matches("rustc ").to_owned())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn cannot(verb: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {verb} {}: {error}", path.display())
}

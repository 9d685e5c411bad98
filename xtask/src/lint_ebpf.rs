//! `cargo xtask lint-ebpf`: clippy for the target that the programs run on.
//!
//! `cargo clippy --workspace` sees the eBPF crate only as the host compiles it: an empty `main`.

use std::env;

use anyhow::{Context as _, Result};

use crate::{console, ebpf_toolchain, workspace::Workspace};

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let toolchain = ebpf_toolchain::detect(&workspace.root)?;
    console::headline("lint the eBPF programs");
    console::line(&format!("with {toolchain}"));
    let clippy = toolchain
        .clippy()
        .context("this compiler has no clippy; `cargo xtask setup` installs Debian's")?;
    // Not the build script's directory: linting would evict what it has built.
    let target_dir = workspace.target.join("ebpf-lint");
    console::run_visible(&mut toolchain.lint(
        &clippy,
        &workspace.root,
        &target_dir,
        env::consts::ARCH,
    ))
}

//! `cargo xtask e2e`: build what the cluster test needs, and have a program of the testbed play it.

use std::{
    ffi::{OsStr, OsString},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    console, image,
    setup::{self, Scope},
    workspace::{self, Workspace},
};

/// The program's option that names a cluster; without it everything happens on this machine.
const KUBECONFIG: &str = "--kubeconfig";
/// The program's option that has the image brought to the cluster, for which it has to be there.
const IMAGE_IMPORT: &str = "--image-import";

/// Options of `cargo xtask e2e`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Options of the test itself: --kubeconfig FILE, --context NAME, --image-import COMMAND (of an
    /// image for this machine's architecture), --image REFERENCE, --manifest FILE, --testbed, --json,
    /// --keep, --timeout DURATION; "-- --help" explains them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "E2E OPTIONS")]
    options: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, args: Args) -> Result<()> {
    let Args { options } = args;
    let on_cluster = has(&options, KUBECONFIG);
    let mut build = workspace.cargo();
    build.args(["build", "--release", "-p", "testbed", "--bins"]);
    if !on_cluster {
        workspace::require_root("e2e")?;
        setup::ensure(workspace, Scope::Demo)?;
        build.args(["-p", "holdfast"]);
    }
    console::headline("build");
    console::run_visible(&mut build)?;
    let release = workspace.target.join("release");
    let mut program = Command::new(release.join("holdfast-e2e"));
    program.args(&options).current_dir(&workspace.root);
    if !on_cluster {
        program.arg("--agent").arg(release.join("holdfast"));
    }
    if has(&options, IMAGE_IMPORT) {
        // For this machine's architecture: nodes of another one need an image of their own, by --image.
        program.arg("--image-archive").arg(image::build(workspace, None)?.archive);
    }
    console::headline("e2e");
    // Replaced by it, so that signals and its exit status need no passing on.
    let error = program.exec();
    Err(error).with_context(|| format!("run {}", program.get_program().display()))
}

/// Whether the option is among these, as one word or with its value.
fn has(options: &[OsString], name: &str) -> bool {
    options.iter().map(OsString::as_os_str).any(|option: &OsStr| {
        let rest = option.as_bytes().strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'=')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_found_with_and_without_its_value_and_nothing_else_is_it() {
        let imports = |options: &[&str]| {
            let options: Vec<OsString> = options.iter().map(OsString::from).collect();
            has(&options, IMAGE_IMPORT)
        };
        assert!(imports(&["--kubeconfig", "k", "--image-import", "ctr images import {}"]));
        assert!(imports(&["--image-import=cat"]));
        assert!(!imports(&["--image", "holdfast:1"]));
        assert!(!imports(&["--image-importer"]));
        assert!(!imports(&[]));
    }
}

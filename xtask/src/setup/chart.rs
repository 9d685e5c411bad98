//! What the Helm chart is rendered and checked with: Helm as a Python library, the API's schemas.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::tools;
use crate::{console, workspace::Workspace};

/// Every package with its version.
const REQUIREMENTS: &str = "deploy/tests/requirements.txt";

/// Fails unless all of them are there.
const PROBE: &str = "deploy/tests/tools.py";

/// A Python that finds them.
pub(crate) fn python(workspace: &Workspace) -> Result<Command> {
    let python = tools::python_with_pip().context("no python3 with pip")?;
    let mut command = Command::new(python);
    command
        .current_dir(&workspace.root)
        .env("PYTHONPATH", directory(workspace))
        // Sources are read from a checkout, in which nothing is to be left.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // Helm keeps its releases there; no cluster is needed. It reads this when Python starts.
        .env("HELM_DRIVER", "memory");
    // Nor is anything left in, or read from, the home directory.
    let home = workspace.target.join("helm");
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, &home);
    }
    Ok(command)
}

/// Whether they are there, in these versions, and work with the Python that there is.
pub(super) fn is_there(workspace: &Workspace) -> bool {
    python(workspace).is_ok_and(|mut python| {
        python.arg(PROBE).output().is_ok_and(|output| output.status.success())
    })
}

/// The arguments with which pip installs them.
pub(super) fn pip_arguments(workspace: &Workspace) -> Vec<String> {
    let target = directory(workspace).display().to_string();
    // A directory of their own needs no venv, for which Debian has one more package. helm-sdkpy
    // asks for Python 3.12, and works with Debian 12's 3.11: the probe loads it.
    [
        "install",
        "--disable-pip-version-check",
        "--ignore-requires-python",
        "--no-deps",
        "--only-binary=:all:",
        "--target",
        &target,
        "--requirement",
        REQUIREMENTS,
    ]
    .map(str::to_owned)
    .into()
}

/// Installs them anew: pip does not replace what is in such a directory.
pub(super) fn install(workspace: &Workspace, log: &Path) -> Result<()> {
    let directory = directory(workspace);
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("remove {}", directory.display()))?;
    }
    let python = tools::python_with_pip().context("no python3 with pip")?;
    console::run_logged(
        Command::new(python)
            .current_dir(&workspace.root)
            .args(["-m", "pip"])
            .args(pip_arguments(workspace))
            // Root's own packages are not touched, of which pip would warn.
            .env("PIP_ROOT_USER_ACTION", "ignore"),
        log,
    )?;
    if !is_there(workspace) {
        bail!("{} is not what {REQUIREMENTS} names", directory.display());
    }
    Ok(())
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("chart")
}

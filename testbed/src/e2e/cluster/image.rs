//! Bringing the image to where the cluster's nodes look for it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::process::Command;

/// What stands for the archive's path in the command.
const PLACE: &str = "{}";

/// Why the image was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// No archive.
    #[error("failed to open the image archive {path}: {source}; cargo xtask image makes it")]
    Archive {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The command did not run.
    #[error("failed to run {command:?}: {source}")]
    Run {
        /// As it was given.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{command:?} did not import the image: {status}")]
    Failed {
        /// As it was given.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
}

/// Runs `command` by the shell, with `{}` replaced by the archive's path, or, without one, with the
/// archive on its standard input.
pub(super) async fn import(command: &str, archive: &Path) -> Result<(), ImportError> {
    let file = File::open(archive)
        .map_err(|source| ImportError::Archive { path: archive.to_owned(), source })?;
    let input = if command.contains(PLACE) { Stdio::null() } else { file.into() };
    // The path is an argument of the script: whatever is in it, the shell takes it as one word.
    let script = command.replace(PLACE, "\"$1\"");
    let status = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(archive)
        .stdin(input)
        // Standard output belongs to the table.
        .stdout(io::stderr())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|source| ImportError::Run { command: command.to_owned(), source })?;
    if status.success() {
        Ok(())
    } else {
        Err(ImportError::Failed { command: command.to_owned(), status })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_command_gets_the_archive_by_name_or_on_its_standard_input() {
        let dir = std::env::temp_dir().join(format!("e2e import {}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let archive = dir.join("holdfast.tar");
        fs::write(&archive, "layers").unwrap();
        let to = |name: &str| dir.join(name).display().to_string();
        for (command, name) in [
            (format!("cp {{}} '{}'", to("named")), "named"),
            (format!("cat > '{}'", to("piped")), "piped"),
        ] {
            import(&command, &archive).await.unwrap();
            assert_eq!(fs::read_to_string(to(name)).unwrap(), "layers", "{command}");
        }
        let failed = import("exit 3", &archive).await.unwrap_err().to_string();
        assert_eq!(failed, "\"exit 3\" did not import the image: exit status: 3");
        let missing = import("true", &dir.join("none")).await.unwrap_err().to_string();
        assert!(missing.contains("cargo xtask image makes it"), "{missing}");
        fs::remove_dir_all(&dir).unwrap();
    }
}

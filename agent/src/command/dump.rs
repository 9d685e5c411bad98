//! `holdfast dump`: what a bug report needs, in one file.
//!
//! It is gathered here, not in the agent: that one has gates to work. Nothing of a pod's object is in
//! it but what the agent itself has made of it, and of the environment only holdfast's own variables.

mod archive;
mod node;

use std::{
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use tempfile::NamedTempFile;

use self::archive::Archive;
use super::{Output, terminal::safe, version::Version};
use crate::{
    admin::{Client, ClientError},
    cli::DumpArgs,
    clock,
    core::NodeReport,
};

/// What the agent is asked for, and the file that its answer becomes.
const ASKED: [(&str, &str); 8] = [
    ("/v1/status", "agent/status.json"),
    ("/v1/pods", "agent/pods.json"),
    ("/v1/episodes", "agent/episodes.json"),
    ("/v1/entries", "agent/entries.jsonl"),
    ("/v1/observed", "agent/observed.json"),
    ("/v1/gates", "agent/gates.json"),
    ("/v1/log", "agent/log.json"),
    ("/metrics", "agent/metrics.txt"),
];

/// How standard output is named.
const STDOUT: &str = "-";

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Somebody's file is not overwritten.
    #[error("{} is there already: name another file, or give --force", .0.display())]
    Exists(PathBuf),
    /// A device or a directory.
    #[error("{} is no file: name another one, or - for standard output", .0.display())]
    NoFile(PathBuf),
    /// It is not for people's eyes.
    #[error("a dump is no text: name a file, or send standard output to one")]
    Terminal,
    /// The system says no.
    #[error("failed to write {}: {source}; name another file, or - for standard output", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Writes it.
///
/// # Errors
///
/// If no agent answers, or the file cannot be written.
pub fn run(args: &DumpArgs) -> anyhow::Result<ExitCode> {
    let to_stdout = args.file.as_deref() == Some(Path::new(STDOUT));
    if to_stdout && io::stdout().is_terminal() {
        return Err(DumpError::Terminal.into());
    }
    let client = Client::new(&args.socket.socket)?;
    let node: NodeReport = client.get("/v1/status")?;
    let name = format!("holdfast-dump-{}-{}", node.node, file_time());
    if to_stdout {
        let failed = |source| DumpError::Write { path: "standard output".into(), source };
        gather(&client, &node, &name, io::stdout().lock()).map_err(failed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = match &args.file {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{name}.tar.gz")),
    };
    let failed = |source| DumpError::Write { path: path.clone(), source };
    may_write(&path, args.force)?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    // It gets its name when it is complete; if it never is, it goes with this.
    let file = NamedTempFile::new_in(directory.unwrap_or(Path::new("."))).map_err(failed)?;
    gather(&client, &node, &name, file.as_file()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let size = file.as_file().metadata().map_err(failed)?.len();
    let kept = if args.force { file.persist(&path) } else { file.persist_noclobber(&path) };
    kept.map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => DumpError::Exists(path.clone()),
        _ => failed(error.error),
    })?;
    let shown = path.display().to_string();
    super::print(&format!("{}: {} kB\n", safe(&shown), size.div_ceil(1000)))?;
    Ok(ExitCode::SUCCESS)
}

fn may_write(path: &Path, force: bool) -> Result<(), DumpError> {
    match path.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) if !force => Err(DumpError::Exists(path.to_owned())),
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(DumpError::NoFile(path.to_owned())),
    }
}

/// Whatever cannot be had is named in the manifest.
fn gather(client: &Client, node: &NodeReport, name: &str, out: impl Write) -> io::Result<()> {
    let mut archive = Archive::new(out, name);
    let version = Version::of_this().render(Output::Table).map_err(io::Error::other);
    archive.add("version.txt", version.map(String::into_bytes))?;
    for (target, file) in ASKED {
        let answer = client.get_raw(target).map_err(|error: ClientError| io::Error::other(error));
        archive.add(file, answer.map(Into::into))?;
    }
    for (file, content) in node::files(node.pid) {
        archive.add(file, content)?;
    }
    archive.finish()
}

/// The time, as a file's name may have it.
fn file_time() -> String {
    let text = clock::epoch().stamp(clock::now()).to_string();
    // RFC 3339: 2023-11-14T22:13:20.000001Z.
    text.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect()
}

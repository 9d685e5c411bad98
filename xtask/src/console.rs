//! What a person sees: short lines on stderr, while long output of others goes to a log file.
//!
//! Nothing but [`result`] writes to stdout, which belongs to results (`demo --json` must print only
//! those).

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How much of a log is shown when its command fails: about a screen.
const TAIL_LINES: usize = 30;

/// Announces a stage of the work.
pub(crate) fn headline(text: &str) {
    let plain = env::var_os("NO_COLOR").is_some() || !io::stderr().is_terminal();
    if plain {
        eprintln!("==> {text}");
    } else {
        eprintln!("\x1b[1;32m==>\x1b[0m \x1b[1m{text}\x1b[0m");
    }
}

/// Says something about the stage.
pub(crate) fn line(text: &str) {
    eprintln!("    {text}");
}

/// Lists names with explanations, aligned.
pub(crate) fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a str)> + Clone) {
    let width = rows.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, explanation) in rows {
        line(&format!("  {name:width$}  {explanation}"));
    }
}

/// A duration as people read it.
pub(crate) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

/// Does one thing that takes a while, saying what and how long it took.
pub(crate) fn step<T>(text: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprint!("    {text} ... ");
    // Only a courtesy: progress that cannot be flushed comes with the next line.
    let _: io::Result<()> = io::stderr().flush();
    let start = Instant::now();
    let result = work();
    match &result {
        Ok(_) => eprintln!("{}", seconds(start.elapsed())),
        Err(_) => eprintln!("failed"),
    }
    result
}

/// Writes a result for other programs to stdout.
pub(crate) fn result(value: &serde_json::Value) -> Result<()> {
    writeln!(io::stdout().lock(), "{value}").context("write the result to stdout")
}

/// Runs a command with its output appended to `log`; a failure shows the log's end.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    writeln!(file, "$ {command:?}").with_context(|| format!("write {}", log.display()))?;
    let errors = file.try_clone().context("duplicate the log's descriptor")?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .status()
        .with_context(|| format!("run {program}"))?;
    if !status.success() {
        bail!("{program}: {status}; the end of {}:\n{}", log.display(), tail(log, TAIL_LINES));
    }
    Ok(())
}

/// The last lines of a file, indented.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    // Logs of other programs are not always UTF-8.
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    let last = all.len().saturating_sub(lines);
    all[last..].iter().map(|line| format!("      {line}\n")).collect()
}

/// Runs a command whose output the person wants to see.
pub(crate) fn run_visible(command: &mut Command) -> Result<()> {
    let shown = format!("{} {}", name(command), arguments(command));
    line(&format!("$ {shown}"));
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("run {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// The command's file name: paths of toolchains tell a reader nothing.
fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

/// The arguments as one would type them.
pub(crate) fn arguments(command: &Command) -> String {
    command.get_args().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(840)), "0.8 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }

    #[test]
    fn a_failing_command_shows_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = run_logged(&mut command, &log).unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("      one\n      two\n"), "{error}");
    }
}

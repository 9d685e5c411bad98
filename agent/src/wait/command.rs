//! The command that is run when the wait is over.

use std::{
    ffi::{OsStr, OsString},
    future::poll_fn,
    io,
    os::unix::process::CommandExt as _,
    task::Poll,
};

use nix::{
    sys::signal::{Signal as Number, kill},
    unistd::Pid,
};
use tokio::{
    process::Command,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{OS_ERROR, WaitError, tell};

/// The signals by which a process is told something that is not about its memory or its children.
const TELLING: [SignalKind; 6] = [
    SignalKind::terminate(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::hangup(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
];

/// These signals, but for those that are ignored: whoever started the process (nohup, a shell's `&`)
/// wants the command to ignore them as well, and only what is left alone stays so across execve(2).
pub(super) struct Signals(Vec<(SignalKind, Signal)>);

// === impl Signals ===

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let ignored = procfs::process::Process::myself()
            .and_then(|process| process.status())
            .map_err(io::Error::other)?
            .sigign;
        let is_ignored = |kind: &SignalKind| ignored & (1 << (kind.as_raw_value() - 1)) != 0;
        let heard = TELLING.into_iter().filter(|kind| !is_ignored(kind));
        heard
            .map(|kind| signal(kind).map(|signal| (kind, signal)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    pub(super) async fn next(&mut self) -> SignalKind {
        poll_fn(|context| {
            for (kind, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*kind);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Becomes the command; returns only if it cannot.
pub(super) fn replace(program: &OsStr, arguments: &[OsString]) -> WaitError {
    let source = std::process::Command::new(program).args(arguments).exec();
    WaitError::Command { command: program.to_owned(), source }
}

/// Runs the command beside this process and hands on the signals that come; returns its exit code,
/// or that of an operating system's error if a signal ended it.
pub(super) async fn run(
    program: &OsStr,
    arguments: &[OsString],
    signals: &mut Signals,
) -> Result<u8, WaitError> {
    let failed = |source| WaitError::Command { command: program.to_owned(), source };
    let mut child = Command::new(program).args(arguments).spawn().map_err(failed)?;
    loop {
        tokio::select! {
            status = child.wait() => {
                let code = status.map_err(failed)?.code().and_then(|code| u8::try_from(code).ok());
                return Ok(code.unwrap_or(OS_ERROR));
            }
            kind = signals.next() => {
                // Not reaped yet, so the id is still the child's.
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
                let number = Number::try_from(kind.as_raw_value()).ok();
                if let (Some(pid), Some(number)) = (pid, number)
                    && let Err(error) = kill(pid, number)
                {
                    tell(&format!("{number} not handed on: {error}"));
                }
            }
        }
    }
}

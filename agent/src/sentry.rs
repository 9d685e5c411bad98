//! `holdfast sentry`: posts the sentry the moment an agent ends without having done so itself.
//!
//! One thread, no runtime, no connection: nothing that could fail together with the agent. What it
//! posts needs neither of them.

use std::{
    convert::Infallible,
    path::PathBuf,
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::{
    bpf::{self, Absence, BpfError, Found, Posting, Sentry},
    cli::SentryArgs,
    node, preflight,
};

/// How often is looked whether an agent works again, or for the first time: the kernel tells of an
/// agent's end, but not of its beginning. One that ends between two looks is missed until the next,
/// so it is less than the hundreds of milliseconds that kubelet takes from a pod's cgroup to the
/// first process in it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The same once the sentry's time is up: only an agent that has worked has it posted again, and who
/// has been away for minutes may be noticed a second late.
const LOOK_EVERY_WHEN_OVER: Duration = Duration::from_secs(1);

/// Told to stop, it minds the agent for so long: kubelet tells both at once, and the agent takes up to
/// 8 s to find out what is to become of its gates. Less than the pod's grace period, 30 s.
const LAST_WATCH_S: libc::c_uint = 15;

/// A signal has told it to stop.
static TOLD_TO_STOP: AtomicBool = AtomicBool::new(false);

/// What it works with.
struct Post {
    bpffs: PathBuf,
    cgroup_root: PathBuf,
    longest: Duration,
    told: Option<Told>,
}

/// What the log has told last, of the time since an agent worked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Posted,
    Over,
    Failed,
}

/// Stands by until a signal ends it.
///
/// # Errors
///
/// If something it needs is missing.
pub fn run(args: SentryArgs) -> anyhow::Result<Infallible> {
    end_when_told(end)?;
    preflight::sentry_capabilities()?;
    let cgroup_root = node::cgroup_root(args.cgroup_root, &args.proc_root)?;
    let bpffs = bpf::choose_bpffs(args.bpffs)?;
    let bpffs = match bpffs {
        Some(bpffs) if !args.sentry_for.is_zero() => bpffs,
        Some(_) => idle("no sentry is wanted (--sentry-for 0s)"),
        None => idle("no BPF file system at /sys/fs/bpf, and no --bpffs: no sentry can be posted"),
    };
    let mut post = Post { bpffs, cgroup_root, longest: args.sentry_for, told: None };
    // SAFETY: the handler calls nothing that a handler may not call.
    unsafe { signal(Signal::SIGALRM, SigHandler::Handler(end)) }
        .context("failed to handle SIGALRM")?;
    end_when_told(end_after_the_agent)?;
    tracing::info!(bpffs = %post.bpffs.display(), "waiting for an agent to end");
    loop {
        match Absence::wait(&post.bpffs)? {
            Found::Nobody(absence) => {
                post.keep(&absence);
                drop(absence);
                post.pause();
                post.stand()?;
            }
            Found::Nothing => post.pause(),
            Found::Agent => {}
        }
    }
}

// === impl Post ===

impl Post {
    /// Keeps the sentry posted until an agent works.
    fn stand(&mut self) -> Result<(), BpfError> {
        while let Found::Nobody(absence) = Absence::look(&self.bpffs)? {
            self.keep(&absence);
            drop(absence);
            self.pause();
        }
        if self.told.take().is_some() {
            tracing::info!("an agent works again");
        }
        Ok(())
    }

    /// Until the next look, while no agent works; who was told to stop has nothing to wait for then.
    fn pause(&self) {
        if TOLD_TO_STOP.load(Ordering::Relaxed) {
            process::exit(0);
        }
        let is_over = self.told == Some(Told::Over);
        thread::sleep(if is_over { LOOK_EVERY_WHEN_OVER } else { LOOK_EVERY });
    }

    /// Posts it, on what has been made since as well; takes it down when its time is up. No agent may
    /// begin meanwhile.
    fn keep(&mut self, _absence: &Absence) {
        let (told, error) = match self.try_keep() {
            Ok(None) => return,
            Ok(Some(Posting::Posted { .. } | Posting::Stands)) => (Told::Posted, None),
            Ok(Some(Posting::Over)) => (Told::Over, None),
            Err(error) => (Told::Failed, Some(error)),
        };
        if self.told.replace(told) == Some(told) {
            return;
        }
        let longest = humantime::format_duration(self.longest);
        match told {
            Told::Posted => {
                tracing::info!(%longest, "no agent works; sentry posted until one does");
            }
            Told::Over => {
                tracing::warn!(
                    %longest,
                    "no agent has worked for so long; pods that start are not held any more"
                );
            }
            Told::Failed => {
                let error = error.as_ref().map(tracing::field::display);
                tracing::warn!(
                    error,
                    "sentry cannot be posted: pods that start until an agent works are not held"
                );
            }
        }
    }

    fn try_keep(&self) -> Result<Option<Posting>, BpfError> {
        let Some(mut sentry) = Sentry::open(&self.bpffs)? else {
            return Ok(None);
        };
        if sentry.is_over()? {
            if sentry.is_there() {
                sentry.take_down();
            }
            return Ok(Some(Posting::Over));
        }
        sentry.post_below(&self.cgroup_root, self.longest).map(Some)
    }
}

/// There is nothing to do; but a container that ends is started again.
fn idle(why: &str) -> ! {
    tracing::warn!("{why}");
    loop {
        thread::park();
    }
}

/// The first process of a container ends by no signal that it does not ask for.
fn end_when_told(handler: extern "C" fn(libc::c_int)) -> anyhow::Result<()> {
    for told in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handlers call nothing that a handler may not call.
        unsafe { signal(told, SigHandler::Handler(handler)) }
            .with_context(|| format!("failed to handle {told}"))?;
    }
    Ok(())
}

extern "C" fn end(_signal: libc::c_int) {
    // SAFETY: _exit(2) may be called from a signal handler; what is posted stays.
    unsafe { libc::_exit(0) }
}

/// It ends once no agent works and it has posted the sentry; or by the alarm, wherever it waits then.
extern "C" fn end_after_the_agent(_signal: libc::c_int) {
    if !TOLD_TO_STOP.swap(true, Ordering::Relaxed) {
        // SAFETY: alarm(2) may be called from a signal handler.
        unsafe { libc::alarm(LAST_WATCH_S) };
    }
}

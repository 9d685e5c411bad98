//! `holdfast sentry`: posts the sentry the moment an agent ends without having done so itself.
//!
//! One thread, no runtime, no connection: nothing that could fail together with the agent. What it
//! posts needs neither of them.

use std::{
    convert::Infallible,
    path::PathBuf,
    process,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::{
    bpf::{self, Absence, BpfError, Found, Posting, Sentry},
    cli::SentryArgs,
    core::PodUid,
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

/// Told to stop, it minds its pod's agent for so long: kubelet tells both at once, and the agent takes up to
/// 8 s to find out what is to become of its gates. Less than the pod's grace period, 30 s.
const LAST_WATCH_S: u32 = 15;

/// While it waits for an agent's end, and there is something that the kernel does not tell, it looks up so
/// often: the shortest that alarm(2) knows.
const LOOK_UP_EVERY_S: libc::c_uint = 1;

/// A signal has told it to stop.
static TOLD_TO_STOP: AtomicBool = AtomicBool::new(false);

/// It waits for more than an agent's end.
static LOOKS_UP: AtomicBool = AtomicBool::new(false);

/// How long it still minds the agent, in seconds, once it was told to stop.
static LEFT_S: AtomicU32 = AtomicU32::new(LAST_WATCH_S);

/// Told once an agent has relieved the sentry.
const WORKS_AGAIN: &str = "an agent works again";

/// What it works with.
struct Post {
    bpffs: PathBuf,
    cgroup_root: PathBuf,
    longest: Duration,
    pod: Option<PodUid>,
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
    when_told(end)?;
    preflight::sentry_capabilities()?;
    let cgroup_root = node::cgroup_root(args.cgroup_root, &args.proc_root)?;
    let bpffs = bpf::choose_bpffs(args.bpffs)?;
    let bpffs = match bpffs {
        Some(bpffs) if !args.sentry_for.is_zero() => bpffs,
        Some(_) => idle("no sentry is wanted (--sentry-for 0s)"),
        None => idle("no BPF file system at /sys/fs/bpf, and no --bpffs: no sentry can be posted"),
    };
    let mut post =
        Post { bpffs, cgroup_root, longest: args.sentry_for, pod: args.pod_uid, told: None };
    handle(Signal::SIGALRM, look_up)?;
    when_told(end_after_the_agent)?;
    tracing::info!(bpffs = %post.bpffs.display(), "waiting for an agent to end");
    loop {
        match post.wait()? {
            Found::Nobody(absence) => {
                post.keep(&absence);
                drop(absence);
                post.pause();
            }
            Found::Nothing => {
                post.told = None;
                post.pause();
            }
            Found::Agent => post.find_agent(),
        }
    }
}

// === impl Post ===

impl Post {
    /// Waits for an agent's end. Whether it has relieved the sentry by then, and whose it is, nobody tells.
    fn wait(&self) -> Result<Found, BpfError> {
        let looks_up = self.told.is_some();
        if LOOKS_UP.swap(looks_up, Ordering::Relaxed) != looks_up && looks_up {
            // SAFETY: no precondition.
            unsafe { libc::alarm(LOOK_UP_EVERY_S) };
        }
        Absence::wait(&self.bpffs)
    }

    /// An agent is there, and the sentry has looked up.
    fn find_agent(&mut self) {
        if self.told.is_some() && self.is_relieved() {
            self.told = None;
            tracing::info!("{WORKS_AGAIN}");
        }
        if TOLD_TO_STOP.load(Ordering::Relaxed) && self.own_has_gone() {
            tracing::info!("another pod's agent works; stopping");
            process::exit(0);
        }
    }

    /// Whether the agent that is there works: one that is not armed yet may die, and leave all as it was.
    fn is_relieved(&self) -> bool {
        let until = Sentry::open(&self.bpffs).and_then(|sentry| match sentry {
            Some(sentry) => sentry.until(),
            None => Ok(None),
        });
        until.is_ok_and(|until| until.is_none())
    }

    /// Whether the agent of the sentry's own pod works no more, because another pod's does.
    fn own_has_gone(&self) -> bool {
        let works = bpf::last_agent(&self.bpffs);
        works.zip(self.pod.as_ref()).is_some_and(|(works, own)| works != *own)
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
            Ok(Some(Posting::Posted { until: _ })) => {
                // An agent has relieved it between two looks, and has gone.
                if self.told.take().is_some_and(|told| told != Told::Failed) {
                    tracing::info!("{WORKS_AGAIN}");
                }
                (Told::Posted, None)
            }
            Ok(Some(Posting::Stands)) => (Told::Posted, None),
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
fn when_told(handler: extern "C" fn(libc::c_int)) -> anyhow::Result<()> {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().try_for_each(|told| handle(told, handler))
}

/// Without `SA_RESTART`: whoever waits for an agent's end is to look up.
fn handle(told: Signal, handler: extern "C" fn(libc::c_int)) -> anyhow::Result<()> {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handlers call nothing that a handler may not call.
    unsafe { sigaction(told, &action) }
        .map(drop)
        .with_context(|| format!("failed to handle {told}"))
}

extern "C" fn end(_signal: libc::c_int) {
    // SAFETY: _exit(2) may be called from a signal handler; what is posted stays.
    unsafe { libc::_exit(0) }
}

/// It ends once its pod's agent has gone, and has posted the sentry if no other works; or when it has waited
/// for that long enough.
extern "C" fn end_after_the_agent(_signal: libc::c_int) {
    if !TOLD_TO_STOP.swap(true, Ordering::Relaxed) {
        // SAFETY: alarm(2) may be called from a signal handler.
        unsafe { libc::alarm(LOOK_UP_EVERY_S) };
    }
}

/// Being called is enough: flock(2) returns. It comes again as long as it is needed, since one that comes
/// before flock(2) is of no use.
extern "C" fn look_up(signal: libc::c_int) {
    let told = TOLD_TO_STOP.load(Ordering::Relaxed);
    if told && LEFT_S.fetch_sub(LOOK_UP_EVERY_S, Ordering::Relaxed) <= LOOK_UP_EVERY_S {
        end(signal);
    }
    if told || LOOKS_UP.load(Ordering::Relaxed) {
        // SAFETY: alarm(2) may be called from a signal handler.
        unsafe { libc::alarm(LOOK_UP_EVERY_S) };
    }
}

//! Ctrl-C, for programs that have made a node.

use std::thread;

use anyhow::{Context as _, Result};

use crate::node::remove_own_nodes;

/// As a shell reports a program that SIGINT has ended.
pub const INTERRUPTED: u8 = 130;

/// From now on SIGINT and SIGTERM remove every node of this process before they end it, since no
/// guard is dropped then. `program` is what an error is told as.
pub fn clean_up_when_interrupted(program: &'static str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("start a runtime for signals")?;
    // Registered before anything exists that a signal could leave behind.
    let mut signals = {
        let _inside = runtime.enter();
        Interrupt::watch()?
    };
    thread::spawn(move || {
        runtime.block_on(signals.wait());
        if let Err(error) = remove_own_nodes() {
            eprintln!("{program}: {error:#}");
        }
        #[expect(
            clippy::exit,
            reason = "the main thread may be in the middle of a wait of a minute"
        )]
        std::process::exit(INTERRUPTED.into())
    });
    Ok(())
}

/// SIGINT and SIGTERM, watched from its making on.
#[derive(Debug)]
pub struct Interrupt {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupt {
    /// Begins to watch; must be called inside a runtime.
    pub fn watch() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("watch for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("watch for SIGTERM")?,
        })
    }

    /// Waits for the next of them.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

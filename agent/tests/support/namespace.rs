//! For tests of programs that want ports of their own.

use std::{process::Command, thread};

use nix::sched::{CloneFlags, unshare};

/// Runs `work` on a thread in a network namespace of its own, where every port is free.
pub(crate) fn in_own_namespace(work: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        work();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

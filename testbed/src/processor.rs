//! On which processor a process runs, where a measurement must not depend on the scheduler's choice.

use std::fs;

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The last of the processors that this process may use: the first ones serve most interrupts.
pub(crate) fn last() -> Result<usize> {
    let usable = sched_getaffinity(Pid::from_raw(0)).context("read the own processors")?;
    let mut all = (0..CpuSet::count()).rev();
    all.find(|number| usable.is_set(*number).unwrap_or(false)).context("no processor is usable")
}

/// Has all threads of a process run on this processor only, and those that they start from now on.
pub(crate) fn bind(pid: u32, processor: usize) -> Result<()> {
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))? {
        let name = task.with_context(|| format!("list {tasks}"))?.file_name();
        let task: i32 = name.to_string_lossy().parse().context("a task's name")?;
        bind_task(Pid::from_raw(task), processor)?;
    }
    Ok(())
}

/// The same for the calling thread.
pub fn bind_self(processor: usize) -> Result<()> {
    bind_task(Pid::from_raw(0), processor)
}

fn bind_task(task: Pid, processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(task, &set).with_context(|| format!("run {task} on processor {processor}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{process, thread};

    #[test]
    fn a_thread_stays_where_it_is_bound() {
        let processor = last().unwrap();
        thread::spawn(move || {
            bind_self(processor).unwrap();
            let bound = sched_getaffinity(Pid::from_raw(0)).unwrap();
            let of: Vec<usize> =
                (0..CpuSet::count()).filter(|number| bound.is_set(*number).unwrap()).collect();
            assert_eq!(of, [processor]);
        })
        .join()
        .unwrap();
        assert!(bind(process::id(), CpuSet::count()).is_err());
    }
}

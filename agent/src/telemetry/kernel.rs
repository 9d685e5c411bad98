//! The lines that the eBPF programs write: numbers there, words and names here.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_ebpf::{
    gate::NO_UID,
    note::{Detail, Note, NoteLine},
};
use log::{Log, Metadata, Record};

use super::names::{Named, Names};
use crate::core::CgroupId;

/// The target of the lines.
const TARGET: &str = "holdfast_ebpf";

/// How long a budget lasts.
const WINDOW: Duration = Duration::from_secs(1);

/// Lines in one window: a person reads fewer, and the log keeps most of its 16,384 waiting places for
/// what matters more.
const MAX_LINES: u64 = 500;

/// Takes the programs' lines and writes them to the log, about this pod and that container. A flood
/// is cut short, and what was left out is counted and told.
#[derive(Debug)]
pub struct KernelLines {
    names: Names,
    budget: Mutex<Budget>,
}

#[derive(Debug)]
struct Budget {
    since: Instant,
    written: u64,
    left_out: u64,
}

// === impl KernelLines ===

impl KernelLines {
    /// Names are looked up in `names`.
    #[must_use]
    pub fn new(names: Names) -> Self {
        let budget = Budget { since: Instant::now(), written: 0, left_out: 0 };
        Self { names, budget: Mutex::new(budget) }
    }

    fn write(&self, line: &NoteLine) {
        let Some(note) = Note::from_raw(line.note) else {
            return tracing::debug!(target: TARGET, ?line, "line of unknown meaning");
        };
        let container_cgroup = (line.container != 0).then_some(line.container);
        let named = self.names.find(CgroupId(line.pod), container_cgroup.map(CgroupId));
        let (pod_uid, name, container) = match named {
            Some(Named { uid, pod, container }) => (Some(uid), pod, container),
            None => (None, None, None),
        };
        let pod_cgroup = pod_uid.is_none().then_some(line.pod);
        let container_cgroup = container_cgroup.filter(|_| container.is_none());
        let (namespace, pod) = name.as_ref().map_or(("", ""), |name| (&name.namespace, &name.name));
        let pod_uid = pod_uid.as_ref().map_or("", |uid| uid.as_str());
        let flag = |detail| line.detail(detail).map(|value| value != 0);
        let proxy_uid = line.detail(Detail::ProxyUid).filter(|uid| *uid != u64::from(NO_UID));
        tracing::debug!(
            target: TARGET,
            namespace, pod, pod_uid, container, pod_cgroup, container_cgroup,
            cookie = line.cookie,
            port = line.detail(Detail::Port),
            query = line.detail(Detail::Query),
            drops = line.detail(Detail::Drops),
            errno = line.detail(Detail::Errno),
            proxy_uid,
            recorded = flag(Detail::Recorded),
            listens = flag(Detail::Listens),
            deadline_over = flag(Detail::DeadlineOver),
            "{}", note.as_str()
        );
    }
}

impl Log for KernelLines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let is_written = {
            let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
            let (is_written, left_out) = budget.take(Instant::now());
            tell(left_out);
            is_written
        };
        if !is_written {
            return;
        }
        let text = record.args().to_string();
        match NoteLine::parse(&text) {
            Some(line) => self.write(&line),
            None => tracing::debug!(target: TARGET, text, "line of unknown form"),
        }
    }

    fn flush(&self) {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        tell(budget.settle(Instant::now()));
    }
}

fn tell(left_out: u64) {
    if left_out > 0 {
        tracing::warn!(left_out, "kernel debug lines left out: too many in a second");
    }
}

// === impl Budget ===

impl Budget {
    /// Whether one more line is written; and how many were left out in the window before.
    fn take(&mut self, now: Instant) -> (bool, u64) {
        let left_out = self.settle(now);
        let is_written = self.written < MAX_LINES;
        if is_written {
            self.written += 1;
        } else {
            self.left_out += 1;
        }
        (is_written, left_out)
    }

    /// Begins a new window if it is time; returns how many were left out in the one before.
    fn settle(&mut self, now: Instant) -> u64 {
        if now.duration_since(self.since) < WINDOW {
            return 0;
        }
        (self.since, self.written) = (now, 0);
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_short_and_counted() {
        let start = Instant::now();
        let mut budget = Budget { since: start, written: 0, left_out: 0 };
        for nth in 0..MAX_LINES + 7 {
            assert_eq!(budget.take(start), (nth < MAX_LINES, 0));
        }
        assert_eq!(budget.settle(start), 0);
        assert_eq!(budget.take(start + WINDOW), (true, 7));
        assert_eq!(budget.settle(start + 2 * WINDOW), 0);
    }
}

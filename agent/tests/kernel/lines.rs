//! Where the tests take the debug lines of the programs.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use agent_ebpf::note::{Note, NoteLine};
use log::{Log, Metadata, Record};

/// Far longer than a line takes.
const SOON: Duration = Duration::from_secs(20);

/// The lines that have come.
#[derive(Default)]
pub(crate) struct Lines {
    lines: Mutex<Vec<NoteLine>>,
    more: Condvar,
}

impl Lines {
    /// Waits for a line that says this, and takes it with all before it.
    pub(crate) fn wait(&self, note: Note) -> NoteLine {
        let is_it = |line: &NoteLine| line.note == u64::from(note as u32);
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.more.wait_timeout_while(lines, SOON, |lines| !lines.iter().any(is_it));
        let (mut lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(place) = lines.iter().position(is_it) else {
            panic!("no {note:?} among {:?}", said(&lines));
        };
        lines.drain(..=place).next_back().unwrap()
    }

    /// What has been said since it was asked last.
    pub(crate) fn take(&self) -> Vec<Note> {
        let lines = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        said(&lines)
    }
}

fn said(lines: &[NoteLine]) -> Vec<Note> {
    lines.iter().map(|line| Note::from_raw(line.note).expect("a note")).collect()
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        let line = NoteLine::parse(&text).unwrap_or_else(|| panic!("no line: {text}"));
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        self.more.notify_all();
    }

    fn flush(&self) {}
}

//! Debug lines of the eBPF programs, on their way to the log.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use agent_ebpf::note::{Note, NoteLine};
use log::{Level, Log as _, Record};

use crate::telemetry::{KernelLines, Names};

pub(super) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = NoteLine::parse(&text);
    if let Some(line) = read {
        let NoteLine { note, pod, container, cookie, values: [first, second] } = line;
        let written = format!("{note} {pod} {container} {cookie} {first} {second}");
        assert_eq!(NoteLine::parse(&written), Some(line));
    }
    let said = log(&text);
    let words = read.and_then(|line| Note::from_raw(line.note)).map(Note::as_str);
    let expected = words.unwrap_or(match read {
        Some(_) => "line of unknown meaning",
        None => "line of unknown form",
    });
    assert!(said.contains(expected), "{said:?}");
    let line = said.strip_suffix('\n').expect("the log has lines");
    super::assert_one_line(line);
}

/// What the log says of a line.
fn log(text: &str) -> String {
    #[cfg(test)]
    crate::captured_log::never_alone();
    let written = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&written);
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || Writer(Arc::clone(&writer)))
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let lines = KernelLines::new(Names::default());
        lines.log(&Record::builder().level(Level::Debug).args(format_args!("{text}")).build());
    });
    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&written).into_owned()
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let known = Note::ALL.map(|note| format!("{} 11 12 13 15001 1", note as u32));
    let foreign = ["99 1 2 3 4 5", "8 11 12 13 15001", "a\u{1b}[2J", ""].map(str::to_owned);
    known.into_iter().chain(foreign).map(String::into_bytes).collect()
}

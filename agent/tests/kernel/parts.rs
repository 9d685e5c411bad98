//! What this kernel lacks: that it is told, once. What follows from it the tests of each feature see.

use std::{
    io,
    sync::{Arc, Mutex},
};

use holdfast::bpf::{self, LoadOptions};
use tracing_subscriber::fmt::MakeWriter;

use crate::pod::{MINUTE, Pod};

/// What is logged, a line at a time.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "libtest shows it to `cargo xtask kernels`")]
fn each_missing_part_is_told_once_in_an_agents_life() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    // Of this thread alone, on which all of it happens; other tests have no part in it.
    let _subscriber = tracing::subscriber::set_default(subscriber);
    // An agent that starts, stands by, and takes over.
    bpf::warn_of_missing_parts();
    bpf::prove(&LoadOptions::default()).unwrap();
    let mut pod = Pod::new();
    pod.close(MINUTE);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let missing = bpf::missing_parts();
    for part in &missing {
        let told = log.lines().filter(|line| line.contains(part.effect())).count();
        assert_eq!(told, 1, "{part:?}:\n{log}");
        // For the matrix of `cargo xtask kernels`.
        println!("holdfast-lacks: {}: {}", part.feature(), part.leaves());
    }
    let warnings = log.lines().filter(|line| line.contains(" WARN ")).count();
    assert_eq!(warnings, missing.len(), "{log}");
}

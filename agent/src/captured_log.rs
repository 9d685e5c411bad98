//! What the code under test logs.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
};

use tracing::{Dispatch, subscriber::NoSubscriber};
use tracing_subscriber::fmt::MakeWriter;

/// Has each line reach the subscriber of its own thread, whatever other tests do at the time.
///
/// As long as the process has one subscriber at most, tracing asks that of the thread that comes first
/// to a line's place in the code (`Dispatchers::rebuilder`, tracing-core's callsite.rs): a test
/// without one would decide for all that nobody wants the line.
pub(crate) fn never_alone() {
    static OTHER: OnceLock<Dispatch> = OnceLock::new();
    OTHER.get_or_init(|| Dispatch::new(NoSubscriber::default()));
}

/// The log of the calling thread, on which a test's tasks run as well.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

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

impl Log {
    pub(crate) fn start(&self) -> tracing::subscriber::DefaultGuard {
        never_alone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter("warn,kube=off,holdfast=debug")
            .with_writer(self.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    /// Its lines of this level.
    pub(crate) fn lines(&self, level: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(level)).map(str::to_owned).collect()
    }
}

//! One JSON object a line on standard output.

use std::io::{self, Write as _};

use nix::errno::Errno;
use serde_json::{Value, json};

/// Writes `fields` with the event's name and the socket's number. A reader that has gone away is
/// no reason to stop: the connection is what matters.
pub(crate) fn event(name: &str, index: u32, fields: Value) {
    let mut line = json!({"event": name, "index": index});
    if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
        line.extend(fields);
    }
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// The end of a connect().
pub(crate) fn attempt(index: u32, start_ns: u64, result: &io::Result<()>) {
    let outcome = result.as_ref().map_or_else(error_name, |()| "connected".to_owned());
    let end_ns = testbed::clock::monotonic_ns();
    event("connect", index, json!({"start_ns": start_ns, "end_ns": end_ns, "outcome": outcome}));
}

/// The symbolic name of a system error, `timeout` for the application's own.
pub(crate) fn error_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("{:?}", Errno::from_raw(code)),
        None if error.kind() == io::ErrorKind::TimedOut => "timeout".to_owned(),
        None => error.to_string(),
    }
}

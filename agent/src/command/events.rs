//! `holdfast events`: what happens to the pods, as it happens.

use std::{
    fmt::Write as _,
    io::{self, ErrorKind, StdoutLock, Write as _},
    ops::ControlFlow,
    process::ExitCode,
};

use serde_json::Value;

use super::{
    Output,
    gate::time,
    terminal::{Paint, Style, safe, safe_json},
};
use crate::{
    admin::{Client, End, Follow, Line},
    cli::EventsArgs,
    core::Entry,
};

/// Fields that are for programs: instants of another clock, and ids that say nothing to a reader. JSON
/// has them.
const LEFT_OUT: [&str; 4] = ["mono_ns", "called_mono_ns", "cookie", "uid"];

/// Prints what was and, if asked to, what comes. An interrupt and a reader that has gone end it well.
///
/// # Errors
///
/// If no agent answers, or it ends while it is followed.
pub fn run(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket.socket)?;
    let mut printer = Printer::new(args.output);
    let printed = client.stream(&target(args), |piece| match printer.take(piece) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    })?;
    match printed {
        End::Broken(PrintError::Io(error)) if error.kind() == ErrorKind::BrokenPipe => {}
        End::Broken(error) => return Err(error.into()),
        End::Complete if args.follow => return Err(client.ended().into()),
        End::Complete | End::Interrupted => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn target(args: &EventsArgs) -> String {
    let EventsArgs { follow, pod, namespace, kind, .. } = args;
    let query = Follow {
        follow: *follow,
        pod: pod.as_ref().map(ToString::to_string),
        namespace: namespace.clone(),
        kind: (!kind.is_empty()).then(|| kind.join(",")),
    };
    query.target()
}

/// An entry cannot be printed.
#[derive(Debug, thiserror::Error)]
enum PrintError {
    #[error("failed to write to standard output: {0}")]
    Io(#[from] io::Error),
    #[error("the agent tells what is no entry ({0}): is it of another version?")]
    Json(#[from] serde_json::Error),
    #[error("failed to write YAML: {0}")]
    Yaml(anyhow::Error),
}

struct Printer {
    output: Output,
    style: Style,
    out: StdoutLock<'static>,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

// === impl Printer ===

impl Printer {
    fn new(output: Output) -> Self {
        let (style, out) = (Style::of_stdout(), io::stdout().lock());
        Self { output, style, out, rest: Vec::new() }
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), PrintError> {
        let mut text = String::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.ends_with(b"\n") {
                self.line(&mut text)?;
                self.rest.clear();
            }
        }
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn line(&self, text: &mut String) -> Result<(), PrintError> {
        match self.output {
            Output::Table => shown(&serde_json::from_slice(&self.rest)?, self.style, text),
            // It is one already.
            Output::Json => text.push_str(&safe_json(&String::from_utf8_lossy(&self.rest))),
            Output::Yaml => {
                let value: Value = serde_json::from_slice(&self.rest)?;
                text.push_str("---\n");
                text.push_str(&super::yaml(&value).map_err(PrintError::Yaml)?);
            }
        }
        Ok(())
    }
}

/// One line for people: when, whom, what, and the fields that matter.
fn shown(line: &Line, style: Style, text: &mut String) {
    match line {
        Line::Lost { lost } => {
            let told = format!("... {lost} entries lost: this reader is too slow");
            text.push_str(&style.paint(Paint::Warning, &told));
        }
        Line::Entry(entry) => {
            let Entry { at, pod, message, fields, .. } = &**entry;
            let name = pod.name.as_ref().map_or_else(|| pod.uid.to_string(), ToString::to_string);
            text.push_str(&style.paint(Paint::Faint, &time(*at)));
            text.push(' ');
            text.push_str(&style.paint(Paint::Heading, &safe(&name)));
            text.push(' ');
            text.push_str(&safe(message));
            for (key, value) in fields.iter().filter(|(key, _)| !LEFT_OUT.contains(&key.as_str())) {
                let value = match value {
                    Value::String(value)
                        if !value.contains([' ', '"', '=']) && !value.is_empty() =>
                    {
                        safe(value).into_owned()
                    }
                    // With quotes, and what would end them escaped.
                    value => safe(&value.to_string()).into_owned(),
                };
                // Writing to a String cannot fail.
                let _: Result<(), _> = write!(text, " {}={value}", safe(key));
            }
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{PodName, PodRef, PodUid, Stamp};

    fn entry(fields: Value) -> Line {
        let Value::Object(fields) = fields else { unreachable!("it is written as one") };
        let pod = PodRef::new(PodUid::new("u"), Some(PodName::new("shop", "cart")));
        let at = Stamp::new(std::time::Duration::from_micros(1_700_000_000_123_456));
        let (kind, message) = ("held".to_owned(), "connect held".to_owned());
        Line::Entry(Box::new(Entry { seq: 1, at, pod, kind, message, fields }))
    }

    fn line(line: &Line) -> String {
        let mut text = String::new();
        shown(line, Style::PLAIN, &mut text);
        text
    }

    #[test]
    fn an_entry_is_one_line_of_what_matters() {
        let held = entry(serde_json::json!({
            "container": "app", "comm": "curl", "pid": 7, "cookie": 9, "mono_ns": 3,
            "destination": "10.0.0.1:80",
        }));
        assert_eq!(
            line(&held),
            "22:13:20.123 shop/cart connect held comm=curl container=app destination=10.0.0.1:80 pid=7\n"
        );
        assert_eq!(
            line(&Line::Lost { lost: 123 }),
            "... 123 entries lost: this reader is too slow\n"
        );
    }

    #[test]
    fn what_a_tenant_chose_stays_where_it_belongs() {
        let held =
            entry(serde_json::json!({ "comm": "a\u{1b}[2J\nb c=\"d\"", "container": "x y" }));
        assert_eq!(
            line(&held),
            "22:13:20.123 shop/cart connect held comm=\"a\\u001b[2J\\nb c=\\\"d\\\"\" container=\"x y\"\n"
        );
        let held = entry(serde_json::json!({ "comm": "a\u{1b}[2J\u{202e}" }));
        let text = line(&held);
        assert!(text.ends_with("comm=a\\u{1b}[2J\\u{202e}\n"), "{text}");
    }

    #[test]
    fn lines_come_in_pieces() {
        let json = serde_json::to_string(&entry(serde_json::json!({}))).unwrap() + "\n";
        let back: Line = serde_json::from_str(&json).unwrap();
        assert_eq!(back, entry(serde_json::json!({})));
        assert_eq!(serde_json::from_str::<Line>("{\"lost\":3}").unwrap(), Line::Lost { lost: 3 });
    }
}

//! The DevTools protocol over a pipe: JSON objects that end in a zero byte.
//! <https://chromedevtools.github.io/devtools-protocol/>

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// For one answer. A browser that starts while other tests compile takes its time.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A connection to a browser.
#[derive(Debug)]
pub(super) struct DevTools {
    commands: File,
    messages: Receiver<Value>,
    last_id: u64,
    /// What has happened and nobody has asked for yet.
    events: Vec<Value>,
}

impl DevTools {
    /// Writes commands to one end and reads messages from the other, until the browser closes it.
    pub(super) fn new(commands: File, answers: File) -> Self {
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(answers).split(0) {
                let Ok(message) = message else { break };
                let Ok(message) = serde_json::from_slice(&message) else { break };
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        Self { commands, messages, last_id: 0, events: Vec::new() }
    }

    /// Calls a method, of the browser or of one of its pages, and waits for its result.
    ///
    /// Takes the parameters by value, since callers make them in place.
    #[expect(clippy::needless_pass_by_value, reason = "callers write json!({..}) in place")]
    pub(super) fn call(
        &mut self,
        session: Option<&str>,
        method: &str,
        parameters: Value,
    ) -> Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let mut command = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).with_context(|| format!("send {method}"))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let mut message = self.next(deadline).with_context(|| format!("wait for {method}"))?;
            if message["id"] == id {
                if let Some(error) = message.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(message["result"].take());
            }
            self.events.push(message);
        }
    }

    /// Waits for an event of a page; those that came before it are kept.
    pub(super) fn wait_for(&mut self, session: &str, method: &str) -> Result<()> {
        let wanted = |event: &Value| event["sessionId"] == session && event["method"] == method;
        let deadline = Instant::now() + ANSWER_WITHIN;
        while !self.events.iter().any(wanted) {
            let message = self.next(deadline).with_context(|| format!("wait for {method}"))?;
            self.events.push(message);
        }
        Ok(())
    }

    /// What has happened to a page since this was last called: methods with their parameters.
    pub(super) fn take_events(&mut self, session: &str) -> Vec<(String, Value)> {
        self.events.extend(self.messages.try_iter());
        let of_page = self.events.extract_if(.., |event| event["sessionId"] == session);
        of_page
            .filter_map(|mut event| {
                Some((event["method"].as_str()?.to_owned(), event["params"].take()))
            })
            .collect()
    }

    fn next(&self, deadline: Instant) -> Result<Value> {
        match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(message) => Ok(message),
            Err(RecvTimeoutError::Timeout) => bail!("no answer within {ANSWER_WITHIN:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the browser has ended"),
        }
    }
}

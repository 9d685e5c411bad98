//! The figures as a story: who did what, when, for somebody who has never heard of the problem.

use std::{
    io::{self, Write},
    path::Path,
};

use super::{HeldRun, Report, Run};
use crate::{backend_v4, clock::ms_between};

/// Writes the story, in colour when asked to.
#[derive(Debug)]
pub struct Timeline<W> {
    out: W,
    colour: bool,
}

#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Good,
    Bad,
    Heading,
}

impl Tone {
    /// ANSI's codes for default, green, red and bold.
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Heading => "1",
        }
    }
}

struct Moment {
    ns: u64,
    who: &'static str,
    what: String,
    tone: Tone,
}

impl<W: Write> Timeline<W> {
    /// Writes to `out`.
    pub fn new(out: W, colour: bool) -> Self {
        Self { out, colour }
    }

    /// What this is about.
    pub fn introduction(&mut self) -> io::Result<()> {
        writeln!(
            self.out,
            "A pod of a service mesh: iptables sends all that the application dials to the proxy\n\
             (Envoy, port 15001), but the proxy starts later than the application."
        )
    }

    /// The run without the agent.
    pub fn without(&mut self, run: &Run) -> io::Result<()> {
        self.heading("Without holdfast")?;
        let attempt = &run.attempt;
        let mut moments = common(run);
        moments.push(if attempt.is_connected() {
            Moment {
                ns: attempt.end_ns,
                who: "application",
                what: "connected: the proxy was faster than the application".into(),
                tone: Tone::Plain,
            }
        } else {
            Moment {
                ns: attempt.end_ns,
                who: "application",
                what: format!("{}: nobody listens on the proxy's port yet", attempt.outcome),
                tone: Tone::Bad,
            }
        });
        self.moments(attempt.start_ns, moments)
    }

    /// One run with the agent.
    pub fn with(&mut self, held: &HeldRun) -> io::Result<()> {
        self.heading("With holdfast: the namespace is labelled holdfast.dev/hold=enabled")?;
        let HeldRun { run, agent, body_ns, body_ok, programs_while_held, programs_after_open } =
            held;
        let mut moments = common(run);
        let mut note = |ns: Option<u64>, who, what: String, tone| {
            if let Some(ns) = ns {
                moments.push(Moment { ns, who, what, tone });
            }
        };
        note(
            agent.closed_ns,
            "holdfast",
            "sees the new pod and closes its gate".into(),
            Tone::Plain,
        );
        note(
            agent.held_ns,
            "holdfast",
            format!("holds the connection in the kernel ({programs_while_held} BPF programs)"),
            Tone::Plain,
        );
        note(
            agent.opened_ns,
            "holdfast",
            "sees the proxy ready, opens the gate, sends the held SYN again".into(),
            Tone::Plain,
        );
        let attempt = &run.attempt;
        if attempt.is_connected() {
            let after = held.after_ready_ms();
            note(
                Some(attempt.end_ns),
                "application",
                format!("connected, {after:.1} ms after the proxy became ready"),
                Tone::Good,
            );
            let (what, tone) = if *body_ok {
                ("1 MiB over HTTP through the proxy, intact", Tone::Good)
            } else {
                ("the HTTP answer is damaged", Tone::Bad)
            };
            note(*body_ns, "application", what.into(), tone);
        } else {
            note(
                Some(attempt.end_ns),
                "application",
                format!("{}: the hold has failed", attempt.outcome),
                Tone::Bad,
            );
        }
        note(
            agent.detached_ns,
            "holdfast",
            format!("detaches: {programs_after_open} BPF programs are left on the pod"),
            if *programs_after_open == 0 { Tone::Plain } else { Tone::Bad },
        );
        self.moments(attempt.start_ns, moments)
    }

    /// One line for one of many trials.
    pub fn trial(&mut self, number: usize, of: u32, held: &HeldRun) -> io::Result<()> {
        let outcome = &held.run.attempt.outcome;
        let (text, tone) = if held.run.attempt.is_connected() {
            let (waited, after) = (held.held_ms() / 1000.0, held.after_ready_ms());
            let text = format!("{outcome} after {waited:.3} s, {after:.1} ms after ready");
            (text, Tone::Plain)
        } else {
            (outcome.clone(), Tone::Bad)
        };
        let text = self.painted(&text, tone);
        writeln!(self.out, "  trial {number:>3} of {of}: {text}")
    }

    /// The figures over all trials.
    pub fn summary(&mut self, report: &Report) -> io::Result<()> {
        let Report { with, trials, refused, after_ready_ms_p50, after_ready_ms_p99, .. } = report;
        let ms = |figure: &Option<f64>| {
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1} ms"))
        };
        self.heading("Summary")?;
        writeln!(self.out, "  {trials} with holdfast, {refused} refused")?;
        writeln!(
            self.out,
            "  from \"proxy ready\" to \"connected\": median {}, 99th percentile {}",
            ms(after_ready_ms_p50),
            ms(after_ready_ms_p99)
        )?;
        writeln!(
            self.out,
            "  from \"gate opened\" to \"connected\": median {}",
            ms(&with.release_ms)
        )
    }

    /// Where the same is to be seen as a picture.
    pub fn page(&mut self, file: &Path) -> io::Result<()> {
        self.heading("The node page of this run, for a browser")?;
        writeln!(self.out, "  {}", file.display())
    }

    fn heading(&mut self, text: &str) -> io::Result<()> {
        let text = self.painted(text, Tone::Heading);
        writeln!(self.out, "\n{text}")
    }

    fn moments(&mut self, zero: u64, mut moments: Vec<Moment>) -> io::Result<()> {
        moments.sort_by_key(|moment| moment.ns);
        for Moment { ns, who, what, tone } in moments {
            let seconds = ms_between(zero, ns) / 1000.0;
            let what = self.painted(&what, tone);
            writeln!(self.out, "  {seconds:>8.3} s  {who:<12} {what}")?;
        }
        Ok(())
    }

    fn painted(&self, text: &str, tone: Tone) -> String {
        match (self.colour, tone) {
            (false, _) | (_, Tone::Plain) => text.to_owned(),
            (true, tone) => format!("\x1b[{}m{text}\x1b[0m", tone.code()),
        }
    }
}

/// What happens either way.
fn common(run: &Run) -> Vec<Moment> {
    let Run { attempt, proxy_started_ns, ready_ns } = run;
    let plain = |ns, who, what| Moment { ns, who, what, tone: Tone::Plain };
    vec![
        plain(attempt.start_ns, "application", format!("connect() to {}", backend_v4())),
        plain(*proxy_started_ns, "proxy", "starts".to_owned()),
        plain(*ready_ns, "proxy", "is ready".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{apps::Attempt, demo::AgentMoments};

    fn held() -> HeldRun {
        HeldRun {
            run: Run {
                attempt: Attempt {
                    index: 0,
                    start_ns: 1_000_000_000,
                    end_ns: 4_103_000_000,
                    outcome: "connected".into(),
                },
                proxy_started_ns: 4_000_000_000,
                ready_ns: 4_100_000_000,
            },
            agent: AgentMoments {
                closed_ns: Some(900_000_000),
                held_ns: Some(1_000_100_000),
                opened_ns: Some(4_102_000_000),
                detached_ns: Some(4_110_000_000),
            },
            body_ns: Some(4_150_000_000),
            body_ok: true,
            programs_while_held: 5,
            programs_after_open: 0,
        }
    }

    fn written(colour: bool) -> String {
        let mut out = Vec::new();
        let mut timeline = Timeline::new(&mut out, colour);
        timeline.introduction().unwrap();
        timeline.without(&held().run).unwrap();
        timeline.with(&held()).unwrap();
        timeline.trial(1, 30, &held()).unwrap();
        timeline.summary(&Report::new(&held().run, &[held()])).unwrap();
        timeline.page(Path::new("target/demo/node.html")).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_story_is_in_order_and_fits_a_terminal() {
        let text = written(false);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        let at = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("{needle}\n{text}"));
        assert!(at("  -0.100 s  holdfast     sees the new pod") < at("holds the connection"));
        assert!(at("opens the gate") < at("connected, 3.0 ms after"));
        assert!(text.ends_with("\n  target/demo/node.html\n"), "{text}");
        assert!(at("intact") > at("connected, 3.0 ms after"));
    }

    #[test]
    fn without_a_terminal_there_is_no_colour() {
        assert!(!written(false).contains('\x1b'));
        assert!(written(true).contains("\x1b[32mconnected"));
    }
}

//! `holdfast-demo`: one application, without and with the agent, as a timeline or as JSON.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use testbed::{
    agent_binary,
    demo::{self, HeldNode, Options, Report, Timeline},
    interrupt::clean_up_when_interrupted,
};

/// Runs an application twice on a node in a box: without and with holdfast.
///
/// The application dials a backend at once, its proxy starts some seconds later. Without holdfast
/// the connect() is refused; with it the connect() waits and succeeds when the proxy is ready.
#[derive(Parser)]
#[command(name = "holdfast-demo")]
struct Args {
    /// Print one JSON object and nothing else.
    ///
    /// `held_ms`, `after_ready_ms` and `release_ms` are medians over the trials.
    #[arg(long)]
    json: bool,
    /// How often to repeat the part with the agent, each time with a new pod.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    trials: u32,
    /// How long after the application the proxy starts.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    proxy_delay: Duration,
    /// Where to keep the agent's node page, which draws the starts that it has seen.
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// The holdfast binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    /// The agent's default deadline is 60 s: beyond it there is nothing to demonstrate.
    const LONGEST: f64 = 55.0;
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=LONGEST).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("not between 0 and {LONGEST} seconds"))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = clean_up_when_interrupted("holdfast-demo").and_then(|()| run(&args));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("holdfast-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let options = Options {
        agent: agent_binary(args.agent.clone())?,
        trials: args.trials,
        proxy_delay: args.proxy_delay,
    };
    let stdout = io::stdout();
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut story = (!args.json).then(|| Timeline::new(stdout.lock(), colour));

    if let Some(story) = &mut story {
        story.introduction()?;
    }
    let without = demo::without_agent(&options)?;
    if let Some(story) = &mut story {
        story.without(&without)?;
    }
    let mut node = HeldNode::start(&options)?;
    let mut trials = Vec::new();
    for number in 1..=args.trials {
        let trial = node.trial(&options)?;
        if let Some(story) = &mut story {
            if number == 1 {
                story.with(&trial)?;
            } else {
                story.trial(trials.len() + 1, args.trials, &trial)?;
            }
        }
        trials.push(trial);
    }
    if let Some(file) = &args.page {
        node.save_page(file)?;
    }
    node.stop()?;

    let report = Report::new(&without, &trials);
    match &mut story {
        Some(story) => {
            if args.trials > 1 {
                story.summary(&report)?;
            }
            if let Some(file) = &args.page {
                story.page(file)?;
            }
        }
        None => {
            let line = serde_json::to_string(&report).context("write the report")?;
            writeln!(stdout.lock(), "{line}")?;
        }
    }
    Ok(report.is_success())
}

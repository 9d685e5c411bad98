//! `holdfast-guard-cost`: what the guard costs a pod whose proxy is ready.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::json;
use testbed::{
    agent_binary,
    bench::stats::Ratio,
    cost::{self, Options},
};

/// Measures connections and requests through a real proxy, with and without the guard, turn by
/// turn, and prints the ratio of the rates with its 95% confidence interval.
#[derive(Parser)]
#[command(name = "holdfast-guard-cost")]
struct Args {
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// Pairs of rounds for each kind of work.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    pairs: u32,
    /// Length of a round.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 150)]
    round: u64,
    /// The holdfast binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-guard-cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result")]
fn run(args: Args) -> Result<()> {
    let Args { json, pairs, round, agent } = args;
    let agent = agent_binary(agent)?;
    let options = Options { agent, pairs, round: Duration::from_millis(round) };
    let mut results = serde_json::Map::new();
    if !json {
        println!(
            "{:<10} {:>12} {:>12} {:>8} {:>8}",
            "per", "without/s", "guarded/s", "ratio", "+-"
        );
    }
    for series in cost::measure(&options)? {
        let Ratio { median, low, high } = series.ratio().context("no pairs of rounds")?;
        let (without, with) = series.rates();
        let work = series.work.as_str();
        if json {
            let numbers = json!({
                "without_per_s": without, "guarded_per_s": with, "ratio": median, "low": low, "high": high,
                "pairs": series.pairs.len(),
            });
            results.insert(work.to_owned(), numbers);
        } else {
            println!(
                "{work:<10} {without:>10.0} {with:>10.0} {median:>8.4}  {low:.4} to {high:.4}"
            );
        }
    }
    if json {
        println!("{}", serde_json::Value::Object(results));
    }
    Ok(())
}

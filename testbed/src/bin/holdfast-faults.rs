//! `holdfast-faults`: breaks what can break while applications start, and counts what became of
//! their connects.

use std::{fs, io, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use testbed::{
    agent_binary,
    faults::{self, Fault, Report, Row},
    interrupt::clean_up_when_interrupted,
};

/// Breaks what can break while applications start, and prints for each fault how many connects it
/// tried, how many were refused, how many stuck, and the longest delay. Exit status 1 if any was
/// refused or stuck.
#[derive(Parser)]
#[command(name = "holdfast-faults")]
struct Args {
    /// Print a JSON list and nothing else.
    #[arg(long)]
    json: bool,
    /// Only as many trials as every test run makes.
    #[arg(long)]
    bounded: bool,
    /// Repeat the random moments of an earlier run.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Say what there is, and do nothing.
    #[arg(long)]
    list: bool,
    /// Write the table of a full run of all faults into this document.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bounded", "names"])]
    write: Option<PathBuf>,
    /// The holdfast binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Only faults whose names contain one of these.
    names: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("holdfast-faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result")]
fn run(args: &Args) -> Result<bool> {
    let faults: Vec<&Fault> = faults::all()
        .filter(|fault| args.names.is_empty() || args.names.iter().any(|n| fault.name.contains(n)))
        .collect();
    ensure!(!faults.is_empty(), "no fault has such a name: --list shows all");
    if args.list {
        for fault in faults {
            println!("{}\n    {}", fault.name, fault.what);
        }
        return Ok(true);
    }
    clean_up_when_interrupted("holdfast-faults")?;
    let agent = agent_binary(args.agent.clone())?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}: --seed {seed} repeats the random moments of this run");
    let mut results: Vec<Row> = Vec::new();
    let mut ok = true;
    let names = faults.iter().map(|fault| fault.name);
    let mut table = if args.json { None } else { Some(Report::new(io::stdout(), names)?) };
    for fault in &faults {
        match fault.run(&agent, !args.bounded, seed) {
            Ok(row) => {
                ok &= row.is_good();
                if let Some(table) = &mut table {
                    table.add(&row)?;
                }
                results.push(row);
            }
            // The others are worth knowing all the same.
            Err(error) => {
                ok = false;
                eprintln!("holdfast-faults: {error:#}");
            }
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&results)?);
    }
    if let Some(path) = &args.write {
        let shown = path.display();
        let document = fs::read_to_string(path).with_context(|| format!("read {shown}"))?;
        let document = faults::replace_in(&document, &results);
        let document = document.with_context(|| format!("no place for the table in {shown}"))?;
        fs::write(path, document).with_context(|| format!("write {shown}"))?;
    }
    Ok(ok)
}

//! `holdfast-bench`: measures what decides whether somebody should use holdfast.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use testbed::{
    agent_binary,
    bench::{
        self, Options, Part, Results, document,
        quick::{self, Compared, Reference, Verdict},
    },
    interrupt::clean_up_when_interrupted,
};

/// Where the document goes: in the checkout, where `cargo xtask` runs this program.
const DOCS: &str = "docs";
/// The ratios on record.
const REFERENCE: &str = "testbed/bench/reference.json";

/// Measures what holdfast does for a pod's start and what it costs, next to what people use
/// instead, and keeps the numbers as JSON.
#[derive(Parser)]
#[command(name = "holdfast-bench")]
struct Args {
    /// Keep the numbers here.
    #[arg(long, value_name = "FILE", default_value = "target/bench/results.json")]
    json: PathBuf,
    /// Write docs/benchmarks.md and its plots from the numbers of a run of all parts.
    #[arg(long, conflicts_with_all = ["quick", "parts"])]
    write: bool,
    /// Measure nothing; show, or write, the numbers of an earlier run.
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    from: Option<PathBuf>,
    /// How often each case is measured, instead of as often as its part thinks necessary.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Only ratios, compared with those on record; exit status 1 if a fifth of one is lost.
    #[arg(long)]
    quick: bool,
    /// With --quick: put the ratios on record.
    #[arg(long, requires = "quick")]
    record: bool,
    /// Say what parts there are, and do nothing.
    #[arg(long)]
    list: bool,
    /// The holdfast binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Only these parts.
    #[arg(value_name = "PART")]
    parts: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("holdfast-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    if args.list {
        for part in bench::parts() {
            writeln!(io::stdout(), "{:<10} {}", part.name, part.what)?;
        }
        return Ok(true);
    }
    if let Some(name) = args.parts.iter().find(|name| bench::parts().all(|p| p.name != **name)) {
        bail!("no part is called {name:?}: --list shows all");
    }
    let parts = bench::parts()
        .filter(|part| args.parts.is_empty() || args.parts.iter().any(|name| name == part.name));
    if let Some(file) = &args.from {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let mut results: Results =
            serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
        if !args.parts.is_empty() {
            results.parts.retain(|name, _| args.parts.contains(name));
        }
        for (part, _) in results.sections()? {
            show(part, &results)?;
        }
        return finish(args, &results);
    }
    clean_up_when_interrupted("holdfast-bench")?;
    let options = Options { agent: agent_binary(args.agent.clone())?, runs: args.runs };
    if args.quick {
        return compare(args, parts, &options);
    }
    measure(args, parts, &options)
}

/// Measures, and keeps what there is after each part: a part that fails does not take the others'
/// minutes along.
fn measure<'a>(
    args: &Args,
    parts: impl Iterator<Item = &'a Part>,
    options: &Options,
) -> Result<bool> {
    let mut results = Results::new()?;
    let mut ok = true;
    for part in parts {
        eprintln!("{}: {}", part.name, part.what);
        match part.measure(options) {
            Ok(numbers) => {
                results.parts.insert(part.name.to_owned(), numbers);
                save(&args.json, &results)?;
                show(part, &results)?;
            }
            Err(error) => {
                ok = false;
                eprintln!("holdfast-bench: {error:#}");
            }
        }
    }
    Ok(finish(args, &results)? && ok)
}

fn finish(args: &Args, results: &Results) -> Result<bool> {
    if args.write {
        document::write(results, Path::new(DOCS))?;
    }
    Ok(true)
}

/// A part's section, as a person reads it in a terminal.
fn show(part: &Part, results: &Results) -> Result<()> {
    let Some(numbers) = results.parts.get(part.name) else { return Ok(()) };
    let section = part.section(numbers)?;
    writeln!(io::stdout(), "## {}\n\n{}\n", section.title, section.text.trim())?;
    Ok(())
}

fn compare<'a>(
    args: &Args,
    parts: impl Iterator<Item = &'a Part>,
    options: &Options,
) -> Result<bool> {
    let text = fs::read_to_string(REFERENCE).with_context(|| format!("read {REFERENCE}"))?;
    let mut reference: Reference =
        serde_json::from_str(&text).with_context(|| format!("read {REFERENCE}"))?;
    let mut ratios = Vec::new();
    for part in parts {
        eprintln!("{}: {}", part.name, part.what);
        ratios.extend(part.quick(options)?);
    }
    let ratios = reference.compare(ratios);
    write!(io::stdout(), "{}", quick::table(&ratios))?;
    if args.record {
        reference.record(&ratios);
        let text = serde_json::to_string_pretty(&reference)? + "\n";
        fs::write(REFERENCE, text).with_context(|| format!("write {REFERENCE}"))?;
        return Ok(true);
    }
    Ok(ratios.iter().map(Compared::verdict).all(|verdict| verdict != Verdict::Lost))
}

fn save(path: &Path, results: &Results) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    fs::write(path, serde_json::to_string_pretty(results)? + "\n")
        .with_context(|| format!("write {}", path.display()))
}

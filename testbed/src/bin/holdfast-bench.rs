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
/// Where numbers go.
const NUMBERS: &str = "target/bench";
/// The ratios on record.
const REFERENCE: &str = "testbed/bench/reference.json";

/// Measures what holdfast does for a pod's start and what it costs, next to what people use
/// instead, and keeps the numbers as JSON.
#[derive(Parser)]
#[command(name = "holdfast-bench")]
struct Args {
    /// Keep the numbers here [default: target/bench/results.json, or results-PART.json of one part]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Go on with a run that was interrupted or of which a part failed: keep the numbers that its file has, of
    /// this machine and this commit.
    #[arg(long, conflicts_with_all = ["quick", "from"])]
    resume: bool,
    /// Write docs/benchmarks.md and its plots from the numbers of a run of all parts.
    #[arg(long, conflicts_with_all = ["quick", "parts"])]
    write: bool,
    /// Measure nothing; show, or write, the numbers of an earlier run.
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    from: Option<PathBuf>,
    /// How often each case is measured, instead of as often as its part thinks necessary.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Only ratios, compared with those on record. Exit status 1 if too much of one is lost, twice, or one is
    /// not on record, or on record and not measured; 2 if something could not be measured.
    #[arg(long)]
    quick: bool,
    /// With --quick: put the ratios on record, in the place of those of the same parts.
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

/// How it ended, if nothing could be said of why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All was measured, and nothing is lost.
    Well,
    /// A ratio is lost, or there is none to compare it with.
    Lost,
    /// Something could not be measured; standard error has why.
    Broken,
}

impl End {
    /// Of what is lost nobody can be sure where something is broken.
    fn worse(self, other: Self) -> Self {
        if self == Self::Broken || other == Self::Well { self } else { other }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(End::Well) => ExitCode::SUCCESS,
        Ok(End::Lost) => ExitCode::from(1),
        Ok(End::Broken) => ExitCode::from(2),
        Err(error) => {
            eprintln!("holdfast-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<End> {
    if args.list {
        for part in bench::parts() {
            writeln!(io::stdout(), "{:<10} {}", part.name, part.what)?;
        }
        return Ok(End::Well);
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
            results.stolen.retain(|name, _| args.parts.contains(name));
        }
        for (part, _) in results.sections()? {
            show(part, &results)?;
        }
        finish(args, &results)?;
        return Ok(End::Well);
    }
    clean_up_when_interrupted("holdfast-bench")?;
    let options = Options { agent: agent_binary(args.agent.clone())?, runs: args.runs };
    if args.quick {
        return compare(args, parts, &options);
    }
    measure(args, parts, &options)
}

/// Where the numbers go: a run of some parts does not take the place of one of all.
fn json(args: &Args) -> PathBuf {
    let of = |parts: &[String]| match parts {
        [] => Path::new(NUMBERS).join("results.json"),
        parts => Path::new(NUMBERS).join(format!("results-{}.json", parts.join("-"))),
    };
    args.json.clone().unwrap_or_else(|| of(&args.parts))
}

/// The numbers to go on with.
fn resumed(path: &Path) -> Result<Results> {
    let new = Results::new()?;
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(new),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let old: Results =
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    if !old.machine.is_same_run(&new.machine) {
        bail!(
            "{} was measured on another machine, or of another commit: without --resume all is measured anew",
            path.display()
        );
    }
    Ok(old)
}

/// Measures, and keeps what there is after each part: a part that fails does not take the others'
/// minutes along.
fn measure<'a>(
    args: &Args,
    parts: impl Iterator<Item = &'a Part>,
    options: &Options,
) -> Result<End> {
    let path = json(args);
    let mut results = if args.resume { resumed(&path)? } else { Results::new()? };
    let mut end = End::Well;
    for part in parts {
        if results.parts.contains_key(part.name) {
            eprintln!("{}: as measured before", part.name);
            continue;
        }
        eprintln!("{}: {}", part.name, part.what);
        match results.measure(part, options) {
            Ok(()) => {
                save(&path, &results)?;
                // The numbers are kept; whether somebody reads them here is another matter.
                if let Err(error) = show(part, &results) {
                    eprintln!("holdfast-bench: {error:#}");
                }
            }
            Err(error) => {
                end = End::Broken;
                eprintln!("holdfast-bench: {error:#}");
            }
        }
    }
    if end == End::Broken {
        eprintln!("holdfast-bench: --resume measures what {} lacks", path.display());
    }
    finish(args, &results)?;
    Ok(end)
}

fn finish(args: &Args, results: &Results) -> Result<()> {
    if args.write {
        document::write(results, Path::new(DOCS))?;
    }
    Ok(())
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
) -> Result<End> {
    let text = fs::read_to_string(REFERENCE).with_context(|| format!("read {REFERENCE}"))?;
    let mut reference: Reference =
        serde_json::from_str(&text).with_context(|| format!("read {REFERENCE}"))?;
    let (mut all, mut end) = (Vec::new(), End::Well);
    for part in parts {
        eprintln!("{}: {}", part.name, part.what);
        match compare_part(part, options, &reference, args.record) {
            Ok(ratios) => {
                if args.record {
                    reference.record(part.name, &ratios);
                } else if ratios.iter().any(Compared::fails) {
                    end = end.worse(End::Lost);
                }
                all.extend(ratios);
            }
            Err(error) => {
                end = End::Broken;
                eprintln!("holdfast-bench: {error:#}");
            }
        }
    }
    write!(io::stdout(), "{}", quick::table(&all))?;
    if args.record {
        let text = serde_json::to_string_pretty(&reference)? + "\n";
        fs::write(REFERENCE, text).with_context(|| format!("write {REFERENCE}"))?;
    }
    Ok(end)
}

/// A part's ratios next to those on record. What is lost is lost twice: the machine may have done something
/// else the first time.
fn compare_part(
    part: &Part,
    options: &Options,
    reference: &Reference,
    is_recorded: bool,
) -> Result<Vec<Compared>> {
    let first = reference.compare(part.name, part.quick(options)?);
    if is_recorded || first.iter().all(|ratio| ratio.verdict() != Verdict::Lost) {
        return Ok(first);
    }
    eprintln!("{}: once more", part.name);
    match part.quick(options) {
        Ok(second) => Ok(quick::better_of(first, reference.compare(part.name, second))),
        Err(error) => {
            eprintln!("holdfast-bench: {error:#}");
            Ok(first)
        }
    }
}

/// Writes all of it or nothing: who is interrupted meanwhile goes on with what was there.
fn save(path: &Path, results: &Results) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    let new = path.with_extension("json.new");
    fs::write(&new, serde_json::to_string_pretty(results)? + "\n")
        .with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("rename to {}", path.display()))
}

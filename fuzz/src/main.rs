//! One program for all of `holdfast::fuzzing`: libFuzzer's main, with the target named by the
//! environment. `cargo xtask fuzz` builds and runs it; by hand:
//!
//! ```text
//! HOLDFAST_FUZZ=list target/debug/holdfast-fuzz
//! HOLDFAST_FUZZ=syn target/debug/holdfast-fuzz FILE
//! ```

#![no_main]

use std::{env, fs, path::Path, process::exit, sync::OnceLock};

use holdfast::fuzzing::{TARGETS, Target, target};
use libfuzzer_sys::fuzz_target;

/// The target's name, or `list`.
const WHICH: &str = "HOLDFAST_FUZZ";

/// A directory into which the target's seeds are written first.
const SEEDS: &str = "HOLDFAST_FUZZ_SEEDS";

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(init: begin(), |data: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(data);
    }
});

/// Runs before libFuzzer reads its corpus.
#[expect(
    clippy::exit,
    clippy::print_stdout,
    reason = "libFuzzer has the main function, and goes on when this one returns"
)]
fn begin() {
    let which = env::var(WHICH).unwrap_or_default();
    if which == "list" {
        for target in TARGETS {
            println!("{}", target.name);
        }
        exit(0);
    }
    let Some(target) = target(&which) else {
        eprintln!("error: {WHICH} must be `list` or a name that it prints, not {which:?}");
        exit(64);
    };
    if let Some(directory) = env::var_os(SEEDS)
        && let Err(error) = write_seeds(target, Path::new(&directory))
    {
        eprintln!("error: failed to write seeds: {error}");
        exit(1);
    }
    TARGET.get_or_init(|| target);
}

fn write_seeds(target: &Target, directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    for (number, seed) in (target.seeds)().into_iter().enumerate() {
        fs::write(directory.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}

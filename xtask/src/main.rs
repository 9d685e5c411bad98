//! holdfast's developer commands, run as `cargo xtask <command>`.

mod chart;
mod console;
mod demo;
mod e2e;
#[expect(dead_code, reason = "agent/build.rs uses the rest")]
mod ebpf_toolchain;
mod elf;
mod fuzz;
mod image;
mod kernels;
mod lint_ebpf;
mod miri;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::workspace::Workspace;

/// holdfast's developer commands.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Cli {
    /// Install what building and testing need, after saying what and why.
    Setup(setup::Args),
    /// Build everything, run all tests, then the kernels (needs root).
    Test(test::Args),
    /// Run the kernel tests on every supported kernel, each in a virtual machine.
    Kernels(kernels::Args),
    /// Fuzz every place where foreign bytes come in; exit status 1 if one breaks.
    Fuzz(fuzz::Args),
    /// Run the tests of the bytes in maps and ring under Miri.
    Miri,
    /// Render deploy/holdfast.yaml from the Helm chart, or check both.
    Chart(chart::Args),
    /// Run an application without and with holdfast and show what happens (needs root).
    Demo(demo::Args),
    /// Play the cases of the cluster test, on a cluster or on the testbed (then needs root).
    E2e(e2e::Args),
    /// Measure what holdfast does for a pod's start and what it costs, next to what people use instead
    /// (needs root).
    Bench(demo::BenchArgs),
    /// Break what can break while applications start, and count what becomes of their connects
    /// (needs root).
    Faults(demo::FaultsArgs),
    /// Build the agent's container image and its bill of materials.
    Image(image::Args),
    /// Lint the eBPF programs for the target they run on.
    LintEbpf,
}

fn main() -> ExitCode {
    if let Some(code) = fuzz::wrapper::run() {
        return code;
    }
    let cli = Cli::parse();
    let result = Workspace::locate().and_then(|workspace| match cli {
        Cli::Setup(args) => setup::run(&workspace, &args),
        Cli::Test(args) => test::run(&workspace, &args),
        Cli::Kernels(args) => kernels::run(&workspace, &args),
        Cli::Fuzz(args) => fuzz::run(&workspace, &args),
        Cli::Miri => miri::run(&workspace),
        Cli::Chart(args) => chart::run(&workspace, &args),
        Cli::Demo(args) => demo::run(&workspace, args),
        Cli::E2e(args) => e2e::run(&workspace, args),
        Cli::Bench(args) => demo::bench(&workspace, args),
        Cli::Faults(args) => demo::faults(&workspace, args),
        Cli::Image(args) => image::run(&workspace, &args),
        Cli::LintEbpf => lint_ebpf::run(&workspace),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<workspace::NotRoot>() {
                workspace::NotRoot::EXIT_CODE
            } else if error.is::<miri::NoMiri>() {
                miri::NoMiri::EXIT_CODE
            } else {
                1
            })
        }
    }
}

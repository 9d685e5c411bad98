//! `holdfast`: parses the command line, runs the agent, turns errors into exit codes.

use std::process::ExitCode;

use clap::Parser as _;
use holdfast::{
    app,
    cli::{self, Cli, Command},
    exit, telemetry,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            report(&cli::usage_error(&error));
            return ExitCode::from(exit::USAGE);
        }
        Err(help_or_version) => {
            // A reader that has gone, such as `head`, has what it wanted.
            let _: Result<(), _> = help_or_version.print();
            return ExitCode::SUCCESS;
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::debug!(?error, "failed");
            report(&exit::line(&error));
            exit::code(&error)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let Command::Run(args) = cli.command;
    let _log =
        telemetry::init(args.log_format, &args.log_level).map_err(anyhow::Error::from_boxed)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(app::run(args))
}

/// One line, in plain words, also when the log is JSON: it is for the person who starts the agent.
#[expect(clippy::print_stderr, reason = "the last word of a process that cannot log any more")]
fn report(error: &str) {
    eprintln!("holdfast: {error}");
}

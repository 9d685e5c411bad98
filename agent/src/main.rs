//! `holdfast`: parses the command line, runs the agent, turns errors into exit codes.

use std::{
    ffi::OsString,
    io::{ErrorKind, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use holdfast::{
    app, cleanup,
    cli::{self, Cli, Command, Invocation, ProfilesArgs},
    config, exit, profiles_table, telemetry,
    wait::{self, Tool},
};

fn main() -> ExitCode {
    let Invocation { arguments, tool } = Invocation::new(std::env::args_os());
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            report(&cli::usage_error(&error, arguments.get(1).map(OsString::as_os_str)));
            return ExitCode::from(tool.usage_code());
        }
        Err(help_or_version) => {
            // A reader that has gone, such as `head`, has what it wanted.
            let _: Result<(), _> = help_or_version.print();
            return ExitCode::SUCCESS;
        }
    };
    match run(cli, tool) {
        Ok(code) => code,
        Err(error) => {
            tracing::debug!(?error, "failed");
            report(&exit::line(&error));
            exit::code(&error)
        }
    }
}

fn run(cli: Cli, tool: Tool) -> anyhow::Result<ExitCode> {
    let args = match cli.command {
        Command::Run(args) => args,
        Command::Cleanup(args) => {
            let runtime = tokio::runtime::Runtime::new()?;
            return runtime.block_on(cleanup::run(args)).map(|()| ExitCode::SUCCESS);
        }
        Command::Wait(args) => return Ok(wait::run(&args.plan(tool)).map(ExitCode::from)?),
        Command::Testpod(args) => return Ok(testpod::run(args).map(ExitCode::from)?),
        Command::Profiles(args) => return profiles(&args).map(|()| ExitCode::SUCCESS),
    };
    let log =
        telemetry::init(args.log_format, &args.log_level).map_err(anyhow::Error::from_boxed)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(app::run(*args, log.dropped()))?;
    Ok(ExitCode::SUCCESS)
}

fn profiles(args: &ProfilesArgs) -> anyhow::Result<()> {
    let config = config::load(args.config.as_deref())?;
    let text = profiles_table::render(&config.profiles, args.output)?;
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that has gone, such as `head`, has what it wanted.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// One line, in plain words, also when the log is JSON: it is for the person who starts the agent.
#[expect(clippy::print_stderr, reason = "the last word of a process that cannot log any more")]
fn report(error: &str) {
    eprintln!("holdfast: {error}");
}

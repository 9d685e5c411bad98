//! `holdfast`: parses the command line, runs the agent, turns errors into exit codes.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;
use holdfast::{
    app, check, cleanup,
    cli::{self, CheckArgs, Cli, Command, Invocation, ProfilesArgs},
    command, config, exit, memory, sentry, telemetry,
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
        Command::Sentry(args) => {
            telemetry::init_direct(args.log.log_format, &args.log.log_level)
                .map_err(anyhow::Error::from_boxed)?;
            return sentry::run(args).map(|never| match never {});
        }
        Command::Wait(args) => return Ok(wait::run(&args.plan(tool)).map(ExitCode::from)?),
        Command::Testpod(args) => return Ok(testpod::run(args).map(ExitCode::from)?),
        Command::Status(args) => return command::ask::status(&args),
        Command::Pods(args) => return command::ask::pods(&args),
        Command::Explain(args) => return command::ask::explain(&args),
        Command::Events(args) => return command::events::run(&args),
        Command::Gate(args) => return command::ask::gate(&args),
        Command::Dump(args) => return command::dump::run(&args),
        Command::LogLevel(args) => return command::ask::log_level(&args),
        Command::Diagnose(args) => return command::ask::diagnose(&args),
        Command::Report(args) => return command::ask::report(&args),
        Command::Profiles(args) => return profiles(&args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => return check(args),
        Command::Version(args) => {
            let text = command::version::Version::of_this().render(args.output)?;
            return Ok(command::print(&text).map(|()| ExitCode::SUCCESS)?);
        }
        Command::Completions(args) => {
            let script = command::completions::script(args.shell);
            return Ok(command::print(&script).map(|()| ExitCode::SUCCESS)?);
        }
    };
    let (log, levels) = telemetry::init(args.log.log_format, &args.log.log_level)
        .map_err(anyhow::Error::from_boxed)?;
    let runtime = memory::runtime()?;
    runtime.block_on(app::run(*args, levels, log.dropped()))?;
    Ok(ExitCode::SUCCESS)
}

fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let output = args.output;
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(check::run(args));
    // A check that hangs has been told of; it must not keep the others' results.
    runtime.shutdown_background();
    command::print(&output.render(&report, |style| report.table(style))?)?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn profiles(args: &ProfilesArgs) -> anyhow::Result<()> {
    let config = config::load(args.config.as_deref())?;
    Ok(command::print(&command::profiles::render(&config.profiles, args.output)?)?)
}

/// One line, in plain words, also when the log is JSON: it is for the person who starts the agent.
#[expect(clippy::print_stderr, reason = "the last word of a process that cannot log any more")]
fn report(error: &str) {
    eprintln!("holdfast: {error}");
}

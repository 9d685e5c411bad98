//! `holdfast testpod`: the containers of a test pod, in holdfast's own image, so that a cluster test
//! needs no other one. A proxy that comes late, and a client that connects at its first instant.
//! Both print one [`Record`] a line; who runs the test reads them, from the same type.
//!
//! A crate of its own, because the agent carries the commands and the testbed reads what they print.

mod client;
mod proxy;
mod record;
mod signal;

use std::{fmt::Display, io, net::SocketAddr};

use clap::{Args, Subcommand};

pub use self::{
    client::ClientArgs,
    proxy::{ProxyArgs, QUIT_PATH},
    record::{Attempt, End, Event, Record},
};

/// Options of `holdfast testpod`.
#[derive(Args, Clone, Debug)]
pub struct TestpodArgs {
    /// Which container this is.
    #[command(subcommand)]
    pub part: Part,
}

/// Which container this is.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Part {
    /// A proxy that comes late: answers 503 on its readiness endpoint, opens its port after a delay,
    /// then answers 200.
    ///
    /// A connection that was redirected to it goes on to where it was meant; any other is answered
    /// by the proxy itself.
    Proxy(ProxyArgs),
    /// A client that connects at once, and says what came of it.
    Client(ClientArgs),
}

/// Why a part of a test pod cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum TestpodError {
    /// No runtime, or no signals.
    #[error("failed to start: {0}")]
    Start(#[source] io::Error),
    /// Its port is taken.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody would learn what it sees.
    #[error("failed to write to standard output: {0}")]
    Write(#[source] io::Error),
}

/// Does this part's work to its end; returns the exit code.
///
/// # Errors
///
/// [`TestpodError`], if it cannot.
pub fn run(args: TestpodArgs) -> Result<u8, TestpodError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The agent's log names the thread that connects.
        .thread_name("testpod")
        .build()
        .map_err(TestpodError::Start)?;
    let code = runtime.block_on(async {
        match args.part {
            Part::Proxy(args) => proxy::run(args).await,
            Part::Client(args) => client::run(args).await,
        }
    });
    // A connect() that waits must not keep the process from ending.
    runtime.shutdown_background();
    code
}

// === impl Part ===

impl Part {
    /// The arguments with which `holdfast` does this part.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let (name, options) = match self {
            Self::Proxy(args) => ("proxy", args.options()),
            Self::Client(args) => ("client", args.options()),
        };
        ["testpod".to_owned(), name.to_owned()].into_iter().chain(options).collect()
    }
}

/// `--name value`, as one argument that no value can be mistaken in.
fn option(name: &str, value: &impl Display) -> String {
    format!("--{name}={value}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    enum Holdfast {
        Testpod(TestpodArgs),
    }

    fn parsed(part: &Part) -> Part {
        let line = std::iter::once("holdfast".to_owned()).chain(part.arguments());
        let Holdfast::Testpod(args) = Holdfast::try_parse_from(line).unwrap();
        args.part
    }

    #[test]
    fn a_part_s_arguments_are_read_as_that_part() {
        let to = "127.0.0.1:6000".parse().unwrap();
        for part in [
            Part::Proxy(ProxyArgs::default()),
            Part::Proxy(ProxyArgs {
                delay: Duration::from_millis(1_500),
                port: 6000,
                ready_port: 6099,
                ready_path: "/readyz".to_owned(),
                die_after: Some(Duration::from_secs(4)),
                die_once: Some("/state/died".into()),
            }),
            Part::Client(ClientArgs::new(to)),
            Part::Client(ClientArgs {
                delay: Duration::from_secs(1),
                attempts: 40,
                every: Duration::from_millis(100),
                timeout: Some(Duration::from_secs(20)),
                path: "/port".to_owned(),
                quit: Some("127.0.0.1:15021".parse().unwrap()),
                stay: true,
                exit_zero: true,
                ..ClientArgs::new(to)
            }),
        ] {
            assert_eq!(parsed(&part), part);
        }
    }

    #[test]
    fn defaults_are_the_command_line_s() {
        let read = |line: &[&str]| {
            let Holdfast::Testpod(args) = Holdfast::try_parse_from(line).unwrap();
            args.part
        };
        assert_eq!(read(&["holdfast", "testpod", "proxy"]), Part::Proxy(ProxyArgs::default()));
        assert_eq!(
            read(&["holdfast", "testpod", "client", "--to", "127.0.0.1:15001"]),
            Part::Client(ClientArgs::new("127.0.0.1:15001".parse().unwrap()))
        );
    }
}

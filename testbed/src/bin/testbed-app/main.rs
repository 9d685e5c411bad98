//! The processes of the testbed: applications that dial out of pods, and the servers they dial.
//! Results go to standard output, one JSON object a line; see `testbed::apps`.

mod connect;
mod epoll;
mod flood;
mod hostile;
mod http;
mod launch;
mod load;
mod lookup;
mod name_server;
mod node;
mod raw_syn;
mod report;
mod serve;
mod socket;
mod throughput;
mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Applications and servers of the testbed.
#[derive(Parser)]
#[command(name = "testbed-app")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Dials a destination and reports how connect() went.
    Connect(connect::Args),
    /// As connect, but the socket is made before a fork and dialled after it, by the child.
    ForkConnect(connect::Args),
    /// As connect, from a fresh network namespace in which only loopback is up.
    InNetns(connect::Args),
    /// Sends a forged SYN over loopback from a raw socket.
    RawSyn(raw_syn::Args),
    /// Waits until the proxy is ready, boots, dials.
    Wait(wait::Args),
    /// Repeats connects or requests for some time and counts them.
    Throughput(throughput::Args),
    /// Looks a name up and reports how that went.
    Lookup(lookup::Args),
    /// Opens connections at a steady pace and reports what became of them.
    Load(load::Args),
    /// Begins connects and closes them at once, as fast as it can, and counts them.
    Flood(flood::Args),
    /// Does what no application should.
    #[command(subcommand)]
    Hostile(hostile::Command),
    /// Accepts and keeps connections on loopback.
    Listen(serve::ListenArgs),
    /// Serves HTTP on a port of every address.
    Serve(serve::ServeArgs),
    /// The backend: HTTP on every backend port, both families, and the cluster's DNS server.
    Outside,
    /// Brings up a node with a proxied pod, prints where it is, and keeps it until killed.
    Node,
    /// Holds a pod's namespaces, as the pause container does.
    Pause,
    /// Goes into a cgroup, a network namespace and a user, and becomes another program.
    Launch(launch::Args),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Connect(args) => connect::run(&args),
        Command::ForkConnect(args) => connect::run_in_child(&args),
        Command::InNetns(args) => connect::run_in_own_netns(&args),
        Command::RawSyn(args) => raw_syn::run(&args),
        Command::Wait(args) => wait::run(&args),
        Command::Throughput(args) => throughput::run(&args),
        Command::Lookup(args) => lookup::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Flood(args) => flood::run(&args),
        Command::Hostile(command) => hostile::run(&command),
        Command::Listen(args) => serve::listen(&args),
        Command::Serve(args) => serve::serve(&[args.port]),
        Command::Outside => serve::outside(),
        Command::Node => node::run(),
        Command::Pause => serve::pause(),
        Command::Launch(args) => launch::run(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("testbed-app: {error:#}");
            ExitCode::FAILURE
        }
    }
}

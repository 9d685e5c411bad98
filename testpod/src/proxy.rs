//! The proxy that comes late.

mod http;
mod listen;

use std::{
    cell::Cell,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use clap::Args;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::{
    net::TcpStream,
    sync::Notify,
    task::LocalSet,
    time::{sleep, timeout},
};

use self::listen::Listeners;
use crate::{
    TestpodError, option,
    record::{End, Event, now, tell, tell_of},
    signal::Ended,
};

/// As Istio's `pilot-agent` has it: a POST ends the proxy, for Jobs.
pub const QUIT_PATH: &str = "/quitquitquit";

/// For the destination of a redirected connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Options of `holdfast testpod proxy`. The defaults are Istio's ports.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ProxyArgs {
    /// How long after its start it opens its port.
    #[arg(long, value_name = "DURATION", default_value = "3s",
          value_parser = humantime::parse_duration)]
    pub delay: Duration,

    /// The port to which connections are redirected, or which the client dials.
    #[arg(long, value_name = "PORT", default_value_t = 15001)]
    pub port: u16,

    /// The port of the readiness endpoint.
    #[arg(long, value_name = "PORT", default_value_t = 15021)]
    pub ready_port: u16,

    /// The path of the readiness endpoint.
    #[arg(long, value_name = "PATH", default_value = "/healthz/ready")]
    pub ready_path: String,

    /// Die with exit code 1 this long after having become ready [default: never].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub die_after: Option<Duration>,

    /// Die only if this file does not exist, and make it: its successor lives.
    #[arg(long, value_name = "FILE", requires = "die_after")]
    pub die_once: Option<PathBuf>,
}

impl Default for ProxyArgs {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(3),
            port: 15001,
            ready_port: 15021,
            ready_path: "/healthz/ready".to_owned(),
            die_after: None,
            die_once: None,
        }
    }
}

/// What the readiness endpoint knows.
struct Health {
    path: String,
    ready: Cell<bool>,
    quit: Notify,
}

/// Serves until it is told to end, or its time has come; returns the exit code.
pub(crate) async fn run(args: ProxyArgs) -> Result<u8, TestpodError> {
    let mut ended = Ended::watch()?;
    let delay_ms = u64::try_from(args.delay.as_millis()).unwrap_or(u64::MAX);
    tell(Event::ProxyStarted { delay_ms })?;
    let health = Rc::new(Health {
        path: args.ready_path.clone(),
        ready: Cell::new(false),
        quit: Notify::new(),
    });
    let endpoint = Listeners::open(args.ready_port)?;
    let tasks = LocalSet::new();
    let asked = Rc::clone(&health);
    tasks.spawn_local(endpoint.serve(move |stream| answer_health(stream, Rc::clone(&asked))));
    let (reason, code) = tasks
        .run_until(async {
            tokio::select! {
                code = ended.wait() => Ok((End::Signal, code)),
                () = health.quit.notified() => Ok((End::Quit, 0)),
                died = live(&args, &health) => died.map(|()| (End::DieAfter, 1)),
            }
        })
        .await?;
    tell(Event::ProxyEnded { reason })?;
    Ok(code)
}

/// Takes its time, becomes ready, and dies if it is to.
async fn live(args: &ProxyArgs, health: &Health) -> Result<(), TestpodError> {
    sleep(args.delay).await;
    let outbound = Listeners::open(args.port)?;
    tokio::task::spawn_local(outbound.serve(pass_on));
    tell(Event::ProxyListening { port: args.port })?;
    // Before anybody can see it: whatever waits for readiness comes after this instant.
    let ready_ns = now();
    health.ready.set(true);
    tell_of(ready_ns, Event::ProxyReady)?;
    match args.die_after.filter(|_| args.has_to_die()) {
        Some(after) => sleep(after).await,
        None => std::future::pending().await,
    }
    Ok(())
}

async fn answer_health(mut stream: TcpStream, health: Rc<Health>) -> io::Result<()> {
    let (method, path) = http::request(&mut stream).await?;
    let status = match (method.as_str(), path.as_str()) {
        ("GET", path) if path == health.path => {
            if health.ready.get() {
                http::OK
            } else {
                http::UNAVAILABLE
            }
        }
        ("POST", QUIT_PATH) => http::OK,
        _ => http::NOT_FOUND,
    };
    http::answer(&mut stream, status).await?;
    if method == "POST" && status == http::OK {
        health.quit.notify_one();
    }
    Ok(())
}

/// A redirected connection goes on to its destination; any other is answered.
async fn pass_on(mut stream: TcpStream) -> io::Result<()> {
    let Some(destination) = original_destination(&stream) else {
        http::request(&mut stream).await?;
        return http::answer(&mut stream, http::OK).await;
    };
    let mut onward = timeout(CONNECT_WITHIN, TcpStream::connect(destination)).await??;
    tokio::io::copy_bidirectional(&mut stream, &mut onward).await?;
    Ok(())
}

/// Where a connection that NAT has sent here was meant to go.
fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let own = stream.local_addr().ok()?;
    let own = SocketAddr::new(own.ip().to_canonical(), own.port());
    let socket = &stream.as_fd();
    // An error means that nothing has been translated here.
    let meant: SocketAddr = match own.ip() {
        IpAddr::V4(_) => {
            let address = getsockopt(socket, sockopt::OriginalDst).ok()?;
            let ip = u32::from_be(address.sin_addr.s_addr);
            (std::net::Ipv4Addr::from(ip), u16::from_be(address.sin_port)).into()
        }
        IpAddr::V6(_) => {
            let address = getsockopt(socket, sockopt::Ip6tOriginalDst).ok()?;
            let ip = std::net::Ipv6Addr::from(address.sin6_addr.s6_addr);
            (ip, u16::from_be(address.sin6_port)).into()
        }
    };
    (meant != own).then_some(meant)
}

// === impl ProxyArgs ===

impl ProxyArgs {
    pub(crate) fn options(&self) -> Vec<String> {
        let Self { delay, port, ready_port, ready_path, die_after, die_once } = self;
        let duration = |duration: &Duration| humantime::format_duration(*duration).to_string();
        let mut all = vec![
            option("delay", &duration(delay)),
            option("port", port),
            option("ready-port", ready_port),
            option("ready-path", ready_path),
        ];
        all.extend(die_after.as_ref().map(|after| option("die-after", &duration(after))));
        all.extend(die_once.as_ref().map(|file| option("die-once", &file.display())));
        all
    }

    /// Whether it is the one that dies.
    fn has_to_die(&self) -> bool {
        // A file that cannot be made is one that cannot be found the next time either.
        self.die_once.as_ref().is_none_or(|file| fs::File::create_new(file).is_ok())
    }
}

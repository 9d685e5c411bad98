//! The client.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;
use nix::errno::Errno;

use crate::{
    TestpodError, option,
    proxy::QUIT_PATH,
    record::{Attempt, Event, now, tell, tell_of},
    signal::Ended,
};

/// For an answer over a connection that stands.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Options of `holdfast testpod client`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ClientArgs {
    /// Where to connect to.
    #[arg(long, value_name = "ADDRESS")]
    pub to: SocketAddr,

    /// How long to do nothing before the first attempt.
    #[arg(long, value_name = "DURATION", default_value = "0s",
          value_parser = humantime::parse_duration)]
    pub delay: Duration,

    /// How many connections to make, one after the other.
    #[arg(long, value_name = "COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: u32,

    /// Time between the end of an attempt and the next.
    #[arg(long, value_name = "DURATION", default_value = "500ms",
          value_parser = humantime::parse_duration)]
    pub every: Duration,

    /// Give an attempt up after this time [default: never; the kernel does after minutes].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    /// What to ask for over a connection.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub path: String,

    /// Afterwards ask the proxy to end, at its readiness endpoint.
    #[arg(long, value_name = "ADDRESS")]
    pub quit: Option<SocketAddr>,

    /// Afterwards go on running until told to end, as a service does.
    #[arg(long)]
    pub stay: bool,

    /// Exit with 0 whatever came of the attempts; otherwise with 1 unless all of them connected.
    #[arg(long)]
    pub exit_zero: bool,
}

// === impl ClientArgs ===

impl ClientArgs {
    /// One attempt, at once.
    #[must_use]
    pub fn new(to: SocketAddr) -> Self {
        Self {
            to,
            delay: Duration::ZERO,
            attempts: 1,
            every: Duration::from_millis(500),
            timeout: None,
            path: "/".to_owned(),
            quit: None,
            stay: false,
            exit_zero: false,
        }
    }

    pub(crate) fn options(&self) -> Vec<String> {
        let Self { to, delay, attempts, every, timeout, path, quit, stay, exit_zero } = self;
        let duration = |duration: &Duration| humantime::format_duration(*duration).to_string();
        let mut all = vec![
            option("to", to),
            option("delay", &duration(delay)),
            option("attempts", attempts),
            option("every", &duration(every)),
            option("path", path),
        ];
        all.extend(timeout.as_ref().map(|timeout| option("timeout", &duration(timeout))));
        all.extend(quit.map(|quit| option("quit", &quit)));
        all.extend(stay.then(|| "--stay".to_owned()));
        all.extend(exit_zero.then(|| "--exit-zero".to_owned()));
        all
    }

    fn attempt(&self, number: u32) -> Attempt {
        let start_ns = now();
        let connected = match self.timeout {
            // The plainest client there is: a blocking connect().
            None => TcpStream::connect(self.to),
            Some(timeout) => TcpStream::connect_timeout(&self.to, timeout),
        };
        let end_ns = now();
        let (outcome, status) = match connected {
            Ok(mut stream) => {
                let status = ask(&mut stream, "GET", &self.path).ok();
                (Attempt::CONNECTED.to_owned(), status)
            }
            Err(error) => (name(&error), None),
        };
        Attempt { number, start_ns, end_ns, outcome, status }
    }

    fn attempts(&self) -> Result<u8, TestpodError> {
        std::thread::sleep(self.delay);
        tell(Event::ClientStarted { to: self.to.to_string() })?;
        let mut connected = 0;
        for number in 1..=self.attempts {
            if number > 1 {
                std::thread::sleep(self.every);
            }
            let attempt = self.attempt(number);
            connected += u32::from(attempt.is_connected());
            tell_of(attempt.end_ns, Event::Attempt(attempt))?;
        }
        let failed = self.attempts - connected;
        tell(Event::ClientDone { connected, failed })?;
        if let Some(quit) = self.quit {
            // What comes of it shows in the proxy's own records.
            let _: io::Result<u16> = TcpStream::connect_timeout(&quit, ANSWER_WITHIN)
                .and_then(|mut stream| ask(&mut stream, "POST", QUIT_PATH));
        }
        Ok(u8::from(failed > 0 && !self.exit_zero))
    }
}

/// Makes all attempts; returns the exit code.
pub(crate) async fn run(args: ClientArgs) -> Result<u8, TestpodError> {
    let mut ended = Ended::watch()?;
    let stay = args.stay;
    // connect() blocks, and a signal has to end it.
    let attempts = tokio::task::spawn_blocking(move || args.attempts());
    let code = tokio::select! {
        code = ended.wait() => return Ok(code),
        code = attempts => code.map_err(|error| TestpodError::Start(io::Error::other(error)))??,
    };
    if stay {
        ended.wait().await;
    }
    Ok(code)
}

/// Sends a request and reads the answer's status.
fn ask(stream: &mut TcpStream, method: &str, path: &str) -> io::Result<u16> {
    /// `HTTP/1.1 200`
    const STATUS_LINE: usize = 12;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let peer = stream.peer_addr()?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {peer}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = [0; STATUS_LINE];
    stream.read_exact(&mut line)?;
    let status = line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..));
    status
        .and_then(|status| std::str::from_utf8(status).ok()?.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// An error as the manual pages name it.
fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        // The standard library's own, of connect_timeout().
        None if error.kind() == io::ErrorKind::TimedOut => format!("{:?}", Errno::ETIMEDOUT),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn once(to: SocketAddr) -> Attempt {
        ClientArgs { timeout: Some(ANSWER_WITHIN), ..ClientArgs::new(to) }.attempt(1)
    }

    #[test]
    fn an_attempt_tells_the_error_s_name_or_the_answer_s_status() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET / HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        let attempt = once(to);
        assert!(attempt.is_connected() && attempt.end_ns >= attempt.start_ns, "{attempt:?}");
        assert_eq!(attempt.status, Some(204));
        server.join().unwrap();
        // The listener went with the thread.
        let attempt = once(to);
        assert!(attempt.is_refused(), "{attempt:?}");
        assert_eq!(attempt.status, None);
    }

    #[test]
    fn a_connection_without_an_answer_is_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || drop(listener.accept().unwrap()));
        let attempt = once(to);
        assert!(attempt.is_connected(), "{attempt:?}");
        assert_eq!(attempt.status, None);
        server.join().unwrap();
    }
}

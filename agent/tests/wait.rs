//! `holdfast wait`: real processes against a small HTTP server, as each of the tools that it stands
//! in for. Needs root for network namespaces and to be somebody else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/namespace.rs"]
mod namespace;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use self::namespace::in_own_namespace;

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const OS_ERROR: i32 = 71;
const GO_FAILURE: i32 = 255;

/// Long enough for anything that should happen soon, on any machine.
const SOON: Duration = Duration::from_secs(20);

const OK: &str = "200 OK";
const NO_CONTENT: &str = "204 No Content";
const UNREADY: &str = "503 Service Unavailable";

/// One request: its first line without the version, and when it came.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    at: Instant,
}

/// A proxy's admin server. Answers as it was last told to.
struct Server {
    port: u16,
    status: Arc<Mutex<&'static str>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn new(status: &'static str) -> Self {
        Self::at("127.0.0.1:0", status)
    }

    fn at(address: &str, status: &'static str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let status = Arc::new(Mutex::new(status));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::clone(&status), Arc::clone(&asked));
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let Ok(read) = stream.read(&mut request) else { continue };
                let text = String::from_utf8_lossy(&request[..read]);
                let line = text.lines().next().unwrap_or_default();
                let line = line.trim_end_matches(" HTTP/1.1").to_owned();
                seen.lock().unwrap().push(Asked { line, at: Instant::now() });
                let status = *answer.lock().unwrap();
                // Whoever asked may have lost its patience.
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            }
        });
        Self { port, status, asked }
    }

    fn url(&self) -> String {
        format!("--url=http://localhost:{}/healthz/ready", self.port)
    }

    fn port(&self) -> String {
        format!("--port={}", self.port)
    }

    fn turns(&self, status: &'static str) {
        *self.status.lock().unwrap() = status;
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    fn wait_asked(&self) {
        eventually("a request", || !self.asked().is_empty());
    }
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_holdfast"))
}

/// `program`, with an environment that says nothing about waiting.
fn tool(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    for variable in ["LINKERD_AWAIT_DISABLED", "LINKERD_DISABLED", "LINKERD_AWAIT_VERBOSE"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Signals that whoever runs the tests ignores, as a shell does with SIGINT for what it starts in the
/// background, are heard all the same.
fn wait_command(arguments: &[&str]) -> Command {
    let binary = binary();
    let wait = ["--default-signal", binary.to_str().unwrap(), "wait"];
    tool(Path::new("env"), &[&wait, arguments].concat())
}

/// Exit code, standard output and standard error of `holdfast wait`.
fn wait(arguments: &[&str]) -> (i32, String, String) {
    finish(wait_command(arguments).spawn().unwrap())
}

fn finish(mut child: Child) -> (i32, String, String) {
    let status = status_of(&mut child);
    let code = status.code().unwrap_or_else(|| panic!("{status}"));
    let Output { stdout, stderr, .. } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(stdout), text(stderr))
}

fn status_of(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn send(signal: Signal, child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

#[test]
fn the_command_takes_the_place_of_the_process_as_if_nothing_had_been_before() {
    takes_the_place(&["env"]);
}

#[test]
fn what_the_process_ignores_the_command_ignores() {
    takes_the_place(&["env", "--ignore-signal=HUP", "--ignore-signal=USR1"]);
}

/// Signals and descriptors of a command that is waited for are those of one that never was, if both
/// are started by `starter`.
fn takes_the_place(starter: &[&str]) {
    let server = Server::new(OK);
    let script = "echo $$; grep -E '^Sig(Ign|Blk|Cgt)' /proc/self/status; ls /proc/self/fd";
    let command = ["sh", "-c", script];
    let [program, options @ ..] = starter else { panic!("nobody starts it") };
    let start = |arguments: &[&str]| tool(Path::new(program), &[options, arguments].concat());

    let binary = binary();
    let wait = [binary.to_str().unwrap(), "wait", &server.url(), "--periodMillis=1", "--"];
    let mut child = start(&[&wait[..], &command].concat()).spawn().unwrap();
    let pid = child.id().to_string();
    let status = status_of(&mut child);
    assert!(status.success(), "{status}");
    let waited = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let (first, rest) = waited.split_once('\n').unwrap();
    assert_eq!(first, pid);
    let alone = String::from_utf8(start(&command).output().unwrap().stdout).unwrap();
    assert_eq!(rest, alone.split_once('\n').unwrap().1);
    assert_eq!(server.lines(), ["GET /healthz/ready"]);
}

#[test]
fn its_exit_code_is_the_commands() {
    let server = Server::new(OK);
    let (code, ..) = wait(&[&server.port(), "--", "sh", "-c", "exit 7"]);
    assert_eq!(code, 7);
    assert_eq!(wait(&[&server.port()]), (0, String::new(), String::new()));
    let (code, _, told) = wait(&[&server.port(), "--", "/nonexistent/app"]);
    assert_eq!(code, OS_ERROR);
    assert!(told.contains("failed to run /nonexistent/app: No such file"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn as_pilot_agent_it_asks_after_one_period_and_fails_with_255() {
    let server = Server::new(UNREADY);
    let begun = Instant::now();
    let arguments =
        [&server.url(), "--timeoutSeconds=1", "--periodMillis=400", "--", "echo", "ran"];
    let (code, stdout, stderr) = wait(&arguments);
    let took = begun.elapsed();
    assert_eq!((code, stdout.as_str()), (GO_FAILURE, ""));
    assert!(stderr.contains("not ready within 1s: HTTP status 503"), "{stderr}");
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
    let asked = server.asked();
    assert!(asked[0].at - begun >= Duration::from_millis(400), "{asked:?}");
    assert!((1..=2).contains(&asked.len()), "{asked:?}");
}

#[test]
fn as_pilot_agent_only_200_is_ready_and_as_linkerd_await_any_2xx() {
    let server = Server::new(NO_CONTENT);
    let (code, ..) = wait(&[&server.url(), "--timeoutSeconds=1", "--periodMillis=100"]);
    assert_eq!(code, GO_FAILURE);
    let (code, ..) = wait(&[&server.port(), "--timeout=10s"]);
    assert_eq!(code, 0);
}

#[test]
fn as_linkerd_await_it_asks_at_once_and_fails_with_69() {
    let server = Server::new(UNREADY);
    let begun = Instant::now();
    let (code, stdout, stderr) =
        wait(&[&server.port(), "--timeout=700ms", "--backoff=5s", "--", "echo", "ran"]);
    let took = begun.elapsed();
    assert_eq!((code, stdout.as_str()), (UNAVAILABLE, ""));
    assert!(stderr.contains("not ready within 700ms"), "{stderr}");
    // A back-off does not outlast the timeout.
    assert!((Duration::from_millis(700)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert_eq!(server.lines(), ["GET /ready"]);
}

#[test]
fn a_timeout_that_is_not_fatal_lets_the_command_run() {
    let server = Server::new(UNREADY);
    let arguments = [&server.port(), "-t300ms", "--timeout-fatal=false", "--", "echo", "ran"];
    let (code, stdout, stderr) = wait(&arguments);
    assert_eq!((code, stdout.as_str()), (0, "ran\n"));
    assert!(stderr.contains("not ready within 300ms"), "{stderr}");
}

#[test]
fn without_a_timeout_it_waits_until_the_proxy_is_ready() {
    let server = Server::new(UNREADY);
    let child = wait_command(&[&server.port(), "-b20ms", "--", "echo", "ran"]).spawn().unwrap();
    eventually("ten requests", || server.asked().len() >= 10);
    server.turns(OK);
    let (code, stdout, _) = finish(child);
    assert_eq!((code, stdout.as_str()), (0, "ran\n"));
}

#[test]
fn a_server_that_does_not_answer_is_no_reason_to_wait_longer() {
    // Nobody accepts; the kernel does.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = Instant::now();
    let (code, _, stderr) = wait(&[&format!("--port={port}"), "--timeout=300ms"]);
    assert_eq!(code, UNAVAILABLE, "{stderr}");
    let url = format!("--url=http://127.0.0.1:{port}/");
    let arguments = [&url, "--timeoutSeconds=1", "--periodMillis=10", "--requestTimeoutMillis=200"];
    let (code, _, stderr) = wait(&arguments);
    assert_eq!(code, GO_FAILURE);
    assert!(stderr.contains("no answer in 200ms"), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn with_shutdown_the_proxy_is_asked_to_end_after_the_command_whose_code_is_kept() {
    let server = Server::new(OK);
    let port = server.port();
    let (code, stdout, _) = wait(&[&port, "-S", "--", "sh", "-c", "sleep 0.3; echo ran; exit 7"]);
    assert_eq!((code, stdout.as_str()), (7, "ran\n"));
    let asked = server.asked();
    assert_eq!(server.lines(), ["GET /ready", "POST /shutdown"]);
    assert!(asked[1].at - asked[0].at >= Duration::from_millis(300), "{asked:?}");
    // By a signal, and one that never ran: as linkerd-await, and the proxy ends all the same.
    assert_eq!(wait(&[&port, "-S", "--", "sh", "-c", "kill -9 $$"]).0, OS_ERROR);
    assert_eq!(wait(&[&port, "-S", "--", "/nonexistent/app"]).0, OS_ERROR);
    assert_eq!(server.lines().iter().filter(|line| *line == "POST /shutdown").count(), 3);
}

#[test]
fn with_shutdown_signals_are_handed_on_to_the_command() {
    let server = Server::new(OK);
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; echo up; \
                  while :; do sleep 0.02; done";
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("output");
    let child = wait_command(&[&server.port(), "--shutdown", "--", "sh", "-c", script])
        .stdout(fs::File::create(&output).unwrap())
        .spawn()
        .unwrap();
    let printed = |text: &str| fs::read_to_string(&output).unwrap() == text;
    eventually("the command runs", || printed("up\n"));
    send(Signal::SIGUSR1, &child);
    eventually("the first signal came through", || printed("up\nusr1\n"));
    send(Signal::SIGTERM, &child);
    let (code, ..) = finish(child);
    assert_eq!(code, 5);
    assert!(printed("up\nusr1\nterm\n"));
    assert_eq!(server.lines(), ["GET /ready", "POST /shutdown"]);
}

#[test]
fn a_signal_while_it_waits_ends_it() {
    let server = Server::new(UNREADY);
    for (signal, expected) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let child = wait_command(&[&server.port(), "--", "echo", "ran"]).spawn().unwrap();
        server.asked.lock().unwrap().clear();
        server.wait_asked();
        send(signal, &child);
        let (code, stdout, _) = finish(child);
        assert_eq!((code, stdout.as_str()), (expected, ""), "{signal}");
    }
}

#[test]
fn linkerds_variables_skip_the_wait_and_the_shutdown() {
    let server = Server::new(UNREADY);
    for variable in ["LINKERD_AWAIT_DISABLED", "LINKERD_DISABLED"] {
        let mut command = wait_command(&[&server.port(), "-S", "-v", "--", "echo", "ran"]);
        let (code, stdout, stderr) = finish(command.env(variable, "no mesh").spawn().unwrap());
        assert_eq!((code, stdout.as_str()), (0, "ran\n"));
        assert!(stderr.contains("skipped: no mesh"), "{stderr}");
    }
    assert_eq!(server.lines(), [""; 0]);
}

#[test]
fn wrong_usage_is_told_in_one_line() {
    for (arguments, told) in [
        (&["--url", "http://localhost:1/", "--port", "1"][..], "cannot be used with"),
        (&["--url", "https://localhost:1/"], "without TLS"),
        (&["--shutdown"], "COMMAND"),
        (&["--timeout", "5"], "--timeout"),
    ] {
        let (code, stdout, stderr) = wait(arguments);
        assert_eq!((code, stdout.as_str()), (USAGE, ""), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(told) && stderr.contains("holdfast wait --help"), "{stderr}");
    }
}

#[test]
fn called_by_a_tools_name_it_is_that_tool() {
    let dir = tempfile::tempdir().unwrap();
    let link = |name: &str| {
        let path = dir.path().join(name);
        symlink(binary(), &path).unwrap();
        path
    };
    let (pilot_agent, linkerd_await) = (link("pilot-agent"), link("linkerd-await"));
    let run =
        |program: &Path, arguments: &[&str]| finish(tool(program, arguments).spawn().unwrap());
    let server = Server::new(OK);
    assert_eq!(run(&pilot_agent, &["wait", &server.url(), "--periodMillis=1"]).0, 0);
    assert_eq!(run(&linkerd_await, &[&server.port(), "--", "echo", "ran"]).1, "ran\n");
    assert_eq!(server.lines(), ["GET /healthz/ready", "GET /ready"]);
    server.turns(UNREADY);
    assert_eq!(run(&linkerd_await, &[&server.port(), "-t10ms"]).0, UNAVAILABLE);
    assert_eq!(run(&pilot_agent, &["wait", &server.url(), "--timeoutSeconds=0"]).0, GO_FAILURE);
    // Their own codes for a command line that is none; and never anything else of ours.
    assert_eq!(run(&linkerd_await, &["--bogus"]).0, 2);
    assert_eq!(run(&pilot_agent, &["wait", "--bogus"]).0, GO_FAILURE);
    let (code, _, stderr) = run(&pilot_agent, &["run", "--node-name", "a"]);
    assert_eq!(code, GO_FAILURE);
    assert!(stderr.contains("'pilot-agent run'"), "{stderr}");
}

#[test]
fn without_an_option_istios_and_linkerds_proxies_are_found() {
    for (address, line) in [
        ("0.0.0.0:15021", "GET /healthz/ready"),
        ("127.0.0.1:4191", "GET /ready"),
        ("[::1]:4191", "GET /ready"),
    ] {
        in_own_namespace(move || {
            let mut child = wait_command(&["--", "echo", "ran"]).spawn().unwrap();
            thread::sleep(Duration::from_millis(300));
            assert!(child.try_wait().unwrap().is_none(), "{address}");
            let server = Server::at(address, UNREADY);
            eventually("three requests", || server.asked().len() >= 3);
            let asked = server.asked();
            let apart = asked[2].at - asked[0].at;
            assert!(apart < Duration::from_secs(1), "{address}: {asked:?}");
            server.turns(OK);
            let begun = Instant::now();
            let (code, stdout, _) = finish(child);
            assert_eq!((code, stdout.as_str()), (0, "ran\n"), "{address}");
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            assert!(server.lines().iter().all(|asked| asked == line), "{:?}", server.lines());
        });
    }
}

#[test]
fn it_needs_no_privilege() {
    let server = Server::new(OK);
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("holdfast");
    // By another process: a file that this one has open for writing, so that a child which another
    // test forks just then inherits it, cannot be executed.
    let copied = Command::new("cp").arg(binary()).arg(&copy).status().unwrap();
    assert!(copied.success());
    let script = "grep CapEff /proc/self/status; id -u";
    let copy = copy.display().to_string();
    let port = server.port();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
    let arguments = [&nobody[..], &[&copy, "wait", &port, "--", "sh", "-c", script]].concat();
    let (code, stdout, stderr) = finish(tool(Path::new("setpriv"), &arguments).spawn().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout, "CapEff:\t0000000000000000\n65534\n");
}

//! The command line: what an operator sees who has got something wrong. Always one line, what to do
//! about it, an exit code, and nothing attached.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use tempfile::TempDir;
use testbed::{Node, Pod, PodSpec, bpf, cgroup2_mount};

use crate::{
    common::{binary, enabled_node},
    privilege::CAPABILITIES,
};

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const NO_PERMISSION: i32 = 77;

/// How an agent may be started without doing any harm: all that matters comes from the test.
const VARIABLES: [&str; 20] = [
    "NODE_NAME",
    "KUBECONFIG",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "HOLDFAST_API_WAIT",
    "HOLDFAST_TIMEOUT",
    "HOLDFAST_CGROUP_ROOT",
    "HOLDFAST_PROC_ROOT",
    "HOLDFAST_RUNTIME_ROOT",
    "HOLDFAST_BTF",
    "HOLDFAST_BPFFS",
    "HOLDFAST_MAX_SOCKETS",
    "HOLDFAST_MAX_SOCKETS_PER_POD",
    "HOLDFAST_ON_EXIT",
    "HOLDFAST_DAEMONSET",
    "HOLDFAST_HEALTH_ADDRESS",
    "HOLDFAST_ADMIN_SOCKET",
    "HOLDFAST_REMOVE_STARTUP_TAINT",
    "HOLDFAST_LOG",
    "HOLDFAST_LOG_FORMAT",
];

/// A node with a pod that an agent would hold, a folder for files, and what is wrong with the agent.
struct Bench {
    node: Node,
    pod: Pod,
    dir: TempDir,
    agent: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let node = enabled_node();
        let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { node, pod, dir, agent: binary() }
    }

    /// Where a user other than root can run the agent: a checkout below /root is closed to it.
    fn with_reachable_agent(mut self) -> Self {
        let copy = self.dir.path().join("holdfast");
        // By another process: a file that this one has open for writing, so that a child which
        // another test forks just then inherits it, cannot be executed.
        let copied = Command::new("cp").arg(&self.agent).arg(&copy).status().unwrap();
        assert!(copied.success());
        self.agent = copy;
        self
    }

    /// The arguments of an agent that works here.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![OsString::from("run"), "--node-name".into()];
        arguments.push(self.node.name().into());
        arguments.push("--kubeconfig".into());
        arguments.push(self.node.kubeconfig().into());
        arguments.push("--cgroup-root".into());
        arguments.push(self.node.cgroup_root().into());
        // Not the machine's, which may have none; it would be a line more.
        arguments.push("--bpffs".into());
        arguments.push(self.node.bpffs().into());
        arguments
    }

    /// These arguments with one option's value replaced, or the option added.
    fn arguments_but(&self, option: &str, value: impl Into<OsString>) -> Vec<OsString> {
        let mut arguments = self.arguments();
        match arguments.iter().position(|argument| argument == option) {
            Some(position) => arguments[position + 1] = value.into(),
            None => arguments.extend([option.into(), value.into()]),
        }
        arguments
    }

    /// Runs `wrapper` with the agent and its arguments behind it; asserts that it fails as it
    /// should and gives its one line.
    fn fails(&self, code: i32, wrapper: &[&str], arguments: &[OsString]) -> String {
        let trace = self.dir.path().join("trace");
        // Every bpf(2) call is on record: what has been attached for an instant is seen, too.
        let mut command = command("strace");
        command.args(["-f", "-qq", "-e", "trace=bpf", "-o"]).arg(&trace);
        command.args(wrapper).arg(&self.agent).args(arguments);
        // What it serves before it fails is not the machine's, and no news.
        command.env("HOLDFAST_ADMIN_SOCKET", self.dir.path().join("admin.sock"));
        command.env("HOLDFAST_PAGE_ADDRESS", "none").env("HOLDFAST_LOG", "warn");
        let output = run(&mut command);
        let Output { status, stdout, stderr } = &output;
        let text = String::from_utf8(stderr.clone()).unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}: {text}");
        assert!(stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(stdout));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: {text}");
        let line = lines[0].strip_prefix("holdfast: ");
        let line = line.unwrap_or_else(|| panic!("{arguments:?}: {text}"));

        let calls = fs::read_to_string(&trace).unwrap();
        for call in ["BPF_PROG_LOAD", "BPF_PROG_ATTACH", "BPF_LINK_CREATE", "BPF_OBJ_PIN"] {
            assert!(!calls.contains(call), "{arguments:?}: {calls}");
        }
        assert_eq!(bpf::programs_below(self.pod.cgroup()).unwrap(), [""; 0], "{arguments:?}");
        line.to_owned()
    }

    /// As [`Self::fails`], without a wrapper; the line must contain all of `told`.
    fn fails_and_tells(&self, code: i32, arguments: &[OsString], told: &[&str]) {
        assert_tells(&self.fails(code, &[], arguments), told);
    }
}

/// `program`, with an environment that says nothing to the agent.
pub(crate) fn command(program: impl AsRef<Path>) -> Command {
    // An agent that goes on instead of failing must not hang the test.
    let mut command = Command::new("timeout");
    command.args(["--signal", "KILL", "60"]).arg(program.as_ref());
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn os(arguments: &[&str]) -> Vec<OsString> {
    arguments.iter().map(OsString::from).collect()
}

fn assert_tells(line: &str, told: &[&str]) {
    for text in told {
        assert!(line.contains(text), "{text:?} is not in {line:?}");
    }
}

#[test]
fn wrong_usage_is_told_in_one_line() {
    let bench = Bench::new();
    for (arguments, told) in [
        (&[][..], &["no command", "holdfast --help"][..]),
        (&["start"], &["'start'", "holdfast --help"]),
        (&["run"], &["--node-name <NAME>", "holdfast run --help"]),
        (&["run", "--node-nam", "a"], &["'--node-nam'", "'--node-name'"]),
        (&["run", "--node-name"], &["--node-name <NAME>", "value"]),
        (&["run", "a"], &["'a'"]),
        (&["check", "--output", "xml"], &["'xml'", "table, json, yaml", "holdfast check --help"]),
        (&["completions", "tcsh"], &["'tcsh'", "bash", "holdfast completions --help"]),
    ] {
        bench.fails_and_tells(USAGE, &os(arguments), told);
    }
    for (option, value, told) in [
        ("--node-name", "", &["--node-name", "empty", "kubectl get nodes"][..]),
        ("--node-name", "a,b", &["'a,b'", "kubectl get nodes"]),
        ("--timeout", "60", &["'60'", "--timeout", "such as 90s"]),
        ("--timeout", "0s", &["'0s'", "from 1s to 1h"]),
        ("--timeout", "2h", &["'2h'", "from 1s to 1h"]),
        ("--api-wait", "soon", &["'soon'", "--api-wait"]),
        ("--log-format", "xml", &["'xml'", "plain, json"]),
        ("--log-level", "a=b=c", &["'a=b=c'", "--log-level", "\"debug\""]),
        ("--health-address", "8686x", &["'8686x'", "--health-address", "such as 8686"]),
        ("--daemonset", "holdfast", &["'holdfast'", "--daemonset", "NAMESPACE/NAME"]),
        ("--on-exit", "stay", &["'stay'", "--on-exit", "keep, detach, auto"]),
        ("--max-sockets", "0", &["'0'", "--max-sockets", "1..=1048576"]),
        ("--max-sockets-per-pod", "many", &["'many'", "--max-sockets-per-pod"]),
    ] {
        let arguments = bench.arguments_but(option, value);
        bench.fails_and_tells(USAGE, &arguments, told);
    }
}

#[test]
fn a_wrong_value_in_the_environment_is_told_as_one_on_the_command_line() {
    for (variable, value, told) in [
        ("NODE_NAME", "", &["--node-name", "empty"][..]),
        ("HOLDFAST_TIMEOUT", "1d", &["'1d'", "--timeout", "from 1s to 1h"]),
        ("HOLDFAST_LOG_FORMAT", "text", &["'text'", "plain, json"]),
        ("HOLDFAST_HEALTH_ADDRESS", "::1", &["'::1'", "--health-address", "[::1]:8686"]),
        ("HOLDFAST_MAX_SOCKETS", "-1", &["'-1'", "--max-sockets"]),
    ] {
        let mut command = command(binary());
        command.arg("run").env("NODE_NAME", "node1").env(variable, value);
        let output = run(&mut command);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{variable}: {text}");
        assert_eq!(text.lines().count(), 1, "{variable}: {text}");
        assert_tells(&text, told);
    }
}

#[test]
fn a_kubeconfig_that_is_none_is_told_with_its_path() {
    let bench = Bench::new();
    let valid = fs::read_to_string(bench.node.kubeconfig()).unwrap();
    let file = |name: &str, text: &str| {
        let path = bench.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let mend = "--kubeconfig";
    for (path, told) in [
        (bench.dir.path().join("none"), "No such file"),
        (bench.dir.path().to_owned(), "directory"),
        (file("broken", "{{{ not: [yaml"), "line 1"),
        (file("prose", "apiVersion: v1\nkind: Config\nclusters: three\n"), "cannot be used"),
        (file("empty", ""), "cannot be used"),
        (
            file("context", &valid.replace("\"current-context\":\"testbed\"", "\"x\":\"y\"")),
            "context",
        ),
        (file("url", &valid.replace("http://", "not a url ")), "cannot be used"),
    ] {
        let name = path.display().to_string();
        let arguments = bench.arguments_but("--kubeconfig", path);
        let line = bench.fails(USAGE, &[], &arguments);
        assert_tells(&line, &[&name, told, mend]);
        assert_eq!(line.matches(&name).count(), 1, "{line}");
    }
    let none = bench.dir.path().join("none").display().to_string();
    let arguments = bench.arguments_but("--kubeconfig", format!("{none}:{none}2"));
    bench.fails_and_tells(USAGE, &arguments, &[&none, "No such file", mend]);
    let outside = os(&["run", "--node-name", "node1"]);
    bench.fails_and_tells(USAGE, &outside, &["not running in a cluster", mend]);
}

#[test]
fn what_the_node_lacks_is_told_with_the_way_to_mend_it() {
    let bench = Bench::new();
    let none = bench.dir.path().join("none");
    let plain = bench.dir.path().to_owned();
    let file = bench.dir.path().join("file");
    fs::write(&file, "").unwrap();
    for (option, value, told) in [
        ("--cgroup-root", &none, &["No such file", "--cgroup-root"][..]),
        ("--cgroup-root", &plain, &["not on a cgroup2 file system", "--cgroup-root"]),
        ("--cgroup-root", &file, &["not on a cgroup2 file system", "--cgroup-root"]),
        ("--btf", &none, &["no BTF", "No such file", "CONFIG_DEBUG_INFO_BTF=y"]),
        ("--btf", &file, &["no BTF", "not BTF", "--btf"]),
        ("--proc-root", &none, &["No such file", "--proc-root"]),
    ] {
        let name = value.display().to_string();
        let arguments = bench.arguments_but(option, value);
        let line = bench.fails(UNAVAILABLE, &[], &arguments);
        assert_tells(&line, told);
        assert!(line.contains(&name), "{name} is not in {line:?}");
    }
    for bpffs in [&plain, &none] {
        let name = bpffs.display().to_string();
        let arguments = bench.arguments_but("--bpffs", bpffs);
        bench.fails_and_tells(UNAVAILABLE, &arguments, &[&name, "--bpffs"]);
    }
}

#[test]
fn a_kernel_that_is_too_old_is_told() {
    let bench = Bench::new();
    // "Linux 2.6.x" in place of the kernel's own release.
    let line = bench.fails(UNAVAILABLE, &["setarch", "--uname-2.6"], &bench.arguments());
    assert_tells(&line, &["Linux 2.6.", "too old", "5.10"]);
}

#[test]
fn a_host_without_cgroup2_is_told() {
    let bench = Bench::new();
    let mount = cgroup2_mount().unwrap();
    let mount = mount.to_str().unwrap();
    let script = r#"umount -l "$0" && exec "$@""#;
    let wrapper = ["unshare", "--mount", "sh", "-c", script, mount];
    let arguments = os(&["run", "--node-name", "node1"]);
    let line = bench.fails(UNAVAILABLE, &wrapper, &arguments);
    assert_tells(&line, &["no cgroup2", "systemd.unified_cgroup_hierarchy=1", "--cgroup-root"]);
}

#[test]
fn an_address_at_which_health_cannot_be_served_is_told() {
    let bench = Bench::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let told = |address: &str| format!("failed to serve health on {address}");
    let arguments = bench.arguments_but("--health-address", &taken);
    bench.fails_and_tells(UNAVAILABLE, &arguments, &[&told(&taken), "in use", "--health-address"]);
    // Of the block that documents use (RFC 5737): nobody's.
    let foreign = "192.0.2.1:8686";
    let arguments = bench.arguments_but("--health-address", foreign);
    bench.fails_and_tells(USAGE, &arguments, &[&told(foreign), "--health-address"]);
}

#[test]
fn an_api_that_cannot_be_reached_is_told_with_its_address() {
    let bench = Bench::new();
    bench.node.api().stop();
    let arguments = bench.arguments_but("--api-wait", "1s");
    let url = bench.node.api().url();
    bench.fails_and_tells(UNAVAILABLE, &arguments, &[&url, "refused", "--api-wait"]);
}

/// An API server that knows the agent's account and grants it nothing.
fn forbidding_api() -> SocketAddr {
    const VERSION: &str = r#"{"major":"1","minor":"33","gitVersion":"v1.33.0","gitCommit":"",
        "gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#;
    const FORBIDDEN: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure",
        "message":"pods is forbidden: User \"holdfast\" cannot list resource \"pods\"",
        "reason":"Forbidden","code":403}"#;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(line)) = request.next() else { continue };
            while request.next().is_some_and(|header| header.is_ok_and(|text| !text.is_empty())) {}
            let (status, body) = match line.starts_with("GET /version ") {
                true => ("200 OK", VERSION),
                false => ("403 Forbidden", FORBIDDEN),
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

#[test]
fn an_account_without_rights_is_told_which() {
    let bench = Bench::new();
    let kubeconfig = bench.dir.path().join("kubeconfig");
    let text = fs::read_to_string(bench.node.kubeconfig()).unwrap();
    let url = format!("http://{}", forbidding_api());
    let text = text.replace(bench.node.api().url().trim_end_matches('/'), &url);
    assert!(text.contains(&url));
    fs::write(&kubeconfig, text).unwrap();
    let arguments = bench.arguments_but("--kubeconfig", kubeconfig);
    let told = ["list pods", "pods is forbidden", "deploy/holdfast.yaml"];
    bench.fails_and_tells(NO_PERMISSION, &arguments, &told);
}

#[test]
fn a_user_other_than_root_is_told_what_is_missing() {
    let bench = Bench::new().with_reachable_agent();
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let line = bench.fails(NO_PERMISSION, &nobody, &bench.arguments());
    assert_tells(&line, &["missing CAP_", "run as root", "securityContext.capabilities"]);
    for capability in CAPABILITIES {
        assert_tells(&line, &[&format!("CAP_{}, needed to ", capability.to_uppercase())]);
    }
}

#[test]
fn each_missing_capability_is_told_by_name() {
    let bench = Bench::new();
    for capability in CAPABILITIES {
        let dropped = format!("-{capability}");
        let wrapper = ["setpriv", "--bounding-set", &dropped, "--inh-caps", &dropped];
        let line = bench.fails(NO_PERMISSION, &wrapper, &bench.arguments());
        let name = format!("missing CAP_{}, needed to ", capability.to_uppercase());
        assert_tells(&line, &[&name, "run as root", "securityContext.capabilities"]);
    }
}

/// Shells that are not installed everywhere are left out: what matters is that a shell takes it.
#[test]
fn bash_takes_its_completions() {
    let mut completions = command(binary());
    let script = run(completions.args(["completions", "bash"]));
    let mut bash = command("bash");
    let told = bash
        .arg("-c")
        .arg("eval \"$1\"; COMP_WORDS=(holdfast che); COMP_CWORD=1; _holdfast holdfast che holdfast; \
              echo \"${COMPREPLY[@]}\"")
        .arg("bash")
        .arg(OsString::from(String::from_utf8(script.stdout).unwrap()));
    let Output { status, stdout, stderr } = run(told);
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    assert_eq!((status.code(), String::from_utf8_lossy(&stdout).trim()), (Some(0), "check"));
}

#[test]
fn help_and_version_are_no_errors() {
    for (arguments, told) in [
        (&["--version"][..], &["holdfast ", env!("CARGO_PKG_VERSION")][..]),
        (&["--help"], &["Usage: holdfast", "run", "Exit codes: 64"]),
        (&["help"], &["Usage: holdfast"]),
        (&["run", "-h"], &["--node-name <NAME>", "60s]"]),
        (&["check", "--help"], &["--cgroup-root <DIR>", "--kubeconfig <FILE>", "Exit codes: 0"]),
        (&["version"], &["holdfast  ", env!("CARGO_PKG_VERSION"), "\nkernel    "]),
        (&["version", "-o", "yaml"], &["version: ", "abi: ", "target: "]),
        (
            &["run", "--help"],
            &["--node-name <NAME>", "--cgroup-root <DIR>", "60s]", "Exit codes: 64"],
        ),
    ] {
        let mut command = command(binary());
        command.args(arguments);
        let Output { status, stdout, stderr } = run(&mut command);
        let text = String::from_utf8(stdout).unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?}");
        assert_eq!(stderr, b"", "{arguments:?}");
        assert_tells(&text, told);
        let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 100).collect();
        assert_eq!(wide, [""; 0], "{arguments:?}");
    }
}

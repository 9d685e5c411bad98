//! The commands that ask a running agent.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, process::CommandExt as _},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use testbed::{Agent, Pod, PodSpec, apps, backend_v4, bpf};
use unicode_width::UnicodeWidthStr as _;

use crate::common::{
    SOON, assert_released, binary, dials, enabled_node, events, eventually, idle, is, options,
    start_agent, start_agent_with, wait_for,
};

const REFUSED: i32 = 1;
const USAGE: i32 = 64;
const NO_INPUT: i32 = 66;
const UNAVAILABLE: i32 = 69;

/// Runs a command to its end, which must be this one; gives what it printed.
fn run(agent: &Agent, args: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = agent.command(args).unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), usize::from(code > 0 && stdout.is_empty()), "{stderr}");
    if code > 0 && stdout.is_empty() { stderr } else { String::from_utf8(stdout).unwrap() }
}

/// The same as JSON.
fn json(agent: &Agent, args: &[&str]) -> Value {
    let text = run(agent, &[args, &["-o", "json"]].concat(), 0);
    serde_json::from_str(&text).unwrap()
}

fn state(agent: &Agent, pod: &Pod) -> String {
    let name = format!("{}/{}", pod.namespace(), pod.name());
    let detail = json(agent, &["explain", &name]);
    detail["pod"]["state"].as_str().unwrap().to_owned()
}

/// A command that goes on, and the lines that it prints.
struct Following {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Following {
    fn start(agent: &Agent, args: &[&str]) -> Self {
        let mut command = agent.asking(["events", "-f"].iter().chain(args));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Lines until one is as wanted.
    fn until(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            seen.push(line.unwrap());
            if wanted(seen.last().unwrap()) {
                return seen;
            }
        }
        panic!("it has ended: {seen:?}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Reads what there is until it ends.
    fn end(mut self) -> (Option<i32>, String) {
        self.lines.by_ref().for_each(drop);
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn an_agent_answers_from_its_start_to_its_end() {
    let node = enabled_node();
    node.api().stop();
    let agent = node.start_agent(&options().arg("--api-wait=60s")).unwrap();
    agent.wait_message(SOON, "commands are answered").unwrap();
    let mode = fs::symlink_metadata(agent.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // It starts: that can be asked, and nothing else yet.
    let text = run(&agent, &["status", "-o", "json"], REFUSED);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["state"], "starting");
    for command in [&["pods"][..], &["explain", "shop/cart"], &["gate", "open", "shop/cart"]] {
        let line = run(&agent, command, UNAVAILABLE);
        assert!(line.starts_with("holdfast: the agent is starting: "), "{line}");
    }
    node.api().resume().unwrap();
    agent.wait_message(SOON, "agent armed").unwrap();
    let status = json(&agent, &["status"]);
    assert_eq!(status["state"], "working");
    assert_eq!(status["node"], node.name());
    assert_eq!(status["pid"], agent.pid());

    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    let pods = json(&agent, &["pods", "-n", "shop"]);
    assert_eq!(pods[0]["state"], "closed");
    assert_eq!(pods[0]["held"], 1);
    assert_eq!(json(&agent, &["pods", "-n", "other"]), serde_json::json!([]));
    let detail = json(&agent, &["explain", "shop/cart"]);
    assert_eq!(detail["pod"]["waiting"][0]["pid"], app.pid());
    assert_eq!(detail["episodes"][0]["held"], 1);
    let line = run(&agent, &["explain", "shop/nobody"], NO_INPUT);
    let node_name = node.name();
    assert_eq!(
        line,
        format!(
            "holdfast: there is no pod shop/nobody on node {node_name}: kubectl -n shop get pod nobody \
             -o wide tells its node, and kubectl -n holdfast get pods -o wide --field-selector \
             spec.nodeName=NODE that node's agent\n"
        )
    );
    for (args, code) in [
        (&["diagnose", "shop/nobody"][..], NO_INPUT),
        (&["gate", "close", "shop/nobody"], NO_INPUT),
        (&["log-level", "--pod", "shop/nobody"], NO_INPUT),
        (&["explain", "cart"], USAGE),
        (&["explain", "shop/../cart"], USAGE),
        (&["gate", "close", "shop/cart", "--for", "2h"], USAGE),
        (&["gate", "auto", "shop/cart", "--for", "2m"], USAGE),
        (&["events", "--kind", "nothing"], USAGE),
        (&["log-level", "holdfast=loud"], USAGE),
        (&["log-level", "info", "--pod", "shop/cart"], USAGE),
    ] {
        run(&agent, args, code);
    }
    for args in [
        &["status"][..],
        &["pods"],
        &["pods", "--all"],
        &["explain", "shop/cart"],
        &["diagnose", "shop/cart"],
        &["report"],
        &["log-level"],
        &["log-level", "--pod", "shop/cart"],
        &["gate", "close", "shop/cart", "--for", "10m"],
        &["gate", "open", "shop/cart", "--for", "10m"],
        &["gate", "auto", "shop/cart"],
    ] {
        let text = run(&agent, args, 0);
        assert!(text.lines().all(|line| line.width() <= 100), "{text}");
        let yaml = run(&agent, &[args, &["-o", "yaml"]].concat(), 0);
        assert!(!yaml.is_empty());
    }

    assert!(agent.stop(SOON).unwrap().success());
    assert!(!agent.socket().exists());
    let line = run(&agent, &["status"], UNAVAILABLE);
    let socket = agent.socket().display();
    assert_eq!(
        line,
        format!(
            "holdfast: no agent answers at {socket} (No such file or directory): run this in the \
             container of the agent on the pod's node, which kubectl -n holdfast get pods -o wide \
             --field-selector spec.nodeName=NODE names: kubectl -n holdfast exec AGENT -- holdfast \
             status\n"
        )
    );
}

#[test]
fn a_socket_is_replaced_if_its_agent_is_dead_and_only_then() {
    let node = enabled_node();
    let first = start_agent(&node);
    let path = first.socket().to_owned();
    // As in a rolling upgrade: both are of one pod template, and so of one place.
    let second = node.start_agent(&options().socket(&path)).unwrap();
    let told = second.wait_message(SOON, "commands are not answered; trying again").unwrap();
    assert_eq!(
        told["error"],
        format!(
            "failed to answer commands at {}: an agent that lives does; if both are to stay, name \
             another socket with --admin-socket",
            path.display()
        )
    );
    second.wait_message(SOON, "standing by for the agent that works on this node to end").unwrap();
    assert_eq!(json(&first, &["status"])["pid"], first.pid());
    first.kill();
    assert!(path.exists());
    second.wait_message(SOON, "commands are answered").unwrap();
    assert_eq!(json(&second, &["status"])["pid"], second.pid());
    assert_eq!(second.logged("commands are not answered; trying again").len(), 1);
    second.kill();
    let line = run(&second, &["status"], UNAVAILABLE);
    assert!(line.contains("(Connection refused)"), "{line}");
    let third = start_agent_with(&node, &options().socket(&path));
    assert_eq!(json(&third, &["status"])["pid"], third.pid());
    // What somebody else has put in its place is left to him.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    assert!(third.stop(SOON).unwrap().success());
    assert!(path.exists());
}

#[test]
fn a_place_that_can_never_be_had_is_told_at_once() {
    let node = enabled_node();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    fs::write(&path, "precious").unwrap();
    let agent = node.start_agent(&options().socket(&path)).unwrap();
    assert_eq!(agent.wait_exit(SOON).unwrap().code(), Some(UNAVAILABLE));
    let told = agent.stderr().pop().unwrap();
    assert_eq!(
        told,
        format!(
            "holdfast: failed to answer commands at {}: it is there and is no socket; name another \
             one with --admin-socket",
            path.display()
        )
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn only_root_may_ask() {
    let node = enabled_node();
    let agent = start_agent(&node);
    // By descriptor: this user may be unable to reach the checkout, or any temporary directory.
    let mut command = Command::new("/proc/self/fd/0");
    command.stdin(fs::File::open(binary()).unwrap());
    command.arg("status").arg("--socket").arg(agent.socket()).uid(65_534).gid(65_534);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(77));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("is not for this user: run this as root"), "{line}");
}

#[test]
fn an_agent_that_stands_by_says_so_and_its_followers_wait_with_it() {
    let node = enabled_node();
    let first = start_agent(&node);
    let second = node.start_agent(&options()).unwrap();
    second.wait_message(SOON, "standing by for the agent that works on this node to end").unwrap();
    assert_eq!(json(&second, &["status"])["state"], "standing-by");
    let line = run(&second, &["pods"], UNAVAILABLE);
    assert!(line.starts_with("holdfast: this agent stands by for the one that works"), "{line}");
    let mut following = Following::start(&second, &[]);
    first.kill();
    second.wait_message(SOON, "agent armed").unwrap();
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let _app = idle(&pod, "app");
    following.until(|line| line.contains("shop/cart gate closed"));
}

#[test]
fn events_are_told_once_each_filtered_and_to_the_end() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let mut following = Following::start(&agent, &["-o", "json"]);
    let mut of_kind = Following::start(&agent, &["--kind", "held,released", "--pod", "shop/cart"]);
    let mut of_other = Following::start(&agent, &["-n", "other"]);
    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    let other = node.create_pod(PodSpec::new("other", "sidecar-free")).unwrap();
    let _idle = idle(&other, "app");
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(app.wait_body(SOON).unwrap().ok);
    wait_for(&agent, &pod, "gate detached");

    let is_detached = |line: &str| {
        let entry: Value = serde_json::from_str(line).unwrap();
        entry["kind"] == "gate-detached" && entry["pod"] == "cart"
    };
    let followed = following.until(is_detached);
    let seqs: Vec<u64> = followed
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = (1..=seqs.len() as u64).collect();
    assert_eq!(seqs, expected, "each once, in their order");
    // What was is what came.
    let recent = run(&agent, &["events", "-o", "json"], 0);
    let recent: Vec<&str> = recent.lines().take(followed.len()).collect();
    assert_eq!(recent, followed);
    let lines = of_kind.until(|line| line.contains("connect released"));
    assert!(lines.iter().all(|line| line.contains(" shop/cart connect ")), "{lines:?}");
    let lines = of_other.until(|_| true);
    assert!(lines[0].contains(" other/sidecar-free "), "{lines:?}");

    // A reader that has gone, an interrupt, and the agent's end.
    drop(of_other);
    of_kind.signal(Signal::SIGINT);
    assert_eq!(of_kind.end(), (Some(0), String::new()));
    let mut gone = Following::start(&agent, &[]);
    gone.until(|_| true);
    let Following { mut child, lines } = gone;
    drop(lines);
    let late = node.create_pod(PodSpec::new("shop", "late")).unwrap();
    let _idle_too = idle(&late, "app");
    let told = child.wait().unwrap();
    assert_eq!(told.code(), Some(0));
    assert!(agent.stop(SOON).unwrap().success());
    let (code, line) = following.end();
    assert_eq!(code, Some(UNAVAILABLE), "{line}");
    assert!(line.contains("has gone away") && line.lines().count() == 1, "{line}");
}

#[test]
fn no_more_readers_than_there_are_places_and_each_place_is_free_again() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let _idle = idle(&pod, "app");
    wait_for(&agent, &pod, "gate closed");
    let mut readers: Vec<Following> = (0..8).map(|_| Following::start(&agent, &[])).collect();
    for reader in &mut readers {
        reader.until(|line| line.contains("gate closed"));
    }
    let line = run(&agent, &["events", "-f"], 75);
    assert!(line.contains("8 readers follow"), "{line}");
    // Others are answered all the same.
    json(&agent, &["status"]);
    let reader = readers.pop().unwrap();
    reader.signal(Signal::SIGKILL);
    reader.end();
    eventually("the place of a reader that was killed is free", || {
        let mut next = Following::start(&agent, &[]);
        let told = next.lines.next().is_some();
        next.signal(Signal::SIGINT);
        next.end();
        told
    });
    for reader in readers {
        reader.signal(Signal::SIGINT);
        assert_eq!(reader.end().0, Some(0));
    }
}

#[test]
fn the_operator_closes_and_opens_a_gate() {
    let node = enabled_node();
    let agent = start_agent(&node);
    let pod = node.create_pod(PodSpec::new("shop", "cart").containers(["idle", "app"])).unwrap();
    let _idle = idle(&pod, "idle");
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    wait_for(&agent, &pod, "gate detached");

    let told = run(&agent, &["gate", "close", "shop/cart", "--for", "10m"], 0);
    assert!(told.starts_with("shop/cart: closed until "), "{told}");
    let ordered = wait_for(&agent, &pod, "gate ordered");
    assert_eq!((&ordered["order"], &ordered["by_uid"]), (&Value::from("close"), &Value::from(0)));
    assert!(ordered["by_pid"].is_u64(), "{ordered}");
    let app = dials(&pod, "app", backend_v4());
    let held = agent.wait_log(SOON, |line| is(line, &pod, "connect held")).unwrap();
    assert_eq!(held["container"], "app");
    // The proxy is ready, and that does not count.
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(app.exit_status().is_none());
    assert_eq!(state(&agent, &pod), "closed");
    let now = testbed::clock::monotonic_ns();
    let told = run(&agent, &["gate", "auto", "shop/cart"], 0);
    assert!(told.starts_with("shop/cart: as the facts say: "), "{told}");
    assert_released(&app, now, "the order is taken back");

    // Of a pod that starts: open, whatever its proxy says.
    let early = node.create_pod(PodSpec::new("shop", "early")).unwrap();
    let app = dials(&early, "app", backend_v4());
    wait_for(&agent, &early, "connect held");
    let told = run(&agent, &["gate", "open", "shop/early"], 0);
    assert!(told.starts_with("shop/early: open until the order auto"), "{told}");
    assert!(!app.wait_attempt(SOON).unwrap().is_connected());
    eventually("its programs come off", || bpf::programs_below(early.cgroup()).unwrap().is_empty());
    eventually("its owner is told", || {
        events(&node, &early).iter().any(|event| event["reason"] == "GateOrdered")
    });

    // Of a pod that nobody has enabled there is nothing to close.
    node.api().put_namespace("other", &[]);
    let other = node.create_pod(PodSpec::new("other", "cart")).unwrap();
    let _idle_too = idle(&other, "app");
    eventually("it is known", || {
        agent.command(["explain", "other/cart"]).unwrap().status.success()
    });
    eventually("it is left alone", || state(&agent, &other) == "exempt");
    let line = run(&agent, &["gate", "close", "other/cart"], REFUSED);
    assert!(line.contains("not enabled; label it or its namespace"), "{line}");
    let told = run(&agent, &["gate", "open", "other/cart", "--for", "1m"], 0);
    assert!(told.contains("nothing of it is held anyway (not enabled)"), "{told}");
}

#[test]
fn the_log_says_more_when_it_is_told_to() {
    let node = enabled_node();
    let agent = start_agent_with(&node, &options().log_level("info"));
    assert_eq!(run(&agent, &["log-level"], 0), "info\n");
    let pod = node.create_pod(PodSpec::new("shop", "cart").containers(["idle", "app"])).unwrap();
    let _idle = idle(&pod, "idle");
    wait_for(&agent, &pod, "gate closed");
    assert!(agent.logged("container started").is_empty());

    let report = json(&agent, &["log-level", "debug", "--pod", "shop/cart", "--kernel"]);
    assert_eq!(report["filter"], "info");
    assert_eq!(report["pods"][0]["pod"], "cart");
    assert_eq!(report["pods"][0]["kernel"], true);
    let app = dials(&pod, "app", backend_v4());
    agent
        .wait_log(SOON, |line| line["target"] == "holdfast_ebpf" && line["pod"] == "cart")
        .unwrap();
    let started = wait_for(&agent, &pod, "container started");
    assert_eq!(started["container"], "app");
    drop(app);

    let report = json(&agent, &["log-level", "--pod", "shop/cart", "--reset"]);
    assert_eq!(report["pods"], serde_json::json!([]));
    let text = run(&agent, &["log-level", "debug"], 0);
    assert_eq!(text, "debug\n(the agent was started with info)\n");
    assert!(!agent.logged("log level changed").is_empty());
    let other = node.create_pod(PodSpec::new("shop", "other")).unwrap();
    let _idle_too = idle(&other, "app");
    wait_for(&agent, &other, "container started");
    assert_eq!(run(&agent, &["log-level", "--reset"], 0), "info\n");
}

/// The files of a dump, by their names without the folder's.
fn files_of(dump: &[u8]) -> BTreeMap<String, String> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(dump));
    let files = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        (path.split_once('/').unwrap().1.to_owned(), content)
    });
    files.collect()
}

#[test]
fn a_dump_has_what_a_bug_report_needs_and_no_secret() {
    const SECRET: &str = "planted-s3cret";
    let node = enabled_node();
    let options = options().env("API_TOKEN", SECRET).env("HOLDFAST_MESH_WISHES", "enabled");
    let agent = start_agent_with(&node, &options);
    let spec = PodSpec::new("shop", "cart")
        .annotation("example.com/token", SECRET)
        .annotation("sidecar.istio.io/status", format!("{{\"token\":\"{SECRET}\"}}"))
        .annotation("kubectl.kubernetes.io/last-applied-configuration", SECRET);
    let pod = node.create_pod(spec).unwrap();
    let app = pod
        .start_container(
            "app",
            testbed::Command::from(apps::connect(backend_v4()).unwrap()).env("PASSWORD", SECRET),
        )
        .unwrap();
    wait_for(&agent, &pod, "connect held");

    let dump = agent.command(["dump", "-"]).unwrap();
    assert_eq!(dump.status.code(), Some(0), "{}", String::from_utf8_lossy(&dump.stderr));
    let files = files_of(&dump.stdout);
    for (name, content) in &files {
        assert!(!content.contains(SECRET), "{name}: {content}");
    }
    let json = |name: &str| serde_json::from_str::<Value>(&files[name]).unwrap();
    assert_eq!(json("agent/status.json")["state"], "working");
    assert_eq!(json("agent/pods.json")[0]["waiting"][0]["pid"], app.pid());
    assert_eq!(json("agent/episodes.json")[0]["held"], 1);
    assert!(files["agent/entries.jsonl"].contains("connect held"));
    let gate = &json("agent/gates.json")["gates"][0];
    assert_eq!(gate["counts"]["held"], 1);
    assert_eq!(gate["gate"]["state"], 1);
    let link = &gate["links"][0];
    assert!(link["program"].as_str().unwrap().starts_with("holdfast_"));
    assert!(link["kernel"]["link_id"].as_str().unwrap().parse::<u32>().unwrap() > 0);
    assert!(link["pin"].as_str().unwrap().contains("/links/"), "{link}");
    let options = json("agent/options.json");
    assert_eq!(options["arguments"][1], "run");
    let variables = options["variables"].as_array().unwrap();
    assert!(variables.contains(&Value::from("HOLDFAST_MESH_WISHES=enabled")), "{variables:?}");
    assert!(json("agent/process/descriptors.json")["open"].as_u64().unwrap() > 3);
    assert!(files["agent/process/status.txt"].contains("VmRSS"));
    assert!(files["node/mounts.txt"].contains("cgroup2"));
    assert!(files["node/kernel.txt"].starts_with("Linux version"));
    assert!(files["node/check.txt"].contains("kernel"));
    assert!(files["version.txt"].contains(env!("CARGO_PKG_VERSION")));
    assert!(files["manifest.txt"].contains("agent/pods.json: "));

    // A file of its own, complete or not there.
    let dir = tempfile::tempdir().unwrap();
    let names = || fs::read_dir(dir.path()).unwrap().count();
    let path = dir.path().join("dump.tar.gz");
    let path = path.to_str().unwrap();
    run(&agent, &["dump", path], 0);
    assert!(files_of(&fs::read(path).unwrap()).contains_key("manifest.txt"));
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(path, "precious").unwrap();
    let line = run(&agent, &["dump", path], REFUSED);
    assert!(line.contains("is there already"), "{line}");
    assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    let line = run(&agent, &["dump", "--force", "/dev/full"], REFUSED);
    assert!(line.contains("/dev/full is no file"), "{line}");
    run(&agent, &["dump", "--force", path], 0);
    assert_eq!(names(), 1);

    // A disk without room.
    let script = "mount -t tmpfs -o size=4k none \"$0\"; \"$@\" \"$0/dump\"; code=$?; ls -A \"$0\"; exit $code";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(dir.path())
        .arg(binary())
        .arg("dump")
        .env("HOLDFAST_ADMIN_SOCKET", agent.socket())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
    assert_eq!((stderr.lines().count(), output.stdout.len()), (1, 0), "{stderr}");
}

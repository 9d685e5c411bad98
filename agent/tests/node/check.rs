//! `holdfast check`: what it finds on a node that is as it should be, and for each thing that is not.

use std::{fs, path::Path, process::Output};

use serde_json::Value;
use testbed::{Node, Pod, PodSpec, Process, api::Rule, cgroup2_mount};

use crate::{
    cli::command,
    common::{SOON, binary, enabled_node, idle, options, start_agent, start_agent_with},
    privilege::CAPABILITIES,
    rights::all_rules,
};

/// A node with a pod in which a container runs.
struct Bench {
    node: Node,
    _pod: Pod,
    _app: Process,
}

/// What a check has found.
struct Found {
    code: Option<i32>,
    report: Value,
}

// === impl Bench ===

impl Bench {
    fn new() -> Self {
        let node = enabled_node();
        let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
        let app = idle(&pod, "app");
        Self { node, _pod: pod, _app: app }
    }

    /// Runs the check as the agent of this node would be run, with further options behind, by a
    /// wrapper.
    fn output(&self, wrapper: &[&str], further: &[&str]) -> Output {
        let binary = binary();
        let mut command = match wrapper.split_first() {
            None => command(&binary),
            Some((program, arguments)) => {
                let mut command = command(program);
                command.args(arguments).arg(&binary);
                command
            }
        };
        command.arg("check");
        let node = &self.node;
        for (option, value) in [
            ("--node-name", Path::new(node.name())),
            ("--kubeconfig", &node.kubeconfig()),
            ("--cgroup-root", node.cgroup_root()),
            ("--runtime-root", &node.runtime_root()),
            ("--bpffs", &node.bpffs()),
        ] {
            // An option may be given once only.
            if !further.contains(&option) {
                command.arg(option).arg(value);
            }
        }
        command.args(further).output().unwrap()
    }

    fn check(&self, wrapper: &[&str], further: &[&str]) -> Found {
        let further = [further, &["--output", "json"]].concat();
        let Output { status, stdout, stderr } = self.output(wrapper, &further);
        assert_eq!(String::from_utf8_lossy(&stderr), "");
        Found { code: status.code(), report: serde_json::from_slice(&stdout).unwrap() }
    }
}

// === impl Found ===

impl Found {
    fn checks(&self) -> &[Value] {
        self.report["checks"].as_array().unwrap()
    }

    fn of(&self, name: &str) -> &Value {
        self.checks()
            .iter()
            .find(|check| check["check"] == name)
            .unwrap_or_else(|| panic!("no {name}: {:#}", self.report))
    }

    /// This check has this status, says this, and how to mend it.
    fn assert_tells(&self, name: &str, status: &str, found: &str, mend: &str) {
        let check = self.of(name);
        assert_eq!(check["status"], status, "{check:#}");
        assert!(check["found"].as_str().unwrap().contains(found), "{found:?}: {check:#}");
        assert!(check["mend"].as_str().unwrap().contains(mend), "{mend:?}: {check:#}");
    }

    /// As [`Self::assert_tells`], of a check that fails, and nothing else does.
    fn assert_fails_alone(&self, name: &str, found: &str, mend: &str) {
        self.assert_tells(name, "failed", found, mend);
        let failed: Vec<_> =
            self.checks().iter().filter(|check| check["status"] == "failed").collect();
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert_eq!((self.code, &self.report["ok"]), (Some(1), &false.into()));
    }
}

#[test]
fn on_a_node_that_is_as_it_should_be_nothing_fails() {
    let bench = Bench::new();
    let daemonset = ["--daemonset", "holdfast/holdfast", "--remove-startup-taint"];
    let found = bench.check(&[], &daemonset);
    assert_eq!((found.code, &found.report["ok"]), (Some(0), &true.into()), "{:#}", found.report);
    for (name, told) in [
        ("kernel", "Linux "),
        ("BTF", "vmlinux"),
        ("CAP_SYS_ADMIN", "to load eBPF programs"),
        ("eBPF programs", "takes all"),
        ("BPF file system", "no gate is pinned"),
        ("cgroups", "driver systemd; pods: 1, running containers: "),
        ("runtimes", "bundles of "),
        ("agent", "none works"),
        ("API server", "Kubernetes v1."),
        ("right to pods", "granted: list, watch"),
        ("right to namespaces", "granted: list, watch"),
        ("right to events", "granted: create, patch"),
        ("right to daemonsets", "granted: get"),
        ("right to nodes", "granted: get, patch"),
        ("node name", "has pods"),
    ] {
        let check = found.of(name);
        assert_eq!(check["status"], "ok", "{check:#}");
        assert!(check["found"].as_str().unwrap().contains(told), "{told:?}: {check:#}");
        assert_eq!(check["mend"], Value::Null, "{check:#}");
    }
    assert!(found.of("processes")["found"].as_str().unwrap().contains("1 of 1 running pods"));
}

#[test]
fn an_agent_that_works_is_told_and_keeps_its_place() {
    let bench = Bench::new();
    let agent = start_agent(&bench.node);
    let found = bench.check(&[], &[]);
    assert_eq!(found.code, Some(0), "{:#}", found.report);
    let told = format!("process {} works", agent.pid());
    assert!(found.of("agent")["found"].as_str().unwrap().contains(&told), "{:#}", found.report);
    let pinned = found.of("BPF file system")["found"].as_str().unwrap();
    assert!(pinned.contains("pinned gates: 1, links: "), "{pinned}");
    assert!(agent.exit_status().is_none());
}

#[test]
fn what_the_node_lacks_is_told_and_the_rest_is_checked_all_the_same() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().to_str().unwrap();
    let none = dir.path().join("none");
    let none = none.to_str().unwrap();

    let found = bench.check(&[], &["--btf", none]);
    found.assert_fails_alone("BTF", none, "CONFIG_DEBUG_INFO_BTF=y");
    let found = bench.check(&[], &["--cgroup-root", plain]);
    found.assert_fails_alone("cgroups", "not on a cgroup2 file system", "--cgroup-root");
    found.assert_tells("runtimes", "skipped", "no cgroups", "mend cgroups first");
    // Of all the cgroups only one that kubelet has nothing to do with.
    let own = bench.node.cgroup_root().join("outside");
    let found = bench.check(&[], &["--cgroup-root", own.to_str().unwrap()]);
    found.assert_fails_alone("cgroups", "nothing of kubelet's", "--cgroup-root");
    let found = bench.check(&[], &["--bpffs", plain]);
    found.assert_fails_alone("BPF file system", "not a BPF file system", "mount");
    let found = bench.check(&[], &["--proc-root", none]);
    found.assert_fails_alone("processes", "cannot be read", "hostPID: true");

    let found = bench.check(&[], &["--runtime-root", none]);
    assert_eq!(found.code, Some(0));
    found.assert_tells("runtimes", "warning", none, "--runtime-root");
    let found = bench.check(&[], &["--runtime-root", plain]);
    found.assert_tells("runtimes", "warning", &format!("0 in {plain}"), "--runtime-root");
}

#[test]
fn a_kernel_that_is_too_old_is_told() {
    let bench = Bench::new();
    let found = bench.check(&["setarch", "--uname-2.6"], &[]);
    assert_eq!(found.code, Some(1));
    found.assert_tells("kernel", "failed", "Linux 2.6.", "docs/requirements.md");
}

#[test]
fn each_missing_capability_has_its_line() {
    let bench = Bench::new();
    for capability in CAPABILITIES {
        let dropped = format!("-{capability}");
        let wrapper = ["setpriv", "--bounding-set", &dropped, "--inh-caps", &dropped];
        let found = bench.check(&wrapper, &[]);
        let name = format!("CAP_{}", capability.to_uppercase());
        assert_eq!(found.code, Some(1), "{name}");
        found.assert_tells(&name, "failed", "missing, needed to ", "securityContext.capabilities");
    }
}

#[test]
fn what_the_sentrys_container_lacks_on_purpose_is_told_so() {
    let bench = Bench::new();
    let capabilities = "-all,+sys_admin,+net_admin";
    let found =
        bench.check(&["setpriv", "--bounding-set", capabilities, "--inh-caps", "-all"], &[]);
    for name in ["CAP_NET_RAW", "CAP_SYS_PTRACE"] {
        let mend = "in the container sentry that is as it should be";
        found.assert_tells(name, "failed", "missing, needed to ", mend);
    }
    // Said once, with the capability.
    let processes = found.of("processes");
    assert_ne!(processes["status"], "ok", "{processes:#}");
    assert_eq!(processes["mend"], "grant CAP_SYS_PTRACE, as is said above");
}

#[test]
fn who_minds_the_pods_while_no_agent_works_is_told() {
    let bench = Bench::new();
    let checks = bench.check(&[], &[]);
    assert!(checks.checks().iter().all(|check| check["check"] != "sentry"), "none ever worked");
    let keeping = options().arg("--on-exit").arg("keep");
    let agent = start_agent_with(&bench.node, &keeping);
    let found = bench.check(&[], &[]);
    let of_sentry = found.of("sentry");
    assert_eq!(of_sentry["found"], "not posted: the agent minds the pods that start");
    assert_eq!(of_sentry["status"], "ok");
    assert!(agent.stop(SOON).unwrap().success());
    let found = bench.check(&[], &[]);
    found.assert_tells("agent", "warning", "none works on this node, though one has", "-c agent");
    let of_sentry = found.of("sentry");
    assert!(of_sentry["found"].as_str().unwrap().starts_with("posted for "), "{of_sentry:#}");
    let agent = start_agent_with(&bench.node, &keeping.env("HOLDFAST_SENTRY_FOR", "0s"));
    agent.wait_message(SOON, "sentry relieved: this agent works").unwrap();
    agent.kill();
    let found = bench.check(&[], &[]);
    found.assert_tells("sentry", "warning", "NOT posted: pods that start are not held", "-c agent");
    assert_eq!(found.code, Some(0), "{:#}", found.report);
}

#[test]
fn a_container_without_the_hosts_processes_is_told() {
    let bench = Bench::new();
    let wrapper = ["unshare", "--pid", "--fork", "--mount-proc"];
    let found = bench.check(&wrapper, &[]);
    found.assert_fails_alone("processes", "0 of 1 running pods", "hostPID: true");
}

#[test]
fn a_host_without_cgroup2_or_bpffs_is_told() {
    let bench = Bench::new();
    let mount = cgroup2_mount().unwrap();
    // The machine may have no BPF file system in the first place.
    let script = "umount -l \"$0\" && { umount -l /sys/fs/bpf 2>/dev/null; exec \"$@\"; }";
    let wrapper = ["unshare", "--mount", "sh", "-c", script, mount.to_str().unwrap()];
    // The defaults: what is mounted.
    let kubeconfig = bench.node.kubeconfig();
    let mut command = command(wrapper[0]);
    command.args(&wrapper[1..]).arg(binary()).args(["check", "-o", "json", "--kubeconfig"]);
    let Output { status, stdout, .. } = command.arg(kubeconfig).output().unwrap();
    let report = serde_json::from_slice(&stdout).unwrap();
    let found = Found { code: status.code(), report };
    found.assert_fails_alone("cgroups", "no cgroup2", "systemd.unified_cgroup_hierarchy=1");
    found.assert_tells("BPF file system", "warning", "/sys/fs/bpf", "mount -t bpf");
    found.assert_tells("agent", "skipped", "no place", "cgroup2");
    found.assert_tells("node name", "skipped", "not given", "--node-name");
}

#[test]
fn an_api_that_cannot_be_reached_hides_nothing_of_the_node() {
    let bench = Bench::new();
    bench.node.api().stop();
    let found = bench.check(&[], &[]);
    found.assert_fails_alone("API server", "refused", "check that it runs");
    found.assert_tells("right to pods", "skipped", "refused", "API server");
    found.assert_tells("node name", "skipped", "refused", "API server");
    assert_eq!(found.of("cgroups")["status"], "ok");

    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("kubeconfig");
    fs::write(&broken, "{{{").unwrap();
    let found = bench.check(&[], &["--kubeconfig", broken.to_str().unwrap()]);
    found.assert_fails_alone("API server", "cannot be used", "--kubeconfig");
}

#[test]
fn a_right_that_is_not_granted_is_told_by_its_verbs() {
    let bench = Bench::new();
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        Rule {
            api_groups: vec![group.to_owned()],
            resources: owned(resources),
            verbs: owned(verbs),
            ..Rule::default()
        }
    };
    bench.node.api().grant(vec![
        rule("", &["pods"], &["list"]),
        rule("", &["namespaces"], &["list", "watch"]),
        rule("events.k8s.io", &["events"], &["create"]),
    ]);
    let options = ["--daemonset", "holdfast/holdfast", "--remove-startup-taint"];
    let found = bench.check(&[], &options);
    found.assert_fails_alone("right to pods", "denied: watch", "deploy/holdfast.yaml");
    assert_eq!(found.of("right to namespaces")["status"], "ok");
    found.assert_tells("right to events", "warning", "denied: patch", "deploy/holdfast.yaml");
    found.assert_tells("right to daemonsets", "warning", "denied: get", "opens all gates");
    found.assert_tells("right to nodes", "warning", "denied: get, patch", "startupTaint.enabled");
    let found = bench.check(&[], &["--node-name", "node2"]);
    found.assert_tells("node name", "warning", "node2, on which", "kubectl get nodes");
}

#[test]
fn the_rights_that_are_checked_are_those_that_the_roles_grant() {
    let bench = Bench::new();
    let options = ["--daemonset", "holdfast/holdfast", "--remove-startup-taint"];
    let pieces: Vec<Rule> = all_rules().iter().flat_map(Rule::pieces).collect();
    bench.node.api().grant(pieces.clone());
    let found = bench.check(&[], &options);
    let rights = |found: &Found| -> Vec<Value> {
        let is_right = |check: &&Value| check["check"].as_str().unwrap().starts_with("right to ");
        found.checks().iter().filter(is_right).cloned().collect()
    };
    assert!(rights(&found).iter().all(|right| right["status"] == "ok"), "{:#}", found.report);
    for (index, piece) in pieces.iter().enumerate() {
        let others = pieces.iter().enumerate().filter(|(other, _)| *other != index);
        bench.node.api().grant(others.map(|(_, rule)| rule.clone()).collect());
        let found = bench.check(&[], &options);
        let denied: Vec<_> =
            rights(&found).into_iter().filter(|right| right["status"] != "ok").collect();
        let [right] = &denied[..] else { panic!("{piece:?}: {denied:#?}") };
        assert_eq!(right["check"], format!("right to {}", piece.resources[0]), "{piece:?}");
        assert_eq!(right["found"], format!("denied: {}", piece.verbs[0]), "{piece:?}");
    }
}

#[test]
fn what_people_read_fits_their_terminal_and_has_no_colours_in_a_pipe() {
    let bench = Bench::new();
    let Output { status, stdout, .. } = bench.output(&[], &["--btf", "/nonexistent"]);
    assert_eq!(status.code(), Some(1));
    let text = String::from_utf8(stdout).unwrap();
    assert!(text.starts_with("STATUS "), "{text}");
    assert!(text.contains("\nfailed "), "{text}");
    assert!(text.contains("\n    boot a kernel with CONFIG_DEBUG_INFO_BTF=y"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.contains(" checks: ") && last.contains(" 1 failed"), "{last}");
}

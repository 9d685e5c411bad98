//! The agent with its capabilities and nothing else. That it refuses to start without each of them
//! is in `cli.rs`.

use std::fs;

use testbed::{
    AgentOptions, NAMESERVER_V4, PodSpec, apps, apps::Resolver, backend_v4, backend_v6, bpf,
    cgroup2_mount,
};

use crate::common::{
    SOON, assert_released, dials, enabled_node, eventually, idle, options, start_agent_with,
    wait_for, wait_for_all,
};

/// Every capability that the agent asks for, as setpriv(1) spells it.
pub(crate) const CAPABILITIES: [&str; 4] = ["net_admin", "net_raw", "sys_admin", "sys_ptrace"];

/// Takes write access to every file system away, as `readOnlyRootFilesystem` and read-only mounts
/// of a container do, gives one in memory for the commands' socket, as the chart's `emptyDir`, then runs what stands behind its first argument, the cgroup2 mount.
const READ_ONLY: &str = r#"
set -e
for mount in / /proc /sys "$1"; do
    mount -o remount,bind,ro "$mount"
done
mount -t tmpfs -o size=1m,mode=0755 tmpfs /mnt
shift
exec "$@"
"#;

/// How a container runtime starts the agent with these capabilities.
fn confined(capabilities: &[&str]) -> AgentOptions {
    let only: String = capabilities.iter().map(|one| format!(",+{one}")).collect();
    let mount = cgroup2_mount().unwrap().display().to_string();
    let mut wrapper =
        ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh"].map(str::to_owned).to_vec();
    wrapper.push(mount);
    wrapper.extend(["setpriv", "--no-new-privs"].map(str::to_owned));
    wrapper.push(format!("--bounding-set=-all{only}"));
    wrapper.push(format!("--inh-caps=-all{only}"));
    options().wrapper(wrapper).socket("/mnt/admin.sock")
}

/// A field of the process's status.
fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn its_capabilities_are_enough_for_all_that_it_does_on_read_only_file_systems() {
    const NOBODY: u32 = 65_534;
    let node = enabled_node();
    let agent = start_agent_with(&node, &confined(&CAPABILITIES));
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let set = u64::from_str_radix(&status(agent.pid(), set), 16).unwrap();
        assert_eq!(set.count_ones() as usize, CAPABILITIES.len(), "{set:x}");
    }
    assert_eq!(status(agent.pid(), "NoNewPrivs"), "1");

    let spec = PodSpec::new("shop", "cart")
        .containers(["app", "idle"])
        .dns_capture()
        .nameserver(NAMESERVER_V4);
    let pod = node.create_pod(spec).unwrap();
    let _idle = idle(&pod, "idle");
    // Its own user's processes, too, are found and let go.
    let client = apps::connect(backend_v4()).unwrap().user(NOBODY, NOBODY).get("/bytes/1000");
    let apps = [
        pod.start_container("app", client).unwrap(),
        pod.exec("idle", apps::connect(backend_v6()).unwrap().get("/bytes/1000")).unwrap(),
    ];
    wait_for_all(&agent, &pod, "connect held", apps.len());
    let lookup = apps::lookup(Resolver::Glibc, testbed::dns::SERVICE_FQDN).unwrap();
    let lookup = pod.exec("idle", lookup).unwrap();
    wait_for(&agent, &pod, "DNS query held");
    let proxy = pod.start_proxy().unwrap();
    let ready_ns = proxy.wait_ready(SOON).unwrap();
    for app in &apps {
        assert_released(app, ready_ns, "with its capabilities alone");
    }
    assert_eq!(lookup.wait_lookup(SOON).unwrap().outcome, "ok");
    assert_eq!(wait_for(&agent, &pod, "gate opened")["reason"], "the proxy says it is ready");
    wait_for(&agent, &pod, "gate detached");
    // The proxy's death, and a gate that stays.
    let guarded = PodSpec::new("shop", "guarded").annotation("holdfast.dev/guard", "enabled");
    let guarded = node.create_pod(guarded).unwrap();
    let app = dials(&guarded, "app", backend_v4());
    wait_for(&agent, &guarded, "connect held");
    let proxy = guarded.start_proxy().unwrap();
    assert_released(&app, proxy.wait_ready(SOON).unwrap(), "guarded");
    proxy.stop().unwrap();

    // What is missing for one of the steps would be told with a warning.
    let loud = agent.logs().into_iter().find(|line| line["level"] == "WARN");
    assert_eq!(loud, None);
    assert!(agent.stop(SOON).unwrap().success());
    eventually("no program is left", || {
        [&pod, &guarded].iter().all(|pod| bpf::programs_below(pod.cgroup()).unwrap().is_empty())
    });
}

//! Pods, their network and their applications, with no agent anywhere: what a connect() meets.
//! Needs root; without it these tests fail.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use testbed::{
    BACKEND_PORTS, BACKEND_V4, CgroupDriver, DEAD_V4, Netns, Node, NodeOptions, PROXY, PodSpec,
    Qos, Resource, apps, apps::FastOpen, backend_v4, backend_v4_mapped, backend_v6,
};

const SOON: Duration = Duration::from_secs(20);
const MIB: &str = "/bytes/1048576";

#[test]
fn a_connect_is_refused_until_the_proxy_listens_and_works_afterwards() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
    for to in [backend_v4(), backend_v6(), backend_v4_mapped()] {
        let app = pod.start_container("app", apps::connect(to)?)?;
        assert_eq!(app.wait_attempt(SOON)?.outcome, "ECONNREFUSED", "{to}");
        assert!(!app.wait(SOON)?.success());
    }
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    for to in [backend_v4(), backend_v6(), backend_v4_mapped()] {
        let app = pod.start_container("app", apps::connect(to)?.get(MIB))?;
        assert!(app.wait_attempt(SOON)?.is_connected(), "{to}");
        let body = app.wait_body(SOON)?;
        assert!(body.ok && body.bytes == 1 << 20, "{to}: {body:?}");
        assert!(app.wait(SOON)?.success());
    }
    proxy.kill();
    let app = pod.start_container("app", apps::connect(backend_v4())?)?;
    assert_eq!(app.wait_attempt(SOON)?.outcome, "ECONNREFUSED");
    Ok(())
}

#[test]
fn the_proxy_dials_the_port_that_the_application_asked_for() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    for port in BACKEND_PORTS {
        for ip in [backend_v4().ip(), backend_v6().ip()] {
            let to = SocketAddr::new(ip, port);
            let app = pod.start_container("app", apps::connect(to)?.get("/port"))?;
            let text = app.wait_body(SOON)?.text;
            assert_eq!(text.as_deref(), Some(port.to_string().as_str()), "{to}");
        }
    }
    assert!(proxy.stop()?.success());
    Ok(())
}

#[test]
fn excluded_destinations_go_direct() -> Result<()> {
    let node = Node::new()?;
    let spec = PodSpec::new("shop", "cart")
        .exclude_cidr(format!("{BACKEND_V4}/32"))
        .exclude_port(BACKEND_PORTS[1]);
    let pod = node.create_pod(spec)?;
    let by_port = SocketAddr::new(backend_v6().ip(), BACKEND_PORTS[1]);
    for to in [backend_v4(), backend_v4_mapped(), by_port] {
        let app = pod.start_container("app", apps::connect(to)?.get("/bytes/1000"))?;
        assert!(app.wait_attempt(SOON)?.is_connected(), "{to}");
        assert!(app.wait_body(SOON)?.ok, "{to}");
    }
    let app = pod.start_container("app", apps::connect(backend_v6())?)?;
    assert_eq!(app.wait_attempt(SOON)?.outcome, "ECONNREFUSED");
    Ok(())
}

#[test]
fn a_dead_host_gives_no_answer_and_an_unserved_port_a_refusal() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "plain").not_meshed())?;
    let dead = SocketAddr::from((DEAD_V4, 80));
    let patience = Duration::from_millis(700);
    let app = pod.start_container("app", apps::connect(dead)?.connect_timeout(patience))?;
    let attempt = app.wait_attempt(SOON)?;
    assert_eq!(attempt.outcome, "timeout");
    // The client counts in whole milliseconds.
    assert!(attempt.elapsed() >= patience - Duration::from_millis(5));
    let unserved = SocketAddr::from((BACKEND_V4, 7));
    let app = pod.start_container("app", apps::connect(unserved)?)?;
    assert_eq!(app.wait_attempt(SOON)?.outcome, "ECONNREFUSED");
    Ok(())
}

#[test]
fn every_kind_of_client_works() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
    let refused = [
        apps::python_client(backend_v4(), None),
        apps::node_client(backend_v4(), None),
        apps::connect(backend_v4())?.nonblocking().into(),
        apps::fork_connect(backend_v4())?.into(),
    ];
    for command in refused {
        let app = pod.start_container("app", command)?;
        assert_eq!(app.wait_attempt(SOON)?.outcome, "ECONNREFUSED");
    }
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    let connect = || apps::connect(backend_v4());
    let ok = [
        apps::python_client(backend_v6(), Some(MIB)),
        apps::node_client(backend_v6(), Some(MIB)),
        connect()?.get(MIB).nonblocking().into(),
        connect()?.get(MIB).fast_open(FastOpen::Sendto).into(),
        connect()?.get(MIB).fast_open(FastOpen::Connect).into(),
        connect()?.get(MIB).user(65_534, 65_534).into(),
        apps::fork_connect(backend_v4())?.get(MIB).into(),
    ];
    for command in ok {
        let app = pod.start_container("app", command)?;
        assert!(app.wait_attempt(SOON)?.is_connected());
        assert!(app.wait_body(SOON)?.ok);
        assert!(app.wait(SOON)?.success());
    }
    Ok(())
}

#[test]
fn many_sockets_at_once_all_connect() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    for client in [
        apps::connect(backend_v4())?.count(200),
        apps::connect(backend_v4())?.count(200).nonblocking(),
    ] {
        let app = pod.start_container("app", client.get("/bytes/1000"))?;
        let attempts = app.wait_attempts(SOON, 200)?;
        assert!(attempts.iter().all(apps::Attempt::is_connected));
        assert!(app.wait(SOON)?.success());
    }
    Ok(())
}

#[test]
fn socket_options_are_set_and_shown() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    let client = apps::connect(backend_v4())?
        .syncnt(3)
        .user_timeout(SOON)
        .send_timeout(SOON)
        .sockopts_after()
        .tcp_info()
        .hold_open(Duration::from_millis(1));
    let app = pod.start_container("app", client)?;
    let options = app.wait_record(SOON, |line| line["event"] == "sockopts")?;
    assert_eq!(options["tcp_syncnt"], 3);
    let info = app.wait_record(SOON, |line| line["event"] == "tcp_info")?;
    assert!(info["srtt_us"].as_u64().is_some_and(|us| us < 200_000), "{info}");
    Ok(())
}

#[test]
fn odd_packets_and_namespaces_behave_as_without_a_mesh() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart").containers(["app", "server"]))?;
    let raw = pod.start_container("app", apps::raw_syn(40_000, 15_001)?)?;
    let answer = raw.wait_record(SOON, |line| line["event"] == "answer")?;
    assert_eq!(answer["flags"], "RST");
    let server = pod.start_container("server", apps::listener(15_001, 16)?)?;
    server.wait_record(SOON, |line| line["event"] == "listening")?;
    let raw = pod.start_container("app", apps::raw_syn(40_001, 15_001)?)?;
    let answer = raw.wait_record(SOON, |line| line["event"] == "answer")?;
    assert_eq!(answer["flags"], "SYN-ACK");
    let own = apps::connect_in_own_netns("127.0.0.1:15001".parse()?)?;
    let app = pod.start_container("app", own)?;
    assert_eq!(app.wait_attempt(SOON)?.outcome, "ECONNREFUSED");
    Ok(())
}

#[test]
fn both_drivers_lay_a_pod_out_as_on_a_real_node() -> Result<()> {
    for driver in [CgroupDriver::Systemd, CgroupDriver::Cgroupfs] {
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let node = Node::with(NodeOptions { driver, ..NodeOptions::default() })?;
            let pod = node.create_pod(PodSpec::new("shop", "cart").qos(qos))?;
            let container = pod.create_container("app")?;
            let id = container.id().to_string();
            let cgroup = container.cgroup().clone();
            let expected = match (driver, qos) {
                (CgroupDriver::Systemd, Qos::Burstable) => format!(
                    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{id}.scope",
                    pod.uid().replace('-', "_")
                ),
                (CgroupDriver::Systemd, Qos::BestEffort) => format!(
                    "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice/cri-containerd-{id}.scope",
                    pod.uid().replace('-', "_")
                ),
                (CgroupDriver::Systemd, Qos::Guaranteed) => format!(
                    "kubepods.slice/kubepods-pod{}.slice/cri-containerd-{id}.scope",
                    pod.uid().replace('-', "_")
                ),
                (CgroupDriver::Cgroupfs, Qos::Burstable) => {
                    format!("kubepods/burstable/pod{}/{id}", pod.uid())
                }
                (CgroupDriver::Cgroupfs, Qos::BestEffort) => {
                    format!("kubepods/besteffort/pod{}/{id}", pod.uid())
                }
                (CgroupDriver::Cgroupfs, Qos::Guaranteed) => {
                    format!("kubepods/pod{}/{id}", pod.uid())
                }
            };
            assert_eq!(cgroup.path(), node.cgroup_root().join(expected));
            let bundle = node.runtime_root().join("io.containerd.runtime.v2.task/k8s.io").join(&id);
            let config: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(bundle.join("config.json"))?)?;
            let annotations = &config["annotations"];
            assert_eq!(annotations["io.kubernetes.cri.container-type"], "container");
            assert_eq!(annotations["io.kubernetes.cri.container-name"], "app");
            assert_eq!(annotations["io.kubernetes.cri.sandbox-uid"], pod.uid());
            let app = container.start(testbed::Command::new("sleep").arg("1000"))?;
            assert!(cgroup.is_populated()?);
            assert_eq!(cgroup.processes(), [app.pid()]);
            assert_eq!(Netns::of_process(app.pid())?.inode()?, pod.netns()?.inode()?);
            app.kill();
            // The runtime removes an ended container at once.
            assert!(!cgroup.path().exists() && !bundle.exists());
        }
    }
    Ok(())
}

#[test]
fn the_api_object_follows_the_pod_s_life() -> Result<()> {
    let node = Node::new()?;
    let pod = node.pod(PodSpec::new("shop", "cart").annotation("holdfast.dev/timeout", "5s"))?;
    let get = || node.api().get(Resource::Pods, Some("shop"), "cart");
    // A container may run before the API knows of the pod at all.
    pod.set_up()?;
    let app = pod.start_container("app", testbed::Command::new("sleep").arg("1000"))?;
    assert!(get().is_none());
    pod.publish()?;
    let status = |name: &str| {
        let object = get().unwrap_or_default();
        ["containerStatuses", "initContainerStatuses"]
            .iter()
            .filter_map(|list| object["status"][list].as_array().cloned())
            .flatten()
            .find(|one| one["name"] == name)
            .unwrap_or_default()
    };
    let object = get().unwrap_or_default();
    assert_eq!(object["spec"]["nodeName"], node.name());
    assert_eq!(object["status"]["phase"], "Running");
    assert_eq!(object["status"]["podIP"], pod.ip_v4().to_string());
    assert_eq!(object["metadata"]["annotations"]["holdfast.dev/timeout"], "5s");
    assert!(object["metadata"]["annotations"]["sidecar.istio.io/status"].is_string());
    assert_eq!(status("istio-init")["state"]["terminated"]["reason"], "Completed");
    assert!(status("app")["state"]["running"].is_object());
    assert!(status(PROXY)["state"]["waiting"].is_object());

    let proxy = pod.start_proxy()?;
    assert!(status(PROXY)["state"]["running"].is_object());
    assert_eq!(
        (&status(PROXY)["started"], &status(PROXY)["ready"]),
        (&false.into(), &false.into())
    );
    proxy.wait_ready(SOON)?;
    pod.set_kube_ready(PROXY, true)?;
    assert_eq!((&status(PROXY)["started"], &status(PROXY)["ready"]), (&true.into(), &true.into()));
    proxy.kill();
    assert_eq!(status(PROXY)["state"]["terminated"]["exitCode"], 137);
    assert_eq!(status(PROXY)["ready"], false);
    let first = status("app")["containerID"].clone();
    app.kill();
    let app = pod.start_container_silently("app", testbed::Command::new("sleep").arg("1000"))?;
    assert!(status("app")["state"]["running"].is_null());
    pod.report_hidden();
    assert!(status("app")["state"]["running"].is_object());
    assert_eq!(status("app")["restartCount"], 1);
    assert_ne!(status("app")["containerID"], first);

    pod.mark_terminating();
    assert!(get().unwrap_or_default()["metadata"]["deletionTimestamp"].is_string());
    let cgroup = pod.cgroup().clone();
    pod.delete()?;
    assert!(get().is_none() && !cgroup.path().exists());
    assert!(app.wait(SOON).is_ok());
    Ok(())
}

#[test]
fn a_native_sidecar_is_an_init_container_and_host_pods_have_no_namespace() -> Result<()> {
    let node = Node::new()?;
    let spec = PodSpec::new("shop", "native")
        .native_sidecar()
        .init_containers(["migrate"])
        .containers(["app", "worker"]);
    let pod = node.create_pod(spec)?;
    let Some(object) = node.api().get(Resource::Pods, Some("shop"), "native") else {
        bail!("no API object");
    };
    let names = |list: &str| -> Vec<String> {
        let all = object["spec"][list].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(names("initContainers"), ["istio-init", PROXY, "migrate"]);
    assert_eq!(names("containers"), ["app", "worker"]);
    assert_eq!(object["spec"]["initContainers"][1]["restartPolicy"], "Always");
    assert!(pod.start_container("bogus", apps::connect(backend_v4())?).is_err());

    let host = node.create_pod(PodSpec::new("kube-system", "cni").host_network())?;
    assert_eq!(host.netns()?.inode()?, Netns::current()?.inode()?);
    Ok(())
}

#[test]
fn a_pod_s_sysctls_are_its_own() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
    let path = "/proc/sys/net/ipv4/tcp_fastopen";
    let host = fs::read_to_string(path)?;
    pod.netns()?.set_sysctl("net.ipv4.tcp_fastopen", "5")?;
    let inside = pod.netns()?.run(|| Ok(fs::read_to_string(path)?))?;
    assert_eq!(inside.trim(), "5");
    assert_eq!(fs::read_to_string(path)?, host);
    assert!(pod.netns()?.set_sysctl("kernel.panic", "0").is_err());
    Ok(())
}

//! A node leaves nothing behind, however its owner ends.
//! Needs root; without it these tests fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use testbed::{Cgroup, Node, PodSpec, apps, backend_v4, bpf};

const SOON: Duration = Duration::from_secs(20);

fn host_interfaces() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A node with everything in it that a node can have.
fn busy_node() -> Result<(Node, Vec<PathBuf>, Vec<u32>)> {
    let node = Node::new()?;
    let folder = node.kubeconfig().parent().unwrap().to_owned();
    let made = vec![node.cgroup_root().to_owned(), folder];
    let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(SOON)?;
    let client = apps::connect(backend_v4())?.hold_open(Duration::from_secs(1000));
    let app = pod.start_container("app", client)?;
    assert!(app.wait_attempt(SOON)?.is_connected());
    let processes = Cgroup::at(node.cgroup_root()).processes();
    // The backend, the pause process, the proxy and the application.
    assert_eq!(processes.len(), 4);
    // Forgotten on purpose: the node alone must be able to clean up.
    Box::leak(Box::new((pod, proxy, app)));
    Ok((node, made, processes))
}

fn assert_gone(made: &[PathBuf], processes: &[u32]) {
    for path in made {
        assert!(!path.exists(), "{} is still there", path.display());
    }
    for pid in processes {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // A zombie has let go of everything; only its reaper has not come yet.
        assert!(
            status.is_empty() || status.contains("State:\tZ"),
            "process {pid} still runs:\n{status}"
        );
    }
}

#[test]
fn a_dropped_node_leaves_nothing() -> Result<()> {
    let before = host_interfaces();
    let (node, made, processes) = busy_node()?;
    assert!(made.iter().all(|path| path.exists()));
    assert_eq!(host_interfaces(), before);
    drop(node);
    assert_gone(&made, &processes);
    assert_eq!(host_interfaces(), before);
    Ok(())
}

#[test]
fn a_panic_leaves_nothing() {
    let mut left = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let (_node, made, processes) = busy_node().unwrap();
        left = Some((made, processes));
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    let (made, processes) = left.unwrap();
    assert_gone(&made, &processes);
}

#[test]
fn what_a_killed_owner_leaves_the_next_node_removes() -> Result<()> {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_testbed-app"))
        .arg("node")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(owner.stdout.take().context("stdout")?).read_line(&mut line)?;
    let node: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
    let path = |key: &str| PathBuf::from(node[key].as_str().unwrap_or_default());
    let cgroup = Cgroup::at(path("cgroup_root"));
    let processes = cgroup.processes();
    assert_eq!(processes.len(), 3);

    // A live owner's node is left alone, even when others come and go.
    drop(Node::new()?);
    assert!(cgroup.path().exists() && path("folder").exists());

    owner.kill()?;
    owner.wait()?;
    assert!(cgroup.is_populated()?, "containers outlive the owner");
    drop(Node::new()?);
    assert_gone(&[cgroup.path().to_owned(), path("folder")], &processes);
    Ok(())
}

#[test]
fn a_checkout_that_only_root_can_enter_serves_as_well() -> Result<()> {
    let closed = std::env::temp_dir().join(format!("holdfast-closed-{}", std::process::id()));
    fs::create_dir(&closed)?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
    let installed = std::env::var_os("HOLDFAST_ENVOY").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/envoy/envoy")),
        PathBuf::from,
    );
    fs::copy(installed, closed.join("envoy"))?;
    let mut owner = Command::new(env!("CARGO_BIN_EXE_testbed-app"))
        .arg("node")
        .env("HOLDFAST_ENVOY", closed.join("envoy"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(owner.stdout.take().context("stdout")?).read_line(&mut line)?;
    owner.kill()?;
    owner.wait()?;
    fs::remove_dir_all(&closed)?;
    drop(Node::new()?);
    // The line comes only when the proxy, as its own user, has become ready.
    assert!(line.contains("proxy_pid"), "{line}");
    Ok(())
}

#[test]
fn nodes_live_side_by_side() -> Result<()> {
    let one = Node::new()?;
    let two = Node::new()?;
    assert_ne!(one.cgroup_root(), two.cgroup_root());
    assert_ne!(one.api().address(), two.api().address());
    let first = one.create_pod(PodSpec::new("shop", "cart"))?;
    let second = two.create_pod(PodSpec::new("shop", "cart"))?;
    assert_eq!(first.ip_v4(), second.ip_v4());
    let proxy = first.start_proxy()?;
    proxy.wait_ready(SOON)?;
    let app = second.start_container("app", apps::connect(backend_v4())?)?;
    assert_eq!(app.wait_attempt(SOON)?.outcome, "ECONNREFUSED");
    drop(one);
    assert!(two.cgroup_root().exists() && second.cgroup().is_populated()?);
    Ok(())
}

#[test]
fn a_fresh_pod_has_no_programs_and_an_attached_one_is_counted() -> Result<()> {
    let node = Node::new()?;
    let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
    assert!(bpf::programs_below(pod.cgroup())?.is_empty());
    let _link = allow_all::attach(pod.cgroup().path())?;
    assert_eq!(bpf::programs_below(pod.cgroup())?, ["egress"]);
    assert_eq!(bpf::programs_on(pod.cgroup().path())?, ["egress"]);
    assert!(bpf::programs_on(node.cgroup_root())?.is_empty());
    Ok(())
}

/// The smallest program that can be counted: every packet passes.
mod allow_all {
    use std::{
        ffi::CStr,
        fs::File,
        io,
        os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        path::Path,
    };

    const PROG_LOAD: libc::c_int = 5;
    const LINK_CREATE: libc::c_int = 28;
    const CGROUP_SKB: u32 = 8;
    const EGRESS: u32 = 1;
    /// `r0 = 1; exit`
    const INSTRUCTIONS: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    const LICENSE: &CStr = c"Apache-2.0";

    #[repr(C)]
    #[derive(Default)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }

    #[repr(C)]
    struct LinkCreate {
        prog_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
    }

    pub(super) fn attach(cgroup: &Path) -> io::Result<OwnedFd> {
        let program = bpf(
            PROG_LOAD,
            &ProgLoad {
                prog_type: CGROUP_SKB,
                insn_cnt: 2,
                insns: INSTRUCTIONS.as_ptr() as u64,
                license: LICENSE.as_ptr() as u64,
                expected_attach_type: EGRESS,
                ..ProgLoad::default()
            },
        )?;
        let cgroup = File::open(cgroup)?;
        let fd = |of: &dyn std::os::fd::AsFd| u32::try_from(of.as_fd().as_raw_fd()).unwrap();
        bpf(
            LINK_CREATE,
            &LinkCreate {
                prog_fd: fd(&program),
                target_fd: fd(&cgroup),
                attach_type: EGRESS,
                flags: 0,
            },
        )
    }

    fn bpf<T>(command: libc::c_int, attribute: &T) -> io::Result<OwnedFd> {
        // SAFETY: both attributes match the kernel's layout for their command, with their own
        // size, and what they point to lives until the call returns.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attribute, size_of::<T>()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both commands return a fresh descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(fd).unwrap()) })
    }
}

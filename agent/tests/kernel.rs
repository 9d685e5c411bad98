//! The programs on the running kernel, driven through the agent's own handle to them.
//!
//! Needs root and nothing else: no iptables, no proxy, no API. `cargo xtask kernels` runs this very
//! binary on every supported kernel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use agent_ebpf::GateCounts;
use holdfast::{
    bpf::{self, EventReader, Gates, LoadOptions, SocketTable},
    clock,
    core::{CgroupId, CloseGate, KernelEventKind, PodUid, Verdict},
    netns::{Entrance, Netns},
    node::find_cgroup2,
    reconcile::{ReplayOf, Replayer},
};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;

/// What the gate holds.
const PROXY_PORT: u16 = 15001;

/// A process has one cgroup, so one test runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A pod: cgroup, container cgroup, network namespace, gate.
struct Pod {
    runtime: Runtime,
    gates: Gates,
    sockets: SocketTable,
    replayer: Replayer,
    events: EventReader,
    root: PathBuf,
    pod: PathBuf,
    container: PathBuf,
    netns: Arc<Netns>,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Pod {
    fn new(options: &LoadOptions) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = Runtime::new().unwrap();
        let loaded = {
            let _context = runtime.enter();
            bpf::load(options).unwrap_or_else(|error| panic!("{error} (these tests need root)"))
        };
        let root = find_cgroup2(Path::new("/proc")).unwrap();
        let name = format!(
            "holdfast-kernel-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let pod = root.join(name);
        let container = pod.join("container");
        fs::create_dir_all(&container).unwrap();
        // A namespace of its own for this thread, which makes all sockets of the test.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        loopback_up();
        let netns = Arc::new(Netns::open(Path::new("/proc/thread-self/ns/net")).unwrap());
        Self {
            runtime,
            gates: loaded.gates,
            replayer: Replayer::new(
                Entrance::start().unwrap(),
                loaded.sockets.clone(),
                PathBuf::from("/proc"),
            ),
            sockets: loaded.sockets,
            events: loaded.events,
            root,
            pod,
            container,
            netns,
            _one_at_a_time: guard,
        }
    }

    fn id(path: &Path) -> CgroupId {
        CgroupId(fs::metadata(path).unwrap().ino())
    }

    fn close(&mut self, timeout: Duration) {
        let close = CloseGate {
            uid: PodUid::new("kernel-test"),
            cgroup: Self::id(&self.pod),
            deadline: clock::now() + timeout,
            ports: vec![8080, PROXY_PORT],
        };
        self.gates.close(&close, &self.pod).unwrap_or_else(|error| panic!("{error}"));
    }

    fn open(&mut self) {
        self.gates.open(Self::id(&self.pod)).unwrap();
    }

    fn replay(&mut self) {
        let _context = self.runtime.enter();
        let (uid, cgroup) = (PodUid::new("kernel-test"), Self::id(&self.pod));
        let held = self.sockets.held_by(cgroup).into_iter().map(|(cookie, _)| cookie).collect();
        let of = ReplayOf { uid, cgroup, container: None, held };
        self.replayer.start(of, Arc::clone(&self.netns));
    }

    fn detach(&mut self) {
        let (pod, container) = (Self::id(&self.pod), Self::id(&self.container));
        self.replayer.stop(pod);
        self.gates.detach(pod, &[container]);
    }

    /// A socket made in the container's cgroup; hooks follow that, wherever its process is later.
    fn socket(&self, address: SocketAddr) -> Socket {
        fs::write(self.container.join("cgroup.procs"), "0").unwrap();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        fs::write(self.root.join("cgroup.procs"), "0").unwrap();
        socket
    }

    /// Calls connect() from within the container, on a thread of its own.
    fn connect(&self, address: SocketAddr) -> Connecting {
        let socket = self.socket(address);
        fs::write(self.container.join("cgroup.procs"), "0").unwrap();
        let started = Instant::now();
        let thread = thread::spawn(move || {
            let result = socket.connect(&address.into());
            (result.map(|()| TcpStream::from(socket)), started.elapsed())
        });
        // The connect hook looks at where its caller is; the first SYN goes out within connect().
        thread::sleep(Duration::from_millis(50));
        fs::write(self.root.join("cgroup.procs"), "0").unwrap();
        Connecting(thread)
    }

    fn counts(&self) -> GateCounts {
        self.gates.counts(Self::id(&self.pod)).unwrap()
    }

    /// Waits for `count` events.
    fn events(&mut self, count: usize) -> Vec<KernelEventKind> {
        let events = &mut self.events;
        self.runtime.block_on(async {
            let mut kinds = Vec::new();
            while kinds.len() < count {
                let next = tokio::time::timeout(Duration::from_secs(20), events.next());
                let batch = next.await.expect("events come in time").unwrap();
                kinds.extend(batch.into_iter().map(|event| event.kind));
            }
            kinds
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = fs::write(self.root.join("cgroup.procs"), "0");
        self.detach();
        let _ = fs::remove_dir(&self.container);
        let _ = fs::remove_dir(&self.pod);
    }
}

struct Connecting(thread::JoinHandle<(io::Result<TcpStream>, Duration)>);

impl Connecting {
    fn is_waiting(&self) -> bool {
        !self.0.is_finished()
    }

    fn result(self) -> (io::Result<TcpStream>, Duration) {
        self.0.join().unwrap()
    }
}

fn loopback_up() {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the request is live and names an interface.
    let ret = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw mut request) };
    assert_eq!(ret, 0, "{}", io::Error::last_os_error());
}

/// How often the socket itself sent a segment once more (tcpi_total_retrans).
fn retransmits(stream: &TcpStream) -> u32 {
    // SAFETY: all-zero is a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
    // SAFETY: `info` and `len` are live and `len` tells the size of `info`.
    let ret = unsafe {
        let info = (&raw mut info).cast();
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut len)
    };
    assert_eq!(ret, 0, "{}", io::Error::last_os_error());
    info.tcpi_total_retrans
}

fn proxy(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), PROXY_PORT)
}

fn addresses() -> [SocketAddr; 3] {
    let v4 = Ipv4Addr::LOCALHOST;
    [proxy(v4), proxy(Ipv6Addr::LOCALHOST), proxy(v4.to_ipv6_mapped())]
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn held_connects_are_released_by_replay() {
    let mut pod = Pod::new(&LoadOptions::default());
    for address in addresses() {
        pod.close(MINUTE);
        let connecting = pod.connect(address);
        if !connecting.is_waiting() {
            panic!("{address} is not held: {:?}", connecting.result());
        }
        let _listener = TcpListener::bind(address).unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(connecting.is_waiting(), "{address}: only the replay or a timer may release it");
        pod.open();
        pod.replay();
        let (result, _) = connecting.result();
        let stream = result.unwrap_or_else(|error| panic!("{address}: {error}"));
        // Of the SYNs that the socket sent all were dropped: the one that got through was ours.
        let sent = retransmits(&stream) + 1;
        assert_eq!(pod.counts().dropped_syns, u64::from(sent), "{address}");
        let kinds = pod.events(2);
        let held =
            matches!(kinds[0], KernelEventKind::Held { destination, .. } if destination == address);
        assert!(held, "{address}: {kinds:?}");
        assert_eq!(kinds[1], KernelEventKind::Connected, "{address}");
        pod.detach();
    }
}

#[test]
fn without_a_replay_the_retransmission_gets_through() {
    let mut pod = Pod::new(&LoadOptions::default());
    for address in addresses() {
        pod.close(MINUTE);
        let connecting = pod.connect(address);
        let _listener = TcpListener::bind(address).unwrap();
        thread::sleep(Duration::from_millis(1_200));
        pod.open();
        let stream = connecting.result().0.unwrap();
        let sent = retransmits(&stream) + 1;
        assert_eq!(pod.counts().dropped_syns + 1, u64::from(sent), "{address}");
        pod.detach();
    }
}

#[test]
fn a_hold_outlasts_the_default_number_of_syn_retries() {
    let mut pod = Pod::new(&LoadOptions::default());
    pod.close(MINUTE);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    // At 500 ms a try the default of 6 (and 4 linear ones) ends after 6.1 s.
    thread::sleep(Duration::from_secs(9));
    assert!(connecting.is_waiting());
    assert!(pod.counts().dropped_syns > 12, "{:?}", pod.counts());
    pod.open();
    connecting.result().0.unwrap();
}

#[test]
fn the_kernel_itself_opens_at_the_deadline() {
    let mut pod = Pod::new(&LoadOptions::default());
    let deadline = Duration::from_secs(2);
    pod.close(deadline);
    let (result, waited) = pod.connect(proxy(Ipv4Addr::LOCALHOST)).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(waited >= deadline - Duration::from_millis(60), "{waited:?}");
    assert_eq!(pod.events(2)[1], KernelEventKind::Failed);
}

#[test]
fn the_deadline_opens_for_a_proxy_that_came_in_the_meantime() {
    let mut pod = Pod::new(&LoadOptions::default());
    pod.close(Duration::from_secs(2));
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    let _listener = TcpListener::bind(proxy(Ipv4Addr::LOCALHOST)).unwrap();
    connecting.result().0.unwrap();
}

#[test]
fn only_the_named_loopback_ports_are_held() {
    let mut pod = Pod::new(&LoadOptions::default());
    pod.close(MINUTE);
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let (result, _) = pod.connect(SocketAddr::new(ip, 15021)).result();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    // The other of the two named ports.
    assert!(pod.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))).is_waiting());
    assert_eq!(pod.counts().held, 1);
}

#[test]
fn a_container_that_may_pass_is_not_held() {
    let mut pod = Pod::new(&LoadOptions::default());
    pod.close(MINUTE);
    let container = Pod::id(&pod.container);
    pod.gates.set_verdict(container, Verdict::Pass).unwrap();
    let (result, _) = pod.connect(proxy(Ipv4Addr::LOCALHOST)).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    pod.gates.set_verdict(container, Verdict::Hold).unwrap();
    assert!(pod.connect(proxy(Ipv4Addr::LOCALHOST)).is_waiting());
}

#[test]
fn the_report_names_who_waits_and_how_it_ended() {
    let mut pod = Pod::new(&LoadOptions::default());
    pod.close(MINUTE);
    let container = Pod::id(&pod.container);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    let KernelEventKind::Held { container: of, pid, uid, comm, destination, connect_at } =
        pod.events(1).remove(0)
    else {
        panic!("not held")
    };
    assert_eq!((of, pid, uid), (Some(container), Some(std::process::id()), 0));
    assert!(!comm.is_empty());
    assert_eq!(destination, proxy(Ipv4Addr::LOCALHOST));
    assert!(clock::now().since(connect_at) < MINUTE);
    drop(connecting);

    let socket = pod.socket(destination);
    socket.set_nonblocking(true).unwrap();
    fs::write(pod.container.join("cgroup.procs"), "0").unwrap();
    let _ = socket.connect(&destination.into());
    drop(socket);
    assert_eq!(pod.events(2)[1], KernelEventKind::Closed);
}

#[test]
fn a_full_table_holds_all_the_same() {
    let mut pod =
        Pod::new(&LoadOptions { max_sockets: 2, max_sockets_per_pod: 2, ..LoadOptions::default() });
    pod.close(MINUTE);
    let address = proxy(Ipv4Addr::LOCALHOST);
    let connecting: Vec<_> = (0..6).map(|_| pod.connect(address)).collect();
    let _listener = TcpListener::bind(address).unwrap();
    thread::sleep(Duration::from_secs(8));
    assert!(connecting.iter().all(Connecting::is_waiting));
    assert_eq!(pod.counts().held, 6);
    assert_eq!(pod.sockets.held_by(Pod::id(&pod.pod)).len(), 2);
    pod.open();
    for connecting in connecting {
        connecting.result().0.unwrap();
    }
}

#[test]
fn a_detached_gate_leaves_nothing() {
    let mut pod = Pod::new(&LoadOptions::default());
    pod.close(MINUTE);
    let connecting = pod.connect(proxy(Ipv4Addr::LOCALHOST));
    assert_eq!(pod.sockets.held_by(Pod::id(&pod.pod)).len(), 1);
    pod.detach();
    assert!(pod.sockets.held_by(Pod::id(&pod.pod)).is_empty());
    assert!(pod.gates.counts(Pod::id(&pod.pod)).is_none());
    assert_eq!(connecting.result().0.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let started = Instant::now();
    let (result, _) = pod.connect(proxy(Ipv4Addr::LOCALHOST)).result();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn debug_lines_cost_the_verifier_nothing_it_cannot_bear() {
    drop(Pod::new(&LoadOptions { kernel_log: true, ..LoadOptions::default() }));
}

#[test]
fn pinned_maps_go_with_the_agent() {
    let bpffs = std::env::temp_dir().join(format!("holdfast-bpffs-{}", std::process::id()));
    fs::create_dir_all(&bpffs).unwrap();
    let options = || LoadOptions { bpffs: Some(bpffs.clone()), ..LoadOptions::default() };
    let runtime = Runtime::new().unwrap();
    let _context = runtime.enter();
    let error = bpf::require_bpffs(&bpffs).unwrap_err().to_string();
    assert!(error.contains("not a BPF file system"), "{error}");

    let nothing: Option<&str> = None;
    nix::mount::mount(Some("bpf"), &bpffs, Some("bpf"), nix::mount::MsFlags::empty(), nothing)
        .unwrap();
    let pinned = bpffs.join("holdfast/v1");
    let loaded = bpf::load(&options()).unwrap();
    assert_eq!(fs::read_dir(&pinned).unwrap().count(), 4);
    // As after a kill: the pins are still there, and are replaced.
    let again = bpf::load(&options()).unwrap();
    drop(loaded);
    drop(again);
    assert!(!bpffs.join("holdfast").exists());
    nix::mount::umount(&bpffs).unwrap();
    fs::remove_dir(&bpffs).unwrap();
}

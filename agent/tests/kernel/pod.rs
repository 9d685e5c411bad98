//! A pod: cgroup, container cgroup, network namespace, gate.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::{fd::AsRawFd, unix::fs::MetadataExt as _},
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
    awaited::AwaitedPorts,
    bpf::{self, Claim, EventReader, Gates, LoadOptions, SocketTable},
    clock,
    core::{
        CgroupId, CloseReason, GateSetting, InheritedGate, KernelEvent, KernelEventKind, Mode,
        PodUid, RefuseErrno, SetGate, Verdict,
    },
    netns::{Entrance, Netns},
    node::{Kubepods, cgroup_root},
    reconcile::{ReplayCounts, ReplayOf, Replayer},
    worker::Worker,
};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;

use crate::lines::Lines;

/// What the gate holds.
pub(crate) const PROXY_PORT: u16 = 15001;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A process has one cgroup, so one test runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) struct Pod {
    /// `None` between two agents.
    gates: Option<Gates>,
    pub(crate) sockets: SocketTable,
    runtime: Runtime,
    replayer: Replayer,
    events: EventReader,
    awaited_ports: Option<AwaitedPorts>,
    /// What the programs have said.
    pub(crate) lines: Arc<Lines>,
    root: PathBuf,
    /// What kubelet would have.
    kubepods: PathBuf,
    pod: PathBuf,
    container: PathBuf,
    netns: Arc<Netns>,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Pod {
    pub(crate) fn new() -> Self {
        Self::with(&LoadOptions::default())
    }

    pub(crate) fn with(options: &LoadOptions) -> Self {
        Self::under(options, None)
    }

    /// With a BPF file system to leave its gates in.
    pub(crate) fn under(options: &LoadOptions, bpffs: Option<&Path>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = Runtime::new().unwrap();
        let lines = Arc::new(Lines::default());
        let loaded = {
            let _context = runtime.enter();
            bpf::load(options, bpffs.map(claim), lines.clone())
                .unwrap_or_else(|error| panic!("{error} (these tests need root)"))
        };
        let (awaited_ports, arrivals) = loaded.awaited.unzip();
        if let Some(arrivals) = arrivals {
            runtime.spawn(arrivals.bring());
        }
        let root = cgroup_root(None, Path::new("/proc")).unwrap();
        let name = format!(
            "holdfast-kernel-{}-{}-kubepods",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let kubepods = root.join(name);
        let pod = kubepods.join("pod");
        let container = pod.join("container");
        fs::create_dir_all(&container).unwrap();
        // A namespace of its own for this thread, which makes all sockets of the test.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        loopback_up();
        let netns = Arc::new(Netns::open(Path::new("/proc/thread-self/ns/net")).unwrap());
        Self {
            runtime,
            gates: Some(loaded.gates),
            awaited_ports,
            replayer: Replayer::new(
                Entrance::start().unwrap(),
                Worker::start("tables").unwrap(),
                loaded.sockets.clone(),
                PathBuf::from("/proc"),
                ReplayCounts::default(),
            ),
            sockets: loaded.sockets,
            events: loaded.events,
            lines,
            root,
            kubepods,
            pod,
            container,
            netns,
            _one_at_a_time: guard,
        }
    }

    /// `None` where the kernel tells of no listeners.
    pub(crate) fn awaited_ports(&self) -> Option<&AwaitedPorts> {
        self.awaited_ports.as_ref()
    }

    /// Waits for something that the pod's own runtime brings.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(crate) fn id(&self) -> CgroupId {
        cgroup_id(&self.pod)
    }

    /// The tree that the pod is in.
    pub(crate) fn kubepods(&self) -> Kubepods {
        Kubepods::below(&self.kubepods).unwrap()
    }

    pub(crate) fn container(&self) -> CgroupId {
        cgroup_id(&self.container)
    }

    /// A gate in its default mode, without DNS.
    pub(crate) fn gate(&self, state: GateSetting) -> SetGate {
        SetGate {
            renews: false,
            uid: PodUid::new("kernel-test"),
            cgroup: self.id(),
            state,
            mode: Mode::Hold,
            errno: RefuseErrno::ConnRefused,
            proxy_uid: None,
            ports: vec![8080, PROXY_PORT],
            dns_port: None,
        }
    }

    pub(crate) fn closed(&self, timeout: Duration) -> SetGate {
        let (reason, since) = (CloseReason::Start, clock::now());
        let deadline = since + timeout;
        self.gate(GateSetting::Closed {
            reason,
            since,
            reached_before: Some(0),
            deadline,
            refuse_until: None,
        })
    }

    /// As the agent does it: what an earlier opening releases is released no more.
    pub(crate) fn set(&mut self, gate: &SetGate) {
        self.replayer.stop(gate.cgroup);
        let path = self.pod.clone();
        self.gates().set(gate, &path).unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn close(&mut self, timeout: Duration) {
        let gate = self.closed(timeout);
        self.set(&gate);
    }

    pub(crate) fn open(&mut self) {
        let id = self.id();
        self.gates().open(id).unwrap();
    }

    pub(crate) fn set_verdict(&mut self, verdict: Verdict) {
        let container = self.container();
        self.gates().set_verdict(container, verdict).unwrap();
    }

    pub(crate) fn replay(&mut self) {
        let _context = self.runtime.enter();
        let (uid, cgroup) = (PodUid::new("kernel-test"), self.id());
        let held = self.sockets.held_by(cgroup).into_iter().map(|(cookie, _)| cookie).collect();
        let of = ReplayOf { uid, cgroup, container: None, held, proxy_is_new: false };
        self.replayer.start(of, Arc::clone(&self.netns));
    }

    pub(crate) fn detach(&mut self) {
        let (pod, container) = (self.id(), self.container());
        self.replayer.stop(pod);
        if let Some(gates) = &mut self.gates {
            gates.detach(pod, &[container]);
        }
    }

    pub(crate) fn gates(&mut self) -> &mut Gates {
        self.gates.as_mut().expect("an agent is there")
    }

    /// The agent ends, and its gates stay.
    pub(crate) fn leave_gates(&mut self) {
        self.gates.take().expect("an agent is there").leave();
    }

    /// The agent ends, and takes everything with it.
    pub(crate) fn remove_gates(&mut self) {
        self.gates.take().expect("an agent is there").remove().unwrap();
    }

    /// Another agent comes, and gets what was left.
    pub(crate) fn inherit(&mut self, options: &LoadOptions, bpffs: &Path) -> Option<InheritedGate> {
        self.load_next(options, bpffs);
        let id = self.id();
        self.gates().inherit(id)
    }

    /// Another agent comes.
    pub(crate) fn load_next(&mut self, options: &LoadOptions, bpffs: &Path) {
        let _context = self.runtime.enter();
        let loaded = bpf::load(options, Some(claim(bpffs)), self.lines.clone()).unwrap();
        self.replayer = Replayer::new(
            Entrance::start().unwrap(),
            Worker::start("tables").unwrap(),
            loaded.sockets.clone(),
            PathBuf::from("/proc"),
            ReplayCounts::default(),
        );
        (self.sockets, self.events) = (loaded.sockets, loaded.events);
        self.gates = Some(loaded.gates);
    }

    /// Runs `work` within the container's cgroup. Hooks of sockets follow the cgroup in which the
    /// socket was made, wherever its process is later.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.enter();
        let result = work();
        self.leave();
        result
    }

    /// Moves the process into the container.
    pub(crate) fn enter(&self) {
        fs::write(self.container.join("cgroup.procs"), "0").unwrap();
    }

    /// Moves it out again.
    pub(crate) fn leave(&self) {
        fs::write(self.root.join("cgroup.procs"), "0").unwrap();
    }

    /// A stream socket made within the container.
    pub(crate) fn socket(&self, address: SocketAddr) -> Socket {
        self.inside(|| Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap())
    }

    /// Calls connect() from within the container, on a thread of its own.
    pub(crate) fn connect(&self, address: SocketAddr) -> Connecting {
        let socket = self.socket(address);
        self.inside(|| {
            let connecting = Connecting::start(socket, address);
            // The connect hook looks at where its caller is; the first SYN goes out within
            // connect().
            thread::sleep(Duration::from_millis(50));
            connecting
        })
    }

    pub(crate) fn counts(&self) -> GateCounts {
        self.gates.as_ref().unwrap().counts(self.id()).unwrap()
    }

    /// Waits for `count` events.
    pub(crate) fn events(&mut self, count: usize) -> Vec<KernelEventKind> {
        self.timed_events(count).into_iter().map(|event| event.kind).collect()
    }

    /// The same, with the instants at which the kernel has reported them.
    pub(crate) fn timed_events(&mut self, count: usize) -> Vec<KernelEvent> {
        let events = &mut self.events;
        self.runtime.block_on(async {
            let mut reported = Vec::new();
            while reported.len() < count {
                let next = tokio::time::timeout(Duration::from_secs(20), events.next());
                reported.extend(next.await.expect("events come in time").unwrap());
            }
            reported
        })
    }

    /// Whether no event comes for a while.
    pub(crate) fn is_silent(&mut self) -> bool {
        let events = &mut self.events;
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_millis(200), events.next()).await.is_err()
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = fs::write(self.root.join("cgroup.procs"), "0");
        self.detach();
        let _ = fs::remove_dir(&self.container);
        let _ = fs::remove_dir(&self.pod);
        let _ = fs::remove_dir(&self.kubepods);
    }
}

/// A connect() under way.
pub(crate) struct Connecting(thread::JoinHandle<(io::Result<TcpStream>, Duration)>);

impl Connecting {
    pub(crate) fn start(socket: Socket, address: SocketAddr) -> Self {
        let started = Instant::now();
        let seen = socket.try_clone().unwrap();
        let connecting = Self(thread::spawn(move || {
            let result = socket.connect(&address.into());
            (result.map(|()| TcpStream::from(socket)), started.elapsed())
        }));
        // A busy machine may take its time to run the thread. Once the socket tells another state its
        // first SYN has met the gate: connect() keeps it locked until then.
        while connecting.is_waiting() && tcp_state(&seen) == TCP_CLOSE {
            thread::sleep(Duration::from_millis(1));
        }
        connecting
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.0.is_finished()
    }

    pub(crate) fn result(self) -> (io::Result<TcpStream>, Duration) {
        self.0.join().unwrap()
    }

    /// Waits for its end, which must be an error.
    pub(crate) fn error(self) -> io::Error {
        self.result().0.expect_err("connect() fails")
    }
}

/// `TCP_CLOSE` of include/net/tcp_states.h: no connect() has begun, or it has ended.
const TCP_CLOSE: u8 = 7;

fn tcp_state(socket: &Socket) -> u8 {
    // SAFETY: all-zero is a valid tcp_info.
    let info: libc::tcp_info = unsafe { std::mem::zeroed() };
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, info).tcpi_state
}

pub(crate) fn claim(bpffs: &Path) -> Claim {
    Claim::try_take(bpffs).unwrap().expect("no agent works there")
}

fn cgroup_id(path: &Path) -> CgroupId {
    CgroupId(fs::metadata(path).unwrap().ino())
}

pub(crate) fn loopback_up() {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is live and names an interface.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    assert_eq!(ret, 0, "{}", io::Error::last_os_error());
}

/// Sets an option of a socket to the first `len` bytes of `value`.
pub(crate) fn set_option<T>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
    len: usize,
) -> io::Result<()> {
    assert!(len <= size_of_val(value));
    let value = (&raw const *value).cast();
    // SAFETY: the value is live and as long as said.
    let ret = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, len as u32) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An option of a socket.
pub(crate) fn option<T: Copy>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    mut value: T,
) -> T {
    let mut len = size_of::<T>() as libc::socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: `value` and `len` are live and `len` tells the size of `value`.
    let ret = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
    assert_eq!(ret, 0, "{}", io::Error::last_os_error());
    value
}

/// How often a socket sends its SYN once more.
pub(crate) fn tries(socket: &impl AsRawFd) -> u32 {
    option(socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 0)
}

/// Waits until it is so; `what` tells what is wrong while it is not.
pub(crate) fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < MINUTE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the running kernel is this version or a later one.
pub(crate) fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (major, minor)
}

pub(crate) fn proxy(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), PROXY_PORT)
}

/// The proxy's address as IPv4, as IPv6, and as IPv4 of an IPv6 socket.
pub(crate) fn addresses() -> [SocketAddr; 3] {
    let v4 = Ipv4Addr::LOCALHOST;
    [proxy(v4), proxy(Ipv6Addr::LOCALHOST), proxy(v4.to_ipv6_mapped())]
}

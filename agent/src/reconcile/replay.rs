//! The release: each held SYN, and each held query, is sent once more, now that the gate lets it
//! through and the proxy listens where it arrives.

mod listening;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use agent_ebpf::SocketRecord;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use self::listening::{Listening, OneFamily};
use crate::{
    bpf::SocketTable,
    clock,
    core::{
        CgroupId, Monotonic, NetnsCookie, PodUid, QueryId, ReplayError, ReplayPacket, SocketCookie,
        query_packet, syn_arrival, syn_packet,
    },
    netns::{Entrance, Netns, cookie_of},
    readiness::listener,
    worker::Worker,
};

/// Packets at a time: what a proxy's listen backlog of 128 takes without dropping, and some others'.
const BURST: usize = 120;

/// From the end of one burst to the next. Always a pause: a replay can be stopped in it. With tokio's
/// timers, which go by whole milliseconds, 1,000 sockets are released in some 20 ms.
const PAUSE: Duration = Duration::from_millis(1);

/// After the opening the table is read once more, whole: a program run that had begun before may
/// have dropped a SYN just after, and the report of a hold may have been lost. Well before a
/// socket's own retransmission, and within the time for which an opened gate keeps its programs.
const SECOND_LOOK: Duration = Duration::from_millis(15);

/// What was dropped later than this after a replay began is none of its business: the longest that
/// a program run which had begun before it takes. A guarded gate may hold again by then, because
/// nobody listens, and a SYN sent to nobody is refused.
const LATE_DROP: Duration = Duration::from_millis(5);

/// The first pause before another look whether the proxy listens on the second address family, too.
/// Each further one is twice as long.
const FIRST_LISTEN_PAUSE: Duration = Duration::from_millis(1);

/// For how long after the second look a SYN waits for a listener of its address family. A proxy takes
/// some 10 us from one address to the next, unless the processor is taken away from it. To a proxy of
/// one family the SYN is sent all the same; it is refused, as it would have been without a gate.
const LISTENS_WITHIN: Duration = Duration::from_millis(85);

/// Sends held SYNs and queries again.
#[derive(Debug)]
pub struct Replayer {
    replay: Replay,
    pods: HashMap<CgroupId, PodReplays>,
}

/// One pod's.
#[derive(Debug, Default)]
struct PodReplays {
    running: JoinSet<()>,
    one_family: OneFamily,
}

/// What has become of the packets of all replays. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct ReplayCounts(Arc<ReplayTotals>);

#[derive(Debug, Default)]
struct ReplayTotals {
    sent: AtomicU64,
    failed: AtomicU64,
}

/// What is to be replayed.
#[derive(Clone, Debug)]
pub struct ReplayOf {
    /// The pod.
    pub uid: PodUid,
    /// Its cgroup.
    pub cgroup: CgroupId,
    /// Only this container of it.
    pub container: Option<CgroupId>,
    /// The sockets known to wait.
    pub held: Vec<SocketCookie>,
    /// The proxy has begun to listen, and may go on to its other addresses: what would be refused
    /// there waits a little.
    pub proxy_is_new: bool,
}

/// What a running replay needs.
#[derive(Clone, Debug)]
struct Replay {
    entrance: Entrance,
    /// Walks the table.
    reader: Worker,
    sockets: SocketTable,
    proc_root: PathBuf,
    counts: ReplayCounts,
    /// Whether the kernel tells who listens.
    tells_listeners: bool,
}

/// The raw sockets of one pod's network namespace.
struct RawSockets {
    v4: Socket,
    /// `None` on a kernel without IPv6.
    v6: Option<Socket>,
    netns: Option<NetnsCookie>,
}

/// One replay under way.
struct Run<'a> {
    replay: &'a Replay,
    of: &'a ReplayOf,
    netns: &'a Netns,
    raw: RawSockets,
    listening: Listening,
    /// What was dropped after that waits for something else.
    until: Monotonic,
    /// When what has been sent again was dropped: the table is read twice.
    replayed: HashMap<(SocketCookie, Option<QueryId>), u64>,
    tally: &'a mut Tally,
}

/// What one replay did, for the log.
#[derive(Default)]
struct Tally {
    sent: usize,
    unusable: usize,
    failed: Option<io::Error>,
}

// === impl ReplayCounts ===

impl ReplayCounts {
    /// How many packets were sent again.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Relaxed)
    }

    /// How many could not be made or sent, each try counted.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Relaxed)
    }
}

// === impl Replayer ===

impl Replayer {
    /// Replays what `sockets` holds; `reader` is for what takes long.
    #[must_use]
    pub fn new(
        entrance: Entrance,
        reader: Worker,
        sockets: SocketTable,
        proc_root: PathBuf,
        counts: ReplayCounts,
    ) -> Self {
        let tells_listeners = listener::is_supported();
        let replay = Replay { entrance, reader, sockets, proc_root, counts, tells_listeners };
        Self { replay, pods: HashMap::new() }
    }

    /// Ends what is being replayed of a pod: its gate is closed again. A SYN that a closed gate holds
    /// must not be let through by the last round of an earlier opening.
    pub fn stop(&mut self, cgroup: CgroupId) {
        if let Some(pod) = self.pods.get_mut(&cgroup) {
            pod.running = JoinSet::new();
        }
    }

    /// As [`Self::stop`], of a pod whose gate is gone.
    pub fn forget(&mut self, cgroup: CgroupId) {
        self.pods.remove(&cgroup);
    }

    /// Starts to replay the sockets of `of`.
    ///
    /// A replay that fails refuses nothing: the gate is open, and the socket's own retransmission
    /// comes, mostly within 500 ms.
    pub fn start(&mut self, of: ReplayOf, netns: Arc<Netns>) {
        let uid = of.uid.clone();
        let cgroup = of.cgroup;
        let replay = self.replay.clone();
        // Now: who is dropped until the task gets to run waits for something else.
        let until = clock::now() + LATE_DROP;
        let pod = self.pods.entry(cgroup).or_default();
        let one_family = pod.one_family.clone();
        pod.running.spawn(async move {
            let mut tally = Tally::default();
            if let Err(error) = replay.run(&of, &netns, one_family, until, &mut tally).await {
                tally.failed = Some(error);
            }
            let Tally { sent, unusable, failed } = tally;
            match failed {
                Some(error) => tracing::warn!(
                    pod_uid = %uid, sent, unusable, %error,
                    "replay failed; held connects go on with their next retransmission"
                ),
                None => tracing::debug!(pod_uid = %uid, sent, unusable, "replayed"),
            }
        });
    }
}

// === impl Replay ===

impl Replay {
    async fn run(
        &self,
        of: &ReplayOf,
        netns: &Arc<Netns>,
        one_family: OneFamily,
        until: Monotonic,
        tally: &mut Tally,
    ) -> io::Result<()> {
        let asks = of.proxy_is_new && self.tells_listeners;
        let open = move || Ok((RawSockets::open()?, Listening::open(asks, one_family)));
        let (raw, listening) = self.entrance.run(netns, open).await?;
        let mut run =
            Run { replay: self, of, netns, raw, listening, until, replayed: HashMap::new(), tally };
        let early = run.pass(self.recorded(&of.held)).await;
        let second_look = Instant::now() + SECOND_LOOK;
        run.once_it_listens(early, second_look).await;
        sleep_until(second_look).await;
        // Two system calls for each record of the node: not for a pod whose sockets all have gone on.
        if !self.sockets.may_have(of.cgroup) {
            return Ok(());
        }
        let (sockets, cgroup) = (self.sockets.clone(), of.cgroup);
        let missed = self.reader.run(move || sockets.held_by(cgroup)).await?;
        let early = run.pass(missed.into_iter()).await;
        let early = run.once_it_listens(early, Instant::now() + LISTENS_WITHIN).await;
        for (_, record) in self.recorded(&early) {
            if let Some(arrival) = syn_arrival(&record) {
                run.listening.was_in_vain(arrival);
            }
        }
        run.pass(self.recorded(&early)).await;
        Ok(())
    }

    /// Those of `sockets` that still have a record.
    fn recorded(
        &self,
        sockets: &[SocketCookie],
    ) -> impl Iterator<Item = (SocketCookie, SocketRecord)> {
        sockets.iter().filter_map(|cookie| Some((*cookie, self.sockets.get(*cookie)?)))
    }
}

// === impl Run ===

impl Run<'_> {
    /// Sends what `sockets` wait for, and returns those for whom it is too early: the proxy is about
    /// to listen where they connect to.
    async fn pass(
        &mut self,
        sockets: impl Iterator<Item = (SocketCookie, SocketRecord)>,
    ) -> Vec<SocketCookie> {
        self.listening.look_again();
        let mut early = Vec::new();
        for (nth, (cookie, record)) in sockets.enumerate() {
            if nth % BURST == BURST - 1 {
                sleep(PAUSE).await;
            }
            if !self.concerns(&record) {
                continue;
            }
            if self.is_early(cookie, &record) {
                early.push(cookie);
            } else {
                self.socket(cookie, &record);
            }
        }
        early
    }

    /// Sends what `early` wait for as soon as the proxy listens. Returns those for whom it does not
    /// at `end`.
    async fn once_it_listens(
        &mut self,
        mut early: Vec<SocketCookie>,
        end: Instant,
    ) -> Vec<SocketCookie> {
        let replay = self.replay;
        let mut pause = FIRST_LISTEN_PAUSE;
        while !early.is_empty() && Instant::now() < end {
            sleep_until(end.min(Instant::now() + pause)).await;
            pause *= 2;
            early = self.pass(replay.recorded(&early)).await;
        }
        early
    }

    /// Whether the SYN of this socket would be refused by a proxy that is about to take it.
    fn is_early(&mut self, cookie: SocketCookie, record: &SocketRecord) -> bool {
        record.protocol == libc::IPPROTO_TCP.unsigned_abs()
            && self.is_due(&(cookie, None), record.dropped_ns)
            && syn_arrival(record).is_some_and(|arrival| self.listening.is_about_to(arrival))
    }

    /// Sends what one socket waits for.
    fn socket(&mut self, cookie: SocketCookie, record: &SocketRecord) {
        if record.protocol == libc::IPPROTO_UDP.unsigned_abs() {
            for (id, datagram) in self.replay.sockets.queries(cookie, record) {
                self.packet((cookie, Some(id)), datagram.dropped_ns, || {
                    query_packet(&datagram, clock::now())
                });
            }
        } else {
            self.packet((cookie, None), record.dropped_ns, || syn_packet(record, clock::now()));
        }
    }

    fn packet(
        &mut self,
        key: (SocketCookie, Option<QueryId>),
        dropped_ns: u64,
        build: impl FnOnce() -> Result<ReplayPacket, ReplayError>,
    ) {
        if !self.is_due(&key, dropped_ns) {
            return;
        }
        let totals = &self.replay.counts.0;
        let Ok(packet) = build() else {
            self.tally.unusable += 1;
            totals.failed.fetch_add(1, Relaxed);
            return;
        };
        match self.raw.send(&packet) {
            Ok(()) => {
                self.replayed.insert(key, dropped_ns);
                self.tally.sent += 1;
                totals.sent.fetch_add(1, Relaxed);
            }
            Err(error) => {
                self.tally.failed = Some(error);
                totals.failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// Whether this run is to send it, and has not yet.
    fn is_due(&self, key: &(SocketCookie, Option<QueryId>), dropped_ns: u64) -> bool {
        dropped_ns <= self.until.0 && self.replayed.get(key) != Some(&dropped_ns)
    }

    fn concerns(&self, record: &SocketRecord) -> bool {
        record.pod == self.of.cgroup.0
            && self.of.container.is_none_or(|container| record.container == container.0)
            && self.is_in_netns(record)
    }

    /// Whether connect() was called in the pod's own network namespace. A process of the pod may
    /// be in another one; its SYN must not appear here. Where the kernel does not tell a
    /// namespace's cookie (before 5.14) the caller's namespace is looked up.
    fn is_in_netns(&self, record: &SocketRecord) -> bool {
        match self.raw.netns {
            Some(cookie) => record.netns_cookie == cookie.0,
            None => {
                // The thread may have ended since.
                let of = |task: u32| {
                    Netns::open(&self.replay.proc_root.join(task.to_string()).join("ns/net"))
                };
                let caller = of(record.tid).or_else(|_| of(record.pid));
                caller.is_ok_and(|caller| caller.inode() == self.netns.inode())
            }
        }
    }
}

// === impl RawSockets ===

impl RawSockets {
    /// Must be called inside the network namespace (takes `CAP_NET_RAW`).
    fn open() -> io::Result<Self> {
        // IPPROTO_RAW: the packet brings its own IP header (raw(7), and ipv6 likewise).
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(raw))?;
        v4.set_nonblocking(true)?;
        let v6 = Socket::new(Domain::IPV6, Type::RAW, Some(raw)).ok();
        if let Some(v6) = &v6 {
            v6.set_nonblocking(true)?;
        }
        let netns = cookie_of(&v4);
        Ok(Self { v4, v6, netns })
    }

    fn send(&self, packet: &ReplayPacket) -> io::Result<()> {
        let ReplayPacket { destination, bytes } = packet;
        let socket = if destination.is_ipv4() {
            &self.v4
        } else {
            self.v6.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?
        };
        // A raw socket takes the "port" for a protocol number (rawv6_sendmsg in net/ipv6/raw.c).
        let mut address = *destination;
        address.set_port(0);
        socket.send_to(bytes, &SockAddr::from(address)).map(drop)
    }
}

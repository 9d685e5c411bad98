//! The release: each held SYN is sent once more, now that the gate lets it through.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc, time::Duration};

use agent_ebpf::SocketRecord;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    bpf::SocketTable,
    clock,
    core::{CgroupId, NetnsCookie, PodUid, ReplayPacket, SocketCookie, replay_packet},
    netns::{Entrance, Netns, cookie_of},
};

/// Packets between two pauses: what a proxy's listen backlog of 128 takes without dropping.
const BURST: usize = 100;

/// The pause. 1,000 sockets are released in 10 ms.
const PAUSE: Duration = Duration::from_millis(1);

/// When the table is read, counted from the opening. A program run that had begun before the gate
/// opened may drop a SYN just after: the later rounds find it, well before its own retransmission.
const ROUNDS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(3), Duration::from_millis(17)];

/// Sends held SYNs again.
#[derive(Debug)]
pub struct Replayer {
    replay: Replay,
    running: HashMap<CgroupId, JoinSet<()>>,
}

/// What a running replay needs.
#[derive(Clone, Debug)]
struct Replay {
    entrance: Entrance,
    sockets: SocketTable,
    proc_root: PathBuf,
}

/// The raw sockets of one pod's network namespace.
struct RawSockets {
    v4: Socket,
    /// `None` on a kernel without IPv6.
    v6: Option<Socket>,
    netns: Option<NetnsCookie>,
}

/// What one replay did, for the log.
#[derive(Default)]
struct Tally {
    sent: usize,
    unusable: usize,
    failed: Option<io::Error>,
}

// === impl Replayer ===

impl Replayer {
    /// Replays what `sockets` holds.
    #[must_use]
    pub fn new(entrance: Entrance, sockets: SocketTable, proc_root: PathBuf) -> Self {
        Self { replay: Replay { entrance, sockets, proc_root }, running: HashMap::new() }
    }

    /// Ends what is being replayed of a pod: its gate is closed again, or gone. A SYN that a closed
    /// gate holds must not be let through by the last round of an earlier opening.
    pub fn stop(&mut self, cgroup: CgroupId) {
        self.running.remove(&cgroup);
    }

    /// Starts to replay what the pod `cgroup` holds, or one of its containers.
    ///
    /// A replay that fails refuses nothing: the gate is open, and the socket's own retransmission
    /// comes within 500 ms.
    pub fn start(
        &mut self,
        uid: PodUid,
        cgroup: CgroupId,
        container: Option<CgroupId>,
        netns: Arc<Netns>,
    ) {
        let replay = self.replay.clone();
        self.running.entry(cgroup).or_default().spawn(async move {
            let mut tally = Tally::default();
            if let Err(error) = replay.run(cgroup, container, &netns, &mut tally).await {
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
        cgroup: CgroupId,
        container: Option<CgroupId>,
        netns: &Arc<Netns>,
        tally: &mut Tally,
    ) -> io::Result<()> {
        let raw = self.entrance.run(netns, RawSockets::open).await?;
        let mut replayed: HashMap<SocketCookie, u64> = HashMap::new();
        for pause in ROUNDS {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let mut burst = 0;
            for (cookie, record) in self.sockets.held_by(cgroup) {
                let ours = container.is_none_or(|container| record.container == container.0)
                    && self.is_in(&record, netns, raw.netns);
                if !ours || replayed.insert(cookie, record.dropped_ns) == Some(record.dropped_ns) {
                    continue;
                }
                let Ok(packet) = replay_packet(&record, clock::now()) else {
                    tally.unusable += 1;
                    continue;
                };
                match raw.send(&packet) {
                    Ok(()) => tally.sent += 1,
                    Err(error) => tally.failed = Some(error),
                }
                burst += 1;
                if burst == BURST {
                    burst = 0;
                    sleep(PAUSE).await;
                }
            }
        }
        Ok(())
    }

    /// Whether connect() was called in the pod's own network namespace. A process of the pod may
    /// be in another one; its SYN must not appear here. Where the kernel does not tell a
    /// namespace's cookie (before 5.14) the caller's namespace is looked up.
    fn is_in(&self, record: &SocketRecord, netns: &Netns, cookie: Option<NetnsCookie>) -> bool {
        match cookie {
            Some(cookie) => record.netns_cookie == cookie.0,
            None => {
                let path = self.proc_root.join(record.pid.to_string()).join("ns/net");
                Netns::open(&path).is_ok_and(|other| other.inode() == netns.inode())
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

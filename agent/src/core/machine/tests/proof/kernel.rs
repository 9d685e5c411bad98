//! The kernel's part: what the programs do with connects, by the state that the agent has written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use agent_ebpf::{Gate, GateMode, GateState, Treatment, gate::SOMEBODY_WAITS};

use super::super::caller;
use crate::core::{
    Caller, CgroupId, CloseReason, GateSetting, InheritedGate, InheritedState, KernelEvent,
    KernelEventKind, Mode, Monotonic, PodUid, QueryId, SetGate, SocketCookie, Verdict,
};

/// After a drop the TCP stack tries again so much later.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// One pod's gate.
#[derive(Clone, Debug)]
pub(super) struct KernelGate {
    pub(super) uid: PodUid,
    pub(super) gate: Gate,
    reason: CloseReason,
    /// What the kernel counts.
    pub(super) reached: u64,
    /// The cgroup has gone, and its links with it.
    pub(super) is_dead: bool,
    /// Which of all closings it is.
    closing: u64,
}

/// A socket that waits.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) cookie: SocketCookie,
    pub(super) pod: CgroupId,
    pub(super) container: CgroupId,
    pub(super) connect_at: Monotonic,
    recorded: bool,
    next_try: Monotonic,
    /// The closing of the gate that was the first to drop its SYN.
    closing: u64,
}

#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) gates: BTreeMap<CgroupId, KernelGate>,
    pub(super) verdicts: BTreeMap<CgroupId, Verdict>,
    /// Those that wait.
    pub(super) sockets: Vec<Socket>,
    pub(super) ring: VecDeque<KernelEvent>,
    /// The pods on whose proxy's port somebody listens.
    pub(super) listens: BTreeMap<CgroupId, bool>,
    /// The shortest time after which a closed gate has let go of one whose own time was over.
    pub(super) shortest: Option<Duration>,
    cookies: u64,
    closings: u64,
}

// === impl KernelGate ===

impl KernelGate {
    pub(super) fn is_closed(&self) -> bool {
        self.gate.state == GateState::Closed as u32
    }

    /// Its time was up from the first.
    pub(super) fn is_refusing(&self) -> bool {
        self.gate.deadline_ns <= self.gate.since_ns
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.gate.state == GateState::Guarded as u32
    }

    pub(super) fn deadline(&self) -> Monotonic {
        Monotonic(self.gate.deadline_ns)
    }

    fn state(&self) -> InheritedState {
        if self.is_guarded() {
            return InheritedState::Guarded;
        }
        if !self.is_closed() {
            return InheritedState::Open;
        }
        let Gate { deadline_ns, since_ns, reached_before, .. } = self.gate;
        // As `bpf/inherit.rs` reads it.
        if self.is_refusing() {
            return InheritedState::Refusing { reason: self.reason };
        }
        InheritedState::Closed {
            reason: self.reason,
            since: Monotonic(since_ns),
            reached_before: (reached_before != SOMEBODY_WAITS).then_some(reached_before),
            deadline: Monotonic(deadline_ns),
        }
    }
}

/// As `bpf/gate.rs` writes it.
fn gate_of(set: &SetGate) -> Gate {
    let mode = match set.mode {
        Mode::Hold | Mode::Retry => GateMode::Hold,
        Mode::Refuse => GateMode::Refuse,
        Mode::Observe => GateMode::Observe,
    };
    match set.state {
        GateSetting::Closed { reason: _, since, reached_before, deadline, refuse_until } => Gate {
            state: GateState::Closed as u32,
            mode: mode as u32,
            deadline_ns: deadline.0,
            since_ns: since.0,
            reached_before: reached_before.unwrap_or(SOMEBODY_WAITS),
            refuse_until_ns: refuse_until.map_or(0, |until| until.0),
            ..Gate::OPEN
        },
        GateSetting::Guarded { budget } => Gate {
            state: GateState::Guarded as u32,
            guard_ns: u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX),
            ..Gate::OPEN
        },
    }
}

// === impl Kernel ===

impl Kernel {
    pub(super) fn set(&mut self, set: &SetGate) {
        // Programs that are on a cgroup that has gone do not come to another one of the same number.
        let former = self.gates.remove(&set.cgroup).filter(|former| former.uid == set.uid);
        let is_dead = former.as_ref().is_some_and(|former| former.is_dead);
        let (closing, reached, reason) =
            former.map_or((0, 0, CloseReason::Start), |one| (one.closing, one.reached, one.reason));
        let closes = matches!(set.state, GateSetting::Closed { .. }) && !set.renews;
        self.closings += u64::from(closes);
        let closing = if closes { self.closings } else { closing };
        let reason = match set.state {
            GateSetting::Closed { reason, .. } => reason,
            GateSetting::Guarded { .. } => reason,
        };
        let gate = KernelGate {
            uid: set.uid.clone(),
            gate: gate_of(set),
            reason,
            reached,
            is_dead,
            closing,
        };
        self.gates.insert(set.cgroup, gate);
    }

    /// Opens a gate; what is to be sent again goes out at once.
    pub(super) fn open(&mut self, pod: CgroupId, replay: &[SocketCookie], now: Monotonic) {
        if let Some(gate) = self.gates.get_mut(&pod) {
            gate.gate.state = GateState::Open as u32;
        }
        self.replay(replay, now);
    }

    pub(super) fn replay(&mut self, cookies: &[SocketCookie], now: Monotonic) {
        let sockets = std::mem::take(&mut self.sockets);
        for socket in sockets {
            if cookies.contains(&socket.cookie) {
                self.attempt(socket, now);
            } else {
                self.sockets.push(socket);
            }
        }
    }

    pub(super) fn treatment(&self, pod: CgroupId, now: Monotonic) -> Treatment {
        let gate = self.gates.get(&pod).filter(|gate| !gate.is_dead);
        gate.map_or(Treatment::Pass, |gate| gate.gate.treatment(now.0))
    }

    /// Whether a SYN of this socket would be dropped.
    pub(super) fn drops(&self, socket: &Socket, now: Monotonic) -> bool {
        self.holds(socket.container)
            && match self.treatment(socket.pod, now) {
                Treatment::Hold => now < self.held_until(socket),
                Treatment::Guard => !self.listens_at(socket.pod) && now < self.guarded(socket),
                Treatment::Pass | Treatment::Refuse | Treatment::Observe => false,
            }
    }

    fn held_until(&self, socket: &Socket) -> Monotonic {
        Monotonic(self.gates[&socket.pod].gate.holds_until(socket.connect_at.0))
    }

    fn guarded(&self, socket: &Socket) -> Monotonic {
        let budget = self.gates.get(&socket.pod).map_or(0, |gate| gate.gate.guard_ns);
        socket.connect_at + Duration::from_nanos(budget)
    }

    pub(super) fn holds(&self, container: CgroupId) -> bool {
        matches!(self.verdicts.get(&container), None | Some(Verdict::Hold))
    }

    fn listens_at(&self, pod: CgroupId) -> bool {
        self.listens.get(&pod).copied().unwrap_or(false)
    }

    /// Whether this socket waits for the gate that is closed now, and came to it while it was.
    pub(super) fn waits_since_closing(&self, socket: &Socket) -> bool {
        let gate = self.gates.get(&socket.pod).filter(|gate| gate.is_closed());
        gate.is_some_and(|gate| gate.closing == socket.closing)
    }

    pub(super) fn connect(
        &mut self,
        pod: CgroupId,
        container: CgroupId,
        recorded: bool,
        now: Monotonic,
    ) {
        self.cookies += 1;
        let cookie = SocketCookie(self.cookies);
        // It has not been dropped by any yet.
        let closing = u64::MAX;
        let (connect_at, next_try) = (now, now);
        let socket = Socket { cookie, pod, container, connect_at, recorded, next_try, closing };
        self.attempt(socket, now);
    }

    /// A query: it waits for the agent's replay, or is forgotten by its resolver.
    pub(super) fn query(&mut self, pod: CgroupId, container: CgroupId, now: Monotonic) {
        if self.treatment(pod, now) != Treatment::Hold || !self.holds(container) {
            return;
        }
        self.cookies += 1;
        if let Some(gate) = self.gates.get_mut(&pod) {
            gate.reached += 1;
        }
        let query = Some(QueryId(self.cookies));
        let caller = Caller { query, ..of(container, now) };
        self.tell(SocketCookie(self.cookies), pod, KernelEventKind::Held(caller), now);
    }

    fn tell(&mut self, cookie: SocketCookie, pod: CgroupId, kind: KernelEventKind, at: Monotonic) {
        if self.gates.get(&pod).is_some_and(|gate| !gate.is_dead) {
            self.ring.push_back(KernelEvent { at, cookie, pod, kind });
        }
    }

    /// A SYN leaves, for the first time or again.
    fn attempt(&mut self, mut socket: Socket, now: Monotonic) {
        let is_first = socket.closing == u64::MAX;
        let (cookie, pod) = (socket.cookie, socket.pod);
        let caller = of(socket.container, socket.connect_at);
        let treatment = self.treatment(pod, now);
        if treatment != Treatment::Pass && !self.holds(socket.container) {
            if self.verdicts.get(&socket.container) == Some(&Verdict::PassAndTell) {
                self.tell(cookie, pod, KernelEventKind::InitPassed(caller), now);
            }
            return self.pass(&socket, now);
        }
        let counts = is_first && treatment != Treatment::Pass;
        let drops = self.drops(&socket, now);
        let is_over = treatment == Treatment::Hold && !drops;
        if is_over {
            let waited = now.since(socket.connect_at);
            self.shortest = Some(self.shortest.map_or(waited, |shortest| shortest.min(waited)));
        }
        let refuse_until = self.gates.get(&pod).map_or(0, |gate| gate.gate.refuse_until_ns);
        let treatment = if is_over && now.0 < refuse_until { Treatment::Refuse } else { treatment };
        if counts
            && (drops || treatment != Treatment::Guard)
            && let Some(gate) = self.gates.get_mut(&pod)
        {
            gate.reached += 1;
        }
        match treatment {
            _ if drops => {
                if is_first {
                    socket.closing = self.gates.get(&pod).map_or(0, |gate| gate.closing);
                    self.tell(cookie, pod, KernelEventKind::Held(caller), now);
                }
                socket.next_try = self.next_try(&socket, now);
                self.sockets.push(socket);
            }
            Treatment::Refuse if is_first => {
                self.tell(cookie, pod, KernelEventKind::Refused(caller), now);
            }
            Treatment::Refuse => self.tell(cookie, pod, KernelEventKind::Failed, now),
            Treatment::Observe => {
                let refused = !self.listens_at(pod);
                if is_first {
                    self.tell(cookie, pod, KernelEventKind::Observed { caller, refused }, now);
                } else {
                    self.pass(&socket, now);
                }
            }
            Treatment::Pass | Treatment::Hold | Treatment::Guard => self.pass(&socket, now),
        }
    }

    /// The first try that can come to anything else: those before it are dropped like this one.
    fn next_try(&self, socket: &Socket, now: Monotonic) -> Monotonic {
        let end = match self.treatment(socket.pod, now) {
            Treatment::Hold => self.held_until(socket),
            _ => self.guarded(socket),
        };
        let tries = end.since(now).as_nanos().div_ceil(RETRY.as_nanos()).max(1);
        let wait = u64::try_from(tries * RETRY.as_nanos()).unwrap_or(u64::MAX);
        now + Duration::from_nanos(wait)
    }

    fn pass(&mut self, socket: &Socket, now: Monotonic) {
        if socket.closing != u64::MAX {
            let connects = self.listens_at(socket.pod);
            let kind = if connects { KernelEventKind::Connected } else { KernelEventKind::Failed };
            self.tell(socket.cookie, socket.pod, kind, now);
        }
    }

    /// Time passes: sockets try again.
    pub(super) fn run_until(&mut self, now: Monotonic) {
        while let Some(next) = self.sockets.iter().map(|socket| socket.next_try).min() {
            if next > now {
                return;
            }
            let index = self.sockets.iter().position(|socket| socket.next_try == next);
            let socket = self.sockets.remove(index.expect("it was found before"));
            self.attempt(socket, next);
        }
    }

    /// Something has changed that tries depend on: the next one is within half a second.
    pub(super) fn look_again(&mut self, pod: CgroupId, now: Monotonic) {
        for socket in self.sockets.iter_mut().filter(|socket| socket.pod == pod) {
            let left = socket.next_try.since(now).as_nanos() % RETRY.as_nanos();
            let left = if left == 0 { RETRY.as_nanos() } else { left };
            socket.next_try = now + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX));
        }
    }

    /// Its application closes sockets, or ends.
    pub(super) fn close(&mut self, which: impl Fn(&Socket) -> bool, now: Monotonic) {
        let (gone, stay) = std::mem::take(&mut self.sockets).into_iter().partition(which);
        self.sockets = stay;
        let gone: Vec<Socket> = gone;
        for socket in gone {
            self.tell(socket.cookie, socket.pod, KernelEventKind::Closed, now);
        }
    }

    /// The gates that an agent finds that takes over.
    pub(super) fn left(&self) -> BTreeSet<CgroupId> {
        let alive = self.gates.iter().filter(|(_, gate)| !gate.is_dead);
        alive.map(|(pod, _)| *pod).collect()
    }

    /// What it finds of one of them, as [`crate::bpf::Gates::inherit`].
    pub(super) fn left_on(&self, pod: CgroupId) -> Option<InheritedGate> {
        let gate = self.gates.get(&pod)?;
        let records = self.sockets.iter().filter(|socket| socket.pod == pod && socket.recorded);
        let waiting = records
            .map(|socket| (socket.cookie, of(socket.container, socket.connect_at)))
            .collect();
        Some(InheritedGate { state: gate.state(), waiting, reached: gate.reached })
    }
}

fn of(container: CgroupId, connect_at: Monotonic) -> Caller {
    Caller { container: Some(container), connect_at, ..caller(0) }
}

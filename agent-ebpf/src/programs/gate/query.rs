//! Datagrams to the proxy's DNS port.

use agent_ebpf::{
    EventKind, QueryKey, SocketRecord, Treatment,
    gate::DNS_BUDGET_NS,
    pacing::Answer,
    socket::{MAX_QUERIES, MAX_QUERY},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes},
    programs::SkBuffContext,
};

use crate::programs::{
    gate::is_exempt,
    listener,
    maps::{COUNTS, DATAGRAMS, NO_DATAGRAM, hold_of},
    packet::{self, Datagram},
    pod::{self, Found},
    record,
    report::{self, Sent},
    say::say,
    sentry,
    sock::{self, IPPROTO_UDP, SOCK_DGRAM, TCP_ESTABLISHED},
};

/// The header of a DNS message (RFC 1035, section 4.1.1). Anything shorter is no query.
const MIN_QUERY: usize = 12;

/// One query of one socket behind one gate.
struct Query<'a> {
    ctx: &'a SkBuffContext,
    datagram: &'a Datagram,
    found: &'a Found,
    sk: *mut bpf_sock,
    cookie: u64,
    id: u16,
    now: u64,
}

/// Drops the packet, of which [`packet::is_loopback_udp`] is true, if it is a query that is to
/// wait. Always without backing off: UDP tells its sender of any other drop.
#[inline(always)]
pub(super) fn hold<const LOUD: bool>(ctx: &SkBuffContext) -> Option<Answer> {
    let found = pod::of_packet(ctx)?;
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    let treatment = found.gate.treatment(now);
    if found.gate.dns_port == 0 || !matches!(treatment, Treatment::Hold | Treatment::Observe) {
        return None;
    }
    let (pod, container) = (found.pod, found.container);
    let datagram = packet::datagram(ctx)?;
    if datagram.destination.port != found.gate.dns_port {
        return None;
    }
    let sk = sock::of_kind(ctx, SOCK_DGRAM, IPPROTO_UDP)?;
    let id = if datagram.len >= MIN_QUERY {
        u16::from_be_bytes(ctx.load(datagram.offset).ok()?)
    } else {
        0
    };
    let (cookie, record) = record::of_packet(ctx, found.pod, IPPROTO_UDP);
    let query = Query { ctx, datagram: &datagram, found: &found, sk, cookie, id, now };
    if is_exempt(ctx, &found, || query.sent()) {
        say!(LOUD, QueryPassesExempt, pod, container, cookie, id, 0_u8);
        return None;
    }
    if treatment == Treatment::Observe {
        query.observe(record.as_deref());
        say!(LOUD, QueryObserved, pod, container, cookie, id, 0_u8);
        return None;
    }
    if sentry::is_alone(now) && listener::takes_datagrams(ctx, &datagram.destination) {
        say!(LOUD, QueryPassesListens, pod, container, cookie, id, 0_u8);
        return None;
    }
    let is_held = match record {
        Some(record) => match query.store(record) {
            Some(is_held) => is_held,
            None => query.wait_unstored(Some(record)),
        },
        None => query.wait_unstored(None),
    };
    if !is_held {
        say!(LOUD, QueryPassesTimeOver, pod, container, cookie, id, 0_u8);
        return None;
    }
    record::count(found.pod, |counts| &raw mut counts.dropped, 1);
    say!(LOUD, QueryDropped, pod, container, cookie, id, 0_u8);
    Some(Answer::Flat)
}

// === impl Query ===

impl Query<'_> {
    #[inline(always)]
    fn sent(&self) -> Sent {
        // Empty for a socket that is not connected: then only a hook knows it.
        // SAFETY: `sk` came from `of_kind`.
        let destination = unsafe { sock::destination(self.sk, self.datagram.source.version) };
        Sent {
            at_ns: self.now,
            first_ns: self.now,
            cookie: self.cookie,
            pod: self.found.pod,
            container: self.found.container,
            destination,
            protocol: IPPROTO_UDP,
            query: self.id,
        }
    }

    #[inline(always)]
    fn report_held(&self, record: Option<&SocketRecord>) {
        record::count(self.found.pod, |counts| &raw mut counts.held_queries, 1);
        report::packet(EventKind::Held, &self.sent(), record);
    }

    /// Puts the query into store, or its repetition. Returns whether it is held: it is not once its
    /// budget is spent. `None`: it cannot be stored.
    #[inline(always)]
    fn store(&self, record: &mut SocketRecord) -> Option<bool> {
        let Self { ctx, datagram, found, sk, cookie, id, now } = *self;
        if !(MIN_QUERY..=MAX_QUERY).contains(&datagram.len) {
            return None;
        }
        let key = QueryKey { cookie, id: u64::from(id) };
        let known = DATAGRAMS.get_ptr_mut(key);
        if known.is_none() {
            self.make(&key, record)?;
        }
        // SAFETY: a live map value; one socket's packets leave one at a time.
        let stored = unsafe { &mut *DATAGRAMS.get_ptr_mut(key)? };
        if known.is_none() {
            stored.pod = found.pod;
            stored.first_ns = now;
        } else if now >= stored.first_ns + DNS_BUDGET_NS {
            return Some(false);
        }
        record.drops += 1;
        record.dropped_ns = now;
        stored.dropped_ns = now;
        // Not to be replayed while it is being written.
        stored.len = 0;
        stored.source = datagram.source;
        // SAFETY: `sk` came from `of_kind`.
        stored.destination = unsafe {
            if (*sk).state == TCP_ESTABLISHED {
                sock::destination(sk, datagram.source.version)
            } else {
                record.asked
            }
        };
        let len = at_most_max_query(datagram.len);
        // SAFETY: the context is the one the program was given; `message` is `MAX_QUERY` long.
        let ret = unsafe {
            bpf_skb_load_bytes(
                ctx.as_ptr(),
                datagram.offset as u32,
                stored.message.as_mut_ptr().cast(),
                len as u32,
            )
        };
        if ret == 0 {
            stored.len = len as u32;
        }
        if known.is_none() {
            self.report_held(Some(record));
        }
        Some(true)
    }

    /// Makes room for the query, and in the socket's ring for its id.
    #[inline(always)]
    fn make(&self, key: &QueryKey, record: &mut SocketRecord) -> Option<()> {
        let counts = COUNTS.get_ptr_mut(self.found.pod)?;
        // SAFETY: the pointer is live for this run; the count is a limit, not a ledger.
        if unsafe { (*counts).datagrams } >= u64::from(self.found.gate.socket_quota) {
            return None;
        }
        let empty = NO_DATAGRAM.get(0)?;
        DATAGRAMS.insert(key, empty, BPF_NOEXIST.into()).ok()?;
        // SAFETY: as above.
        unsafe { report::add(&raw mut (*counts).datagrams, 1) };
        let slot = record.query_count as usize % MAX_QUERIES;
        if record.query_count >= MAX_QUERIES as u64 {
            record::remove_query(self.cookie, record.queries[slot], self.found.pod);
        }
        record.queries[slot] = self.id;
        record.query_count += 1;
        Some(())
    }

    /// Holds a query that is not stored by what the socket itself remembers. Returns whether it is
    /// held: without the socket's storage there is no budget, so it is not.
    #[inline(always)]
    fn wait_unstored(&self, record: Option<&mut SocketRecord>) -> bool {
        // SAFETY: `sk` came from `of_kind`.
        let Some(hold) = (unsafe { hold_of(self.sk, BPF_SK_STORAGE_GET_F_CREATE) }) else {
            return false;
        };
        if hold.drops == 0 {
            hold.first_ns = self.now;
        } else if self.now >= hold.first_ns + DNS_BUDGET_NS {
            return false;
        }
        hold.drops += 1;
        if hold.drops == 1 {
            self.report_held(record.as_deref());
        }
        if let Some(record) = record {
            record.drops += 1;
        }
        true
    }

    /// Reports what would have been held, once a socket.
    #[inline(always)]
    fn observe(&self, record: Option<&SocketRecord>) {
        // SAFETY: `sk` came from `of_kind`.
        let hold = unsafe { hold_of(self.sk, BPF_SK_STORAGE_GET_F_CREATE) };
        if let Some(hold) = hold
            && hold.told == 0
        {
            hold.told = 1;
            record::count(self.found.pod, |counts| &raw mut counts.observed, 1);
            let takes = listener::takes_datagrams(self.ctx, &self.datagram.destination);
            report::packet(EventKind::observed(takes), &self.sent(), record);
        }
    }
}

/// `len`, which is 1 to `MAX_QUERY`, in a form from which the verifier sees that it is: Linux 5.10
/// does not carry the bounds of a comparison as far as to the load. The compiler, which does,
/// would remove the arithmetic; so the value passes through an instruction that it cannot see
/// into.
#[inline(always)]
fn at_most_max_query(len: usize) -> usize {
    const { assert!(MAX_QUERY.is_power_of_two()) };
    let mut less_one = len as u64 - 1;
    // SAFETY: moves a register to itself.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) less_one, options(pure, nomem, nostack));
    }
    (less_one as usize & (MAX_QUERY - 1)) + 1
}

//! SYNs to the proxy's ports, and to its DNS port.

use agent_ebpf::{
    EventKind, GateState, SocketRecord, Treatment,
    gate::DNS_BUDGET_NS,
    pacing::Answer,
    socket::{MAX_TCP_HEADER, MIN_TCP_HEADER},
};
use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::bpf_ktime_get_ns,
    programs::SkBuffContext,
};

use crate::programs::{
    gate::{cookie_of, is_exempt},
    listener,
    maps::{GiveUp, HeldBy, REDIRECTED, Target, hold_of},
    packet::{self, Syn},
    pod::{self, Found, Standing},
    record,
    report::{self, Sent},
    say::say,
    sentry,
    sock::{self, IPPROTO_TCP, SOCK_STREAM},
};

/// The SYN of one socket behind one gate.
struct Attempt<'a> {
    ctx: &'a SkBuffContext,
    syn: &'a Syn,
    found: &'a Found,
    sk: *mut bpf_sock,
    now: u64,
}

/// Drops the packet if it is a SYN that is to wait, or to fail.
#[inline(always)]
pub(super) fn hold<const LOUD: bool>(ctx: &SkBuffContext) -> Option<Answer> {
    let syn = packet::syn(ctx)?;
    let found = pod::of_packet(ctx)?;
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    let gate = found.gate;
    let treatment = gate.treatment(now);
    let (pod, container, port) = (found.pod, found.container, syn.destination.port);
    if treatment == Treatment::Pass {
        let closed = gate.state == GateState::Closed as u32;
        say!(LOUD, SynPassesOpen, pod, container, cookie_of(ctx), port, closed);
        return None;
    }
    if !syn.loopback {
        if treatment != Treatment::Guard {
            went_around(ctx, &found);
        }
        say!(LOUD, SynPassesAround, pod, container, cookie_of(ctx), port, 0_u8);
        return None;
    }
    let is_named = gate.ports.contains(&port);
    let is_dns = !is_named && port == gate.dns_port;
    let concerns =
        is_named || (is_dns && matches!(treatment, Treatment::Hold | Treatment::Observe));
    if !concerns {
        say!(LOUD, SynPassesOtherPort, pod, container, cookie_of(ctx), port, 0_u8);
        return None;
    }
    // Before all else: it is what most SYNs to a guarded gate meet.
    if goes_by_listener(treatment, now) && listener::listens(ctx, &syn.destination) {
        say!(LOUD, SynPassesListens, pod, container, cookie_of(ctx), port, 0_u8);
        return None;
    }
    let Some(sk) = sock::of_kind(ctx, SOCK_STREAM, IPPROTO_TCP) else {
        say!(LOUD, SynPassesForeign, pod, container, cookie_of(ctx), port, 0_u8);
        return None;
    };
    let attempt = Attempt { ctx, syn: &syn, found: &found, sk, now };
    let is_exempt = if treatment == Treatment::Guard {
        found.standing() != Standing::Held || super::is_proxy(ctx, gate)
    } else {
        is_exempt(ctx, &found, || attempt.sent(0))
    };
    if is_exempt {
        say!(LOUD, SynPassesExempt, pod, container, cookie_of(ctx), port, gate.proxy_uid);
        return None;
    }
    match treatment {
        Treatment::Pass => return None,
        Treatment::Hold if is_dns => return attempt.wait::<LOUD>(Some(DNS_BUDGET_NS)),
        Treatment::Hold => {
            let answer = attempt.wait::<LOUD>(None);
            // Its own time is over before the gate's.
            if answer.is_some() || now >= gate.refuse_until_ns {
                return answer;
            }
        }
        Treatment::Guard => return attempt.wait::<LOUD>(Some(gate.guard_ns)),
        Treatment::Refuse => {}
        Treatment::Observe => {
            attempt.observe::<LOUD>();
            return None;
        }
    }
    attempt.refuse::<LOUD>()
}

/// Whether who connects to a port on which somebody listens passes, be the proxy ready or not.
#[inline(always)]
fn goes_by_listener(treatment: Treatment, now: u64) -> bool {
    match treatment {
        Treatment::Guard => true,
        Treatment::Hold | Treatment::Refuse => sentry::is_alone(now),
        Treatment::Pass | Treatment::Observe => false,
    }
}

/// Counts a SYN that nothing redirected to the proxy.
#[inline(always)]
fn went_around(ctx: &SkBuffContext, found: &Found) {
    if found.standing() == Standing::Held
        && !super::is_proxy(ctx, found.gate)
        && sock::of_kind(ctx, SOCK_STREAM, IPPROTO_TCP).is_some()
    {
        record::count(found.pod, |counts| &raw mut counts.around, 1);
    }
}

// === impl Attempt ===

impl Attempt<'_> {
    #[inline(always)]
    fn sent(&self, cookie: u64) -> Sent {
        Sent {
            at_ns: self.now,
            first_ns: self.now,
            cookie,
            pod: self.found.pod,
            container: self.found.container,
            // SAFETY: `sk` came from `of_kind`.
            destination: unsafe { sock::destination(self.sk, self.syn.destination.version) },
            protocol: IPPROTO_TCP,
            query: 0,
        }
    }

    #[inline(always)]
    fn record(&self) -> (u64, Option<&'static mut SocketRecord>) {
        record::of_packet(self.ctx, self.found.pod, IPPROTO_TCP)
    }

    /// Drops the SYN: until the gate's deadline, which is an earlier one for a socket that has waited
    /// since before the gate closed, or for `budget` from the socket's first drop. A budget needs the
    /// socket's storage; without, the SYN passes.
    #[inline(always)]
    fn wait<const LOUD: bool>(&self, budget: Option<u64>) -> Option<Answer> {
        let Self { ctx, syn, found, sk, now } = *self;
        // SAFETY: `sk` came from `of_kind`.
        let hold = unsafe { hold_of(sk, BPF_SK_STORAGE_GET_F_CREATE) };
        let first_ns =
            hold.as_deref().filter(|hold| hold.drops > 0).map_or(now, |hold| hold.first_ns);
        let until = match (budget, &hold) {
            (None, _) => found.gate.holds_until(first_ns),
            (Some(_), None) => return None,
            (Some(budget), Some(_)) => first_ns + budget,
        };
        if now >= until {
            say!(
                LOUD,
                SynPassesTimeOver,
                found.pod,
                found.container,
                cookie_of(ctx),
                syn.destination.port,
                0_u8
            );
            return None;
        }
        let (cookie, mut record) = self.record();
        if let Some(record) = record.as_deref_mut() {
            self.store(record);
        }
        record::count(found.pod, |counts| &raw mut counts.dropped, 1);
        let Some(hold) = hold else {
            return Some(Answer::Flat);
        };
        hold.drops += 1;
        let from_sentry = hold.is_sentrys();
        if hold.drops == 1 || from_sentry {
            if from_sentry {
                hold.held_by = HeldBy::Gate as u32;
            } else {
                hold.first_ns = now;
            }
            hold.pod = found.pod;
            hold.recorded = u32::from(record.is_some());
            record::count(found.pod, |counts| &raw mut counts.held, 1);
            let sent = Sent { first_ns: hold.first_ns, ..self.sent(cookie) };
            report::packet(EventKind::Held, &sent, record.as_deref());
        }
        let answer = hold.answer(until.saturating_sub(now));
        say!(
            LOUD,
            SynDropped,
            found.pod,
            found.container,
            cookie,
            syn.destination.port,
            hold.drops
        );
        Some(answer)
    }

    /// Lets connect() fail. Where nobody listens the kernel's own RST does that at once. Where
    /// somebody listens who is not ready, the SYN is dropped, and the socket's timer ends it.
    #[inline(always)]
    fn refuse<const LOUD: bool>(&self) -> Option<Answer> {
        let (cookie, record) = self.record();
        // SAFETY: `sk` came from `of_kind`.
        let mut hold = unsafe { hold_of(self.sk, BPF_SK_STORAGE_GET_F_CREATE) };
        if let Some(hold) = hold.as_deref_mut()
            && hold.told == 0
        {
            hold.leave_sentry();
            hold.told = 1;
            record::count(self.found.pod, |counts| &raw mut counts.refused, 1);
            // One that was held before is reported when it fails.
            if hold.drops == 0 {
                report::packet(EventKind::Refused, &self.sent(cookie), record.as_deref());
            }
            if let Some(record) = record {
                let target = Target { pod: self.found.pod, address: record.asked, reserved: 0 };
                // Full or not, an LRU map takes it; without memory the next connect is refused
                // like this one.
                let _ = REDIRECTED.insert(target, 1, 0);
            }
        }
        let listens = listener::listens(self.ctx, &self.syn.destination);
        say!(
            LOUD,
            SynRefused,
            self.found.pod,
            self.found.container,
            cookie,
            self.syn.destination.port,
            listens
        );
        if !listens {
            return None;
        }
        record::count(self.found.pod, |counts| &raw mut counts.dropped, 1);
        if let Some(hold) = hold
            && hold.give_up == GiveUp::No as u32
        {
            hold.give_up = GiveUp::Asked as u32;
        }
        Some(Answer::Flat)
    }

    /// Reports what would have been held, once a socket.
    #[inline(always)]
    fn observe<const LOUD: bool>(&self) {
        // SAFETY: `sk` came from `of_kind`.
        let hold = unsafe { hold_of(self.sk, BPF_SK_STORAGE_GET_F_CREATE) };
        if let Some(hold) = hold
            && hold.told == 0
        {
            hold.leave_sentry();
            hold.told = 1;
            record::count(self.found.pod, |counts| &raw mut counts.observed, 1);
            let (cookie, record) = self.record();
            let listens = listener::listens(self.ctx, &self.syn.destination);
            report::packet(EventKind::observed(listens), &self.sent(cookie), record.as_deref());
            say!(
                LOUD,
                SynObserved,
                self.found.pod,
                self.found.container,
                cookie,
                self.syn.destination.port,
                listens
            );
        }
    }

    /// Writes the SYN into the socket's record: header and options only. The payload of a TCP Fast
    /// Open SYN stays with the socket; replayed, it could reach the proxy after its sender has
    /// gone.
    #[inline(always)]
    fn store(&self, record: &mut SocketRecord) {
        let Self { ctx, syn, found: _, sk, now } = *self;
        record.drops += 1;
        record.dropped_ns = now;
        record.syn.header_len = 0;
        // SAFETY: `sk` came from `of_kind`.
        unsafe {
            record.syn.source = sock::source(sk, syn.destination.version);
            record.syn.destination = sock::destination(sk, syn.destination.version);
        }
        let Ok(fixed) = ctx.load::<[u8; MIN_TCP_HEADER]>(syn.offset) else {
            return;
        };
        record.syn.header[..MIN_TCP_HEADER].copy_from_slice(&fixed);
        // A word at a time: a load of variable length is hard to prove to the verifier.
        let mut at = MIN_TCP_HEADER;
        while at < MAX_TCP_HEADER {
            if at >= syn.header_len {
                break;
            }
            let Ok(word) = ctx.load::<[u8; 4]>(syn.offset + at) else {
                return;
            };
            record.syn.header[at..at + 4].copy_from_slice(&word);
            at += 4;
        }
        record.syn.header_len = syn.header_len as u32;
    }
}

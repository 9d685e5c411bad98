//! The bytes of maps and ring, as types and back: whatever they are, wherever they stand.
//!
//! Nothing here calls the system or a foreign function, so that Miri can run it (`cargo xtask miri`).

use std::mem::offset_of;

use agent_ebpf::{
    Address, Datagram, Event, EventKind, Gate, GateCounts, Post, QueryKey, Sentry, SocketRecord,
    StoredSyn, Treatment,
    gate::GateState,
    note::{Note, NoteLine},
    pacing,
};
use bytemuck::{Pod, PodCastError, Zeroable as _};

/// Bytes without a pattern, the same in each run (Marsaglia's xorshift64).
struct Bytes(u64);

impl Bytes {
    fn take(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Some value of this type; every bit pattern is one.
    fn value<T: Pod>(&mut self) -> T {
        bytemuck::pod_read_unaligned(&self.take(size_of::<T>()))
    }
}

fn is_read_as_it_is_written<T: Pod + PartialEq + std::fmt::Debug>(source: &mut Bytes) {
    let size = size_of::<T>();
    let edges = [vec![0; size], vec![0xff; size], source.take(size), source.take(size)];
    for bytes in edges {
        // Eight places of a buffer have every alignment there is.
        for offset in 0..8 {
            let mut buffer = vec![0xa5; offset];
            buffer.extend_from_slice(&bytes);
            let value: T = bytemuck::try_pod_read_unaligned(&buffer[offset..]).expect("its size");
            assert_eq!(bytemuck::bytes_of(&value), bytes, "at {offset}");
            match bytemuck::try_from_bytes::<T>(&buffer[offset..]) {
                Ok(borrowed) => assert_eq!(*borrowed, value),
                Err(error) => {
                    assert_eq!(error, PodCastError::TargetAlignmentGreaterAndInputNotAligned);
                }
            }
        }
        for wrong in [&bytes[..size - 1], &[&bytes[..], &[0]].concat(), &[]] {
            let read = bytemuck::try_pod_read_unaligned::<T>(wrong);
            assert_eq!(read, Err(PodCastError::SizeMismatch), "{} bytes", wrong.len());
        }
    }
}

#[test]
fn any_bytes_are_read_as_they_are_written() {
    let mut source = Bytes(0x9e37_79b9_7f4a_7c15);
    is_read_as_it_is_written::<Address>(&mut source);
    is_read_as_it_is_written::<Datagram>(&mut source);
    is_read_as_it_is_written::<Event>(&mut source);
    is_read_as_it_is_written::<Gate>(&mut source);
    is_read_as_it_is_written::<GateCounts>(&mut source);
    is_read_as_it_is_written::<Post>(&mut source);
    is_read_as_it_is_written::<QueryKey>(&mut source);
    is_read_as_it_is_written::<Sentry>(&mut source);
    is_read_as_it_is_written::<SocketRecord>(&mut source);
    is_read_as_it_is_written::<StoredSyn>(&mut source);
}

#[test]
fn values_of_a_table_stand_side_by_side() {
    let mut source = Bytes(1);
    let counts: Vec<GateCounts> = (0..3).map(|_| source.value()).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&counts);
    assert_eq!(bytes.len(), 3 * size_of::<GateCounts>());
    assert_eq!(bytemuck::cast_slice::<u8, GateCounts>(bytes), counts);
}

/// Programs and agents of other versions read these at their places.
#[test]
fn fields_stand_where_every_version_looks_for_them() {
    assert_eq!((offset_of!(Gate, deadline_ns), offset_of!(Gate, since_ns)), (0, 8));
    let mut bytes = [0; size_of::<Event>()];
    bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
    bytes[offset_of!(Event, kind)..][..4].copy_from_slice(&(EventKind::Held as u32).to_ne_bytes());
    let event: Event = bytemuck::pod_read_unaligned(&bytes);
    let expected = Event { at_ns: 7, kind: EventKind::Held as u32, ..Event::zeroed() };
    assert_eq!(event, expected);
}

#[test]
fn a_number_is_the_kind_that_has_it_or_none() {
    for raw in (0..=300).chain([u32::MAX - 1, u32::MAX]) {
        let kind = EventKind::from_raw(raw);
        assert_eq!(kind.map(|kind| kind as u32), (1..=8).contains(&raw).then_some(raw));
        let note = Note::from_raw(u64::from(raw));
        assert_eq!(note.map(|note| note as u32), (1..=25).contains(&raw).then_some(raw));
    }
    assert_eq!(Note::from_raw(1 << 32 | 1), None);
}

#[test]
fn whatever_stands_in_a_gate_it_holds_nobody_after_its_deadline() {
    let mut source = Bytes(2);
    for round in 0..400 {
        let mut gate: Gate = source.value();
        // Most numbers are no state and no mode at all.
        if round % 4 != 0 {
            (gate.state, gate.mode) = (gate.state % 3, gate.mode % 3);
        }
        let now = source.next();
        for now in [now, 0, u64::MAX, gate.deadline_ns, gate.deadline_ns.saturating_sub(1)] {
            let treatment = gate.treatment(now);
            let is_closed = gate.state == GateState::Closed as u32;
            match treatment {
                Treatment::Hold | Treatment::Observe => {
                    assert!(is_closed && now < gate.deadline_ns, "{gate:?} at {now}");
                }
                Treatment::Refuse => assert!(is_closed, "{gate:?} at {now}"),
                Treatment::Guard => assert_eq!(gate.state, GateState::Guarded as u32),
                Treatment::Pass => assert!(!is_closed || now >= gate.deadline_ns, "{gate:?}"),
            }
        }
    }
}

#[test]
fn whatever_was_counted_is_added_up() {
    let most: GateCounts = bytemuck::pod_read_unaligned(&[0xff; size_of::<GateCounts>()]);
    assert_eq!(most.reached(), u64::MAX);
    let some = GateCounts { held: 1, held_queries: 2, refused: 3, observed: 4, ..most };
    assert_eq!(some.reached(), 10);
}

#[test]
fn whatever_stands_in_a_record_it_has_an_answer() {
    let mut source = Bytes(3);
    for _ in 0..400 {
        let record: SocketRecord = source.value();
        // Without time left a socket tries again soon, whatever came before; with whatever time,
        // the arithmetic has an end.
        assert_eq!(pacing::answer(record.drops, record.pid, 0), pacing::Answer::Flat);
        let back_off = |answer| answer == pacing::Answer::BackOff;
        let aided = back_off(pacing::answer(record.drops, record.pid, record.connect_ns));
        assert!(!aided || record.connect_ns > 0);
        let _ = pacing::unaided_answer(record.drops, record.pid, record.connect_ns);
    }
}

#[test]
fn a_line_of_any_numbers_is_read_as_it_was_written() {
    let mut source = Bytes(4);
    for _ in 0..100 {
        let [note, pod, container, cookie, first, second] = [(); 6].map(|()| source.next());
        let line = NoteLine { note: note % 30, pod, container, cookie, values: [first, second] };
        let text = format!("{} {pod} {container} {cookie} {first} {second}", line.note);
        assert_eq!(NoteLine::parse(&text), Some(line));
        assert_eq!(NoteLine::parse(&text[..text.len() - 1]).is_some(), second > 9);
    }
}

//! How the gate spends a held socket's SYN retransmissions so that they last until the deadline.
//!
//! The gate can answer a dropped SYN in two ways, and the TCP stack reacts differently
//! (`tcp_retransmit_timer` in net/ipv4/tcp_timer.c):
//! - "congestion" (a cgroup_skb egress program returns 2): the stack tries again in 500 ms
//!   (`TCP_RESOURCE_PROBE_INTERVAL`) without backing off;
//! - "not permitted" (it returns 0): the stack backs off, doubling the wait from its 1 s.
//!
//! Each try is counted, and `TCP_SYNCNT` caps them at 127. A retransmission is the fallback for a
//! replay, so the flat answer is the better one wherever the tries suffice.

/// `MAX_TCP_SYNCNT` (include/net/tcp.h): what a held socket's budget is raised to.
pub const MAX_SYN_RETRIES: u32 = 127;

/// `TCP_SYN_RETRIES` (include/net/tcp.h): what a network namespace starts with, and what is
/// restored where the kernel cannot tell the socket's own value (`bpf_getsockopt(TCP_SYNCNT)`
/// exists from 6.1).
pub const DEFAULT_SYN_RETRIES: u32 = 6;

/// `TCP_RESOURCE_PROBE_INTERVAL` in nanoseconds.
const FLAT_INTERVAL_NS: u64 = 500_000_000;

/// `TCP_TIMEOUT_INIT` in nanoseconds: the first wait of a backing-off SYN.
const FIRST_BACKOFF_NS: u64 = 1_000_000_000;

/// Tries that stay in reserve against timers that fire early.
const RESERVE: u32 = 3;

/// Tries spent flat before any backing off, 20 s: most proxies are ready by then, and a socket
/// whose replay fails should not wait long. More than 55 would leave too few for the end of a hold
/// of 90 s: the sums of the doubling waits (1, 3, 7, 15, 31, 63 s) have to meet the flat rest.
const FLAT_FIRST: u32 = 40;

/// `TCP_RTO_MAX` is 120 s, reached after this many doublings of 1 s.
const MAX_DOUBLINGS: u32 = 7;

/// The answer to a dropped SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Try again in 500 ms.
    Flat,
    /// Try again later and later.
    BackOff,
}

/// Chooses the answer for a socket of which `drops` SYNs were dropped (this one included) and to
/// which [`Answer::BackOff`] was given `backoffs` times, `remaining_ns` before the deadline.
///
/// Up to deadlines of about 60 s every answer is flat, so that without any agent a held connect
/// goes on within 500 ms of its deadline; up to 120 s within a second. Beyond, and without an
/// agent, it may wait up to one backed-off interval (at most 120 s) longer.
#[inline(always)]
#[must_use]
pub const fn answer(drops: u32, backoffs: u32, remaining_ns: u64) -> Answer {
    let left = MAX_SYN_RETRIES.saturating_sub(drops.saturating_add(RESERVE));
    if remaining_ns <= left as u64 * FLAT_INTERVAL_NS || drops < FLAT_FIRST {
        return Answer::Flat;
    }
    let doublings = if backoffs > MAX_DOUBLINGS { MAX_DOUBLINGS } else { backoffs };
    if FIRST_BACKOFF_NS << doublings <= remaining_ns || left == 0 {
        Answer::BackOff
    } else {
        Answer::Flat
    }
}

/// As [`answer`], for a socket that has only the default number of tries: no sock_ops program looks
/// after it. The flat answer is given only if the tries left after it reach `remaining_ns` by
/// backing off, so that a short absence of a listener costs little and a long one no timeout.
#[inline(always)]
#[must_use]
pub const fn unaided_answer(drops: u32, backoffs: u32, remaining_ns: u64) -> Answer {
    let left = DEFAULT_SYN_RETRIES.saturating_sub(drops);
    let doublings = if backoffs > MAX_DOUBLINGS { MAX_DOUBLINGS } else { backoffs };
    let reach = (FIRST_BACKOFF_NS << doublings) * ((1 << left) - 1);
    if remaining_ns <= FLAT_INTERVAL_NS + reach { Answer::Flat } else { Answer::BackOff }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A TCP stack's ways.
    #[derive(Clone, Copy)]
    struct Stack {
        retries: u32,
        /// Waits of 1 s before the doubling begins, and as many tries more
        /// (`tcp_syn_linear_timeouts`, 4 from Linux 6.5 on).
        linear: u32,
    }

    const HELD: Stack = Stack { retries: MAX_SYN_RETRIES, linear: 0 };

    /// Plays the TCP stack's part; returns how late after the deadline the first SYN passes, or
    /// `None` when the tries run out first.
    fn lateness(
        stack: Stack,
        answer: impl Fn(u32, u32, u64) -> Answer,
        deadline_ns: u64,
    ) -> Option<u64> {
        let (mut now, mut drops, mut backoffs) = (0, 0, 0);
        let mut wait = SECOND;
        while now < deadline_ns {
            if drops > stack.retries + stack.linear {
                return None;
            }
            drops += 1;
            let answer = answer(drops, backoffs, deadline_ns - now);
            // The very first SYN is followed by the initial timeout, whatever the answer.
            let step = match answer {
                _ if drops == 1 => SECOND,
                Answer::Flat => FLAT_INTERVAL_NS,
                Answer::BackOff if backoffs < stack.linear => SECOND,
                Answer::BackOff => {
                    let step = wait;
                    wait = (wait * 2).min(120 * SECOND);
                    step
                }
            };
            backoffs += u32::from(answer == Answer::BackOff);
            now += step;
        }
        Some(now - deadline_ns)
    }

    #[test]
    fn the_default_deadline_is_kept_to_half_a_second_with_flat_answers_alone() {
        for drops in 1..=119 {
            let elapsed = SECOND + u64::from(drops - 1) * FLAT_INTERVAL_NS;
            assert_eq!(answer(drops, 0, (60 * SECOND).saturating_sub(elapsed)), Answer::Flat);
        }
        assert!(lateness(HELD, answer, 60 * SECOND).is_some_and(|late| late <= FLAT_INTERVAL_NS));
    }

    #[test]
    fn no_deadline_up_to_an_hour_runs_out_of_tries() {
        for seconds in 1..=3600 {
            assert!(
                lateness(HELD, answer, seconds * SECOND).is_some(),
                "a deadline of {seconds} s"
            );
        }
    }

    #[test]
    fn deadlines_up_to_two_minutes_are_kept_within_a_second() {
        for seconds in 1..=120 {
            let late = lateness(HELD, answer, seconds * SECOND).expect("tries suffice");
            assert!(late <= SECOND, "a deadline of {seconds} s is kept {late} ns late");
        }
    }

    #[test]
    fn the_default_tries_last_for_a_minute_where_nobody_raises_them() {
        for linear in [0, 4] {
            let stack = Stack { retries: DEFAULT_SYN_RETRIES, linear };
            for seconds in 1..=60 {
                let late = lateness(stack, unaided_answer, seconds * SECOND);
                assert!(late.is_some(), "{seconds} s with {linear} linear timeouts");
            }
        }
    }

    #[test]
    fn a_short_absence_is_met_by_flat_answers_at_first() {
        assert_eq!(unaided_answer(2, 0, 10 * SECOND), Answer::Flat);
        assert_eq!(unaided_answer(2, 0, 60 * SECOND), Answer::BackOff);
    }
}

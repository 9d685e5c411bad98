//! What an observation says about its case. Pure; kubelet's and the machine's own times are printed,
//! and what decides is who was refused, and what came before what.

#[cfg(test)]
mod tests;

use std::time::Duration;

use testpod::{Attempt, Event, Record};

use super::{Case, Expected, LabelTimes, Observation, Row};
use crate::clock::ms_between;

/// From readiness to the return of a connect() that waited. It takes some milliseconds; a kernel
/// that had to do without the agent's replay would need up to 500 ms.
const RELEASED_WITHIN: Duration = Duration::from_millis(450);

/// What nobody holds ends at once. A pod of which the API has not told yet may be held for a moment.
const AT_ONCE: Duration = Duration::from_secs(2);

/// From the label's change to its effect, as it is promised.
const LABEL_WITHIN: Duration = Duration::from_secs(1);

/// Whoever connects after this time without a listener has not been missed by a moment.
const DEATH_KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// A connect() that takes so long waits.
const WAITS: Duration = Duration::from_secs(1);

/// The name of the Event about an init container that passes.
const INIT_EVENT: &str = "InitContainerNeedsProxy";

/// Why a case does not hold: what was seen instead.
type Verdict = Result<Seen, String>;

/// What was seen of a case that holds.
struct Seen {
    text: String,
    after_ms: Option<f64>,
}

/// The table's rows of one case.
#[must_use]
pub fn judge(case: &Case, seen: &Observation) -> Vec<Row> {
    let verdicts = match case.expected {
        Expected::Held => vec![held(seen)],
        Expected::JobSucceeds => vec![job(seen)],
        Expected::AtOnce => vec![at_once(seen)],
        Expected::Refused => vec![refused(seen)],
        Expected::InitRefused => vec![init_refused(seen)],
        Expected::Survives { guarded } => vec![survives(seen, guarded)],
        Expected::Labelled => match &seen.label {
            Some(label) => vec![label_set(seen, label), label_removed(seen, label)],
            None => vec![Err(no_label(seen)), Err(no_label(seen))],
        },
    };
    let expected = expectations(case.expected);
    case.rows()
        .into_iter()
        .zip(expected)
        .zip(verdicts)
        .map(|((name, expected), verdict)| row(name, expected, verdict))
        .collect()
}

fn expectations(expected: Expected) -> &'static [&'static str] {
    match expected {
        Expected::Held => &["first connect waits, succeeds when ready"],
        Expected::JobSucceeds => &["first connect waits, Job succeeds"],
        Expected::AtOnce => &["starts after ready, connects at once"],
        Expected::Refused => &["refused at once"],
        Expected::InitRefused => &["init refused at once, Event; app waits"],
        Expected::Survives { guarded: false } => &["connects wait for the new proxy"],
        Expected::Survives { guarded: true } => &["connects wait, none refused"],
        Expected::Labelled => &["connects wait from then on", "who waits goes on at once"],
    }
}

fn row(case: String, expected: &str, verdict: Verdict) -> Row {
    let (seen, after_ms, ok) = match verdict {
        Ok(Seen { text, after_ms }) => (text, after_ms, true),
        Err(text) => (text, None, false),
    };
    let expected = expected.to_owned();
    Row { case, expected, seen, after_ms, ok, details: Vec::new() }
}

fn held(seen: &Observation) -> Verdict {
    let first = first(&seen.client).ok_or_else(|| no_attempt(seen))?;
    let ready = ready(&seen.proxy).first().copied();
    if !first.is_connected() {
        return Err(told(first));
    }
    let ready = ready.ok_or("connected, and the proxy was never ready")?;
    if first.start_ns >= ready {
        return Err("began after the proxy was ready: shows nothing".to_owned());
    }
    if first.end_ns < ready {
        return Err("connected before the proxy was ready".to_owned());
    }
    let after = released(first, ready)?;
    answered(first)?;
    none_refused(&seen.client)?;
    Ok(Seen { text: format!("connected, waited {}", seconds(first)), after_ms: Some(after) })
}

fn job(seen: &Observation) -> Verdict {
    let Seen { text, after_ms } = held(seen)?;
    match seen.job_succeeded {
        Some(true) => Ok(Seen { text: format!("{text}; succeeded"), after_ms }),
        Some(false) => Err(format!("{text}; the Job failed")),
        None => Err(format!("{text}; the Job has not ended{}", because(seen))),
    }
}

fn at_once(seen: &Observation) -> Verdict {
    let first = first(&seen.client).ok_or_else(|| no_attempt(seen))?;
    if !first.is_connected() {
        return Err(told(first));
    }
    let ready = *ready(&seen.proxy).first().ok_or("connected, and the proxy was never ready")?;
    if first.start_ns < ready {
        return Err("was started before its proxy was ready".to_owned());
    }
    if first.elapsed() > AT_ONCE {
        return Err(format!("connected, but waited {}", seconds(first)));
    }
    answered(first)?;
    none_refused(&seen.client)?;
    let after_ms = Some(ms_between(ready, first.end_ns));
    Ok(Seen { text: format!("connected in {:.1} ms", ms(first)), after_ms })
}

fn refused(seen: &Observation) -> Verdict {
    let first = first(&seen.client).ok_or_else(|| no_attempt(seen))?;
    if !first.is_refused() {
        return Err(told(first));
    }
    if first.elapsed() > AT_ONCE {
        return Err(format!("refused, but only after {}", seconds(first)));
    }
    Ok(Seen { text: format!("refused in {:.1} ms", ms(first)), after_ms: None })
}

fn init_refused(seen: &Observation) -> Verdict {
    let init = first(&seen.init);
    let init =
        init.ok_or_else(|| format!("the init container did not connect{}", because(seen)))?;
    if !init.is_refused() || init.elapsed() > AT_ONCE {
        return Err(format!("init container: {}", told(init)));
    }
    if !seen.events.iter().any(|event| event == INIT_EVENT) {
        return Err(format!("refused in {:.1} ms, without an Event {INIT_EVENT}", ms(init)));
    }
    let Seen { text, after_ms } = held(seen)?;
    Ok(Seen { text: format!("init refused in {:.1} ms; app {text}", ms(init)), after_ms })
}

fn survives(seen: &Observation, guarded: bool) -> Verdict {
    let (ready, died) = (ready(&seen.proxy), died(&seen.proxy));
    let (&[_, back, ..], Some(died)) = (&ready[..], died) else {
        return Err(format!("the proxy was ready {} times{}", ready.len(), because(seen)));
    };
    let all: Vec<&Attempt> = attempts(&seen.client).collect();
    let away = |attempt: &&&Attempt| (died..back).contains(&attempt.start_ns);
    let known = died + nanoseconds(DEATH_KNOWN_WITHIN);
    let excused = |attempt: &Attempt| !guarded && (died..known).contains(&attempt.start_ns);
    let failed: Vec<&&Attempt> = all.iter().filter(|attempt| !attempt.is_connected()).collect();
    if let Some(attempt) = failed.iter().find(|attempt| !excused(attempt)) {
        let when = ms_between(died, attempt.start_ns);
        return Err(format!("{} {when:.0} ms after the proxy's death", told(attempt)));
    }
    let waited = all.iter().filter(away).find(|attempt| attempt.is_connected());
    let waited = waited.ok_or("nobody connected while the proxy was away: shows nothing")?;
    if waited.end_ns < back {
        return Err("connected before the proxy was back".to_owned());
    }
    let after = released(waited, back)?;
    answered(waited)?;
    if !all.iter().any(|attempt| attempt.start_ns >= back) {
        return Err(format!("nobody connected after the proxy was back{}", because(seen)));
    }
    let (refused, of) = (failed.len(), all.len());
    let text = format!("{refused} of {of} refused, one waited {}", seconds(waited));
    Ok(Seen { text, after_ms: Some(after) })
}

/// The connect that waited while the label was there.
fn waiting(seen: &Observation, label: &LabelTimes) -> Result<Attempt, String> {
    let refused_before =
        attempts(&seen.client).any(|attempt| attempt.is_refused() && attempt.end_ns < label.set_ns);
    if !refused_before {
        return Err("nobody was refused before the label was set: shows nothing".to_owned());
    }
    attempts(&seen.client)
        .find(|attempt| attempt.elapsed() >= WAITS)
        .cloned()
        .ok_or_else(|| format!("nobody waited{}", because(seen)))
}

fn label_set(seen: &Observation, label: &LabelTimes) -> Verdict {
    let waiting = waiting(seen, label)?;
    if waiting.start_ns < label.set_ns {
        return Err("waited before the label was set".to_owned());
    }
    let after = within(LABEL_WITHIN + label.early, label.set_ns, waiting.start_ns)?;
    Ok(Seen { text: format!("waits from {after:.0} ms on"), after_ms: Some(after) })
}

fn label_removed(seen: &Observation, label: &LabelTimes) -> Verdict {
    let waiting = waiting(seen, label)?;
    if waiting.end_ns < label.removed_ns {
        return Err(format!("{} before the label was removed", told(&waiting)));
    }
    if !waiting.is_refused() {
        return Err(told(&waiting));
    }
    let after = within(LABEL_WITHIN + label.early, label.removed_ns, waiting.end_ns)?;
    let later: Vec<&Attempt> =
        attempts(&seen.client).filter(|attempt| attempt.start_ns > waiting.end_ns).collect();
    if later.is_empty() {
        return Err(format!("nobody connected afterwards{}", because(seen)));
    }
    if let Some(attempt) = later.iter().find(|attempt| attempt.elapsed() >= WAITS) {
        return Err(format!("afterwards one still waited {}", seconds(attempt)));
    }
    Ok(Seen { text: format!("let go after {after:.0} ms"), after_ms: Some(after) })
}

// === what records say ===

fn attempts(records: &[Record]) -> impl Iterator<Item = &Attempt> {
    records.iter().filter_map(|record| match &record.event {
        Event::Attempt(attempt) => Some(attempt),
        _ => None,
    })
}

fn first(records: &[Record]) -> Option<&Attempt> {
    attempts(records).next()
}

/// When the proxy became ready, each time.
fn ready(records: &[Record]) -> Vec<u64> {
    let ready = records.iter().filter(|record| record.event == Event::ProxyReady);
    ready.map(|record| record.mono_ns).collect()
}

fn died(records: &[Record]) -> Option<u64> {
    let ended = |record: &&Record| matches!(record.event, Event::ProxyEnded { .. });
    records.iter().find(ended).map(|record| record.mono_ns)
}

/// Milliseconds from readiness to the end of a connect that waited for it.
fn released(attempt: &Attempt, ready: u64) -> Result<f64, String> {
    within(RELEASED_WITHIN, ready, attempt.end_ns)
}

fn within(limit: Duration, from: u64, to: u64) -> Result<f64, String> {
    let after = ms_between(from, to);
    if to.saturating_sub(from) > nanoseconds(limit) {
        return Err(format!("only after {after:.0} ms"));
    }
    Ok(after)
}

fn answered(attempt: &Attempt) -> Result<(), String> {
    match attempt.status {
        Some(200) => Ok(()),
        Some(status) => Err(format!("connected, and answered with {status}")),
        None => Err("connected, and not answered".to_owned()),
    }
}

fn none_refused(records: &[Record]) -> Result<(), String> {
    match attempts(records).filter(|attempt| !attempt.is_connected()).count() {
        0 => Ok(()),
        count => Err(format!("{count} of the later connects failed")),
    }
}

fn told(attempt: &Attempt) -> String {
    let Attempt { outcome, .. } = attempt;
    if attempt.elapsed() < WAITS {
        format!("{outcome} in {:.1} ms", ms(attempt))
    } else {
        format!("{outcome} after {}", seconds(attempt))
    }
}

fn no_attempt(seen: &Observation) -> String {
    format!("no connect came to an end{}", because(seen))
}

fn no_label(seen: &Observation) -> String {
    format!("the label did not come and go{}", because(seen))
}

fn because(seen: &Observation) -> String {
    seen.trouble.as_ref().map_or_else(String::new, |trouble| format!(": {trouble}"))
}

fn seconds(attempt: &Attempt) -> String {
    format!("{:.2} s", attempt.elapsed().as_secs_f64())
}

fn ms(attempt: &Attempt) -> f64 {
    ms_between(attempt.start_ns, attempt.end_ns)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

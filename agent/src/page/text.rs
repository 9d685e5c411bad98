//! Words for people: foreign text made harmless, durations and instants.

use std::time::Duration;

use maud::{Markup, html};

use crate::{
    command::terminal,
    core::{PodRef, Stamp},
};

/// Characters of a tooltip, which no browser shows more of.
const MAX_TITLE: usize = 200;

/// Text that somebody else has chosen. Maud escapes the markup in it; what has no width or turns
/// the order of what stands around it is shown as its escape, and letters that are written from
/// right to left stay among themselves.
pub(super) fn foreign(text: &str) -> Markup {
    html! { bdi { (terminal::safe(text)) } }
}

/// The same for a tooltip or an attribute, where no element can be.
pub(super) fn plain(text: &str) -> String {
    let mut text = terminal::safe(text).into_owned();
    if let Some((end, _)) = text.char_indices().nth(MAX_TITLE) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A pod's name, with its namespace; its uid as long as the API has not named it.
pub(super) fn pod_name(pod: &PodRef) -> String {
    match &pod.name {
        Some(name) => plain(&format!("{}/{}", name.namespace, name.name)),
        None => plain(&format!("pod {}", pod.uid)),
    }
}

/// One segment of a path.
pub(super) fn segment(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut segment, byte| {
        match byte {
            // What RFC 3986 calls unreserved; all that the API allows in names.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                segment.push(char::from(byte));
            }
            _ => segment += &format!("%{byte:02X}"),
        }
        segment
    })
}

/// How long, to three digits: `4.7 ms`, `3.09 s`, `2 min 5 s`, `3 h 20 min`, `4 d 2 h`. Number and unit
/// stay on one line.
pub(super) fn duration(duration: Duration) -> String {
    /// Seconds.
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = duration.as_secs_f64();
    let two = |large: u64, name: &str, small: u64, small_name: &str| match small {
        0 => format!("{large}\u{a0}{name}"),
        _ => format!("{large}\u{a0}{name} {small}\u{a0}{small_name}"),
    };
    // The bounds are where rounding would reach the next unit.
    match seconds.round() as u64 {
        _ if seconds < 0.000_1 => "0\u{a0}ms".to_owned(),
        _ if seconds < 0.009_95 => format!("{:.1}\u{a0}ms", seconds * 1e3),
        _ if seconds < 0.999_5 => format!("{:.0}\u{a0}ms", seconds * 1e3),
        _ if seconds < 9.995 => format!("{seconds:.2}\u{a0}s"),
        _ if seconds < 59.95 => format!("{seconds:.1}\u{a0}s"),
        whole if whole < HOUR => two(whole / MINUTE, "min", whole % MINUTE, "s"),
        whole if whole < DAY => two(whole / HOUR, "h", whole % HOUR / MINUTE, "min"),
        whole => two(whole / DAY, "d", whole % DAY / HOUR, "h"),
    }
}

/// How long ago, with the instant itself as its tooltip.
pub(super) fn ago(at: Stamp, now: Stamp) -> Markup {
    html! { time datetime=(at) title=(at) { (duration(now.since(at))) } }
}

/// A number with its thing, in the plural where it has one.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_has_no_markup_and_nothing_that_hides() {
        assert_eq!(
            foreign("<script>\"&'\x1b[31m\u{202e}x\u{200b}").into_string(),
            "<bdi>&lt;script&gt;&quot;&amp;'\\u{1b}[31m\\u{202e}x\\u{200b}</bdi>"
        );
        assert_eq!(plain(&"é".repeat(300)).chars().count(), MAX_TITLE + 1);
    }

    #[test]
    fn durations_have_three_digits_and_the_unit_that_fits() {
        for (micros, expected) in [
            (0, "0 ms"),
            (4_700, "4.7 ms"),
            (9_949, "9.9 ms"),
            (9_960, "10 ms"),
            (999_400, "999 ms"),
            (999_600, "1.00 s"),
            (3_094_000, "3.09 s"),
            (9_996_000, "10.0 s"),
            (59_940_000, "59.9 s"),
            (59_960_000, "1 min"),
            (60_000_000, "1 min"),
            (125_000_000, "2 min 5 s"),
            (12_000_000_000, "3 h 20 min"),
            (352_800_000_000, "4 d 2 h"),
        ] {
            let shown = duration(Duration::from_micros(micros));
            // Between the two parts of a long one a line may break.
            assert_eq!(shown.replace('\u{a0}', " "), expected, "{micros}");
            assert_eq!(shown.matches(' ').count(), expected.matches(' ').count() / 3, "{shown}");
        }
    }
}

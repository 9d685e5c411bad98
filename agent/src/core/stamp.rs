//! Instants for people: wall-clock time, made from the kernel's monotonic clock.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::Monotonic;

/// Where the monotonic clock began, in microseconds since 1970. Taken once, when the agent starts,
/// so that the difference of two stamps is what has passed between them, whatever happens to the
/// wall clock meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u64);

/// An instant of the wall clock in microseconds since 1970; in JSON as RFC 3339 has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp(u64);

// === impl Epoch ===

impl Epoch {
    /// From the same instant on both clocks; `since_1970` is the wall clock's.
    #[must_use]
    pub fn new(now: Monotonic, since_1970: Duration) -> Self {
        Self(micros(since_1970).saturating_sub(now.0 / 1000))
    }

    /// What the wall clock showed then.
    #[must_use]
    pub const fn stamp(self, at: Monotonic) -> Stamp {
        Stamp(self.0.saturating_add(at.0 / 1000))
    }
}

// === impl Stamp ===

impl Stamp {
    /// From the time since 1970.
    #[must_use]
    pub fn new(since_1970: Duration) -> Self {
        Self(micros(since_1970))
    }

    /// The time from `earlier` to `self`; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Stamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

impl Sub<Duration> for Stamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The end of the year 9999, behind which RFC 3339 knows nothing.
        const LAST: u64 = 253_402_300_799_999_999;
        let time = std::time::UNIX_EPOCH + Duration::from_micros(self.0.min(LAST));
        humantime::format_rfc3339_micros(time).fmt(f)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&text).map_err(D::Error::custom)?;
        time.duration_since(std::time::UNIX_EPOCH).map(Self::new).map_err(D::Error::custom)
    }
}

/// A duration as people say it, with three digits: `350 ms`, `4.19 s`, `42.1 s`, `2m 5s`.
#[must_use]
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_millis() {
        0..1000 => format!("{} ms", duration.as_millis()),
        1000..10_000 => format!("{seconds:.2} s"),
        10_000..100_000 => format!("{seconds:.1} s"),
        _ => humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string(),
    }
}

/// How long ago, in one number as `kubectl get` has it: `42s`, `3m`, `5h`, `12d`.
#[must_use]
pub fn age(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match duration.as_secs() {
        seconds @ 0..MINUTE => format!("{seconds}s"),
        seconds @ MINUTE..HOUR => format!("{}m", seconds / MINUTE),
        seconds @ HOUR..DAY => format!("{}h", seconds / HOUR),
        seconds => format!("{}d", seconds / DAY),
    }
}

/// Durations as milliseconds with a microsecond's precision, for `#[serde(with)]`.
pub(super) mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in crate::core) fn of(duration: Duration) -> f64 {
        duration.as_micros() as f64 / 1000.0
    }

    pub(in crate::core) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(of(*duration))
    }

    pub(in crate::core) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let ms = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(ms / 1000.0).map_err(D::Error::custom)
    }

    /// The same of those that may be missing.
    pub(in crate::core) mod option {
        use std::time::Duration;

        use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

        pub(in crate::core) fn serialize<S: Serializer>(
            duration: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            duration.map(super::of).serialize(serializer)
        }

        pub(in crate::core) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            let ms = Option::<f64>::deserialize(deserializer)?;
            let duration = |ms: f64| Duration::try_from_secs_f64(ms / 1000.0);
            ms.map(duration).transpose().map_err(D::Error::custom)
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_as_far_apart_as_what_they_were_made_from() {
        let epoch = Epoch::new(Monotonic(5_000_000_000), Duration::from_secs(1_700_000_000));
        let stamp = epoch.stamp(Monotonic(5_000_001_000));
        assert_eq!(stamp.to_string(), "2023-11-14T22:13:20.000001Z");
        let later = epoch.stamp(Monotonic(6_500_000_000));
        assert_eq!(later.since(stamp), Duration::from_micros(1_499_999));
        assert_eq!(stamp.since(later), Duration::ZERO);
        assert_eq!(stamp + Duration::from_micros(1_499_999), later);
        assert_eq!(later - Duration::from_micros(1_499_999), stamp);
    }

    #[test]
    fn durations_are_told_with_three_digits() {
        for (ms, expected) in [
            (0, "0 ms"),
            (350, "350 ms"),
            (4_190, "4.19 s"),
            (42_130, "42.1 s"),
            (125_900, "2m 5s"),
            (3_600_000, "1h"),
        ] {
            assert_eq!(in_words(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn ages_are_one_number() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (3_599, "59m"), (3_600, "1h"), (86_400, "1d")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn json_has_them_as_rfc_3339() {
        let stamp = Stamp::new(Duration::from_micros(1_700_000_000_123_456));
        let json = serde_json::to_string(&stamp).unwrap();
        assert_eq!(json, "\"2023-11-14T22:13:20.123456Z\"");
        assert_eq!(serde_json::from_str::<Stamp>(&json).unwrap(), stamp);
        assert!(serde_json::from_str::<Stamp>("\"yesterday\"").is_err());
    }
}

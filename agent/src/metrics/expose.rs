//! The two text formats: OpenMetrics, which the library writes, and the classic one of Prometheus,
//! which every scraper and promtool read.

use std::fmt::Write as _;

use prometheus_client::{encoding::text::encode, registry::Registry};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own, 0.0.4.
    Classic,
}

// === impl Format ===

impl Format {
    /// What a client that sends these `Accept` headers takes; whoever does not ask for OpenMetrics by
    /// name has the classic one.
    #[must_use]
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut ranges = accept.into_iter().flat_map(|header| header.split(','));
        let takes_open_metrics = ranges.any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            // RFC 9110, section 12.4.2: a weight of 0 is "not acceptable".
            let refused = parts.any(|parameter| {
                let weight = parameter.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
                weight.is_some_and(|weight| weight <= 0.0)
            });
            kind.eq_ignore_ascii_case("application/openmetrics-text") && !refused
        });
        if takes_open_metrics { Self::OpenMetrics } else { Self::Classic }
    }

    /// How the answer is labelled.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What is in the registry.
pub(super) fn text(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail, and no label of ours does.
    let _: std::fmt::Result = encode(&mut text, registry);
    match format {
        Format::OpenMetrics => text,
        Format::Classic => classic(&text),
    }
}

/// What the names of a type's series end in, and those of the metric do not (OpenMetrics).
pub(super) fn suffix(kind: &str) -> &'static str {
    match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    }
}

/// The series are written alike in both; of what is said about them the classic format knows neither
/// units nor the end, and names a metric as its series are.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // The type comes after the help, and decides about the name in both.
    let mut help = None;
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let mut parts = comment.splitn(3, ' ');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("HELP"), Some(_), about) => help = about,
            (Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = suffix(kind);
                if let Some(about) = help.take() {
                    let _ = writeln!(text, "# HELP {name}{suffix} {about}");
                }
                let kind = if kind == "info" { "gauge" } else { kind };
                let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
            }
            // UNIT, EOF.
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_the_client_asks_for() {
        // As Prometheus 2.42 and 3.5 ask, curl, and a browser.
        for (accept, expected) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4",
                Format::OpenMetrics,
            ),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Classic),
            ("*/*", Format::Classic),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Classic),
            ("application/openmetrics-text;q=0, text/plain", Format::Classic),
            ("application/openmetrics-text; q=0.0", Format::Classic),
            ("", Format::Classic),
        ] {
            assert_eq!(Format::accepted([accept]), expected, "{accept}");
        }
        assert_eq!(Format::accepted([]), Format::Classic);
        let two = ["text/plain", "application/openmetrics-text"];
        assert_eq!(Format::accepted(two), Format::OpenMetrics);
    }

    #[test]
    fn the_classic_format_names_metrics_as_their_series() {
        let open_metrics = "\
# HELP a_seconds About a.
# TYPE a_seconds counter
# UNIT a_seconds seconds
a_seconds_total{b=\"# EOF\"} 1.5
# HELP c About c, at length.
# TYPE c info
c_info{d=\"e\"} 1
# HELP f About f.
# TYPE f histogram
f_sum 0.0
f_count 0
f_bucket{le=\"+Inf\"} 0
# EOF
";
        let expected = "\
# HELP a_seconds_total About a.
# TYPE a_seconds_total counter
a_seconds_total{b=\"# EOF\"} 1.5
# HELP c_info About c, at length.
# TYPE c_info gauge
c_info{d=\"e\"} 1
# HELP f About f.
# TYPE f histogram
f_sum 0.0
f_count 0
f_bucket{le=\"+Inf\"} 0
";
        assert_eq!(classic(open_metrics), expected);
    }
}

//! The picture. Everything across is in percent, so that it fits every width without a script;
//! names stand beside it as text, where they can be cut and read.

use maud::{Markup, html};

use super::{Flag, Kind, Mark, Row, Tick, Timeline};
use crate::page::text;

/// Pixels. The style sheet gives the rows of names the same heights.
const LANE: usize = 16;
const ROW: usize = 38;
const BAR: usize = 14;
const AXIS: usize = 22;
/// A bar that is narrower, in percent, has its label beside it.
const HOLDS_LABEL: f64 = 30.0;
/// A bar that ends behind this, in percent, has no room for a label behind it.
const LABEL_FITS_BEHIND: f64 = 68.0;
/// The least width that can be seen, in percent.
const NARROWEST: f64 = 0.4;

/// Draws it. `about` says in words what is to be seen, and `id` is the page's only one.
pub(in crate::page) fn draw(timeline: &Timeline, about: &str, id: u64) -> Markup {
    let Timeline { rows, flags, ticks, containers_left, connects_left } = timeline;
    let lanes = flags.iter().map(|flag| flag.lane + 1).max().unwrap_or_default();
    let top = lanes * LANE + 4;
    let bottom = top + rows.len() * ROW;
    html! {
        div.timeline {
            ol.names data-lanes=(lanes) {
                @for row in rows {
                    li title=(format!("{} ({})", row.title, row.detail)) {
                        span.what { bdi { (row.title) } }
                        span.who { (row.detail) }
                    }
                }
            }
            svg role="img" aria-labelledby=(format!("t{id} d{id}")) width="100%" height=(bottom + AXIS) {
                title id=(format!("t{id}")) { "Timeline" }
                desc id=(format!("d{id}")) { (about) }
                g.grid {
                    @for Tick { at, label } in ticks {
                        line x1=(percent(*at)) x2=(percent(*at)) y1=(top) y2=(bottom) {}
                        text x=(percent(*at)) y=(bottom + 15) text-anchor=(anchor(*at)) { (label) }
                    }
                }
                @for (nth, row) in rows.iter().enumerate() { (bar(row, top + nth * ROW)) }
                @for flag in flags { (draw_flag(flag, bottom)) }
            }
        }
        @if *containers_left + *connects_left > 0 {
            p.more {
                "Not drawn: "
                @if *containers_left > 0 { (text::count(*containers_left, "more container")) }
                @if *containers_left > 0 && *connects_left > 0 { ", " }
                @if *connects_left > 0 { (text::count(*connects_left, "more connect")) }
                "."
            }
        }
    }
}

fn bar(row: &Row, top: usize) -> Markup {
    let Row { kind, title, detail, from, to, goes_on, label } = row;
    let y = top + (ROW - BAR) / 2;
    let width = (to - from).max(NARROWEST);
    let (x, end) = (percent(*from), from + width);
    let is_instant = matches!(kind, Kind::Refused | Kind::Observed);
    let (label_at, label_anchor, inside) = if !is_instant && width >= HOLDS_LABEL {
        (*from, "start", true)
    } else if end <= LABEL_FITS_BEHIND {
        (end, "start", false)
    } else {
        (*from, "end", false)
    };
    // Half of the letters' height above their line.
    let label_y = y + BAR / 2 + 4;
    html! {
        g class=(kind.class()) {
            title { (title) " (" (detail) "): " (label) }
            @if is_instant {
                circle cx=(x) cy=(y + BAR / 2) r="5" {}
            } @else {
                rect x=(x) y=(y) width=(percent(width)) height=(BAR) rx="3" {}
                @if !goes_on && kind.is_connect() { (end_mark(*kind, end, y + BAR / 2)) }
            }
            text.inside[inside] x=(percent(label_at)) dx=(if label_anchor == "end" { -9 } else { 9 })
                y=(label_y) text-anchor=(label_anchor) {
                (label)
            }
        }
    }
}

/// How a connect ended, by form as well as by colour.
fn end_mark(kind: Kind, at: f64, y: usize) -> Markup {
    let x = percent(at);
    html! {
        @match kind {
            Kind::Failed => svg.end x=(x) y=(y) overflow="visible" {
                path d="M-5-5 5 5M5-5-5 5" {}
            },
            _ => circle.end cx=(x) cy=(y) r="5" {},
        }
    }
}

fn draw_flag(flag: &Flag, bottom: usize) -> Markup {
    let Flag { at, name, mark, lane } = flag;
    let y = lane * LANE;
    html! {
        g class=(mark.class()) {
            line x1=(percent(*at)) x2=(percent(*at)) y1=(y + 2) y2=(bottom) {}
            text x=(percent(*at)) y=(y + 11)
                dx=(if flag.points_left() { -5 } else { 5 })
                text-anchor=(if flag.points_left() { "end" } else { "start" }) { (name) }
        }
    }
}

/// What the colours and forms mean; once for all pictures of a page.
pub(in crate::page) fn legend() -> Markup {
    html! {
        ul.legend {
            @for (kind, name) in [
                (Kind::Container, "container"),
                (Kind::Proxy, "proxy"),
                (Kind::Waiting, "waits"),
                (Kind::Released, "waited, went on"),
                (Kind::Failed, "waited, failed"),
                (Kind::Refused, "refused"),
                (Kind::Observed, "passed, would have waited"),
            ] {
                li {
                    svg width="26" height="14" aria-hidden="true" {
                        g class=(kind.class()) {
                            @if matches!(kind, Kind::Refused | Kind::Observed) {
                                circle cx="13" cy="7" r="5" {}
                            } @else {
                                rect x="0" y="2" width="20" height="10" rx="3" {}
                                @if kind == Kind::Failed {
                                    svg.end x="20" y="7" overflow="visible" { path d="M-4-4 4 4M4-4-4 4" {} }
                                } @else if kind == Kind::Released {
                                    circle.end cx="20" cy="7" r="5" {}
                                }
                            }
                        }
                    }
                    (name)
                }
            }
        }
    }
}

fn percent(share: f64) -> String {
    format!("{share:.2}%")
}

/// Labels at the edges stay inside.
fn anchor(at: f64) -> &'static str {
    match at {
        at if at < 4.0 => "start",
        at if at > 96.0 => "end",
        _ => "middle",
    }
}

// === impl Kind ===

impl Kind {
    const fn class(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Proxy => "proxy",
            Self::Waiting => "connect waiting",
            Self::Released => "connect released",
            Self::Failed => "connect failed",
            Self::Refused => "connect refused",
            Self::Observed => "connect observed",
        }
    }

    const fn is_connect(self) -> bool {
        !matches!(self, Self::Container | Self::Proxy)
    }
}

// === impl Mark ===

impl Mark {
    const fn class(self) -> &'static str {
        match self {
            Self::Closed => "flag closed",
            Self::Ready => "flag ready",
            Self::Deadline => "flag deadline",
            Self::Opened => "flag opened",
        }
    }
}

//! What `holdfast pods` prints.

use unicode_width::UnicodeWidthChar as _;

use super::{
    table::{Cell, Table},
    terminal::{Paint, Style, safe},
};
use crate::core::{OrderReport, Origin, PodReport, PodState, ProxyReport, Stamp, age};

/// Columns of a pod's name at most: what the generated names of most Deployments need with their
/// namespaces. The ends tell more than the middle.
const NAME_WIDTH: usize = 38;

/// Columns to which the reasons are wrapped before names are: a few words.
const WHY_WIDTH: usize = 18;

/// One row for each pod; `left_out`: how many others there are.
#[must_use]
pub fn table(pods: &[PodReport], left_out: usize, now: Stamp, style: Style) -> String {
    let mut text = String::new();
    if !pods.is_empty() {
        let headings = ["NAMESPACE/NAME", "STATE", "PROXY", "MODE", "HELD", "SINCE", "FROM", "WHY"];
        let mut table = Table::new(headings).wrapping_first(headings.len() - 1, WHY_WIDTH);
        for pod in pods {
            table.row(row(pod, now));
        }
        text = table.render(style);
    }
    if let Some(line) = others(pods.len(), left_out) {
        text += &style.paint(Paint::Faint, &line);
        text.push('\n');
    }
    text
}

fn row(pod: &PodReport, now: Stamp) -> [Cell; 8] {
    let paint = paint(pod.state);
    let state = Cell::from(pod.state.as_str());
    let held = Cell::from(pod.held.to_string());
    [
        shortened(&name(pod), NAME_WIDTH).into(),
        paint.map_or(state.clone(), |paint| state.painted(paint)),
        pod.proxy.as_ref().map_or_else(|| "-".into(), proxy).into(),
        pod.setting("mode").map_or("-", |_| pod.mode().as_str()).into(),
        if pod.held > 0 { held.painted(Paint::Warning) } else { held },
        age(now.since(pod.since)).into(),
        from(pod).into(),
        pod.why.as_str().into(),
    ]
}

/// The pod as it is named everywhere; its uid as long as nobody has told its name.
pub(super) fn name(pod: &PodReport) -> String {
    match &pod.pod.name {
        Some(name) => format!("{}/{}", name.namespace, name.name),
        None => pod.pod.uid.as_str().to_owned(),
    }
}

/// The proxy's container and its profile. Most containers' names begin with the profile's, which
/// is then not said twice: the columns are few.
fn proxy(proxy: &ProxyReport) -> String {
    let ProxyReport { container, profile, .. } = proxy;
    if container.starts_with(profile) {
        container.clone()
    } else {
        format!("{container} ({profile})")
    }
}

/// Whose choice it is whether the pod is held.
fn from(pod: &PodReport) -> &'static str {
    if pod.order.is_some() {
        return match pod.order {
            Some(OrderReport::Open { .. }) => "order: open",
            _ => "order: close",
        };
    }
    match pod.setting("hold").map(|hold| hold.origin) {
        Some(Origin::Pod) => "pod",
        Some(Origin::PodMesh) => "pod (mesh)",
        Some(Origin::Namespace) => "namespace",
        Some(Origin::NamespaceMesh) => "ns (mesh)",
        Some(Origin::Config) => "config",
        Some(Origin::Default) => "default",
        None => "-",
    }
}

/// How a state looks.
pub(super) const fn paint(state: PodState) -> Option<Paint> {
    match state {
        PodState::Open | PodState::Guarded => Some(Paint::Good),
        PodState::Closed | PodState::Opening | PodState::Checking => Some(Paint::Warning),
        PodState::Refusing | PodState::GivenUp | PodState::Failed => Some(Paint::Bad),
        PodState::Exempt => Some(Paint::Faint),
        PodState::Pending | PodState::Observed => None,
    }
}

fn others(shown: usize, left_out: usize) -> Option<String> {
    let none = if shown == 0 { "No pod here is held or to be held. " } else { "" };
    match left_out {
        0 if shown == 0 => Some("There are no pods.".to_owned()),
        0 => None,
        1 => Some(format!("{none}1 other pod is left out; --all shows it, too.")),
        _ => Some(format!("{none}{left_out} other pods are left out; --all shows them, too.")),
    }
}

/// The text with its middle cut out, if it is wider than that. Harmless for a terminal.
pub(super) fn shortened(text: &str, width: usize) -> String {
    let text = safe(text);
    let columns = |c: &char| c.width().unwrap_or_default();
    if text.chars().map(|c| columns(&c)).sum::<usize>() <= width {
        return text.into_owned();
    }
    let half = width.saturating_sub(1);
    let beginning = fitting(text.chars(), half / 2);
    let mut ending: Vec<char> = fitting(text.chars().rev(), half - half / 2).chars().collect();
    ending.reverse();
    let ending: String = ending.into_iter().collect();
    format!("{beginning}…{ending}")
}

/// As many of them as fit.
fn fitting(characters: impl Iterator<Item = char>, width: usize) -> String {
    let mut used = 0;
    characters
        .take_while(|c| {
            used += c.width().unwrap_or_default();
            used <= width
        })
        .collect()
}

#[cfg(test)]
mod tests;

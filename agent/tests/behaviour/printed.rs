//! What the documents show of the commands' output: played, printed and compared.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use holdfast::{
    command::{diagnose, pods, status, terminal::Style},
    core::{
        AgentState, Diagnosis, Finding, NodeReport, Outcome, PodState, Totals, WatchReport, Watched,
    },
};

use crate::{
    cases,
    document::WRITE,
    explain::{after, seconds, text_of},
    scene::{self, Known, Step},
};

/// Fails if a document shows something else.
pub(crate) fn check() {
    check_document("docs/commands.md", &commands());
    check_document("docs/observe.md", &[("diagnose", diagnosed())]);
}

fn check_document(document: &str, printed: &[(&str, String)]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let found = fs::read_to_string(&path).unwrap();
    let mut expected = found.clone();
    for (name, text) in printed {
        expected = replaced(&expected, name, text);
    }
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, expected).unwrap();
        return;
    }
    assert!(
        found == expected,
        "{document} shows something else than what is printed; \
         {WRITE}=1 cargo test -p holdfast --test behaviour writes it"
    );
}

/// The document with this text in the block of this name, which must be there once.
fn replaced(document: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- printed: {name} -->\n"), "<!-- end -->");
    assert_eq!(document.matches(&begin).count(), 1, "{begin}");
    let (before, rest) = document.split_once(&begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{begin}```\n{text}```\n{end}{after}")
}

/// A pod that nobody has enabled, on a node where nobody observes, while its proxy is away.
fn diagnosed() -> String {
    let given = cases::pod("istio-classic").labels(&[]);
    let steps = cases::then(cases::starts(&["cart", "istio-proxy"]), [seconds(120)]);
    let Known { pod, now, .. } = scene::known(&given, &steps).unwrap();
    let nobody = Finding::NobodyListens { ports: vec![15001] };
    let diagnosis = Diagnosis::new(pod, Some(nobody), None, false, None);
    diagnose::text(&diagnosis, now, Style::PLAIN)
}

fn commands() -> Vec<(&'static str, String)> {
    let waits = after([seconds(4)]);
    let linkerd = cases::pod("linkerd-native");
    let of_linkerd = ["cart", "linkerd-proxy"];
    let ready = scene::known(&linkerd, &cases::ready(&of_linkerd)).unwrap();
    let not_enabled = linkerd.labels(&[]);
    let not_enabled = scene::known(&not_enabled, &cases::starts(&of_linkerd)).unwrap();
    let of_kuma = cases::starts(&["cart", "kuma-sidecar"]);
    let silent = || Step::Found(Finding::NobodyListens { ports: vec![15001] });
    let of_kuma = cases::then(of_kuma, [Step::Held("cart"), silent(), seconds(70), silent()]);
    let given_up = scene::known(&cases::pod("kuma-native"), &of_kuma).unwrap();
    let plain = scene::known(&cases::pod("plain"), &cases::starts(&["cart"])).unwrap();
    let now = given_up.now;
    let texts =
        [("explain, held", text_of(&waits)), ("explain, not enabled", text_of(&not_enabled))];
    let status = ("status", status::text(&node(&given_up), Style::PLAIN));
    let pods = [waits, ready, given_up, plain].map(|known| known.pod);
    let pods = ("pods", pods::table(&pods, 9, now, Style::PLAIN));
    texts.into_iter().chain([pods, status]).collect()
}

/// The node of these pods, an hour after its agent's start.
fn node(known: &Known) -> NodeReport {
    let pods = [PodState::Closed, PodState::Open, PodState::GivenUp].map(|state| (state, 1));
    let totals = Totals {
        held: 12,
        outcomes: BTreeMap::from([(Outcome::Connected, 10), (Outcome::StillConnecting, 1)]),
        timed_out_gates: 1,
        ..Totals::default()
    };
    NodeReport {
        at: known.now,
        node: "node-a".to_owned(),
        version: "0.1.0".to_owned(),
        kernel: "6.12.94+deb13-cloud-amd64".to_owned(),
        pid: 1,
        started_at: known.now - Duration::from_secs(3_600),
        state: AgentState::Working,
        missing: Vec::new(),
        pods: pods.into_iter().chain([(PodState::Exempt, 10)]).collect(),
        held: 1,
        problems: vec![
            "1 pod is without a ready proxy, and the time to wait for it is up; holdfast pods lists \
             them, holdfast explain tells why"
                .to_owned(),
        ],
        watches: [(Watched::Pods, 3), (Watched::Namespaces, 42)]
            .map(|(resource, seconds)| WatchReport {
                resource,
                heard_at: Some(known.now - Duration::from_secs(seconds)),
                lists: 1,
                errors: 0,
            })
            .into(),
        totals,
    }
}

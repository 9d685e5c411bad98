//! What is wrong with a pod besides its settings, and what to do: one hint for each bad state.

use crate::core::{CloseReason, Exemption, Finding, Origin, PodReport, PodState, Verdict};

/// What a name in a command has at most: a label's length, which generated names keep.
const NAME_LENGTH: usize = 63;

/// What leads up to the command that does so.
const TAKE_BACK: &str = "To take the operator's order back";

/// What to do, and the command that does it.
pub(super) type Hint = (String, Option<String>);

impl PodReport {
    /// What is wrong besides its settings.
    pub(super) fn further_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let proxy = self.proxy_name();
        let reached = self.treatments.iter().filter(|treatment| treatment.reached);
        for treatment in reached.filter(|treatment| treatment.verdict != Verdict::Hold) {
            problems.push(format!(
                "Init container {} has reached for the mesh before {proxy} can be there; it was let \
                 pass, and has most likely been refused.",
                treatment.container
            ));
        }
        if self.not_redirected {
            problems.push(format!(
                "It has {proxy}, but its connections leave without it: the mesh's redirect is not in \
                 place, or leaves out whatever this pod dials."
            ));
        }
        problems
    }

    /// What to do.
    pub(super) fn hints(&self) -> Vec<Hint> {
        let mut hints = match self.state {
            PodState::Observed => {
                let report = Some("holdfast report".to_owned());
                let mut hints = vec![("What was observed so far".to_owned(), report)];
                hints.extend(self.exempt_hints());
                hints
            }
            _ if self.exemption.is_some() => self.exempt_hints(),
            PodState::Closed if self.is_ordered_closed() => {
                vec![self.auto_hint(TAKE_BACK)]
            }
            PodState::Closed | PodState::Checking if self.is_stuck() => {
                let open = format!("holdfast gate open {}", self.pod_path());
                vec![
                    self.proxy_hint("If that takes too long, this may tell why"),
                    ("To let what waits go on without the proxy".to_owned(), Some(open)),
                ]
            }
            PodState::Refusing | PodState::GivenUp => {
                let more = format!(
                    "To wait longer than {}: annotation holdfast.dev/timeout, such as 5m.",
                    self.timeout()
                );
                vec![self.proxy_hint("This may tell why it is not ready"), (more, None)]
            }
            PodState::Failed => vec![
                (
                    "What this node lacks, if it does, tells".to_owned(),
                    Some("holdfast check".to_owned()),
                ),
                self.auto_hint("To try again"),
            ],
            PodState::Exempt
            | PodState::Pending
            | PodState::Closed
            | PodState::Checking
            | PodState::Opening
            | PodState::Guarded
            | PodState::Open => Vec::new(),
        };
        let reached = self.treatments.iter().any(|treatment| treatment.reached);
        if let Some(hint) = self.proxy.as_ref().and_then(|proxy| proxy.exclusion_hint.as_ref())
            && reached
        {
            hints.push((format!("If the init container needs its destination: {hint}."), None));
        }
        if self.not_redirected {
            let text =
                "Look at the log of the mesh's init container, or of its CNI plugin on this node.";
            hints.push((text.to_owned(), None));
        }
        if !self.problems.is_empty() {
            let text = "Correct the labels and annotations above; they take effect at once.";
            hints.push((text.to_owned(), None));
        }
        hints
    }

    /// Whether it waits for something that may not come by itself.
    fn is_stuck(&self) -> bool {
        self.held > 0
            || self.closed_for == Some(CloseReason::ProxyDied)
            || self.probe.as_ref().is_some_and(|probe| {
                matches!(probe.finding, Finding::Answered { .. } | Finding::Failed { .. })
            })
    }

    fn auto_hint(&self, text: &str) -> Hint {
        let command = format!("holdfast gate auto {}", self.pod_path());
        (text.to_owned(), Some(command))
    }

    /// Where to look for why the proxy is not ready.
    fn proxy_hint(&self, text: &str) -> Hint {
        let (namespace, pod) = self.names();
        let container = match self.proxy_name() {
            name if is_plain(name) => format!(" -c {name}"),
            _ => String::new(),
        };
        let before = match self.closed_for {
            Some(CloseReason::ProxyDied) => " --previous",
            _ => "",
        };
        let command = match self.probe.as_ref().map(|probe| &probe.finding) {
            Some(Finding::KubeletSilent { .. }) => {
                format!("kubectl -n {namespace} describe pod {pod}")
            }
            _ => format!("kubectl -n {namespace} logs {pod}{container}{before}"),
        };
        (text.to_owned(), Some(command))
    }

    /// How to have it held, or why there is nothing to do.
    fn exempt_hints(&self) -> Vec<Hint> {
        let (namespace, pod) = self.names();
        let nothing = |text: &str| vec![(text.to_owned(), None)];
        match self.exemption {
            Some(Exemption::NotEnabled) => self.enabling_hints(),
            Some(Exemption::NoProxy) => vec![
                (
                    "Is it to be in a mesh? Then its injector has left it out; what it has shows"
                        .to_owned(),
                    Some(format!("kubectl -n {namespace} get pod {pod} -o yaml")),
                ),
                (
                    "A proxy that holdfast does not know can be named: annotations \
                     holdfast.dev/proxy, ready and ports. Those that it knows lists"
                        .to_owned(),
                    Some("holdfast profiles".to_owned()),
                ),
            ],
            Some(Exemption::RedirectOff) => nothing(
                "What is refused is refused by its destination, not by the proxy. If the pod dials \
                 the proxy itself, annotation holdfast.dev/ports names the ports.",
            ),
            Some(Exemption::NoSidecar) => {
                nothing("Nothing: no proxy of this pod's is to be waited for.")
            }
            Some(Exemption::HostNetwork) => {
                nothing("Nothing, unless it can do without hostNetwork in its spec.")
            }
            Some(Exemption::Terminating | Exemption::Finished | Exemption::Deleted) => {
                nothing("Nothing: its successor is judged anew.")
            }
            Some(Exemption::ControlPlane) => {
                nothing("Nothing. An application belongs into another namespace.")
            }
            Some(Exemption::Agent) => nothing("Nothing."),
            Some(Exemption::Operator) => vec![self.auto_hint(TAKE_BACK)],
            None => Vec::new(),
        }
    }

    fn enabling_hints(&self) -> Vec<Hint> {
        let (namespace, pod) = self.names();
        let label_pod = format!("kubectl -n {namespace} label pod {pod} holdfast.dev/hold=enabled");
        let label_namespace =
            format!("kubectl label namespace {namespace} holdfast.dev/hold=enabled --overwrite");
        match self.setting("hold").map(|hold| hold.origin) {
            Some(Origin::Pod) => vec![(
                "To hold it, take its label away, and from the template that it is made from"
                    .to_owned(),
                Some(format!("kubectl -n {namespace} label pod {pod} holdfast.dev/hold-")),
            )],
            Some(Origin::PodMesh) => vec![(
                "To hold it, label it, and in the template that it is made from: that wins over the \
                 mesh's annotation"
                    .to_owned(),
                Some(label_pod),
            )],
            Some(Origin::Namespace | Origin::NamespaceMesh) => {
                vec![("To hold the namespace's pods".to_owned(), Some(label_namespace))]
            }
            Some(Origin::Config | Origin::Default) | None => vec![
                ("To hold the namespace's pods".to_owned(), Some(label_namespace)),
                ("To hold this pod alone".to_owned(), Some(label_pod)),
            ],
        }
    }

    /// Its namespace and its name for a command line. A command is there to be copied: a name that
    /// is none of Kubernetes' own making is left to the reader.
    fn names(&self) -> (&str, &str) {
        match &self.pod.name {
            Some(name) if is_plain(&name.namespace) && is_plain(&name.name) => {
                (&name.namespace, &name.name)
            }
            _ => ("NAMESPACE", "POD"),
        }
    }

    pub(in crate::core::report) fn pod_path(&self) -> String {
        let (namespace, pod) = self.names();
        format!("{namespace}/{pod}")
    }
}

/// Whether a shell takes the name as it is, and a line has room for it.
fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (1..=NAME_LENGTH).contains(&name.len()) && !name.starts_with('-') && name.chars().all(is_plain)
}

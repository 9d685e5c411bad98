//! What is wrong with a pod besides its settings, and what to do: one hint for each bad state.

use crate::core::{CloseReason, Exemption, Finding, Origin, PodReport, PodState, Verdict};

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
    pub(super) fn hints(&self) -> Vec<String> {
        let mut hints = Vec::new();
        match self.state {
            PodState::Exempt => hints.extend(self.exempt_hint()),
            PodState::Closed if self.closed_for == Some(CloseReason::Operator) => {
                hints.push(format!("To take the order back: holdfast gate auto {}.", self.pod_path()));
            }
            PodState::Closed | PodState::Checking if self.is_stuck() => hints.push(self.proxy_hint()),
            PodState::Refusing | PodState::GivenUp => {
                hints.push(self.proxy_hint());
                hints.push(format!(
                    "To wait longer than {}: annotation holdfast.dev/timeout, such as 5m.",
                    self.timeout()
                ));
            }
            PodState::Failed => hints.push(
                "holdfast check on this node tells what it lacks. The pod is held again from its next \
                 start on."
                    .to_owned(),
            ),
            PodState::Pending
            | PodState::Closed
            | PodState::Checking
            | PodState::Opening
            | PodState::Guarded
            | PodState::Open => {}
        }
        let reached = self.treatments.iter().any(|treatment| treatment.reached);
        if let Some(hint) = self.proxy.as_ref().and_then(|proxy| proxy.exclusion_hint.as_ref())
            && reached
        {
            hints.push(format!("For the init container: {hint}."));
        }
        if self.not_redirected {
            hints.push(
                "Look at the log of the mesh's init container, or of its CNI plugin on this node."
                    .to_owned(),
            );
        }
        if !self.problems.is_empty() {
            hints.push(
                "Correct the labels and annotations above; they take effect at once.".to_owned(),
            );
        }
        hints
    }

    /// Whether it waits for something that is likely not to come by itself.
    fn is_stuck(&self) -> bool {
        self.held > 0
            || self.closed_for == Some(CloseReason::ProxyDied)
            || self.probe.as_ref().is_some_and(|probe| {
                matches!(probe.finding, Finding::Answered { .. } | Finding::Failed { .. })
            })
    }

    /// Where to look for why the proxy is not ready.
    fn proxy_hint(&self) -> String {
        let (namespace, pod) = self.names();
        let container = match self.proxy_name() {
            name if is_plain(name) => format!(" -c {name}"),
            _ => String::new(),
        };
        let before = match self.closed_for {
            Some(CloseReason::ProxyDied) => " --previous",
            _ => "",
        };
        let look = format!("kubectl -n {namespace} logs {pod}{container}{before}");
        let what = match self.probe.as_ref().map(|probe| &probe.finding) {
            Some(Finding::KubeletSilent { .. }) => {
                return format!(
                    "Why kubelet does not call it ready: kubectl -n {namespace} describe pod {pod}."
                );
            }
            Some(Finding::NobodyListens { .. } | Finding::NoProcess) => "Why it does not listen",
            _ => "Why it is not ready",
        };
        let now = match self.state {
            PodState::Closed => {
                format!(" Not to wait for it any longer: holdfast gate open {}.", self.pod_path())
            }
            _ => String::new(),
        };
        format!("{what}: {look}.{now}")
    }

    /// How to have it held, or why there is nothing to do.
    fn exempt_hint(&self) -> Option<String> {
        let (namespace, pod) = self.names();
        let label_pod = format!("kubectl -n {namespace} label pod {pod} holdfast.dev/hold=enabled");
        Some(match self.exemption? {
            Exemption::NotEnabled => match self.setting("hold").map(|hold| hold.origin) {
                Some(Origin::Pod) => format!(
                    "To hold it: kubectl -n {namespace} label pod {pod} holdfast.dev/hold- (and in \
                     the template that it was made from)."
                ),
                Some(Origin::PodMesh) => format!(
                    "To hold it, a label of its own wins over the mesh's annotation: {label_pod} (and \
                     in the template that it was made from)."
                ),
                Some(Origin::Namespace) => format!(
                    "To hold its pods: kubectl label namespace {namespace} holdfast.dev/hold=enabled \
                     --overwrite."
                ),
                _ => format!(
                    "To hold the namespace's pods: kubectl label namespace {namespace} \
                     holdfast.dev/hold=enabled. For this pod alone: {label_pod}."
                ),
            },
            Exemption::NoProxy => format!(
                "Is it to be in a mesh? Then its injector has left it out: kubectl -n {namespace} get \
                 pod {pod} -o yaml. holdfast profiles lists the proxies that are known; another one can \
                 be named with the annotations holdfast.dev/proxy, ready and ports."
            ),
            Exemption::RedirectOff => {
                "Connections of this pod that are refused are refused by their destination. If it \
                 dials the proxy itself, annotation holdfast.dev/ports names the ports."
                    .to_owned()
            }
            Exemption::NoSidecar => {
                "Nothing: there is no proxy in this pod to wait for.".to_owned()
            }
            Exemption::HostNetwork => {
                "Nothing, unless it can do without hostNetwork in its spec.".to_owned()
            }
            Exemption::Terminating | Exemption::Finished | Exemption::Deleted => {
                "Nothing: its successor is judged anew.".to_owned()
            }
            Exemption::ControlPlane => {
                "Nothing; an application belongs into a namespace of its own.".to_owned()
            }
            Exemption::Agent => "Nothing.".to_owned(),
            Exemption::Operator => {
                format!("To take the order back: holdfast gate auto {}.", self.pod_path())
            }
        })
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

    fn pod_path(&self) -> String {
        let (namespace, pod) = self.names();
        format!("{namespace}/{pod}")
    }
}

/// Whether a shell takes the name as it is.
fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain)
}

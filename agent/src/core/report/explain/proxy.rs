//! The proxy, in sentences: how it is known, when it is ready, and who waits for it.

use super::Topic;
use crate::core::{
    Clue, Ground, KubeletWord, Mode, Origin, PodReport, PodState, ProxyReport, ReadyCheck,
};

/// Takes a sentence: what it is about, the text, and what it rests on.
type Tell<'a> = dyn FnMut(Topic, String, Option<String>) + 'a;

impl PodReport {
    pub(super) fn tell_proxy(&self, tell: &mut Tell<'_>) {
        let Some(proxy) = &self.proxy else { return };
        if !proxy.guessed {
            let (text, source) = self.proxy_in_words(proxy);
            tell(Topic::Proxy, text, source);
        }
        if self.exemption.is_some() && self.state != PodState::Observed {
            return;
        }
        tell(Topic::Proxy, what_waits(proxy), None);
        let awaits = matches!(
            self.state,
            PodState::Pending
                | PodState::Checking
                | PodState::Closed
                | PodState::Observed
                | PodState::Refusing
                | PodState::GivenUp
        );
        if awaits {
            for text in ready_in_words(proxy) {
                tell(Topic::Ready, text, None);
            }
            if let Some(probe) = &self.probe {
                let text = format!("{}.", capital(&probe.finding.to_string()));
                tell(Topic::Seen, text, None);
            }
        }
        for (text, containers) in self.containers_in_words(proxy) {
            tell(Topic::Container, text, Some(containers));
        }
    }

    fn proxy_in_words(&self, proxy: &ProxyReport) -> (String, Option<String>) {
        let ProxyReport { profile, container, clues, .. } = proxy;
        let clues: Vec<String> = clues.iter().map(|clue| self.clue_in_words(clue)).collect();
        let clues = clues.join(", and ");
        let verb = if self.exemption.is_some() { "would be" } else { "is" };
        let kind =
            if profile == container { String::new() } else { format!(" (profile {profile})") };
        let text = match clues.as_str() {
            "" => format!("Container {container} {verb} its proxy{kind}."),
            clues => format!("Container {container} {verb} its proxy{kind}: {clues}."),
        };
        (text, Some(clues).filter(|clues| !clues.is_empty()))
    }

    fn clue_in_words(&self, clue: &Clue) -> String {
        match clue {
            Clue::Named(Origin::Pod) => {
                "annotation holdfast.dev/proxy on the pod names it".to_owned()
            }
            Clue::Named(_) => {
                format!("annotation holdfast.dev/proxy on namespace {} names it", self.namespace())
            }
            Clue::Container(_) => "its name is known".to_owned(),
            Clue::Mark(mark) => format!("the pod has {mark}"),
        }
    }

    /// The containers that are treated alike, with the reason.
    fn containers_in_words(&self, proxy: &ProxyReport) -> Vec<(String, String)> {
        let name = self.proxy_name();
        let mesh = if proxy.guessed { "the mesh" } else { &proxy.profile };
        let text = |ground, names: &str| match (ground, self.mode()) {
            (Ground::Served, Mode::Hold | Mode::Retry) => format!("These wait: {names}."),
            (Ground::Served, Mode::Refuse) => format!("Connections of these fail: {names}."),
            (Ground::Served, Mode::Observe) => format!("Connections of these are noted: {names}."),
            (Ground::Proxy, _) => format!("Never held: {names}, the proxy itself."),
            (Ground::Setup, _) => {
                format!("Never held: {names}, which sets the redirect of {mesh} up or checks it.")
            }
            (Ground::BeforeProxy, _) => format!(
                "Never held: {names}. Kubelet starts {name} only after it, so it would wait for ever."
            ),
            (Ground::Sandbox, _) => format!("Never held: {names}, which runs nothing."),
        };
        let mut all = Vec::new();
        for ground in
            [Ground::Served, Ground::Proxy, Ground::Setup, Ground::BeforeProxy, Ground::Sandbox]
        {
            let alike = self.treatments.iter().filter(|treatment| treatment.ground == ground);
            let names: Vec<&str> = alike.map(|treatment| treatment.container.as_str()).collect();
            if !names.is_empty() {
                let names = names.join(", ");
                all.push((text(ground, &names), names));
            }
        }
        all
    }
}

/// Which of its connects are meant.
fn what_waits(proxy: &ProxyReport) -> String {
    let ProxyReport { ports, dns_port, guessed, .. } = proxy;
    let ports = ports_in_words(ports, "and");
    let mut text = if *guessed {
        format!(
            "Which proxy it has is not known yet: what arrives at {ports} of its loopback waits."
        )
    } else {
        format!("What arrives at {ports} of the pod's loopback is on its way to the proxy.")
    };
    if let Some(port) = dns_port {
        text += &format!(
            " So are DNS queries at port {port}; they wait for 9 s at most, then their resolver gives up."
        );
    }
    text
}

/// What has to be there before the gate opens.
fn ready_in_words(proxy: &ProxyReport) -> Vec<String> {
    let ProxyReport { container, ready, kubelet, ports, guessed, .. } = proxy;
    let mut all = Vec::new();
    let asked: Vec<String> =
        ready.iter().filter(|check| **check != ReadyCheck::Kube).map(check_in_words).collect();
    let only_kubelet = asked.is_empty() && *kubelet == KubeletWord::Counts;
    let listening = match (guessed, ports.len()) {
        _ if only_kubelet => None,
        (_, 0) => None,
        (true, 2..) => Some(format!("Somebody listens on one of {}", ports_in_words(ports, "or"))),
        _ => Some(format!("Somebody listens on {}", ports_in_words(ports, "and"))),
    };
    // A listener where one has to be in any case says no more.
    let is_enough =
        ready.iter().any(|check| matches!(check, ReadyCheck::Tcp { port } if ports.contains(port)));
    match (listening, &*asked) {
        (Some(listening), []) => all.push(format!("{listening}.")),
        (Some(listening), _) if is_enough => all.push(format!("{listening}; that is enough.")),
        (Some(listening), [one]) => all.push(format!("{listening}, and {one}.")),
        (Some(listening), many) => {
            all.push(format!("{listening}, and one of these: {}.", many.join("; ")));
        }
        (None, []) => {}
        (None, many) => all.push(format!("One of these: {}.", many.join("; "))),
    }
    let container = if container.is_empty() { "the proxy's container" } else { container };
    all.push(match kubelet {
        KubeletWord::Counts if only_kubelet => format!(
            "Kubelet calls {container} ready: nobody else is asked."
        ),
        KubeletWord::Counts => {
            format!("Kubelet's word that {container} is ready opens the gate as well.")
        }
        KubeletWord::NotProbed => format!(
            "Kubelet's word does not count: {container} has no startup or readiness probe, so kubelet \
             calls it ready as soon as it has started."
        ),
        KubeletWord::CheckNamed => {
            "Kubelet's word does not count: holdfast.dev/ready names what does.".to_owned()
        }
        KubeletWord::OtherMeaning => format!(
            "Kubelet's word does not count: with a proxy of {} it may mean something else.",
            proxy.profile
        ),
        KubeletWord::Unknown => return all,
    });
    all
}

fn check_in_words(check: &ReadyCheck) -> String {
    match check {
        ReadyCheck::Http { .. } => format!("{check} answers 200"),
        ReadyCheck::Tcp { port } => format!("somebody listens on port {port}"),
        ReadyCheck::Kube => "kubelet says ready".to_owned(),
    }
}

/// `port 15001`, `ports 3500 and 50001`.
pub(super) fn ports_in_words(ports: &[u16], and: &str) -> String {
    let all: Vec<String> = ports.iter().map(u16::to_string).collect();
    match &*all {
        [] => "its ports".to_owned(),
        [port] => format!("port {port}"),
        [first @ .., last] => format!("ports {} {and} {last}", first.join(", ")),
    }
}

/// The text with a capital letter at its beginning, unless it begins with a name.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if !text.starts_with("http") => first.to_uppercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

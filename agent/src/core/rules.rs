//! What applies to a pod: its settings and its proxy, or why it is left alone.

use super::{
    Chosen, Defaults, Detection, Exemption, Mode, NamespaceView, OnTimeout, Origin, PodUid,
    PodView, Problem, Profiles, Proxy, Settings, Unused, namespace_problems, resolve,
};

/// Namespaces that are never held, whatever their labels say: a node must be able to start.
const SYSTEM_NAMESPACES: [&str; 1] = ["kube-system"];

/// What decides about pods besides the pods themselves.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// What applies where nobody chose.
    pub defaults: Defaults,
    /// The proxies that are known.
    pub profiles: Profiles,
    /// The agent's own pod.
    pub own_pod: Option<PodUid>,
}

/// What applies to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The user's choices.
    pub settings: Settings,
    /// The pod's proxy.
    pub proxy: Proxy,
}

/// The verdict on a pod from its own object and its namespace's, without what happens in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What applies, if it is to be held.
    pub plan: Result<Plan, Exemption>,
    /// Somebody has chosen to hold it: whoever wants that should be told when it is not done.
    pub wanted: bool,
    /// What was wrong with its own labels and annotations.
    pub problems: Vec<Problem>,
    /// Its settings, whether or not they come to anything; `None`: its namespace is not known.
    pub settings: Option<Settings>,
    /// What would be its proxy, if it were to be held.
    pub would_be: Option<Proxy>,
    /// The profile that it seems to have, if nothing is held for that.
    pub unused: Option<Unused>,
    /// The annotation of its mesh that decided whether to hold it, as `key` or `key#path`.
    pub wish: Option<String>,
    /// What is wrong with its namespace's labels and annotations.
    pub namespace_problems: Vec<Problem>,
    /// What applies while it is only observed; `None`: it is not one to observe, because it is held,
    /// or has no proxy, or because it or its namespace says that it is not to be held.
    pub observation: Option<Plan>,
}

/// Whether nobody who is in charge of a pod has said whether it is to be held.
const fn is_nobodys(settings: &Settings) -> bool {
    matches!(settings.hold.origin, Origin::Config | Origin::Default)
}

// === impl Rules ===

impl Rules {
    /// Judges a pod by its own object and its namespace's; `None` as long as the namespace is not
    /// known and would decide. What the pod is comes first: `hostNetwork` and its deletion count
    /// whatever its settings are.
    #[must_use]
    pub fn judge(&self, pod: &PodView, namespace: Option<&NamespaceView>) -> Option<Judgement> {
        let exemption = self.exemption(pod);
        let Some(namespace) = namespace else {
            let plan = Err(exemption?);
            return Some(Judgement {
                plan,
                wanted: false,
                problems: Vec::new(),
                settings: None,
                would_be: None,
                unused: None,
                wish: None,
                namespace_problems: Vec::new(),
                observation: None,
            });
        };
        let (settings, mut problems) = resolve(pod, namespace, &self.defaults, &self.profiles);
        let wanted = settings.hold.value;
        let (mut would_be, mut unused) = (None, None);
        let wish = self.wish(pod, namespace, settings.hold.origin);
        let all_settings = Some(settings.clone());
        let exemption = exemption.or_else(|| (!wanted).then_some(Exemption::NotEnabled));
        let (detection, more) = self.profiles.detect(pod, &settings);
        if exemption.is_none() {
            problems.extend(more);
        }
        let found = match detection {
            Detection::Proxy(proxy) => Ok(proxy),
            Detection::None => Err((Exemption::NoProxy, self.profiles.unmarked(pod))),
            Detection::RedirectOff { profile, mark } => {
                Err((Exemption::RedirectOff, Some(Unused { profile, mark })))
            }
            Detection::NotThisKind { profile, mark } => {
                Err((Exemption::NoSidecar, Some(Unused { profile, mark })))
            }
        };
        let plan = match (found, exemption) {
            (Ok(proxy), None) => Ok(Plan { settings, proxy }),
            (Ok(proxy), Some(exemption)) => {
                would_be = Some(proxy);
                Err(exemption)
            }
            (Err((no_proxy, why)), exemption) => {
                unused = why;
                Err(exemption.unwrap_or(no_proxy))
            }
        };
        let observation = match (&plan, &all_settings, &would_be) {
            (Err(Exemption::NotEnabled), Some(settings), Some(proxy)) if is_nobodys(settings) => {
                Some(self.observation(settings.clone(), proxy.clone()))
            }
            _ => None,
        };
        Some(Judgement {
            plan,
            wanted,
            problems,
            settings: all_settings,
            would_be,
            unused,
            wish,
            namespace_problems: namespace_problems(namespace),
            observation,
        })
    }

    /// How a pod is observed that has this proxy and these settings: whatever they say, nothing of it
    /// waits or fails.
    fn observation(&self, settings: Settings, proxy: Proxy) -> Plan {
        let origin = self.defaults.observe.origin;
        let settings = Settings {
            mode: Chosen { value: Mode::Observe, origin },
            on_timeout: Chosen { value: OnTimeout::Open, origin },
            guard: Chosen { value: false, origin },
            ..settings
        };
        Plan { settings, proxy }
    }

    /// The mesh's annotation that decided, if one did.
    fn wish(&self, pod: &PodView, namespace: &NamespaceView, decided: Origin) -> Option<String> {
        let source = match decided {
            Origin::PodMesh => self.profiles.wish_source(pod, &pod.annotations, false),
            Origin::NamespaceMesh => self.profiles.wish_source(pod, &namespace.annotations, true),
            Origin::Pod | Origin::Namespace | Origin::Config | Origin::Default => None,
        };
        source.map(ToString::to_string)
    }

    /// Why a pod like this is never held.
    fn exemption(&self, pod: &PodView) -> Option<Exemption> {
        let namespace = &*pod.name.namespace;
        if self.own_pod.as_ref() == Some(&pod.uid) {
            Some(Exemption::Agent)
        } else if pod.host_network {
            Some(Exemption::HostNetwork)
        } else if pod.terminating {
            Some(Exemption::Terminating)
        } else if pod.finished {
            Some(Exemption::Finished)
        } else if SYSTEM_NAMESPACES.contains(&namespace)
            || self.profiles.is_control_plane(namespace)
        {
            Some(Exemption::ControlPlane)
        } else {
            None
        }
    }

    /// What applies to a pod of which the API has not told yet.
    #[must_use]
    pub fn unknown(&self) -> Plan {
        Plan {
            settings: Settings::default_for_unknown(&self.defaults),
            proxy: self.profiles.unknown_pod(),
        }
    }
}

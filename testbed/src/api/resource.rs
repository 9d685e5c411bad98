//! The resources that are served.

/// A resource of the Kubernetes API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// `v1` pods.
    Pods,
    /// `v1` namespaces.
    Namespaces,
    /// `v1` nodes.
    Nodes,
    /// `v1` events.
    CoreEvents,
    /// `events.k8s.io/v1` events.
    Events,
    /// `apps/v1` daemonsets.
    DaemonSets,
}

impl Resource {
    /// Every resource.
    pub const ALL: [Self; 6] = [
        Self::Pods,
        Self::Namespaces,
        Self::Nodes,
        Self::CoreEvents,
        Self::Events,
        Self::DaemonSets,
    ];

    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Events => "events.k8s.io",
            Self::DaemonSets => "apps",
            _ => "",
        }
    }

    /// `apiVersion` of its objects.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Events => "events.k8s.io/v1",
            Self::DaemonSets => "apps/v1",
            _ => "v1",
        }
    }

    /// `kind` of its objects.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Namespaces => "Namespace",
            Self::Nodes => "Node",
            Self::CoreEvents | Self::Events => "Event",
            Self::DaemonSets => "DaemonSet",
        }
    }

    /// Its name in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::CoreEvents | Self::Events => "events",
            Self::DaemonSets => "daemonsets",
        }
    }

    /// Whether its objects live in namespaces.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespaces | Self::Nodes)
    }

    pub(super) fn is_event(self) -> bool {
        matches!(self, Self::CoreEvents | Self::Events)
    }

    pub(super) fn find(group: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.group() == group && one.plural() == plural)
    }
}

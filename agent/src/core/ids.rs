//! Newtypes for ids and units, so that no two strings or numbers can be taken for each other.

use std::{fmt, ops::Add, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// A pod's `metadata.uid`, in the API's spelling (with dashes); for a static pod the hash of its
/// manifest, which is what kubelet names its cgroup after.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub struct PodUid(Arc<str>);

impl PodUid {
    /// Takes the uid as the API spells it.
    #[must_use]
    pub fn new(uid: &str) -> Self {
        Self(uid.into())
    }

    /// The uid as the API spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<PodUid> for String {
    fn from(uid: PodUid) -> Self {
        uid.as_str().to_owned()
    }
}

impl From<String> for PodUid {
    fn from(uid: String) -> Self {
        Self::new(&uid)
    }
}

/// A pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl PodName {
    /// Joins a namespace and a name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A container's id as the runtime gave it, without the API's `containerd://`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    /// Takes the bare id.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The bare id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A cgroup's id: the inode number of its directory on cgroup2, and what
    /// `bpf_get_current_cgroup_id` returns.
    CgroupId
}
number! {
    /// A socket's cookie (`SO_COOKIE`): unique on the machine until it reboots.
    SocketCookie
}
number! {
    /// The id of a DNS query: the first two bytes of its message.
    QueryId
}
number! {
    /// A network namespace's cookie (`SO_NETNS_COOKIE`, Linux 5.14): never reused until reboot.
    NetnsCookie
}
number! {
    /// An instant of `CLOCK_MONOTONIC`, in nanoseconds: the clock of the kernel's `ktime_get`.
    Monotonic
}

impl Monotonic {
    /// The time from `earlier` to `self`; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

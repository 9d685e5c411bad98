//! The proxies that a pod can have: what their meshes call them, how they run, where they listen.

use crate::{process::User, proxy::Endpoint};

/// A proxy in a pod, as its mesh (or its user) sets it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mesh {
    /// Istio's sidecar.
    Istio,
    /// Linkerd's proxy.
    Linkerd,
    /// Kuma's data plane proxy.
    Kuma,
    /// Dapr: nothing is redirected, the application dials loopback.
    Dapr,
    /// The Cloud SQL Auth Proxy: as Dapr, and nothing on the pod tells of it but its container.
    CloudSql,
    /// A proxy that nobody knows, named by the pod's own annotations.
    Own,
}

/// The container that [`Mesh::Own`] is in.
pub(crate) const OWN: &str = "bridge";
/// The port on which [`Mesh::Own`] listens.
pub(crate) const OWN_PORT: u16 = 7000;

impl Mesh {
    /// The proxy's container.
    pub const fn proxy(self) -> &'static str {
        match self {
            Self::Istio => "istio-proxy",
            Self::Linkerd => "linkerd-proxy",
            Self::Kuma => "kuma-sidecar",
            Self::Dapr => "daprd",
            Self::CloudSql => "cloud-sql-proxy",
            Self::Own => OWN,
        }
    }

    /// The init container that writes the redirect rules; `None` where nothing is redirected.
    pub const fn init(self) -> Option<&'static str> {
        match self {
            Self::Istio => Some("istio-init"),
            Self::Linkerd => Some("linkerd-init"),
            Self::Kuma => Some("kuma-init"),
            Self::Dapr | Self::CloudSql | Self::Own => None,
        }
    }

    /// The loopback port at which it takes the application's connections.
    pub const fn port(self) -> u16 {
        match self {
            Self::Istio | Self::Kuma => 15001,
            Self::Linkerd => 4140,
            Self::Dapr => 3500,
            Self::CloudSql => 5432,
            Self::Own => OWN_PORT,
        }
    }

    /// The user it runs as.
    pub const fn user(self) -> User {
        const fn both(id: u32) -> User {
            User { uid: id, gid: id }
        }
        match self {
            Self::Istio => both(1337),
            Self::Linkerd => both(2102),
            Self::Kuma => both(5678),
            // `nonroot` of the distroless images.
            Self::Dapr | Self::CloudSql => both(65532),
            Self::Own => both(0),
        }
    }

    /// What answers when it is ready.
    pub const fn endpoint(self) -> Endpoint {
        match self {
            Self::Istio => Endpoint::Http { port: 15021, path: "/healthz/ready" },
            Self::Linkerd => Endpoint::Http { port: 4191, path: "/ready" },
            Self::Kuma => Endpoint::Http { port: 9902, path: "/ready" },
            Self::Dapr => Endpoint::Http { port: 3501, path: "/v1.0/healthz/outbound" },
            Self::CloudSql => Endpoint::Http { port: 9090, path: "/startup" },
            Self::Own => Endpoint::Tcp { port: OWN_PORT },
        }
    }

    /// Whether kubelet asks it anything before it calls it ready.
    pub(crate) const fn has_probes(self) -> bool {
        !matches!(self, Self::Own)
    }
}

//! What holdfast knows about a mesh, as data.

/// Where a proxy says whether it is ready, on the pod's loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadyEndpoint {
    /// TCP port.
    pub port: u16,
    /// Path of the GET request; 200 means ready.
    pub path: &'static str,
}

/// One mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// What users call it.
    pub name: &'static str,
    /// The proxy's container, in `containers` or `initContainers`.
    pub proxy_container: &'static str,
    /// Init containers that set the redirect up or check it: never held, also before the API has
    /// told anything about the pod.
    pub setup_containers: &'static [&'static str],
    /// Loopback ports to which the mesh redirects outbound connections.
    pub outbound_ports: &'static [u16],
    /// The readiness endpoint.
    pub ready: ReadyEndpoint,
    /// Namespaces of the control plane, whose pods are never held: readiness depends on them.
    pub control_plane: &'static [&'static str],
}

/// Istio, sidecar mode.
///
/// Sources: injection-template.yaml (istio-proxy, probes on 15021), tools/istio-iptables (15001),
/// envoy_bootstrap.json (15021 routes /healthz/ready through Envoy, so a 200 proves Envoy serves).
pub const ISTIO: Profile = Profile {
    name: "istio",
    proxy_container: "istio-proxy",
    setup_containers: &["istio-init", "istio-validation"],
    outbound_ports: &[15001],
    ready: ReadyEndpoint { port: 15021, path: "/healthz/ready" },
    control_plane: &["istio-system"],
};

//! The cases: what a pod is made of, and what has to come of it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use testpod::{ClientArgs, ProxyArgs};

use super::HOLD;
use crate::mesh::{self, Mesh};

/// How late the proxies are: long enough that nothing but a hold explains a connect that waits.
const LATE: Duration = Duration::from_secs(3);

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, and that of its pod.
    pub name: &'static str,
    /// What has to come of it.
    pub expected: Expected,
    /// Where the pod is.
    pub place: Place,
    /// When the application starts.
    pub order: Order,
    /// Whose proxy it has.
    pub mesh: Mesh,
    /// How the proxy behaves.
    pub proxy: ProxyArgs,
    /// What the application does.
    pub client: ClientArgs,
    /// What an ordinary init container in front of the proxy does.
    pub init: Option<ClientArgs>,
    /// The pod's own labels.
    pub labels: Vec<(&'static str, &'static str)>,
    /// The pod's own annotations.
    pub annotations: Vec<(&'static str, &'static str)>,
    /// Whether a Job makes the pod, which is never restarted.
    pub is_job: bool,
}

/// The namespace of a case's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Labelled `holdfast.dev/hold=enabled`.
    Enabled,
    /// Not labelled.
    NotEnabled,
    /// Labelled, and the label removed again, while the pod starts.
    Labelled,
}

/// When the application starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Before its proxy, as injectors that append theirs have it.
    AppFirst,
    /// After its proxy's postStart hook, which waits for readiness.
    PostStart,
    /// After its proxy's start-up probe: an init container that is always restarted.
    Native,
}

/// What has to come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The first connect waits until the proxy is ready, and succeeds.
    Held,
    /// The same, and the Job succeeds.
    JobSucceeds,
    /// The application starts after its proxy and connects at once.
    AtOnce,
    /// The first connect is refused at once, as without holdfast.
    Refused,
    /// The init container's is refused at once and an Event says so; then as [`Self::Held`].
    InitRefused,
    /// The proxy dies and comes back: who connects meanwhile waits.
    Survives {
        /// Whether not even those are refused who connect before the death is known.
        guarded: bool,
    },
    /// The namespace's label takes effect, and so does its removal.
    Labelled,
}

// === impl Case ===

impl Case {
    fn new(name: &'static str, expected: Expected) -> Self {
        let proxy = ProxyArgs { delay: LATE, ..ProxyArgs::default() };
        let client = dial(proxy.port);
        Self {
            name,
            expected,
            place: Place::Enabled,
            order: Order::AppFirst,
            mesh: Mesh::Istio,
            proxy,
            client,
            init: None,
            labels: Vec::new(),
            annotations: Vec::new(),
            is_job: false,
        }
    }

    /// Names of the table's rows that come of it.
    #[must_use]
    pub fn rows(&self) -> Vec<String> {
        match self.expected {
            Expected::Labelled => ["set", "removed"].map(|what| format!("label-{what}")).into(),
            _ => vec![self.name.to_owned()],
        }
    }
}

fn dial(port: u16) -> ClientArgs {
    // Runs on: kubelet starts a container anew that has ended.
    ClientArgs { stay: true, ..ClientArgs::new((Ipv4Addr::LOCALHOST, port).into()) }
}

fn restart(name: &'static str, guarded: bool) -> Case {
    let case = Case::new(name, Expected::Survives { guarded });
    Case {
        proxy: ProxyArgs {
            // A few connects find it alive.
            die_after: Some(Duration::from_secs(2)),
            die_once: Some(format!("{STATE_DIR}/died").into()),
            ..case.proxy
        },
        client: ClientArgs {
            // Ten while it is alive, one that waits, the rest after its return.
            attempts: 25,
            every: Duration::from_millis(200),
            ..case.client
        },
        annotations: if guarded { vec![("holdfast.dev/guard", "enabled")] } else { Vec::new() },
        ..case
    }
}

/// Where a proxy's container keeps what its successor has to know.
pub(crate) const STATE_DIR: &str = "/state";

/// Every case.
#[must_use]
pub fn cases() -> Vec<Case> {
    const OWN_READY: u16 = 7021;
    let quit = SocketAddr::from((Ipv4Addr::LOCALHOST, ProxyArgs::default().ready_port));
    vec![
        Case::new("classic-sidecar", Expected::Held),
        Case {
            mesh: Mesh::Own,
            proxy: ProxyArgs {
                delay: LATE,
                port: mesh::OWN_PORT,
                ready_port: OWN_READY,
                ready_path: "/readyz".to_owned(),
                ..ProxyArgs::default()
            },
            client: dial(mesh::OWN_PORT),
            annotations: vec![
                ("holdfast.dev/proxy", mesh::OWN),
                ("holdfast.dev/ready", "http://:7021/readyz"),
                ("holdfast.dev/ports", "7000"),
            ],
            ..Case::new("own-proxy", Expected::Held)
        },
        Case { order: Order::PostStart, ..Case::new("poststart-sidecar", Expected::AtOnce) },
        Case { order: Order::Native, ..Case::new("native-sidecar", Expected::AtOnce) },
        Case {
            // Its proxy ends when it says so; otherwise no Job with a sidecar would ever end.
            client: ClientArgs { stay: false, quit: Some(quit), ..dial(ProxyArgs::default().port) },
            is_job: true,
            ..Case::new("job", Expected::JobSucceeds)
        },
        Case {
            init: Some(ClientArgs {
                stay: false,
                // The pod has to go on, or there would be nothing more to see.
                exit_zero: true,
                ..dial(ProxyArgs::default().port)
            }),
            ..Case::new("init-container", Expected::InitRefused)
        },
        Case { labels: vec![(HOLD, "disabled")], ..Case::new("opted-out", Expected::Refused) },
        Case { place: Place::NotEnabled, ..Case::new("not-enabled", Expected::Refused) },
        restart("proxy-restart", false),
        restart("proxy-restart-guarded", true),
        {
            let case = Case::new("labelled", Expected::Labelled);
            Case {
                place: Place::Labelled,
                // Does not get ready while somebody looks.
                proxy: ProxyArgs { delay: Duration::from_secs(600), ..case.proxy },
                client: ClientArgs {
                    attempts: 6000,
                    every: Duration::from_millis(100),
                    ..case.client
                },
                ..case
            }
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_can_be_pods_and_rows_are_told_apart() {
        let mut rows = BTreeSet::new();
        for case in cases() {
            assert!(case.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
            for row in case.rows() {
                assert!(rows.insert(row), "{}", case.name);
            }
        }
    }

    #[test]
    fn the_annotations_of_an_own_proxy_say_how_it_behaves() {
        let case = cases().into_iter().find(|case| case.mesh == Mesh::Own).unwrap();
        let of = |key: &str| case.annotations.iter().find(|(name, _)| *name == key).unwrap().1;
        assert_eq!(of("holdfast.dev/ports"), case.proxy.port.to_string());
        let ready = format!("http://:{}{}", case.proxy.ready_port, case.proxy.ready_path);
        assert_eq!(of("holdfast.dev/ready"), ready);
        assert_eq!(case.client.to.port(), case.proxy.port);
    }
}

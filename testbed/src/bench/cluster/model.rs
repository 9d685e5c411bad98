//! Clusters that do not fit here, on paper: what each node was measured to cost, times their number.

use serde::{Deserialize, Serialize};

/// What a node costs, measured.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct PerNode {
    /// Requests of an agent's start.
    pub(super) start_requests: Linear,
    /// Bytes of their answers.
    pub(super) start_bytes: Linear,
    /// Requests for the objects that are there already, at its start and whenever the API server does not
    /// know where its watches were.
    pub(super) lists: Linear,
    /// The same, where the server does not stream lists.
    pub(super) unstreamed_lists: Linear,
    /// Requests of an agent whose API server comes back and knows where its watches were.
    pub(super) resume_requests: f64,
    /// Of these, in the second in which most came, the share of one agent.
    pub(super) resume_peak: f64,
    /// The same, where the server has lost its history.
    pub(super) relist_peak: f64,
    /// From the moment at which an API server that was away for long is back until the last agent has asked it.
    pub(super) window_s: f64,
    /// The same until the last agent has listed all again, because the server has lost its history.
    pub(super) relist_window_s: f64,
    /// Watches that are open.
    pub(super) watches: f64,
    /// A watch is taken up again after so long.
    pub(super) watch_s: f64,
    /// Of a change of a pod, sent to its own node.
    pub(super) pod_change_bytes: f64,
    /// Of a change of a namespace, sent to every node.
    pub(super) namespace_change_bytes: f64,
    /// Events that are written for a pod that waited.
    pub(super) events_per_hold: f64,
}

/// Events that one agent writes in a minute at most (50 a second).
pub(super) const MOST_EVENTS_A_MINUTE: f64 = 3_000.0;

/// A number that grows with what there is to list.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Linear {
    /// Of any node.
    pub(super) fixed: f64,
    /// Of each pod on it.
    pub(super) per_pod: f64,
    /// Of each namespace in the cluster.
    pub(super) per_namespace: f64,
}

/// A cluster that is thought of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    pub(super) nodes: f64,
    pub(super) pods_per_node: f64,
    pub(super) namespaces: f64,
}

/// An API server's limit on what all agents may have at work at once: they are one flow, that of
/// their service account, of the priority level `workload-low`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fairness {
    /// Seats of the level.
    pub(super) seats: f64,
    /// Seats that a list takes.
    pub(super) seats_per_list: f64,
    /// For so long, in seconds.
    pub(super) list_s: f64,
}

/// What all agents of a cluster together cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) watches: f64,
    /// Per second, with nothing going on.
    pub(super) quiet_requests: f64,
    /// Of the start of all agents.
    pub(super) start_requests: f64,
    pub(super) start_bytes: f64,
    /// In the busiest second after the API server has come back and has its history.
    pub(super) resume_peak: f64,
    /// The same, and it has not: all is listed again.
    pub(super) relist_peak: f64,
    /// Until the last list is answered, in seconds.
    pub(super) relisted_after: f64,
    /// The same, where the server does not stream lists.
    pub(super) unstreamed_after: f64,
    /// Of one change of one namespace.
    pub(super) namespace_bytes: f64,
    /// In a minute in which one pod of each node waits.
    pub(super) events: f64,
    /// In a minute at most, whatever happens.
    pub(super) most_events: f64,
}

// === impl Linear ===

impl Linear {
    /// Through three measurements: one, one with other pods only, and one with other namespaces only.
    pub(super) fn through(
        (pods, namespaces, value): (usize, usize, f64),
        (other_pods, with_other_pods): (usize, f64),
        (other_namespaces, with_other_namespaces): (usize, f64),
    ) -> Self {
        let slope = |from: usize, to: usize, value_there: f64| {
            (value_there - value) / (to as f64 - from as f64)
        };
        let per_pod = slope(pods, other_pods, with_other_pods);
        let per_namespace = slope(namespaces, other_namespaces, with_other_namespaces);
        let fixed = value - per_pod * pods as f64 - per_namespace * namespaces as f64;
        Self { fixed, per_pod, per_namespace }
    }

    pub(super) fn of(&self, cluster: Cluster) -> f64 {
        let Self { fixed, per_pod, per_namespace } = self;
        fixed + per_pod * cluster.pods_per_node + per_namespace * cluster.namespaces
    }
}

// === impl Fairness ===

impl Fairness {
    /// With the defaults of a real server: 600 seats (`--max-requests-inflight` 400 and
    /// `--max-mutating-requests-inflight` 200), of which `workload-low` has 100 of 245 shares
    /// (pkg/apis/flowcontrol/bootstrap/default.go), and ten for each list of a resource of which there
    /// are a thousand or more (`seatsBasedOnObjectCount`, list_work_estimator.go).
    ///
    /// How long a list takes is no measurement: 20 ms is that of a server that has room.
    pub(super) const ALONE: Self = Self { seats: 245.0, seats_per_list: 10.0, list_s: 0.02 };

    /// The level is that of every service account, and a server that has just started is slow: a quarter of
    /// the seats, and five times as long.
    pub(super) const SAFE: Self = Self {
        seats: Self::ALONE.seats * Self::SHARE,
        list_s: 5.0 * Self::ALONE.list_s,
        ..Self::ALONE
    };

    /// Of the level's seats, what can be counted on beside others.
    pub(super) const SHARE: f64 = 0.25;

    /// How many lists it answers in a second.
    pub(super) fn lists_per_second(&self) -> f64 {
        self.seats / (self.seats_per_list * self.list_s)
    }
}

// === impl PerNode ===

impl PerNode {
    /// What all nodes of a cluster cost.
    pub(super) fn load(&self, cluster: Cluster, fairness: Fairness) -> Load {
        let nodes = cluster.nodes;
        let start_requests = nodes * self.start_requests.of(cluster);
        let lists = nodes * self.lists.of(cluster);
        // Neither faster than the agents ask nor than the server answers.
        let after = |lists: f64| self.relist_window_s.max(lists / fairness.lists_per_second());
        Load {
            watches: nodes * self.watches,
            quiet_requests: nodes * self.watches / self.watch_s,
            start_requests,
            start_bytes: nodes * self.start_bytes.of(cluster),
            resume_peak: nodes * self.resume_peak,
            relist_peak: nodes * self.relist_peak,
            relisted_after: after(lists),
            unstreamed_after: after(nodes * self.unstreamed_lists.of(cluster)),
            namespace_bytes: nodes * self.namespace_change_bytes,
            events: nodes * self.events_per_hold.min(MOST_EVENTS_A_MINUTE),
            most_events: nodes * MOST_EVENTS_A_MINUTE,
        }
    }
}

/// The most nodes of which all `lists` are answered within so many seconds; how many the cluster
/// itself has does not matter.
pub(super) fn nodes_within(
    seconds: f64,
    lists: &Linear,
    cluster: Cluster,
    fairness: Fairness,
) -> f64 {
    seconds * fairness.lists_per_second() / lists.of(cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: Linear = Linear { fixed: 4.0, per_pod: 0.0, per_namespace: 0.0 };

    fn per_node() -> PerNode {
        PerNode {
            start_requests: Linear { fixed: 5.0, per_pod: 0.5, per_namespace: 0.0 },
            start_bytes: Linear { fixed: 100.0, per_pod: 1000.0, per_namespace: 10.0 },
            lists: FLAT,
            unstreamed_lists: Linear { per_pod: 0.5, ..FLAT },
            resume_requests: 2.0,
            resume_peak: 0.5,
            relist_peak: 0.75,
            window_s: 10.0,
            relist_window_s: 20.0,
            watches: 2.0,
            watch_s: 100.0,
            pod_change_bytes: 1000.0,
            namespace_change_bytes: 300.0,
            events_per_hold: 2.0,
        }
    }

    #[test]
    fn three_measurements_give_three_coefficients() {
        let truth =
            |pods: usize, namespaces: usize| 7.0 + 3.0 * pods as f64 + 0.5 * namespaces as f64;
        let linear =
            Linear::through((30, 20, truth(30, 20)), (10, truth(10, 20)), (220, truth(30, 220)));
        assert!((linear.fixed - 7.0).abs() < 1e-9, "{linear:?}");
        let cluster = Cluster { nodes: 9.0, pods_per_node: 110.0, namespaces: 1000.0 };
        assert!((linear.of(cluster) - truth(110, 1000)).abs() < 1e-9, "{linear:?}");
    }

    #[test]
    fn a_cluster_costs_its_nodes_and_takes_as_long_as_the_slower_side() {
        let fairness = Fairness { seats: 100.0, seats_per_list: 10.0, list_s: 0.1 };
        assert!((fairness.lists_per_second() - 100.0).abs() < 1e-9);
        let load = |nodes| {
            let cluster = Cluster { nodes, pods_per_node: 30.0, namespaces: 100.0 };
            per_node().load(cluster, fairness)
        };
        // 400 lists: four seconds of the server's, so the agents' twenty.
        let small = load(100.0);
        let expected = Load {
            watches: 200.0,
            quiet_requests: 2.0,
            start_requests: 2_000.0,
            start_bytes: 3_110_000.0,
            resume_peak: 50.0,
            relist_peak: 75.0,
            relisted_after: 20.0,
            unstreamed_after: 20.0,
            namespace_bytes: 30_000.0,
            events: 200.0,
            most_events: 300_000.0,
        };
        assert_eq!(small, expected);
        let large = load(1000.0);
        assert!((large.relisted_after - 40.0).abs() < 1e-9, "{large:?}");
        assert!((large.unstreamed_after - 190.0).abs() < 1e-9, "{large:?}");
        let any = Cluster { nodes: 7.0, pods_per_node: 30.0, namespaces: 100.0 };
        let nodes = nodes_within(60.0, &per_node().lists, any, fairness);
        assert!((nodes - 1500.0).abs() < 1e-9, "{nodes}");
    }
}

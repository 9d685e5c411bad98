//! The section of the document.

use super::{
    FULL_NODE, MANY_NAMESPACES, Numbers, PODS, Restart, Section, Starts,
    model::{Cluster, Fairness, Linear, MOST_EVENTS_A_MINUTE, nodes_within},
};
use crate::bench::{
    Axis, Plot, Series,
    table::{number, table},
};

/// Clusters on paper. Kubernetes supports 5,000 nodes
/// (https://kubernetes.io/docs/setup/best-practices/cluster-large/); some vendors go further.
const NODES: [f64; 5] = [100.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];
/// Within which a cluster should know all its pods again after its API server has forgotten where
/// the watches were: as long as a connect may be held (`--timeout`'s default).
const PATIENCE_S: f64 = 60.0;

const MIB: f64 = 1024.0 * 1024.0;
const KIB: f64 = 1024.0;

/// What they say.
pub(super) fn of(numbers: &Numbers) -> Section {
    let text = [
        starts(numbers),
        restarts(numbers),
        events(numbers),
        formula(numbers),
        paper(numbers),
        limits(numbers),
    ];
    Section {
        title: "Scale of a cluster".into(),
        text: text.join("\n"),
        plots: vec![back(numbers), relisted(numbers)],
    }
}

fn starts(numbers: &Numbers) -> String {
    let row = |starts: &Starts| {
        let Starts { agents, pods, namespaces, streams, .. } = *starts;
        let pages = if streams { "" } else { ", not streamed" };
        vec![
            format!("{agents}{pages}"),
            pods.to_string(),
            namespaces.to_string(),
            number(starts.requests),
            number(starts.lists),
            number(starts.bytes / KIB),
            number(starts.watches),
            number(starts.pod_change_bytes / KIB),
            number(starts.namespace_change_bytes / KIB),
        ]
    };
    let rows: Vec<_> =
        numbers.fleets.iter().chain(&numbers.others).chain(&numbers.unstreamed).map(row).collect();
    let head = [
        "agents",
        "pods each",
        "namespaces",
        "requests",
        "of these lists",
        "KiB at start",
        "watches",
        "KiB a pod's change",
        "KiB a namespace's change",
    ];
    format!(
        "Real agents, each with a node of its own, against one API server that counts: up to {}, as many as have the memory and the cores here for a whole agent each. None runs with `--dry-run`: each loads and attaches its programs, and writes its Events. From \"requests\" on all figures \
         are of one agent. The pods are recorded from a real cluster, {} KiB of JSON each; bytes are those of bodies, not compressed. \
         The agent has its pods streamed at the beginning of the watch (`sendInitialEvents`), which a server answers from its cache, in one \
         request and one object at a time; Kubernetes 1.32 and from 1.34 on do so by default. Others refuse, and are asked for one list, also from \
         their cache (`resourceVersion=0`), of 16 MiB at most: only a node whose pods are more than that reads them in pages.\n\n{}",
        numbers.fleets.last().map_or(0, |fleet| fleet.agents),
        number(numbers.pod_bytes / KIB),
        table(&head, &rows)
    )
}

fn restarts(numbers: &Numbers) -> String {
    let row = |restart: &Restart| {
        let what = match (restart.away_s > 0.0, restart.history) {
            (true, true) => format!("away for {} s", number(restart.away_s)),
            (true, false) => format!("away for {} s, history lost", number(restart.away_s)),
            (false, _) => "410 to all watches".into(),
        };
        let back = restart.back();
        let times = [restart.first_s(), back.p50, back.p90, restart.last_s()];
        let mut row = vec![what];
        row.extend(times.map(number));
        row.extend(
            [restart.requests, restart.lists, restart.bytes / KIB, restart.peak].map(number),
        );
        row
    };
    let rows: Vec<_> = [&numbers.gone].into_iter().chain(&numbers.restarts).map(row).collect();
    let head = [
        "API server",
        "first agent s",
        "p50 s",
        "p90 s",
        "last s",
        "requests",
        "of these lists",
        "KiB",
        "most requests in 1 s, all",
    ];
    let (shortest, longest) = numbers.watch_seconds;
    format!(
        "When the API server goes away and comes back, {} agents: from its return until an agent watches everything again. \
         Agents wait 0.8 s after the first error, then twice as long each time, up to 10 s, and up to half as long again by chance. After 410 that is \
         one pause of 0.8 to 1.2 s, and what goes beyond it in its row is the time that all agents and the API server, on the same few cores, take to \
         list; after a longer trouble they come one by one. With its history a server lets watches go on where they were, and nothing is listed again. A real server that \
         restarts has lost it; the agent then waits once more before it lists, as after any error. \
         The rows were measured one after another, and pauses go on growing until two minutes have passed without an error: a trouble that comes \
         alone is over sooner. A watch lasts {} to {} s, then it is taken up again where it was.\n\n{}",
        numbers.gone.agents,
        number(shortest),
        number(longest),
        table(&head, &rows)
    )
}

fn events(numbers: &Numbers) -> String {
    let storm = &numbers.storm;
    format!(
        "Kubernetes Events: {} of {} bytes for a pod that waited and was let go, one after another, none for other pods. A pod and reason may have 5 \
         at once and 5 a minute, a node 100 at once and 50 a second, as kubelet; 256 wait at most, what is more is dropped and counted. {} pods that came to one \
         node at once, each with an annotation that is wrong, made {} Events in the first second and {} in the ten after it.\n",
        number(storm.events_per_hold),
        number(storm.bytes_per_event),
        storm.pods_at_once,
        storm.in_first_second,
        storm.in_next_ten_seconds,
    )
}

fn formula(numbers: &Numbers) -> String {
    let linear = |linear: Linear, unit: f64| {
        let Linear { fixed, per_pod, per_namespace } = linear;
        let [fixed, pod, namespace] = [fixed, per_pod, per_namespace].map(|of| number(of / unit));
        format!("{fixed} + {pod} p + {namespace} n")
    };
    let node = &numbers.per_node;
    format!(
        "For N nodes with p pods each and n namespaces in the cluster, from the measurements above:\n\n\
         - requests of all agents' start: N ({})\n\
         - requests for lists, at the start and whenever the server has lost its history: N ({}); not streamed: N ({})\n\
         - KiB of their answers: N ({})\n\
         - watches: {} N, of which {} N / s are taken up again\n\
         - an API server that is back after long: {} N requests over {} s if it has its history, else these lists over {} s\n\
         - most requests in one second of that: {} N if it has its history, else {} N; {} N when it ends all watches with 410 at once\n\
         - a change of a pod: {} KiB; of a namespace: {} N KiB\n\
         - Events a minute, with h pods a minute that wait on each node: {} h N; {MOST_EVENTS_A_MINUTE} N at most\n",
        linear(node.start_requests, 1.0),
        linear(node.lists, 1.0),
        linear(node.unstreamed_lists, 1.0),
        linear(node.start_bytes, KIB),
        number(node.watches),
        number(node.watches / node.watch_s),
        number(node.resume_requests),
        number(node.window_s),
        number(node.relist_window_s),
        number(node.resume_peak),
        number(node.relist_peak),
        number(numbers.gone.peak_of_one()),
        number(node.pod_change_bytes / KIB),
        number(node.namespace_change_bytes / KIB),
        number(node.events_per_hold),
    )
}

fn cluster(nodes: f64) -> Cluster {
    Cluster { nodes, pods_per_node: PODS as f64, namespaces: MANY_NAMESPACES as f64 }
}

fn paper(numbers: &Numbers) -> String {
    let row = |&nodes: &f64| {
        let load = numbers.per_node.load(cluster(nodes), Fairness::SAFE);
        let figures = [
            load.watches,
            load.quiet_requests,
            load.start_requests,
            load.start_bytes / MIB,
            load.resume_peak,
            load.relist_peak,
            nodes * numbers.gone.peak_of_one(),
            load.relisted_after,
            load.unstreamed_after,
            load.namespace_bytes / MIB,
            load.events,
            load.most_events,
        ];
        [nodes].into_iter().chain(figures).map(number).collect()
    };
    let rows: Vec<Vec<String>> = NODES.iter().map(row).collect();
    let head = [
        "nodes",
        "watches",
        "requests/s, quiet",
        "requests, all start",
        "MiB, all start",
        "most requests/s, back",
        "history lost",
        "410 to all",
        "s until listed again",
        "not streamed",
        "MiB a namespace's change",
        "Events/min, 1 hold a node",
        "at most",
    ];
    format!(
        "On paper, with {PODS} pods a node and {MANY_NAMESPACES} namespaces. *most requests/s* is the busiest second that was measured, times the \
         nodes; *s until listed again* is of one API server of which a quarter of the seats is there for lists of {} ms each (see below).\n\n{}",
        number(Fairness::SAFE.list_s * 1e3),
        table(&head, &rows)
    )
}

/// The nodes whose lists are answered in time, by what is assumed of the server.
fn limits_table(numbers: &Numbers) -> String {
    let node = &numbers.per_node;
    let most = NODES[NODES.len() - 1];
    let row = |fairness: Fairness| {
        let within = |lists: &Linear, pods: usize| {
            let cluster = Cluster { pods_per_node: pods as f64, ..cluster(1.0) };
            let nodes = nodes_within(PATIENCE_S, lists, cluster, fairness).floor();
            // Nothing else about such clusters was thought of here.
            if nodes > most { format!("> {most}") } else { nodes.to_string() }
        };
        vec![
            format!(
                "{:.0} of {} seats, {:.0} ms a list",
                fairness.seats,
                Fairness::ALONE.seats,
                fairness.list_s * 1e3
            ),
            number(fairness.lists_per_second()),
            within(&node.lists, PODS),
            within(&node.lists, FULL_NODE),
            within(&node.unstreamed_lists, PODS),
            within(&node.unstreamed_lists, FULL_NODE),
        ]
    };
    let slow = Fairness { list_s: Fairness::SAFE.list_s, ..Fairness::ALONE };
    let shared = Fairness { list_s: Fairness::ALONE.list_s, ..Fairness::SAFE };
    let rows = [Fairness::SAFE, shared, slow, Fairness::ALONE].map(row);
    let head = [
        "an API server with".to_owned(),
        "lists/s".to_owned(),
        format!("nodes of {PODS} pods"),
        format!("of {FULL_NODE}"),
        format!("not streamed, {PODS}"),
        format!("of {FULL_NODE}"),
    ];
    table(&head, &rows)
}

fn limits(numbers: &Numbers) -> String {
    let Fairness { seats, seats_per_list, .. } = Fairness::ALONE;
    let node = &numbers.per_node;
    format!(
        "What limits a cluster, for each API server, so that all agents have listed again within {PATIENCE_S:.0} s, as long as a connect is held by \
         default:\n\n\
         {}\n\
         **The first row is the safe one.** How long a list takes is an assumption and no measurement, and so is what others leave of the seats; that is why \
         there are four. More API servers share the agents among them.\n\n\
         - **Lists after a restart.** All agents have one service account, so to the server's [priority and fairness]\
         (https://kubernetes.io/docs/concepts/cluster-administration/flow-control/) they are one flow of the level `workload-low`, which is that of all service \
         accounts: {seats} of a server's 600 seats (100 of 245 shares, `bootstrap/default.go`), and 300 requests that wait (6 of its queues, 50 each); more are \
         answered with 429, and the agent waits and asks again. A list of a resource of which the cluster has a thousand objects or more takes up to \
         {seats_per_list} seats (`list_work_estimator.go`); all rows reckon with that. Beyond the limit nothing breaks: gates go on by what is known, and only pods that came meanwhile wait \
         for their name. A FlowSchema with a level of its own lifts it.\n\
         - **etcd.** Neither way of listing a node's pods reads etcd. Pages do: a server reads those of the whole cluster for them \
         ([kubernetes#77733](https://github.com/kubernetes/kubernetes/issues/77733)), which is why only a node with more than 16 MiB of pods asks for them.\n\
         - **Namespaces.** Each node watches all of them, as their labels decide: a change of one is sent N times. Clusters whose namespaces \
         change all the time should count it.\n\
         - **Events.** {} for each pod that really waited, and none for others, so a rollout of a cluster's pods writes {} for each at most. A node writes no more than \
         {MOST_EVENTS_A_MINUTE} a minute, whatever its pods are set to; a server that is to take less from a whole cluster has `EventRateLimit`.\n\
         - **Watches.** {} for each node, fewer than kubelet's own. Kubernetes \
         [supports](https://kubernetes.io/docs/setup/best-practices/cluster-large/) 5,000 nodes and 150,000 pods.\n",
        limits_table(numbers),
        number(node.events_per_hold),
        number(node.events_per_hold),
        number(node.watches),
    )
}

/// How many of the agents are back by when.
fn back(numbers: &Numbers) -> Plot {
    let series = |restart: &Restart| {
        let count = restart.back_s.len() as f64;
        let points = restart.back_s.iter().enumerate();
        let history = if restart.history { "" } else { ", history lost" };
        Series {
            name: format!("away for {} s{history}", number(restart.away_s)),
            points: points.map(|(rank, at)| (*at, (rank + 1) as f64 / count)).collect(),
        }
    };
    Plot {
        name: "cluster-back".into(),
        title: "After the API server's return: agents that watch everything again".into(),
        x: Axis::linear("seconds"),
        y: Axis::linear("share of the agents"),
        series: numbers.restarts.iter().map(series).collect(),
    }
}

/// How long it takes to list everything again.
fn relisted(numbers: &Numbers) -> Plot {
    let series = |pods: usize, streams: bool| {
        let of = |nodes: &f64| {
            let cluster = Cluster { pods_per_node: pods as f64, ..cluster(*nodes) };
            let load = numbers.per_node.load(cluster, Fairness::SAFE);
            (*nodes, if streams { load.relisted_after } else { load.unstreamed_after })
        };
        let how = if streams { "streamed" } else { "not streamed" };
        let name = format!("{pods} pods a node, {how}");
        Series { name, points: NODES.iter().map(of).collect() }
    };
    Plot {
        name: "cluster-relisted".into(),
        title: "On paper: until all agents have listed again, one API server without its history"
            .into(),
        x: Axis::log("nodes"),
        y: Axis::log("seconds"),
        series: vec![series(PODS, true), series(PODS, false), series(FULL_NODE, false)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cluster::{model::PerNode, storm::Storm};

    fn starts(pods: usize, streams: bool) -> Starts {
        Starts {
            agents: 5,
            pods,
            namespaces: 20,
            streams,
            requests: 6.0,
            lists: 2.0,
            bytes: 2048.0,
            watches: 2.0,
            pod_change_bytes: 1024.0,
            namespace_change_bytes: 512.0,
        }
    }

    fn restart(away_s: f64, history: bool) -> Restart {
        let back_s = vec![1.0, 2.0, 3.0, 4.0];
        Restart {
            agents: 4,
            away_s,
            history,
            back_s,
            requests: 2.0,
            lists: 0.0,
            bytes: 0.0,
            peak: 7.0,
        }
    }

    fn numbers() -> Numbers {
        let lists = Linear { fixed: 2.0, per_pod: 0.0, per_namespace: 0.0 };
        Numbers {
            pod_bytes: 1024.0,
            fleets: vec![starts(PODS, true)],
            others: [starts(FULL_NODE, true), starts(PODS, true)],
            unstreamed: [starts(PODS, false), starts(FULL_NODE, false), starts(PODS, false)],
            restarts: vec![restart(2.0, true), restart(20.0, false)],
            gone: restart(0.0, false),
            watch_seconds: (90.0, 120.0),
            per_node: PerNode {
                start_requests: lists,
                start_bytes: lists,
                lists,
                unstreamed_lists: Linear { per_pod: 0.1, ..lists },
                resume_requests: 2.0,
                resume_peak: 0.5,
                relist_peak: 0.75,
                window_s: 10.0,
                relist_window_s: 20.0,
                watches: 2.0,
                watch_s: 105.0,
                pod_change_bytes: 1024.0,
                namespace_change_bytes: 512.0,
                events_per_hold: 2.0,
            },
            storm: Storm {
                events_per_hold: 2.0,
                bytes_per_event: 500.0,
                pods_at_once: 1000,
                in_first_second: 150,
                in_next_ten_seconds: 250,
            },
        }
    }

    #[test]
    fn the_text_says_what_follows_from_the_numbers() {
        let section = of(&numbers());
        // 60 s at 61.25 lists a second, of which a node has 2, or 5 and 13; and at 1,225.
        for row in [
            "| 61 of 245 seats, 100 ms a list  |    61.2 |             1837 |    1837 |              735 |    282 |",
            "| 245 of 245 seats, 20 ms a list  |    1225 |          > 10000 | > 10000 |          > 10000 |   5653 |",
        ] {
            assert!(section.text.contains(row), "{row}: {}", section.text);
        }
        assert!(section.text.contains("| 10000 |   20000 |"), "{}", section.text);
        for row in
            ["5, not streamed", "away for 2.00 s ", "away for 20.0 s, history lost", "410 to all"]
        {
            assert!(section.text.contains(&format!("| {row}")), "{row}: {}", section.text);
        }
    }

    #[test]
    fn what_is_drawn_can_be_drawn() {
        for plot in of(&numbers()).plots {
            plot.svg().unwrap();
        }
    }
}

//! The API server is away, slow, wrong, or says what no API server should.
//!
//! In each of these pods of an enabled namespace start meanwhile, dial at once and are held on
//! suspicion or by their name; their proxies become ready while the trouble lasts. Afterwards a
//! namespace is enabled and a pod of it starts, which is a trial as well: the agent has heard of it.
//! What the agent asks, computes, keeps and writes to its log meanwhile is bounded.

mod bench;
mod objects;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::bench::{Bench, Customise, patient, plain};
use super::{Due, Fault, NAMESPACE, Run, SOON, Tally, Trials, start::Start};
use crate::{
    Agent, AgentOptions, Cgroup,
    api::{Asked, Events, Resource, Trouble},
};

/// Two pods and one afterwards, and in the full form some rounds of it.
const TRIALS: Trials = Trials { bounded: 3, full: 20 };

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "API server down at start",
        what: "the agent starts without it; it comes later",
        trials: TRIALS,
        run: down_at_start,
    },
    Fault {
        name: "API server never there",
        what: "one agent's pods have proxies, those of the next wait for their deadline",
        trials: Trials { bounded: 2, full: 20 },
        run: never_there,
    },
    Fault {
        name: "API server down while pods come and go",
        what: "connections to it are refused, one pod that it has told of goes",
        trials: TRIALS,
        run: down,
    },
    Fault {
        name: "API server hangs at start",
        what: "it takes every request and answers none",
        trials: TRIALS,
        run: hangs_at_start,
    },
    Fault {
        name: "TLS handshake that hangs",
        what: "what listens at the API server's address takes connections and says nothing",
        trials: Trials { bounded: 2, full: 20 },
        run: tls_hangs,
    },
    Fault {
        name: "watches answered 410",
        what: "as a status or, after a moment, as an event; lists work",
        trials: TRIALS,
        run: history_gone,
    },
    Fault {
        name: "watches that hang silently",
        what: "their connections stay open, nothing comes",
        trials: TRIALS,
        run: silent_watches,
    },
    Fault {
        name: "slow bytes",
        what: "each answer comes byte by byte, 100 ms apart",
        trials: TRIALS,
        run: slow_bytes,
    },
    Fault {
        name: "truncated JSON",
        what: "each answer ends in the middle of an object, as a regular end or not",
        trials: TRIALS,
        run: truncated,
    },
    Fault {
        name: "watches that end at once",
        what: "an empty body, as from a proxy that cuts long requests",
        trials: TRIALS,
        run: empty_watches,
    },
    Fault {
        name: "500, 503 and 429 with Retry-After: 3600",
        what: "to every request",
        trials: TRIALS,
        run: server_errors,
    },
    Fault {
        name: "rights taken away (403)",
        what: "403 to every request",
        trials: TRIALS,
        run: forbidden,
    },
    Fault {
        name: "token expired (401), agent replaced",
        what: "the agent ends and another one starts while the server knows neither",
        trials: Trials { bounded: 3, full: 10 },
        run: unauthorized,
    },
    Fault {
        name: "Events refused",
        what: "403, 500, or no answer",
        trials: TRIALS,
        run: events_refused,
    },
    Fault {
        name: "pod objects of 1 MiB",
        what: "annotations, managed fields, environment, 100 containers; other such pods beside them, \
               and some with 700,000 empty arguments",
        trials: TRIALS,
        run: large_objects,
    },
    Fault {
        name: "API server's clock hours away",
        what: "times of pods and namespaces far in the past or in the future",
        trials: TRIALS,
        run: clock_skew,
    },
    Fault {
        name: "events out of order, twice, and of no sense",
        what: "in open watches, while pods wait",
        trials: TRIALS,
        run: odd_events,
    },
    Fault {
        name: "pod recreated with the same name",
        what: "at the former one's path is a cgroup again, empty and with another id",
        trials: TRIALS,
        run: recreated,
    },
    Fault {
        name: "namespace deleted while its pods wait",
        what: "its pods go later; and it gets a label that means nothing",
        trials: TRIALS,
        run: namespace_deleted,
    },
    Fault {
        name: "5,000 pods of other nodes",
        what: "the agent never asks for them",
        trials: TRIALS,
        run: others_pods,
    },
];

/// The rounds of a fault that begins when the agent is at work: trouble, pods, proxies, its end.
fn endure(
    run: &Run,
    tally: &mut Tally,
    customise: Customise,
    begin: impl Fn(&Bench<'_>, u32) -> Result<()>,
    end: impl Fn(&Bench<'_>) -> Result<()>,
) -> Result<()> {
    let bench = Bench::new(run)?;
    let agent = bench.armed(&patient(run.agent()))?;
    for round in 0..bench.rounds() {
        let before = bench.used(&agent)?;
        begin(&bench, round)?;
        let starts = bench.begin(&agent, customise)?;
        bench.end(starts, tally)?;
        bench.check(&agent, &before)?;
        end(&bench)?;
        bench.in_order(&agent, tally)?;
    }
    Ok(())
}

/// The rounds of a fault that befalls requests: open watches are cut, so that they are asked for.
fn befall(
    run: &Run,
    tally: &mut Tally,
    trouble: fn(&Asked<'_>, u32) -> Option<Trouble>,
) -> Result<()> {
    let begin = |bench: &Bench<'_>, round| {
        bench.api().trouble(move |asked| trouble(asked, round));
        bench.api().cut_watches();
        Ok(())
    };
    endure(run, tally, plain, begin, over)
}

fn over(bench: &Bench<'_>) -> Result<()> {
    bench.api().trouble_is_over();
    Ok(())
}

/// The rounds of a fault that is there when the agent starts, each with another agent.
fn start_in(
    run: &Run,
    tally: &mut Tally,
    begin: fn(&Bench<'_>) -> Result<()>,
    end: fn(&Bench<'_>) -> Result<()>,
) -> Result<()> {
    /// How long the trouble lasts in the full form.
    const LASTS: Duration = Duration::from_secs(20);
    let bench = Bench::new(run)?;
    for _ in 0..bench.rounds() {
        begin(&bench)?;
        let agent = bench.node.start_agent(&patient(run.agent()))?;
        wait_alone(&agent)?;
        let before = bench.used(&agent)?;
        let starts = bench.begin(&agent, plain)?;
        bench.end(starts, tally)?;
        if run.full {
            thread::sleep(LASTS);
        }
        bench.check(&agent, &before)?;
        ensure!(agent.logged("agent armed").is_empty(), "armed without the API server");
        end(&bench)?;
        agent.wait_message(SOON, "agent armed")?;
        bench.in_order(&agent, tally)?;
        agent.stop(SOON)?;
    }
    Ok(())
}

/// The agent works without the API server.
fn wait_alone(agent: &Agent) -> Result<()> {
    agent.wait_message(SOON, "working without the API server until it answers")?;
    agent.wait_message(SOON, "agent started")?;
    Ok(())
}

fn down_at_start(run: &Run, tally: &mut Tally) -> Result<()> {
    let stop = |bench: &Bench<'_>| {
        bench.api().stop();
        Ok(())
    };
    start_in(run, tally, stop, |bench| bench.api().resume())
}

fn hangs_at_start(run: &Run, tally: &mut Tally) -> Result<()> {
    let hang = |bench: &Bench<'_>| {
        bench.api().trouble(|_| Some(Trouble::Silence));
        Ok(())
    };
    start_in(run, tally, hang, over)
}

fn never_there(run: &Run, tally: &mut Tally) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let half = run.trials().div_ceil(2);
    let bench = Bench::new(run)?;
    bench.api().stop();
    let pods = |options: &AgentOptions, end: &mut dyn FnMut(Vec<Start>) -> Result<()>| {
        let agent = bench.node.start_agent(options)?;
        wait_alone(&agent)?;
        let before = bench.used(&agent)?;
        let mut tried = 0;
        while tried < half {
            let starts = bench.begin(&agent, plain)?;
            tried += u32::try_from(starts.len())?;
            end(starts)?;
        }
        bench.check(&agent, &before)
    };
    // A deadline that is near would let go whom the agent has forgotten.
    pods(&patient(run.agent()), &mut |starts| bench.end(starts, tally))?;
    pods(&run.agent().arg("--timeout").arg("5s"), &mut |starts| {
        for start in &starts {
            start.judge(tally, Due { ready_ns: None, timeout: TIMEOUT });
        }
        Ok(())
    })
}

fn tls_hangs(run: &Run, tally: &mut Tally) -> Result<()> {
    let bench = Bench::new(run)?;
    // The kernel takes connections for it; nobody reads what they say.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
    let address = silent.local_addr()?;
    rewrite_kubeconfig(&bench, |config| {
        config["clusters"][0]["cluster"] =
            json!({"server": format!("https://{address}"), "insecure-skip-tls-verify": true});
    })?;
    let agent = bench.node.start_agent(&patient(run.agent()))?;
    wait_alone(&agent)?;
    let before = bench.used(&agent)?;
    let mut tried = 0;
    while tried < run.trials() {
        let starts = bench.begin(&agent, plain)?;
        tried += u32::try_from(starts.len())?;
        bench.end(starts, tally)?;
    }
    bench.check(&agent, &before)
}

fn down(run: &Run, tally: &mut Tally) -> Result<()> {
    /// "Minutes", in the full form: beyond the longest pause between two tries.
    const LASTS: Duration = Duration::from_secs(30);
    let bench = Bench::new(run)?;
    let agent = bench.armed(&patient(run.agent()))?;
    for _ in 0..bench.rounds() {
        let before = bench.used(&agent)?;
        let leaves = bench.begin(&agent, plain)?;
        let uids: Vec<String> = leaves.iter().map(|start| start.pod.uid().to_owned()).collect();
        bench.api().stop();
        for start in leaves {
            start.pod.delete()?;
        }
        let starts = bench.begin(&agent, plain)?;
        bench.end(starts, tally)?;
        if run.full {
            thread::sleep(LASTS);
        }
        bench.check(&agent, &before)?;
        bench.api().resume()?;
        bench.in_order(&agent, tally)?;
        let known = agent.command(["pods", "-o", "json"])?;
        let known = String::from_utf8_lossy(&known.stdout).into_owned();
        ensure!(!uids.iter().any(|uid| known.contains(uid)), "a pod that is gone is known");
    }
    Ok(())
}

fn history_gone(run: &Run, tally: &mut Tally) -> Result<()> {
    /// As a server that finds out only after it has begun.
    const MOMENT: Duration = Duration::from_millis(100);
    befall(run, tally, |asked, _| {
        let gone = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "reason": "Expired", "code": 410, "message": "too old resource version",
        });
        let event = json!({"type": "ERROR", "object": gone}).to_string();
        match (asked.verb, asked.resource) {
            ("watch", "pods") => Some(Trouble::Lines { lines: vec![event], after: MOMENT }),
            ("watch", _) => Some(Trouble::Status { code: 410, retry_after: None }),
            _ => None,
        }
    })
}

fn silent_watches(run: &Run, tally: &mut Tally) -> Result<()> {
    let begin = |bench: &Bench<'_>, round| {
        bench.api().trouble(|asked| (asked.verb == "watch").then_some(Trouble::Silence));
        // The open ones, or those that are asked for instead.
        if round % 2 == 1 {
            bench.api().cut_watches();
        }
        Ok(())
    };
    endure(run, tally, plain, begin, over)
}

fn slow_bytes(run: &Run, tally: &mut Tally) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    befall(run, tally, |asked, _| (!asked.is_open).then_some(Trouble::Slow(PAUSE)))
}

fn truncated(run: &Run, tally: &mut Tally) -> Result<()> {
    /// Behind the beginning of the first object, before its end.
    const AFTER: usize = 150;
    let begin = |bench: &Bench<'_>, round| {
        let nth = AtomicU64::new(round);
        bench.api().trouble(move |asked| {
            let clean = nth.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            (!asked.is_open).then_some(Trouble::Cut { after: AFTER, clean })
        });
        // Also the lists.
        bench.api().expire_history();
        Ok(())
    };
    endure(run, tally, plain, |bench, round| begin(bench, u64::from(round)), over)
}

fn empty_watches(run: &Run, tally: &mut Tally) -> Result<()> {
    befall(run, tally, |asked, _| {
        let empty = Trouble::Lines { lines: Vec::new(), after: Duration::ZERO };
        (asked.verb == "watch" && !asked.is_open).then_some(empty)
    })
}

fn server_errors(run: &Run, tally: &mut Tally) -> Result<()> {
    let begin = |bench: &Bench<'_>, _| {
        let nth = AtomicU64::new(0);
        bench.api().trouble(move |asked| {
            let (code, retry_after) = match nth.fetch_add(1, Ordering::Relaxed) % 3 {
                0 => (429, Some(3_600)),
                1 => (503, Some(3_600)),
                _ => (500, None),
            };
            (!asked.is_open).then_some(Trouble::Status { code, retry_after })
        });
        bench.api().cut_watches();
        Ok(())
    };
    endure(run, tally, plain, begin, over)
}

fn forbidden(run: &Run, tally: &mut Tally) -> Result<()> {
    befall(run, tally, |asked, _| {
        (!asked.is_open).then_some(Trouble::Status { code: 403, retry_after: None })
    })
}

fn unauthorized(run: &Run, tally: &mut Tally) -> Result<()> {
    // {"alg":"none"}.{"exp":1700000000}.
    const EXPIRED: &str = "eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAwMDB9.";
    const RENEWED: &str = "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTl9.";
    let bench = Bench::new(run)?;
    let token = bench.node.kubeconfig().with_file_name("token");
    rewrite_kubeconfig(&bench, |config| {
        config["users"][0]["user"]["tokenFile"] = json!(token);
    })?;
    let daemonset = json!({"metadata": {"namespace": "holdfast", "name": "holdfast"}});
    bench.api().put(Resource::DaemonSets, daemonset);
    let options =
        AgentOptions::new(&run.binary).log_level("info").arg("--daemonset=holdfast/holdfast");
    let options = patient(options);
    for _ in 0..bench.rounds() {
        fs::write(&token, EXPIRED).context("write a token")?;
        bench.api().trouble_is_over();
        let first = bench.armed(&options)?;
        let starts = bench.begin(&first, plain)?;
        let knows = |asked: &Asked<'_>| asked.is_open || asked.token == Some(RENEWED);
        bench.api().trouble(move |asked| {
            (!knows(asked)).then_some(Trouble::Status { code: 401, retry_after: None })
        });
        bench.api().cut_watches();
        first.stop(SOON)?;
        let second = bench.node.start_agent(&options)?;
        wait_alone(&second)?;
        let before = bench.used(&second)?;
        bench.end(starts, tally)?;
        bench.check(&second, &before)?;
        // kube reads the file again after a minute at most.
        fs::write(&token, RENEWED).context("renew the token")?;
        if !run.full {
            bench.api().trouble_is_over();
        }
        bench.in_order(&second, tally)?;
        second.stop(SOON)?;
    }
    Ok(())
}

fn events_refused(run: &Run, tally: &mut Tally) -> Result<()> {
    let begin = |bench: &Bench<'_>, round: u32| {
        let choices = [Events::Stall, Events::Forbid, Events::Fail];
        bench.api().take_events(choices[round as usize % choices.len()]);
        Ok(())
    };
    endure(run, tally, plain, begin, |bench| {
        bench.api().take_events(Events::Keep);
        Ok(())
    })
}

fn large_objects(run: &Run, tally: &mut Tally) -> Result<()> {
    /// Of the same size, as a tenant may have them on a node. A test's binaries, which are not
    /// optimised, take long for each.
    const NEIGHBOURS: u32 = 30;
    const FEWER: u32 = 8;
    /// With hundreds of thousands of arguments each, side by side in a list.
    const WORDY: u32 = 4;
    let neighbours = if run.full { NEIGHBOURS } else { FEWER };
    let begin = |bench: &Bench<'_>, round| {
        for n in 0..neighbours {
            let name = format!("neighbour-{n}");
            bench.api().put(Resource::Pods, objects::large(&name, bench.node.name()));
        }
        for n in 0..WORDY {
            let name = format!("wordy-{n}");
            bench.api().put(Resource::Pods, objects::wordy(&name, bench.node.name()));
        }
        // As at an agent's start: in one list.
        if round % 2 == 0 {
            bench.api().expire_history();
        }
        Ok(())
    };
    endure(run, tally, objects::enlarge, begin, |_| Ok(()))
}

fn clock_skew(run: &Run, tally: &mut Tally) -> Result<()> {
    let begin = |bench: &Bench<'_>, round: u32| {
        let at = objects::FAR[round as usize % objects::FAR.len()];
        let patch = json!({"metadata": {"creationTimestamp": at}});
        bench.api().patch(Resource::Namespaces, None, NAMESPACE, &patch);
        Ok(())
    };
    endure(run, tally, objects::misdate, begin, |_| Ok(()))
}

fn odd_events(run: &Run, tally: &mut Tally) -> Result<()> {
    let bench = Bench::new(run)?;
    let agent = bench.armed(&patient(run.agent()))?;
    for _ in 0..bench.rounds() {
        let before = bench.used(&agent)?;
        let starts = bench.begin(&agent, plain)?;
        for start in &starts {
            let stored = bench.api().get(Resource::Pods, Some(NAMESPACE), start.pod.name());
            let stored = stored.context("the API has lost a pod")?;
            for line in objects::odd(&stored) {
                bench.api().say(Resource::Pods, &line);
            }
        }
        for line in objects::odd_namespaces() {
            bench.api().say(Resource::Namespaces, &line);
        }
        bench.end(starts, tally)?;
        bench.check(&agent, &before)?;
        // What a bookmark has told last is asked for at once.
        bench.api().say(Resource::Pods, &objects::bookmark());
        bench.api().cut_watches();
        bench.in_order(&agent, tally)?;
    }
    Ok(())
}

fn recreated(run: &Run, tally: &mut Tally) -> Result<()> {
    let bench = Bench::new(run)?;
    let agent = bench.armed(&patient(run.agent()))?;
    for _ in 0..bench.rounds() {
        let before = bench.used(&agent)?;
        let former = bench.begin(&agent, plain)?;
        let mut cgroups = Vec::new();
        let mut starts = Vec::new();
        for start in former {
            let (name, path) = (start.pod.name().to_owned(), start.pod.cgroup().path().to_owned());
            start.pod.delete()?;
            // As of a kubelet that has not yet heard of its end: nothing lives in it.
            cgroups.push(Cgroup::create(path)?);
            starts.push(bench.begin_named(&agent, name)?);
        }
        bench.end(starts, tally)?;
        bench.check(&agent, &before)?;
        bench.in_order(&agent, tally)?;
    }
    Ok(())
}

fn namespace_deleted(run: &Run, tally: &mut Tally) -> Result<()> {
    let bench = Bench::new(run)?;
    let agent = bench.armed(&patient(run.agent()))?;
    for _ in 0..bench.rounds() {
        let before = bench.used(&agent)?;
        let starts = bench.begin(&agent, plain)?;
        bench.api().label_namespace(NAMESPACE, "team", Some("checkout"));
        bench.api().delete(Resource::Namespaces, None, NAMESPACE);
        // And listed anew without it.
        bench.api().expire_history();
        bench.end(starts, tally)?;
        bench.check(&agent, &before)?;
        bench.api().put_namespace(NAMESPACE, &super::ENABLED);
        bench.in_order(&agent, tally)?;
    }
    Ok(())
}

fn others_pods(run: &Run, tally: &mut Tally) -> Result<()> {
    const OTHERS: u32 = 5_000;
    let asked_for_all = Arc::new(AtomicU64::new(0));
    let begin = |bench: &Bench<'_>, round| {
        if round == 0 {
            for n in 0..OTHERS {
                let name = format!("other-{n}");
                bench.api().put(Resource::Pods, objects::small(&name, "another-node"));
            }
        }
        let counter = Arc::clone(&asked_for_all);
        bench.api().trouble(move |asked| {
            let is_list = matches!(asked.verb, "list" | "watch") && asked.resource == "pods";
            let of_node = asked.query.contains("fieldSelector=spec.nodeName%3Dnode1")
                || asked.query.contains("fieldSelector=spec.nodeName=node1");
            if is_list && !asked.is_open && !of_node {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            None
        });
        bench.api().expire_history();
        Ok(())
    };
    endure(run, tally, plain, begin, over)?;
    let count = asked_for_all.load(Ordering::Relaxed);
    ensure!(count == 0, "the agent has asked {count} times for all pods");
    Ok(())
}

fn rewrite_kubeconfig(bench: &Bench<'_>, change: impl FnOnce(&mut Value)) -> Result<()> {
    let path = bench.node.kubeconfig();
    let text = fs::read_to_string(&path).context("read the kubeconfig")?;
    let mut config: Value = serde_json::from_str(&text).context("the kubeconfig is JSON")?;
    change(&mut config);
    fs::write(&path, config.to_string()).context("write the kubeconfig")
}

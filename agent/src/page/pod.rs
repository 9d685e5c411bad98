//! The pods, as a table and one by one.

use maud::{Markup, html};

use super::{Form, Tone, badge, pod_link, text};
use crate::core::{
    ConnectReport, ContainerReport, PodReport, PodState, SettingReport, Stamp, Topic, Verdict,
};

/// The pods that are held, or are to be, or may be.
pub(super) fn table(pods: &[&PodReport], now: Stamp, form: Form) -> Markup {
    html! {
        table.wide {
            thead {
                tr {
                    @for heading in ["Pod", "State", "Hold", "Proxy", "Waiting", "Since", "Why"] {
                        th scope="col" { (heading) }
                    }
                }
            }
            tbody {
                @for pod in pods {
                    tr {
                        th scope="row" { (pod_link(&pod.pod, form)) }
                        td data-name="State" { (badge(pod.state.as_str(), tone(pod.state))) }
                        td data-name="Hold" { (hold(pod)) }
                        td data-name="Proxy" { (proxy(pod)) }
                        td.number data-name="Waiting" { (pod.held) }
                        td.number data-name="Since" { (text::ago(pod.since, now)) }
                        td.why data-name="Why" { (text::foreign(&pod.why)) }
                    }
                }
            }
        }
    }
}

/// The others, shorter.
pub(super) fn left_alone(pods: &[&PodReport], form: Form) -> Markup {
    html! {
        table.short {
            thead { tr { th scope="col" { "Pod" } th scope="col" { "Why" } } }
            tbody {
                @for pod in pods {
                    tr {
                        th scope="row" { (pod_link(&pod.pod, form)) }
                        td.why data-name="Why" {
                            (text::foreign(&pod.why))
                        }
                    }
                }
            }
        }
    }
}

/// Where one pod stands, and what is known of it.
pub(super) fn state(pod: &PodReport, now: Stamp) -> Markup {
    html! {
        section.card aria-label="State" {
            p.story {
                (badge(pod.state.as_str(), tone(pod.state))) " for " (text::ago(pod.since, now)) ": "
                (text::foreign(&pod.why)) "."
            }
            dl.reasons {
                // Told in the order of their topics.
                @for reasons in pod.reasons.chunk_by(|one, next| one.topic == next.topic) {
                    div class=(if reasons[0].topic == Topic::Problem { "bad" } else { "plain" }) {
                        dt { (reasons[0].topic.as_str()) }
                        dd {
                            @for reason in reasons {
                                p {
                                    (text::foreign(&reason.text))
                                    @if let Some(command) = &reason.command {
                                        ": " code { (text::foreign(command)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            dl.facts {
                div { dt { "Uid" } dd { (text::foreign(pod.pod.uid.as_str())) } }
                @if let Some(workload) = &pod.pod.workload {
                    div { dt { "Workload" } dd { (text::foreign(&workload.to_string())) } }
                }
                @if let Some(deadline) = pod.deadline {
                    div { dt { "Deadline" } dd { time datetime=(deadline) { (deadline) } } }
                }
            }
        }
    }
}

/// What has been chosen for it, and what it is made of.
pub(super) fn nature(pod: &PodReport) -> Markup {
    html! {
        @if let Some(settings) = &pod.settings {
            section aria-label="Settings" {
                h2 { "Settings" }
                table.short {
                    thead { tr { th scope="col" { "Setting" } th scope="col" { "Value" } th scope="col" { "Chosen by" } } }
                    tbody {
                        @for SettingReport { key, value, origin: _, source } in settings {
                            tr {
                                th scope="row" { (text::foreign(key)) }
                                td data-name="Value" { (text::foreign(value)) }
                                td data-name="Chosen by" { (text::foreign(source)) }
                            }
                        }
                    }
                }
            }
        }
        @if !pod.containers.is_empty() { (containers(&pod.containers)) }
    }
}

/// The connects that wait, one by one.
pub(super) fn waiting(pod: &PodReport, now: Stamp) -> Markup {
    html! {
        section aria-label="Waiting" {
            h2 { "Waiting" }
            table {
                thead {
                    tr {
                        @for heading in ["Caller", "Destination", "Container", "Pid", "For"] { th scope="col" { (heading) } }
                    }
                }
                tbody {
                    @for ConnectReport { cookie: _, container, comm, pid, destination, query, by_sentry: _, since } in &pod.waiting {
                        tr {
                            th scope="row" { (text::foreign(if comm.is_empty() { "not known" } else { comm })) }
                            td data-name="Destination" { (destination) @if *query { " (DNS)" } }
                            td data-name="Container" { (text::foreign(container.as_deref().unwrap_or("not known"))) }
                            td.number data-name="Pid" { @if let Some(pid) = pid { (pid) } }
                            td.number data-name="For" { (text::ago(*since, now)) }
                        }
                    }
                }
            }
            @if pod.held > pod.waiting.len() {
                p.more { "and " (pod.held - pod.waiting.len()) " more" }
            }
        }
    }
}

fn containers(containers: &[ContainerReport]) -> Markup {
    html! {
           section aria-label="Containers" {
               h2 { "Containers" }
               table {
                   thead {
                       tr { @for heading in ["Container", "Runs", "Its connects", "Cgroup"] { th scope="col" { (heading) } } }
                   }
                   tbody {
                       @for container in containers {
                           tr {
                               th scope="row" {
                                   @match container.name.as_deref() {
                                       Some("") => "(sandbox)",
                                       Some(name) => (text::foreign(name)),
                                       None => (text::foreign(&container.id)),
                                   }
                                   @if container.is_proxy { " " (badge("proxy", Tone::Plain)) }
                               }
                               td data-name="Runs" {
                                   @match container.running { Some(true) => "yes", Some(false) => "no", None => "not known" }
                               }
                               td data-name="Its connects" {
                                   @match container.verdict {
                                       Some(Verdict::Hold) => "wait at a closed gate",
    Some(Verdict::Pass | Verdict::PassAndTell) => "pass",
    None => "not known yet",
                                   }
                               }
                               td.number data-name="Cgroup" { (container.cgroup) }
                           }
                       }
                   }
               }
           }
       }
}

const fn tone(state: PodState) -> Tone {
    match state {
        PodState::Pending | PodState::Exempt => Tone::Plain,
        PodState::Checking | PodState::Closed | PodState::Observed | PodState::Opening => {
            Tone::Busy
        }
        PodState::Guarded | PodState::Open => Tone::Good,
        PodState::Refusing | PodState::GivenUp | PodState::Failed => Tone::Bad,
    }
}

/// Whether it is to be held, and by whose choice.
fn hold(pod: &PodReport) -> Markup {
    html! {
        @match pod.setting("hold") {
            Some(SettingReport { value, origin, .. }) => {
                (text::foreign(value)) " " span.origin { "by " (origin.as_str()) }
            },
            None => "not known yet",
        }
    }
}

fn proxy(pod: &PodReport) -> Markup {
    html! {
        @match &pod.proxy {
            Some(proxy) if !proxy.guessed => {
                (text::foreign(&proxy.profile))
                @if proxy.profile != proxy.container { " " span.origin { (text::foreign(&proxy.container)) } }
            },
            _ => "–",
        }
    }
}

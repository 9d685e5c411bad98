//! From what pods and namespaces say to the settings of one pod.

use std::{collections::BTreeMap, time::Duration};

use agent_ebpf::gate::MAX_PORTS;

use super::{
    super::{NamespaceView, PodView, profile::Profiles},
    Chosen, Defaults, Key, Mode, OnTimeout, Origin, PREFIX, Problem, ReadyCheck, RefuseErrno,
    Settings, ValueError, hold_timeout,
    parse::{name, port_list, shown, switch},
};

/// How many problems of one object are told. A tenant who makes up hundreds of keys is not to fill
/// the log with them.
const MAX_PROBLEMS: usize = 16;

/// The settings of a pod, and what is wrong with what it says itself.
///
/// The pod's own word wins, then its mesh's annotation on it, then the same two of its namespace,
/// then the agent's config. What cannot be read counts as not said.
#[must_use]
pub fn resolve(
    pod: &PodView,
    namespace: &NamespaceView,
    defaults: &Defaults,
    profiles: &Profiles,
) -> (Settings, Vec<Problem>) {
    let own = Own::read(&pod.labels, &pod.annotations);
    let inherited = Own::read(&namespace.labels, &namespace.annotations);
    let (mut pod_wish, mut namespace_wish, mut problems) = (None, None, Vec::new());
    if defaults.mesh_wishes {
        namespace_wish = profiles.wish_of_namespace(pod, namespace);
        // Linkerd's injector writes what a namespace says onto each of its pods
        // (`AppendNamespaceAnnotations`, pkg/inject/inject.go): that is still the namespace's word.
        pod_wish =
            profiles.wish_of_pod(pod, &mut problems).filter(|wish| namespace_wish != Some(*wish));
    }

    let hold = at(own.hold, Origin::Pod)
        .or(at(pod_wish, Origin::PodMesh))
        .or(at(inherited.hold, Origin::Namespace))
        .or(at(namespace_wish, Origin::NamespaceMesh))
        .unwrap_or(defaults.hold);
    let settings = Settings {
        hold,
        mode: either(own.mode, inherited.mode).unwrap_or(defaults.mode),
        errno: either(own.errno, inherited.errno).unwrap_or(defaults.errno),
        timeout: either(own.timeout, inherited.timeout).unwrap_or(defaults.timeout),
        on_timeout: either(own.on_timeout, inherited.on_timeout).unwrap_or(defaults.on_timeout),
        guard: either(own.guard, inherited.guard).unwrap_or(defaults.guard),
        proxy: either(own.proxy, inherited.proxy),
        ready: either(own.ready, inherited.ready),
        ports: either(own.ports, inherited.ports),
    };
    problems.extend(own.bad.into_iter().map(|bad| {
        let instead = bad.key.and_then(|key| used(&settings, key));
        bad.problem(instead.as_deref())
    }));
    problems.truncate(MAX_PROBLEMS);
    (settings, problems)
}

/// What is wrong with what a namespace says; the same for all its pods.
#[must_use]
pub fn namespace_problems(namespace: &NamespaceView) -> Vec<Problem> {
    let own = Own::read(&namespace.labels, &namespace.annotations);
    let told = own.bad.into_iter().take(MAX_PROBLEMS).map(|bad| {
        let problem = bad.problem(None);
        Problem { reason: format!("on the namespace: {}", problem.reason), ..problem }
    });
    told.collect()
}

fn at<T>(value: Option<T>, origin: Origin) -> Option<Chosen<T>> {
    value.map(|value| Chosen { value, origin })
}

fn either<T>(pod: Option<T>, namespace: Option<T>) -> Option<Chosen<T>> {
    at(pod, Origin::Pod).or(at(namespace, Origin::Namespace))
}

/// The value that a setting has, for a message.
fn used(settings: &Settings, key: Key) -> Option<String> {
    fn of<T>(chosen: &Chosen<T>, show: impl Fn(&T) -> String) -> String {
        format!("{} ({})", show(&chosen.value), chosen.origin.as_str())
    }
    let on = |on: &bool| if *on { "enabled" } else { "disabled" }.to_owned();
    let list = |ports: &Vec<u16>| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    match key {
        Key::Hold => Some(of(&settings.hold, on)),
        Key::Mode => Some(of(&settings.mode, |mode| mode.as_str().to_owned())),
        Key::Errno => Some(of(&settings.errno, |errno| errno.as_str().to_owned())),
        Key::Timeout => {
            Some(of(&settings.timeout, |timeout| humantime::format_duration(*timeout).to_string()))
        }
        Key::OnTimeout => Some(of(&settings.on_timeout, |then| then.as_str().to_owned())),
        Key::Guard => Some(of(&settings.guard, on)),
        Key::Proxy => settings.proxy.as_ref().map(|chosen| of(chosen, String::clone)),
        Key::Ready => settings.ready.as_ref().map(|chosen| of(chosen, ReadyCheck::to_string)),
        Key::Ports => settings.ports.as_ref().map(|chosen| of(chosen, list)),
    }
}

/// What one object says.
#[derive(Debug, Default)]
struct Own {
    hold: Option<bool>,
    mode: Option<Mode>,
    errno: Option<RefuseErrno>,
    timeout: Option<Duration>,
    on_timeout: Option<OnTimeout>,
    guard: Option<bool>,
    proxy: Option<String>,
    ready: Option<ReadyCheck>,
    ports: Option<Vec<u16>>,
    bad: Vec<Bad>,
}

/// What cannot be taken as it is.
#[derive(Debug)]
struct Bad {
    name: String,
    value: String,
    fault: Fault,
    /// The setting that it was meant for, if it has no value now.
    key: Option<Key>,
}

#[derive(Debug)]
enum Fault {
    Value(ValueError),
    NotAsLabel,
    NotAsAnnotation,
    Unknown,
}

// === impl Own ===

impl Own {
    fn read(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Self {
        let mut own = Self::default();
        for (form, all) in [(Form::Label, labels), (Form::Annotation, annotations)] {
            // The keys with the prefix stand together in a sorted map.
            let ours =
                all.range(PREFIX.to_owned()..).take_while(|(name, _)| name.starts_with(PREFIX));
            for (name, value) in ours {
                own.take(form, name, value);
            }
        }
        own
    }

    fn take(&mut self, form: Form, full_name: &str, value: &str) {
        let Some(key) = Key::from_name(full_name) else {
            return self.bad(full_name, value, Fault::Unknown, None);
        };
        match (form, key.is_label()) {
            (Form::Label, false) => return self.bad(full_name, value, Fault::NotAsLabel, None),
            (Form::Annotation, true) => {
                return self.bad(full_name, value, Fault::NotAsAnnotation, None);
            }
            _ => {}
        }
        let read = match key {
            Key::Hold => switch(value).map(|on| self.hold = Some(on)),
            Key::Mode => value.parse().map(|mode| self.mode = Some(mode)),
            Key::Errno => value.parse().map(|errno| self.errno = Some(errno)),
            Key::Timeout => hold_timeout(value).map(|timeout| self.timeout = Some(timeout)),
            Key::OnTimeout => value.parse().map(|then| self.on_timeout = Some(then)),
            Key::Guard => switch(value).map(|on| self.guard = Some(on)),
            Key::Proxy => name(value).map(|name| self.proxy = Some(name)),
            Key::Ready => value.parse().map(|check| self.ready = Some(check)),
            Key::Ports => port_list(value).map(|ports| self.take_ports(full_name, value, ports)),
        };
        if let Err(error) = read {
            self.bad(full_name, value, Fault::Value(error), Some(key));
        }
    }

    fn take_ports(&mut self, name: &str, value: &str, mut ports: Vec<u16>) {
        if ports.len() > MAX_PORTS {
            ports.truncate(MAX_PORTS);
            self.bad(name, value, Fault::Value(ValueError::TooManyPorts), Some(Key::Ports));
        }
        self.ports = Some(ports);
    }

    fn bad(&mut self, name: &str, value: &str, fault: Fault, key: Option<Key>) {
        let (name, value) = (shown(name), shown(value));
        self.bad.push(Bad { name, value, fault, key });
    }
}

#[derive(Clone, Copy)]
enum Form {
    Label,
    Annotation,
}

// === impl Bad ===

impl Bad {
    fn problem(self, used_instead: Option<&str>) -> Problem {
        let rule = match self.fault {
            Fault::Value(error) => error.to_string(),
            Fault::NotAsLabel => "it is a label, but counts only as an annotation".to_owned(),
            Fault::NotAsAnnotation => "it is an annotation, but counts only as a label".to_owned(),
            Fault::Unknown => {
                let known: Vec<_> = Key::ALL.iter().map(|key| key.short()).collect();
                format!("holdfast has no such setting; it has {}", known.join(", "))
            }
        };
        let reason = match used_instead {
            Some(value) => format!("{rule}; used instead: {value}"),
            None => format!("{rule}; it is ignored"),
        };
        Problem { key: self.name, value: self.value, reason }
    }
}

#[cfg(test)]
mod tests;

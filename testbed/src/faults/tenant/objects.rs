//! What a tenant can write into the API.

use anyhow::{Result, ensure};

use super::{
    super::{NAMESPACE, Run, SOON, Tally},
    scene::{Scene, spec},
};
use crate::{Pod, PodSpec, apps, backend_v4};

/// Every key that a pod may have, and one that nobody knows.
const KEYS: [&str; 10] = [
    "hold",
    "mode",
    "errno",
    "timeout",
    "on-timeout",
    "guard",
    "proxy",
    "ready",
    "ports",
    "unheard-of",
];

/// What no key takes for right.
const NONSENSE: [&str; 18] = [
    "",
    "\u{1b}[2J\u{1b}]0;title\u{7}",
    "a\nINFO forged\r\nb",
    "\u{202e}\u{200b}\u{feff}",
    "\0\u{7f}\u{9b}31m",
    "-1",
    "NaN",
    "65536",
    "1,2,3,4,5,6,7,8,9",
    "99999999999999999999h",
    "1ns",
    "http://169.254.169.254/latest/meta-data",
    "http://[::1]:15021/healthz/ready",
    "http://:65536/healthz/ready",
    "http://:15021/a b",
    "tcp://:0",
    "../../../etc/passwd",
    "<script>alert(1)</script>",
];

/// The API server's limit of all annotations of an object is 256 KiB
/// (`TotalAnnotationSizeLimitB` in kubernetes/apimachinery); of several objects a node may get more.
const LONG: usize = 64 * 1024;
const MANY: usize = 10_000;

/// Objects with so many annotations: kept whole they would take more than the agent may grow by.
const CROWD: usize = 24;

/// In a test run, whose binaries are not optimised, the full form's memory is not the point.
const CROWD_BOUNDED: usize = 6;

/// About one pod with all its settings wrong: a line for each, and what is told of any pod.
const LINES: usize = 30;

pub(super) fn annotations(run: &Run, tally: &mut Tally) -> Result<()> {
    let scene = Scene::new(run)?;
    let long = "9".repeat(LONG);
    let mut specs: Vec<PodSpec> = Vec::new();
    for (number, value) in NONSENSE.iter().copied().chain([long.as_str()]).enumerate() {
        let spec = PodSpec::new(NAMESPACE, format!("nonsense-{number}"));
        specs.push(KEYS.iter().fold(spec, |spec, key| spec.annotation(name(key), value)));
    }
    for number in 0..if run.full { CROWD } else { CROWD_BOUNDED } {
        let many = PodSpec::new(NAMESPACE, format!("many-{number}")).annotation(name("mode"), "no");
        specs
            .push((0..MANY).fold(many, |spec, n| spec.annotation(format!("example.com/{n}"), "x")));
    }
    let pods: Vec<Pod> =
        specs.into_iter().map(|spec| known(&scene, spec)).collect::<Result<_>>()?;

    // All that is right, at its ends.
    let path = "a".repeat(255);
    let extreme = spec()
        .annotation(name("timeout"), "1h")
        .annotation(name("ready"), format!("http://:1/{path}"))
        .annotation(name("ports"), "1,2,3,4,5,6,65535,15001");
    let tenant = scene.node.create_pod(extreme)?;
    let app = tenant.start_container("app", apps::connect(backend_v4())?)?;
    scene.neighbours(run, tally)?;
    for pod in &pods {
        scene.agent.wait_log(SOON, |line| {
            line["message"] == "invalid setting" && line["pod_uid"] == pod.uid()
        })?;
        let lines = scene.lines_of(pod);
        ensure!(lines <= LINES, "{lines} lines about {}", pod.name());
    }
    drop((app, pods));
    scene.end(tenant)
}

fn name(key: &str) -> String {
    format!("holdfast.dev/{key}")
}

/// As far as the agent has to look at it: it has an object and a cgroup.
fn known(scene: &Scene, spec: PodSpec) -> Result<Pod> {
    let pod = scene.node.pod(spec)?;
    pod.publish()?;
    pod.create_cgroup()?;
    Ok(pod)
}

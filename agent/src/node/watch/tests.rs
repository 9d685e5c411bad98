//! On real cgroups, so as root.

use std::{
    fs,
    io::Write as _,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use testbed::{Cgroup, cgroup2_mount};
use tokio::time::timeout;

use super::*;

const UID: &str = "0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11";
const ID: &str = "3f0a9c7b5d1e2f4a6b8c0d9e7f5a3b1c2d4e6f8a0b9c7d5e3f1a2b4c6d8e0f91";

/// Long enough for anything that should happen soon, on any machine.
const SOON: Duration = Duration::from_secs(20);

/// Long enough for a report that should not come: the kernel delays one by 10 ms at most
/// (`CGROUP_FILE_NOTIFY_MIN_INTV`).
const QUIET: Duration = Duration::from_millis(200);

/// A kubelet's tree of its own with one pod, removed at the end.
struct Tree {
    root: Cgroup,
    pod: PathBuf,
}

impl Tree {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-watch-{}-{count}", process::id());
        let root = Cgroup::create(cgroup2_mount().unwrap().join(name)).unwrap();
        let pod = root.path().join("kubepods/burstable").join(format!("pod{UID}"));
        Cgroup::create(&pod).unwrap();
        Self { root, pod }
    }

    fn watch(&self) -> CgroupWatch {
        CgroupWatch::start(self.root.path()).unwrap()
    }

    fn container(&self) -> PathBuf {
        let path = self.pod.join(ID);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.root.remove().unwrap();
    }
}

/// A process in a cgroup.
struct Inhabitant(Child);

impl Inhabitant {
    fn of(cgroup: &Path) -> Self {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let mut procs = fs::File::options().write(true).open(cgroup.join("cgroup.procs")).unwrap();
        if let Err(error) = write!(procs, "{}", child.id()) {
            child.kill().unwrap();
            panic!("{error}");
        }
        Self(child)
    }
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Removes a cgroup of which the last process may still be leaving.
fn remove(path: &Path) {
    Cgroup::at(path).remove().unwrap();
}

async fn next(watch: &mut CgroupWatch) -> CgroupEvent {
    timeout(SOON, watch.next()).await.expect("no event came").unwrap()
}

async fn assert_quiet(watch: &mut CgroupWatch) {
    if let Ok(event) = timeout(QUIET, watch.next()).await {
        panic!("unexpected {event:?}");
    }
}

/// What there is to tell until everything was listed.
async fn listed(watch: &mut CgroupWatch) -> Vec<CgroupEvent> {
    let mut events = Vec::new();
    loop {
        match next(watch).await {
            CgroupEvent::Listed => return events,
            event => events.push(event),
        }
    }
}

fn uid() -> PodUid {
    PodUid::new(UID)
}

fn found(path: &Path) -> CgroupEvent {
    let cgroup = cgroup_id(path).unwrap();
    CgroupEvent::Container { uid: uid(), id: ContainerId::new(ID), cgroup }
}

fn populated(populated: bool) -> CgroupEvent {
    CgroupEvent::Populated { uid: uid(), id: ContainerId::new(ID), populated }
}

fn gone() -> CgroupEvent {
    CgroupEvent::ContainerGone { uid: uid(), id: ContainerId::new(ID) }
}

/// The watches that the kernel keeps for the agent.
fn watches(watch: &CgroupWatch) -> usize {
    // The stream does not show its descriptor; of the test's own ones it is the one with a watch
    // on this tree.
    let root = cgroup_id(&watch.root).unwrap();
    let wanted = format!("ino:{:x} ", root.0);
    let tables = fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(Result::ok);
    let mut texts = tables.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let own = texts.find(|text| {
        text.lines().any(|line| line.starts_with("inotify ") && line.contains(&wanted))
    });
    own.unwrap().lines().filter(|line| line.starts_with("inotify ")).count()
}

#[tokio::test]
async fn a_container_that_lives_at_start_is_told_to_live() {
    let tree = Tree::new();
    let container = tree.container();
    let _process = Inhabitant::of(&container);
    let mut watch = tree.watch();
    let events = listed(&mut watch).await;
    // Alone, it is the sandbox, or a container that has only just come.
    assert!(matches!(&events[0], CgroupEvent::Pod { at_start: false, .. }), "{events:?}");
    assert_eq!(events[1..], [found(&container), populated(true)]);
    assert_quiet(&mut watch).await;
}

#[tokio::test]
async fn life_and_death_of_a_container_are_told_once_each() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    listed(&mut watch).await;
    let container = tree.container();
    assert_eq!(next(&mut watch).await, found(&container));
    assert_eq!(next(&mut watch).await, populated(false));
    let first = Inhabitant::of(&container);
    assert_eq!(next(&mut watch).await, populated(true));
    let second = Inhabitant::of(&container);
    drop(first);
    assert_quiet(&mut watch).await;
    drop(second);
    assert_eq!(next(&mut watch).await, populated(false));
    assert_quiet(&mut watch).await;
    remove(&container);
    assert_eq!(next(&mut watch).await, gone());
    assert_quiet(&mut watch).await;
}

#[tokio::test]
async fn it_is_told_up_to_which_pod_nothing_is_missing() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    assert_eq!(watch.newly_complete().unwrap(), None, "there is something to report");
    listed(&mut watch).await;
    let first = cgroup_id(&tree.pod).unwrap();
    assert_eq!(watch.newly_complete().unwrap(), Some(first));
    assert_eq!(watch.newly_complete().unwrap(), None, "it is told once");
    // A container is no pod.
    tree.container();
    next(&mut watch).await;
    next(&mut watch).await;
    assert_eq!(watch.newly_complete().unwrap(), None);
    let other = |last: char| {
        let mut name = format!("pod{UID}");
        name.replace_range(name.len() - 1.., &last.to_string());
        let path = tree.root.path().join("kubepods").join(name);
        fs::create_dir(&path).unwrap();
        cgroup_id(&path).unwrap()
    };
    let (second, third) = (other('2'), other('3'));
    assert!(first < second && second < third, "ids of cgroups only grow");
    let CgroupEvent::Pod { cgroup, .. } = next(&mut watch).await else { panic!("a pod was made") };
    assert_eq!(cgroup, second);
    assert_eq!(watch.newly_complete().unwrap(), None, "the third has not been reported");
    next(&mut watch).await;
    assert_eq!(watch.newly_complete().unwrap(), Some(third));
}

#[tokio::test]
async fn pods_that_are_made_at_once_are_all_reported_before_the_last_is_told() {
    const PODS: usize = 300;
    let tree = Tree::new();
    let mut watch = tree.watch();
    listed(&mut watch).await;
    // The third is where kubelet has the guaranteed ones.
    let branches = ["burstable", "besteffort", "."];
    let at_once = std::sync::Arc::new(std::sync::Barrier::new(branches.len()));
    let makers: Vec<_> = branches
        .into_iter()
        .enumerate()
        .map(|(nth, branch)| {
            let branch = tree.root.path().join("kubepods").join(branch);
            let at_once = std::sync::Arc::clone(&at_once);
            std::thread::spawn(move || {
                fs::create_dir_all(&branch).unwrap();
                let make = |pod: usize| {
                    // All at the same moment, and then time for the watch to have read everything.
                    std::thread::sleep(Duration::from_millis(1));
                    at_once.wait();
                    let path = branch.join(format!("pod{nth:08x}-9d5c-4a53-9b1e-{pod:012x}"));
                    fs::create_dir(&path).unwrap();
                    cgroup_id(&path).unwrap()
                };
                (0..PODS).map(make).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut reported = std::collections::BTreeSet::new();
    let mut told = Vec::new();
    while reported.len() < branches.len() * PODS {
        if let CgroupEvent::Pod { cgroup, .. } = next(&mut watch).await {
            reported.insert(cgroup);
        }
        if let Some(up_to) = watch.newly_complete().unwrap() {
            told.push((up_to, reported.clone()));
        }
    }
    let made: Vec<CgroupId> = makers.into_iter().flat_map(|maker| maker.join().unwrap()).collect();
    for (up_to, reported) in told {
        let mut covered = made.iter().filter(|pod| **pod <= up_to);
        assert!(covered.all(|pod| reported.contains(pod)), "told up to {up_to:?}");
    }
}

#[tokio::test]
async fn processes_of_a_nested_cgroup_count() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    listed(&mut watch).await;
    let container = tree.container();
    let nested = container.join("container");
    fs::create_dir(&nested).unwrap();
    let process = Inhabitant::of(&nested);
    assert_eq!(next(&mut watch).await, found(&container));
    // By the time the directory is looked at the process may be there already.
    let mut event = next(&mut watch).await;
    if event == populated(false) {
        event = next(&mut watch).await;
    }
    assert_eq!(event, populated(true));
    drop(process);
    assert_eq!(next(&mut watch).await, populated(false));
}

#[tokio::test]
async fn a_pod_with_two_live_containers_may_have_been_at_work() {
    let tree = Tree::new();
    let second = tree.pod.join(ID.replace('3', "4"));
    fs::create_dir(&second).unwrap();
    let _processes = [Inhabitant::of(&tree.container()), Inhabitant::of(&second)];
    let mut watch = tree.watch();
    let event = next(&mut watch).await;
    assert!(matches!(&event, CgroupEvent::Pod { at_start: true, .. }), "{event:?}");
}

#[tokio::test]
async fn a_container_that_is_removed_before_its_death_was_told_is_told_dead_first() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    listed(&mut watch).await;
    let container = tree.container();
    let process = Inhabitant::of(&container);
    assert_eq!(next(&mut watch).await, found(&container));
    assert_eq!(next(&mut watch).await, populated(true));
    // Nothing is read until the directory has gone; the kernel may not even have told.
    drop(process);
    remove(&container);
    assert_eq!(next(&mut watch).await, populated(false));
    assert_eq!(next(&mut watch).await, gone());
    assert_quiet(&mut watch).await;
}

#[tokio::test]
async fn a_container_of_which_nothing_is_left_when_it_is_looked_at_is_no_event() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    listed(&mut watch).await;
    fs::remove_dir(tree.container()).unwrap();
    assert_quiet(&mut watch).await;
}

#[tokio::test]
async fn removed_cgroups_leave_no_watch_behind() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    listed(&mut watch).await;
    let before = watches(&watch);
    for _ in 0..20 {
        let container = tree.container();
        assert_eq!(next(&mut watch).await, found(&container));
        assert_eq!(next(&mut watch).await, populated(false));
        fs::remove_dir(&container).unwrap();
        assert_eq!(next(&mut watch).await, gone());
    }
    let container = tree.container();
    assert_eq!(next(&mut watch).await, found(&container));
    assert_eq!(next(&mut watch).await, populated(false));
    assert_eq!(watches(&watch), before + 1);
    fs::remove_dir(&container).unwrap();
    fs::remove_dir(&tree.pod).unwrap();
    assert_eq!(next(&mut watch).await, gone());
    assert_eq!(next(&mut watch).await, CgroupEvent::PodGone(uid()));
    assert_eq!(watches(&watch), before - 1);
    assert_eq!(watch.watched.len(), before - 1);
}

/// Makes the kernel lose events of a watch that is not read in the meantime.
fn overflow(tree: &Tree) {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let noise = tree.root.path().join("kubepods/noise");
    // Each round is two events.
    for _ in 0..limit / 2 + 1 {
        fs::create_dir(&noise).unwrap();
        fs::remove_dir(&noise).unwrap();
    }
}

#[tokio::test]
async fn what_happened_while_the_queue_overflowed_is_found_out() {
    let tree = Tree::new();
    let container = tree.container();
    let process = Inhabitant::of(&container);
    let other = tree.root.path().join("kubepods/burstable/pod11111111-9d5c-4a53-9b1e-7a1f0c3d2e11");
    fs::create_dir(&other).unwrap();
    let mut watch = tree.watch();
    listed(&mut watch).await;
    // The kernel tells late of what was so before; it must not be what wakes the watch up.
    assert_quiet(&mut watch).await;

    overflow(&tree);
    drop(process);
    // Another of the same name: nothing but its inode tells.
    let before = cgroup_id(&other).unwrap();
    fs::remove_dir(&other).unwrap();
    fs::create_dir(&other).unwrap();
    assert_ne!(cgroup_id(&other), Some(before));

    let other_uid = PodUid::new("11111111-9d5c-4a53-9b1e-7a1f0c3d2e11");
    assert_eq!(next(&mut watch).await, CgroupEvent::PodGone(other_uid.clone()));
    assert_eq!(
        next(&mut watch).await,
        CgroupEvent::Pod {
            uid: other_uid.clone(),
            cgroup: cgroup_id(&other).unwrap(),
            path: other.clone(),
            at_start: false
        }
    );
    assert_eq!(next(&mut watch).await, populated(false));
    assert_quiet(&mut watch).await;

    // What comes after that is news again.
    let later = tree.root.path().join("kubepods/burstable/pod22222222-9d5c-4a53-9b1e-7a1f0c3d2e11");
    fs::create_dir(&later).unwrap();
    let event = next(&mut watch).await;
    assert!(matches!(&event, CgroupEvent::Pod { at_start: false, .. }), "{event:?}");

    // The directory that was made anew is watched, too.
    fs::create_dir(other.join(ID)).unwrap();
    let event = next(&mut watch).await;
    assert!(matches!(&event, CgroupEvent::Container { uid, .. } if *uid == other_uid), "{event:?}");
}

#[tokio::test]
async fn what_could_not_be_watched_is_noticed_all_the_same_and_watched_later() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    while next(&mut watch).await != CgroupEvent::Listed {}
    // As if the pod's directory had found no watch left.
    let pod = watch.known.get_mut(&tree.pod).unwrap();
    let descriptor = pod.watch.take().unwrap();
    watch.watched.remove(&descriptor);
    watch.events.watches().remove(descriptor).unwrap();
    watch.could_not("watch", &tree.pod, &io::Error::from_raw_os_error(libc::ENOSPC));
    let container = tree.container();
    assert!(matches!(next(&mut watch).await, CgroupEvent::Container { .. }));
    assert!(matches!(next(&mut watch).await, CgroupEvent::Populated { populated: false, .. }));
    assert_eq!(watch.incomplete_until, None);
    fs::remove_dir(container).unwrap();
    assert!(matches!(next(&mut watch).await, CgroupEvent::ContainerGone { .. }));
}

#[tokio::test]
async fn what_has_gone_is_not_tried_again() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    for errno in [libc::ENOENT, libc::ENODEV] {
        watch.could_not("watch", &tree.pod, &io::Error::from_raw_os_error(errno));
        assert_eq!(watch.incomplete_until, None);
    }
}

#[tokio::test]
async fn nothing_is_told_to_be_all_before_all_could_be_listed() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    listed(&mut watch).await;
    // As it is at the start, had the tree not let itself be listed.
    watch.listing = Listing::Whole;
    watch.could_not_list(&tree.pod, &io::Error::from_raw_os_error(libc::ENFILE));
    watch.tell_listed();
    assert_eq!(watch.listing, Listing::Gaps);
    assert!(watch.pending.is_empty());
    let container = tree.container();
    assert_eq!(listed(&mut watch).await, [found(&container), populated(false)]);
    assert_eq!(watch.incomplete_until, None);
    assert_quiet(&mut watch).await;
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_still_there() {
    let tree = Tree::new();
    let mut watch = tree.watch();
    listed(&mut watch).await;
    // Longer than a path may be (PATH_MAX): stat(2) fails, and not because it is not there.
    let long = tree.pod.join("x".repeat(5_000));
    let known = watch.known.remove(&tree.pod).unwrap();
    watch.known.insert(long.clone(), known);
    assert!(!watch.has_gone(&long));
    assert!(watch.incomplete_until.is_some(), "it is looked at again");
}

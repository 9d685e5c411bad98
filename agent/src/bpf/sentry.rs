//! The sentry, from user space: kept ready by the agent that works, posted when it ends, relieved by
//! the next. All of it is pinned, so that whoever posts it needs no verifier, and it no process.
//!
//! ```text
//! v<ABI>/maps/                SENTRY, POST, AWAY_SINCE, BRANCHES
//!        programs/<program>   loaded by the last agent
//!        sentry/<id of a root's cgroup>/<program>   the links, while it is posted
//! ```

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use agent_ebpf::{Post, Sentry as Orders, sentry::MAX_SENTRY_PORTS};
use aya::maps::{Array, HashMap, MapData, MapError};

use super::{
    BpfError,
    away::Away,
    link::Link,
    map::{ONLY, open, read_failed, write_failed},
    pin::{self, failed},
    program::Hook,
    sys,
};
use crate::{
    clock,
    core::{CgroupId, Monotonic},
    node::Kubepods,
};

/// The handle to a node's sentry, posted or not.
pub struct Sentry {
    directory: PathBuf,
    orders: Array<MapData, Orders>,
    post: Array<MapData, Post>,
    away: Away,
    branches: HashMap<MapData, u64, u8>,
}

/// What became of a wish to post the sentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posting {
    /// It is on its post now.
    Posted {
        /// When the kernel relieves it, if nobody does.
        until: Monotonic,
    },
    /// It has been there already, and stays no longer than was said then.
    Stands,
    /// Its time was up before an agent came back: it is not posted again until one has worked.
    Over,
}

impl std::fmt::Debug for Sentry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sentry").field("directory", &self.directory).finish_non_exhaustive()
    }
}

// === impl Sentry ===

impl Sentry {
    /// How long sockets are looked after when the sentry holds nobody any more: each that has waited
    /// gets its own number of tries back with its next retransmission. The first comes after a second
    /// (`TCP_TIMEOUT_INIT`), each further one after half of it; a timer may be late.
    pub const SETTLE: Duration = Duration::from_secs(2);

    pub(super) const MAP: &'static str = "SENTRY";
    pub(super) const POST_MAP: &'static str = "POST";
    pub(super) const BRANCHES_MAP: &'static str = "BRANCHES";

    /// That of this version's agents; `None`: none of them has worked with this BPF file system.
    ///
    /// # Errors
    ///
    /// [`BpfError`] if what is there cannot be opened.
    pub fn open(bpffs: &Path) -> Result<Option<Self>, BpfError> {
        Self::open_in(pin::version_in(bpffs))
    }

    pub(super) fn open_in(directory: PathBuf) -> Result<Option<Self>, BpfError> {
        let maps = directory.join("maps");
        if !maps.join(Self::MAP).exists() {
            return Ok(None);
        }
        Ok(Some(Self {
            orders: open(&maps, Self::MAP)?,
            post: open(&maps, Self::POST_MAP)?,
            away: Away::open_in(&maps)?,
            branches: open(&maps, Self::BRANCHES_MAP)?,
            directory,
        }))
    }

    /// Says which ports it is to mind, and how long a pod may wait there. Returns the ports for which
    /// there is no room: the last ones.
    ///
    /// # Errors
    ///
    /// [`BpfError::Map`].
    pub fn brief<'a>(
        &mut self,
        ports: &'a [u16],
        longest: Duration,
    ) -> Result<&'a [u16], BpfError> {
        let mut named = [0; MAX_SENTRY_PORTS];
        for (slot, port) in named.iter_mut().zip(ports) {
            *slot = *port;
        }
        let guard_ns = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let above = self.orders()?.above;
        self.order(Orders { above, guard_ns, ports: named })?;
        Ok(ports.get(MAX_SENTRY_PORTS..).unwrap_or_default())
    }

    /// The pods up to this id have been taken up by an agent, this one or one before.
    ///
    /// # Errors
    ///
    /// [`BpfError::Map`].
    pub fn taken_up(&self) -> Result<CgroupId, BpfError> {
        Ok(CgroupId(self.orders()?.above))
    }

    /// Says so.
    ///
    /// # Errors
    ///
    /// [`BpfError::Map`]; more pods are minded then than need be.
    pub fn set_taken_up(&mut self, up_to: CgroupId) -> Result<(), BpfError> {
        let orders = self.orders()?;
        self.order(Orders { above: up_to.0, ..orders })
    }

    /// Since when no agent works; `None`: one does.
    ///
    /// # Errors
    ///
    /// [`BpfError::Map`].
    pub fn away_since(&self) -> Result<Option<Monotonic>, BpfError> {
        self.away.since()
    }

    /// Whether it is on its post.
    #[must_use]
    pub fn is_posted(&self) -> bool {
        let gate = Hook::SentryGate.name();
        pin::subdirectories(&self.links()).iter().any(|root| root.join(gate).exists())
    }

    /// Since when it is, by the wall's clock: the BPF file system notes when a name was made there.
    #[must_use]
    pub fn posted_at(&self) -> Option<SystemTime> {
        let gate = Hook::SentryGate.name();
        let roots = pin::subdirectories(&self.links()).into_iter();
        let made =
            roots.filter_map(|root| fs::symlink_metadata(root.join(gate)).ok()?.modified().ok());
        made.min()
    }

    /// Whether any of its programs is on a cgroup: on its post, or not settled yet.
    #[must_use]
    pub fn is_there(&self) -> bool {
        stands_in(&self.directory)
    }

    /// How many connects it has held since it was posted.
    ///
    /// # Errors
    ///
    /// [`BpfError::Map`].
    pub fn held(&self) -> Result<u64, BpfError> {
        Ok(self.posted()?.held)
    }

    /// Whether its time was up before an agent came back, and what it has held has settled: nothing of
    /// it is needed any more.
    ///
    /// # Errors
    ///
    /// [`BpfError::Map`].
    pub fn is_over(&self) -> Result<bool, BpfError> {
        Ok(self.until()?.is_some_and(|until| until + Self::SETTLE <= clock::now()))
    }

    /// Posts it below `cgroup_root`, where kubelet keeps its pods; see [`Self::post`].
    ///
    /// # Errors
    ///
    /// [`BpfError::Cgroup`] if kubelet's directories are not to be found there, and as [`Self::post`].
    pub fn post_below(
        &mut self,
        cgroup_root: &Path,
        longest: Duration,
    ) -> Result<Posting, BpfError> {
        let pods = Kubepods::below(cgroup_root)
            .map_err(|source| BpfError::Cgroup { path: cgroup_root.to_owned(), source })?;
        self.post(&pods, longest)
    }

    /// Posts it on the roots of kubelet's trees, for `longest` at most. The one that stands keeps its
    /// time; that it lets everything pass afterwards is up to the kernel.
    ///
    /// # Errors
    ///
    /// [`BpfError`] with what of it could not be posted.
    pub fn post(&mut self, pods: &Kubepods, longest: Duration) -> Result<Posting, BpfError> {
        let now = clock::now();
        if self.away.since()?.is_none() {
            self.away.set(Some(now))?;
        }
        let until = Monotonic(self.posted()?.until_ns);
        let begins = until == Monotonic(0);
        if self.is_over()? {
            return Ok(Posting::Over);
        }
        let stood = self.is_posted();
        for branch in &pods.branches {
            let map = Self::BRANCHES_MAP;
            self.branches.insert(branch.0, 1, 0).map_err(|error| write_failed(map, error))?;
        }
        let until = if begins { now + longest } else { until };
        if begins {
            self.set_post(Post { until_ns: until.0, held: 0 })?;
        }
        let posted = pods.roots.iter().map(|root| self.post_on(root));
        // On all of them, whatever is wrong with one.
        posted.fold(Ok(()), Result::and)?;
        Ok(if stood { Posting::Stands } else { Posting::Posted { until } })
    }

    fn post_on(&self, root: &Path) -> Result<(), BpfError> {
        let cgroup_failed = |source| BpfError::Cgroup { path: root.to_owned(), source };
        let cgroup = File::open(root).map_err(cgroup_failed)?;
        let id = crate::node::cgroup_id(root)
            .ok_or_else(|| cgroup_failed(io::ErrorKind::NotFound.into()))?;
        let directory = self.links().join(id.0.to_string());
        make_directory(&self.links())?;
        make_directory(&directory)?;
        for hook in Hook::SENTRY {
            let pin = directory.join(hook.name());
            if pin.exists() {
                continue;
            }
            let program = self.programs().join(hook.name());
            let program = sys::open_pinned(&program).map_err(|error| failed(&program, error))?;
            let link_failed =
                |source| BpfError::Link { operation: "attach", program: hook.name(), source };
            let mut link = Link::attach(program.as_fd(), cgroup.as_fd(), hook.attach_type())
                .map_err(link_failed)?;
            link.pin(pin.clone()).map_err(|error| failed(&pin, error))?;
            link.leave();
        }
        Ok(())
    }

    /// Takes all its programs off, because its time is up. That it was posted is remembered.
    pub fn take_down(&self) {
        take_down_in(&self.directory);
    }

    /// Whether a sentry stands that an agent of another version has posted.
    #[must_use]
    pub fn is_posted_elsewhere(&self) -> bool {
        let root = self.directory.parent();
        root.is_some_and(|root| pin::others_below(root).iter().any(|other| stands_in(other)))
    }

    /// Takes it off its post, and those of other versions: an agent works. Returns how many connects
    /// it has held, if it was posted. What gives their tries back to those who wait stays until
    /// [`Self::settle`], [`Self::SETTLE`] later.
    ///
    /// # Errors
    ///
    /// [`BpfError::Map`]; no program that drops is left all the same.
    pub fn relieve(&mut self) -> Result<Option<u64>, BpfError> {
        if let Some(root) = self.directory.parent() {
            for version in pin::subdirectories(root) {
                take_off(&version, &Hook::SENTRY_HOLD);
            }
        }
        let Post { until_ns, held } = self.posted()?;
        if until_ns == 0 {
            return Ok(None);
        }
        self.set_post(Post::default())?;
        let branches: Vec<u64> = self.branches.keys().filter_map(Result::ok).collect();
        for branch in branches {
            let _: Result<(), MapError> = self.branches.remove(&branch);
        }
        Ok(Some(held))
    }

    /// Takes off what [`Self::relieve`] has left.
    pub fn settle(&self) {
        if let Some(root) = self.directory.parent() {
            take_down_below(root);
        }
    }

    /// When the kernel relieves it, if it has been posted since an agent worked.
    ///
    /// # Errors
    ///
    /// [`BpfError::Map`].
    pub fn until(&self) -> Result<Option<Monotonic>, BpfError> {
        let until = self.posted()?.until_ns;
        Ok((until != 0).then_some(Monotonic(until)))
    }

    fn links(&self) -> PathBuf {
        links_in(&self.directory)
    }

    fn programs(&self) -> PathBuf {
        programs_in(&self.directory)
    }

    fn orders(&self) -> Result<Orders, BpfError> {
        self.orders.get(&ONLY, 0).map_err(|source| read_failed(Self::MAP, source))
    }

    fn order(&mut self, orders: Orders) -> Result<(), BpfError> {
        self.orders.set(ONLY, orders, 0).map_err(|source| write_failed(Self::MAP, source))
    }

    fn posted(&self) -> Result<Post, BpfError> {
        self.post.get(&ONLY, 0).map_err(|source| read_failed(Self::POST_MAP, source))
    }

    fn set_post(&mut self, post: Post) -> Result<(), BpfError> {
        self.post.set(ONLY, post, 0).map_err(|source| write_failed(Self::POST_MAP, source))
    }
}

/// Takes down every sentry that stands, of all versions: for an agent that cannot open its own. That
/// one was posted is remembered.
pub fn take_down_sentries(bpffs: &Path) {
    take_down_below(&pin::locked_in(bpffs));
}

fn take_down_below(root: &Path) {
    for version in pin::subdirectories(root) {
        take_down_in(&version);
    }
    pin::sweep(root);
}

fn take_down_in(version: &Path) {
    take_off(version, &Hook::SENTRY);
    pin::remove_tree(&links_in(version));
}

/// In the order in which programs come off a pod: the one that drops first.
fn take_off(version: &Path, hooks: &[Hook]) {
    let roots = pin::subdirectories(&links_in(version));
    for hook in hooks.iter().rev() {
        for root in &roots {
            let _: io::Result<()> = fs::remove_file(root.join(hook.name()));
        }
    }
}

/// Whether a program of the sentry is on a root, or may be.
pub(super) fn stands_in(version: &Path) -> bool {
    let has_any = |root: &PathBuf| pin::pins(root).map_or(true, |pins| !pins.is_empty());
    pin::directories(&links_in(version)).map_or(true, |roots| roots.iter().any(has_any))
}

/// Where a version's directory has the sentry's links.
pub(super) fn links_in(version: &Path) -> PathBuf {
    version.join("sentry")
}

/// Where a version's directory has the programs that whoever posts the sentry finds.
pub(super) fn programs_in(version: &Path) -> PathBuf {
    version.join("programs")
}

fn make_directory(path: &Path) -> Result<(), BpfError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(path, error)),
        _ => Ok(()),
    }
}

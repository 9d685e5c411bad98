//! This node: kubelet's cgroups, the runtimes' OCI bundles, the processes of a pod.

mod bundle;
mod kubepods;
mod mount;
mod sandbox;
mod watch;

pub(crate) use self::watch::cgroup_id;
pub use self::{
    bundle::{Bundle, Bundles},
    kubepods::Kubepods,
    mount::{MountError, cgroup_root},
    sandbox::oldest_process,
    watch::{CgroupEvent, CgroupWatch, WatchError, container_of},
};

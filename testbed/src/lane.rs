//! A pod's network that is made once and serves one pod after another: making one takes a tenth of a
//! second, and fifty pods a second are wanted.

use std::sync::Arc;

use anyhow::Result;

use crate::{
    apps,
    cgroup::Cgroup,
    mesh::Mesh,
    netns::Netns,
    node,
    process::{Network, Process},
    redirect::Redirect,
};

/// A network namespace with Istio's rules and a way to the backend. One pod at a time lives in it.
#[derive(Debug)]
pub struct Lane {
    netns: Netns,
    /// Without a process a namespace that nobody has a handle on ends.
    _holder: Process,
}

impl Lane {
    pub(crate) fn new(node: &Arc<node::Inner>, cgroup: &Cgroup) -> Result<Self> {
        let holder = Process::spawn(
            &apps::testbed_app()?.arg("pause"),
            Some(cgroup),
            &Network::New,
            Box::new(|_| {}),
        )?;
        let netns = Netns::of_process(holder.pid())?;
        netns.ip("link set lo up\naddr add ::6/128 dev lo nodad\n")?;
        node.join(&netns, &node.next_addresses())?;
        Redirect::default().apply(Mesh::Istio, &[], &netns)?;
        Ok(Self { netns, _holder: holder })
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }
}

//! Which pods' programs write debug lines.

use super::Gates;
use crate::{
    bpf::{
        BpfError,
        program::{LoudPrograms, Voice},
    },
    core::CgroupId,
};

impl Gates {
    /// Has a pod's programs write debug lines, or no more: from now on, and whenever its gate is
    /// attached again. Its gate does what it did, at every instant.
    ///
    /// # Errors
    ///
    /// [`BpfError::NotLoaded`] before [`Self::loud_programs`] are loaded, or [`BpfError`] if the
    /// kernel refuses the exchange; everything is then as it was.
    pub fn set_kernel_log(&mut self, pod: CgroupId, on: bool) -> Result<(), BpfError> {
        let voice = if on { Voice::Loud } else { Voice::Silent };
        let attached = self.attached.get(&pod).or_else(|| Some(&self.left.get(&pod)?.attached));
        let links = attached.map_or(&[][..], |attached| &attached.links);
        self.voices.set(pod, voice, links)
    }

    /// What has to be loaded before a pod's programs can write debug lines. It is for others to do:
    /// who works the gates has no time for it.
    #[must_use]
    pub fn loud_programs(&self) -> LoudPrograms {
        self.voices.loud_programs().clone()
    }

    /// Treats a pod as one for which nothing was asked: of one that is gone the agent has to say so,
    /// because the number of its cgroup may become another one's.
    ///
    /// # Errors
    ///
    /// As [`Self::set_kernel_log`].
    pub fn reset_kernel_log(&mut self, pod: CgroupId) -> Result<(), BpfError> {
        let is_loud = self.voices.usual() == Voice::Loud;
        self.set_kernel_log(pod, is_loud)
    }

    /// Whether a pod's programs write debug lines.
    #[must_use]
    pub fn has_kernel_log(&self, pod: CgroupId) -> bool {
        self.voices.of(pod) == Voice::Loud
    }
}

//! Which of the two copies of the programs is on which pod: the silent ones, or those that write
//! debug lines.

use std::{collections::HashSet, fs::File, io};

use super::{
    BpfError,
    kernel_log::KernelLog,
    link::Link,
    program::{Hook, LoudPrograms, Programs, Voice},
};
use crate::core::CgroupId;

/// The programs, and who speaks. Both copies work on the same maps and do the same, so one may take
/// the other's place at any time; the kernel exchanges them without an instant in between.
pub(super) struct Voices {
    programs: Programs,
    kernel_log: KernelLog,
    /// That of pods for which nothing else was asked.
    usual: Voice,
    /// The pods with the other one.
    others: HashSet<CgroupId>,
}

// === impl Voices ===

impl Voices {
    pub(super) fn new(
        programs: Programs,
        kernel_log: KernelLog,
        is_loud: bool,
    ) -> Result<Self, BpfError> {
        let usual = if is_loud { Voice::Loud } else { Voice::Silent };
        let mut voices = Self { programs, kernel_log, usual, others: HashSet::new() };
        if is_loud {
            voices.programs.loud().load()?;
            voices.prepare(Voice::Loud)?;
        }
        Ok(voices)
    }

    /// Without them no pod can be given a loud voice.
    pub(super) const fn loud_programs(&self) -> &LoudPrograms {
        self.programs.loud()
    }

    /// That of pods for which nothing was asked.
    pub(super) const fn usual(&self) -> Voice {
        self.usual
    }

    pub(super) fn of(&self, pod: CgroupId) -> Voice {
        match (self.usual, self.others.contains(&pod)) {
            (Voice::Silent, false) | (Voice::Loud, true) => Voice::Silent,
            (Voice::Silent, true) | (Voice::Loud, false) => Voice::Loud,
        }
    }

    /// Puts the pod's program onto its cgroup.
    pub(super) fn attach(
        &self,
        hook: Hook,
        pod: CgroupId,
        cgroup: &File,
    ) -> Result<Link, BpfError> {
        self.programs.attach(hook, self.of(pod), cgroup)
    }

    /// Puts the pod's program into the place of the one that an agent has left.
    pub(super) fn replace(&self, hook: Hook, pod: CgroupId, link: &Link) -> io::Result<()> {
        self.programs.replace(hook, self.of(pod), link)
    }

    /// Gives a pod this voice: in the links that stand, and in those to come. On an error everything
    /// is as it was.
    pub(super) fn set(
        &mut self,
        pod: CgroupId,
        voice: Voice,
        links: &[(Hook, Link)],
    ) -> Result<(), BpfError> {
        let before = self.of(pod);
        if before == voice {
            return Ok(());
        }
        self.prepare(voice)?;
        self.exchange(before, voice, links)?;
        if voice == self.usual {
            self.others.remove(&pod);
        } else {
            self.others.insert(pod);
        }
        Ok(())
    }

    /// Puts the silent programs into links that are left: until the next agent comes nobody reads.
    pub(super) fn hush(&self, pod: CgroupId, links: &[(Hook, Link)]) {
        if self.of(pod) == Voice::Loud {
            // It does the same; what it writes finds a full buffer in the end.
            let _: Result<(), BpfError> = self.exchange(Voice::Loud, Voice::Silent, links);
        }
    }

    /// Makes sure of the programs of this voice, and of somebody who listens to them.
    fn prepare(&mut self, voice: Voice) -> Result<(), BpfError> {
        match voice {
            Voice::Silent => Ok(()),
            // A gate that is attached later could not be, and would open.
            Voice::Loud if !self.programs.loud().are_loaded() => Err(BpfError::NotLoaded),
            Voice::Loud => self.kernel_log.start(),
        }
    }

    fn exchange(
        &self,
        before: Voice,
        voice: Voice,
        links: &[(Hook, Link)],
    ) -> Result<(), BpfError> {
        for (done, (hook, link)) in links.iter().enumerate() {
            let error = match self.programs.replace(*hook, voice, link) {
                Ok(()) => continue,
                // The cgroup has gone, and nothing runs there any more.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => continue,
                Err(error) => error,
            };
            for (hook, link) in &links[..done] {
                // What cannot be put back does the same, and writes to nobody's loss.
                let _: io::Result<()> = self.programs.replace(*hook, before, link);
            }
            let program = hook.name();
            return Err(BpfError::Link { operation: "exchange", program, source: error });
        }
        Ok(())
    }
}

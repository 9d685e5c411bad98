//! What the hypervisor keeps of a virtual machine's processors, which nobody in the machine can prevent.

use std::fs;

use anyhow::{Context as _, Result};

/// The machine's processor time until now, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    /// In which something ran.
    ran: u64,
    /// In which something would have run, and the hypervisor had another machine run.
    stolen: u64,
}

impl Ticks {
    pub(super) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::of(&stat).context("no processors' time in /proc/stat")
    }

    /// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice.
    fn of(stat: &str) -> Option<Self> {
        let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = all.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let &[user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = &*ticks else {
            return None;
        };
        Some(Self { ran: user + nice + system + irq + softirq, stolen })
    }

    /// Of the time since `before` in which something could have run, what was stolen, in percent.
    pub(super) fn stolen_percent_since(self, before: Self) -> f64 {
        let [ran, stolen] = [(self.ran, before.ran), (self.stolen, before.stolen)]
            // What is stolen may be counted back a little.
            .map(|(now, before)| now.saturating_sub(before) as f64);
        if stolen > 0.0 { 100.0 * stolen / (ran + stolen) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stolen_is_a_share_of_what_was_wanted() {
        let at = |user, steal| {
            Ticks::of(&format!(
                "cpu  {user} 0 10 5000 7 2 3 {steal} 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
            ))
        };
        let (before, after) = (at(100, 0).unwrap(), at(190, 10).unwrap());
        assert!((after.stolen_percent_since(before) - 10.0).abs() < 1e-9);
        assert!(before.stolen_percent_since(before).abs() < 1e-9);
        assert_eq!(Ticks::of("cpu  1 2 3\n"), None);
        assert!(Ticks::now().is_ok());
    }
}

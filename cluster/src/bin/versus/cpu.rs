//! Processor time of servers, client and the rest of the machine over a window, from `/proc`.

use std::ops::Sub;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_cluster::process::cpu_time;

use crate::servers::Servers;

/// Unit of processor time in `/proc`: Linux shows it to programs as 1/100 s on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Processor time used so far, user and system together, all threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// By the processes under load.
    pub servers: Duration,
    /// By the servers that wait for their turn: what it costs to have them alive.
    pub others: Duration,
    /// By this process, the load generator.
    pub client: Duration,
    /// By the whole machine, with what its host took from it.
    pub machine: Duration,
}

impl Used {
    /// Of the processes of `loaded`, of those of all other systems, and of this one.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn now(loaded: &Servers, all: &[Servers]) -> Result<Self> {
        let mut used = Self { client: cpu_time("self")?, machine: of_machine()?, ..Self::default() };
        for servers in all {
            let sum = if servers.system == loaded.system { &mut used.servers } else { &mut used.others };
            for pid in servers.pids() {
                *sum += cpu_time(&pid.to_string())?;
            }
        }
        Ok(used)
    }

    /// By programs that have no part in this: the noise.
    pub fn strangers(&self) -> Duration {
        self.machine.saturating_sub(self.servers + self.others + self.client)
    }
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            servers: self.servers.saturating_sub(earlier.servers),
            others: self.others.saturating_sub(earlier.others),
            client: self.client.saturating_sub(earlier.client),
            machine: self.machine.saturating_sub(earlier.machine),
        }
    }
}

fn of_machine() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    machine_ticks(&stat).map(|ticks| TICK * ticks).context("no processor time in /proc/stat")
}

/// Time for programs (user, nice, system) and for other guests of the host (steal), all processors
/// together. Interrupts are left out: they belong to nobody in `/proc/PID/stat` either.
fn machine_ticks(stat: &str) -> Option<u32> {
    let fields: Vec<u32> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 7].iter().try_fold(0_u32, |sum, index| sum.checked_add(*fields.get(*index)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_ticks_are_those_of_programs() {
        let stat = "cpu  100 20 3 9999 88 7 6 4000 50 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(machine_ticks(stat), Some(4123));
        assert_eq!(machine_ticks("cpu  1 2 3\n"), None);
        assert!(of_machine().unwrap() > Duration::ZERO);
    }

    #[test]
    fn strangers_are_what_is_left() {
        let second = Duration::from_secs;
        let used = Used { servers: second(3), others: second(1), client: second(2), machine: second(10) };
        assert_eq!(used.strangers(), second(4));
        assert_eq!(Used { machine: second(1), ..used }.strangers(), Duration::ZERO);
    }
}

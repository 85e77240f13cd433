//! Where it ran, and what a process costs.

use serde::{Deserialize, Serialize};

use crate::Result;

/// The machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// How many of it.
    pub cores: usize,
    /// Memory.
    pub memory_gib: u64,
    /// Linux.
    pub kernel: String,
    /// Load of the last minute at the beginning.
    pub load_before: f64,
    /// And at the end.
    pub load_after: f64,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| -> Option<String> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "?".into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib.unwrap_or(0).div_ceil(1024 * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: load(),
            load_after: 0.0,
        }
    }
}

/// Load average of the last minute.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().and_then(|text| text.parse().ok());
    first.unwrap_or(0.0)
}

/// The first line of what a program prints.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or("?").trim().to_owned()
}

/// CPU seconds a process has used, and its resident memory in MiB.
pub fn usage(pid: u32) -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Its name may hold blanks; behind it comes field 3.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
    let tick = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as f64;
    let cpu = (field(11).unwrap_or(0.0) + field(12).unwrap_or(0.0)) / tick;
    let memory = field(21).unwrap_or(0.0) * page / (1024.0 * 1024.0);
    Ok((cpu, memory))
}

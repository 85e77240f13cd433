//! Where a run took place and what its processes cost, out of `/proc`: for reports beside their figures.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::Result;

/// The machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// How many of it.
    pub cores: usize,
    /// Memory, in GiB.
    pub memory_gib: u64,
    /// Release of the Linux kernel.
    pub kernel: String,
    /// Load of the last minute when it began: anything near the number of cores makes figures worse.
    pub load_before: f64,
    /// The same at the end; 0 until somebody sets it.
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

/// The first line of what a program prints; `?` if it prints none or can't be started.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or("?").trim().to_owned()
}

/// CPU time of a process and its children (Postgres has one a connection), in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut ticks = 0;
    for process in family(pid)? {
        ticks += own_ticks(process).unwrap_or(0);
    }
    // Those that have ended already.
    ticks += fields(&stat(pid))?.get(13..15).map(sum).unwrap_or(0);
    Ok(ticks as f64 / ticks_a_second())
}

/// CPU time of a process without its children, in seconds.
pub fn own_cpu_seconds(pid: u32) -> Result<f64> {
    Ok(own_ticks(pid)? as f64 / ticks_a_second())
}

/// CPU time that a JVM has spent compiling so far, in seconds. One that is new compiles for minutes, and whoever uses it
/// beside that waits.
pub fn compiler_seconds(pid: u32) -> Result<f64> {
    let mut ticks = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = thread?.path();
        // One that has ended in between.
        let Ok(name) = std::fs::read_to_string(folder.join("comm")) else {
            continue;
        };
        // As the kernel cuts "C2 CompilerThread0".
        if name.starts_with("C1 Compiler") || name.starts_with("C2 Compiler") {
            ticks += ticks_of(&folder.join("stat")).unwrap_or(0);
        }
    }
    Ok(ticks as f64 / ticks_a_second())
}

/// Resident memory of a process and its peak so far, in MiB.
pub fn memory_mib(pid: u32) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        Ok(kib
            .with_context(|| format!("{name} in /proc"))?
            .parse::<f64>()?
            / 1024.0)
    };
    Ok((value("VmRSS:")?, value("VmHWM:")?))
}

fn family(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let mut all = vec![pid];
    for child in children.split_whitespace() {
        all.push(child.parse()?);
    }
    Ok(all)
}

fn own_ticks(pid: u32) -> Result<u64> {
    ticks_of(&stat(pid))
}

fn ticks_of(stat: &Path) -> Result<u64> {
    Ok(fields(stat)?.get(11..13).map(sum).unwrap_or(0))
}

fn stat(pid: u32) -> PathBuf {
    format!("/proc/{pid}/stat").into()
}

fn sum(fields: &[String]) -> u64 {
    fields
        .iter()
        .filter_map(|text| text.parse::<u64>().ok())
        .sum()
}

/// The fields of a `stat` in `/proc` behind the name, which may hold blanks: field 3 is the first.
fn fields(stat: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(stat).with_context(|| stat.display().to_string())?;
    let (_, rest) = text.rsplit_once(") ").context("a stat in /proc")?;
    Ok(rest.split(' ').map(str::to_owned).collect())
}

fn ticks_a_second() -> f64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    ticks.ok().flatten().map_or(100.0, |ticks| ticks as f64)
}

//! What processes cost, out of `/proc`.

use anyhow::{Context, Result};

/// CPU time of a process and its children (Postgres has one a connection), in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut ticks = 0;
    for process in family(pid)? {
        ticks += own_ticks(process).unwrap_or(0);
    }
    // Those that have ended already.
    ticks += fields(pid)?.get(13..15).map(sum).unwrap_or(0);
    Ok(ticks as f64 / ticks_a_second())
}

/// Resident memory of a process and its peak so far, in MiB.
pub(crate) fn memory_mib(pid: u32) -> Result<(f64, f64)> {
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
    Ok(fields(pid)?.get(11..13).map(sum).unwrap_or(0))
}

fn sum(fields: &[String]) -> u64 {
    fields
        .iter()
        .filter_map(|text| text.parse::<u64>().ok())
        .sum()
}

/// The fields of `/proc/PID/stat` behind the name, which may hold blanks: field 3 is the first.
fn fields(pid: u32) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid}"))?;
    let (_, rest) = text.rsplit_once(") ").context("/proc/PID/stat")?;
    Ok(rest.split(' ').map(str::to_owned).collect())
}

fn ticks_a_second() -> f64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    ticks.ok().flatten().map_or(100.0, |ticks| ticks as f64)
}

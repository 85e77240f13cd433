//! What can be known to fail before anything is started; each finding is one line.

use std::net::{TcpListener, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::Result;

const NEEDED_MIB: u64 = 300;

/// Fails if one of the ports of 127.0.0.1 is taken, naming what for and, where it can, by whom.
pub fn ports_are_free(ports: &[(&str, u16)]) -> Result<()> {
    for (name, port) in ports {
        if let Err(error) = TcpListener::bind(("127.0.0.1", *port)) {
            let by = holder(*port)
                .map(|by| format!(" by {by}"))
                .unwrap_or_default();
            match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    bail!("port {port}, which {name} needs, is taken{by}")
                }
                _ => bail!("port {port}, which {name} needs, cannot be used: {error}"),
            }
        }
    }
    Ok(())
}

/// `program (pid N)` of the process that listens on the port, as far as /proc shows it.
fn holder(port: u16) -> Option<String> {
    let wanted = format!(":{port:04X}");
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let text = std::fs::read_to_string(table).ok()?;
            text.lines().skip(1).find_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                // local address, state (0A = listening), inode
                let hit = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A";
                hit.then(|| fields.get(9).map(|inode| (*inode).to_owned()))
                    .flatten()
            })
        })?;
    let link = format!("socket:[{inode}]");
    std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .find_map(|process| {
            let pid: u32 = process.file_name().to_str()?.parse().ok()?;
            let mut open = std::fs::read_dir(process.path().join("fd")).ok()?.flatten();
            open.find(|file| {
                std::fs::read_link(file.path())
                    .is_ok_and(|target| target.as_os_str() == link.as_str())
            })?;
            let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
            Some(format!("{} (pid {pid})", name.trim()))
        })
}

/// Fails if the disk under `folder` is nearly full: Kafka and databases would stop half-way.
pub fn disk_has_room(folder: &Path) -> Result<()> {
    let stat = nix::sys::statvfs::statvfs(folder)
        .with_context(|| format!("asking how much room {} has", folder.display()))?;
    #[expect(
        clippy::useless_conversion,
        reason = "the types differ between systems"
    )]
    let free: u64 = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    let free = free / (1024 * 1024);
    if free < NEEDED_MIB {
        bail!(
            "the disk is full: {free} MiB are free under {}, {NEEDED_MIB} MiB are needed",
            folder.display()
        );
    }
    Ok(())
}

/// `host:port` in a URL of PostgreSQL; `None` if it names a socket or nothing.
pub fn address_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let address = authority.rsplit('@').next()?;
    if address.is_empty() || address.starts_with('%') {
        return None;
    }
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    Some(match has_port {
        true => address.to_owned(),
        false => format!("{address}:5432"),
    })
}

/// Fails if nobody listens at any of the comma separated `addresses` (`host:port`).
pub fn is_reachable(what: &str, addresses: &str) -> Result<()> {
    let mut answers = addresses.split(',').map(|one| answers(what, one.trim()));
    let first = answers.next().context("no address")?;
    if first.is_ok() || answers.any(|answer| answer.is_ok()) {
        return Ok(());
    }
    first
}

fn answers(what: &str, address: &str) -> Result<()> {
    let target = address
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .with_context(|| format!("{what} {address:?} is not a host:port that is known"))?;
    std::net::TcpStream::connect_timeout(&target, Duration::from_secs(5))
        .with_context(|| format!("nobody answers at {what} {address}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::address_of;

    #[test]
    fn the_address_is_read_from_a_url() {
        let all = [
            ("postgres://u:p@h:5/db", Some("h:5")),
            ("postgres://u:p%40x@h/db", Some("h:5432")),
            ("postgres://[::1]/db?sslmode=disable", Some("[::1]:5432")),
            ("postgres:///db?host=/run/postgresql", None),
            ("postgres://%2Frun%2Fpostgresql/db", None),
        ];
        for (url, wanted) in all {
            assert_eq!(address_of(url).as_deref(), wanted, "{url}");
        }
    }
}

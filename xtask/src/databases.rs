//! Where the services keep their rows: SQLite files, our own PostgreSQL, or somebody else's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use onceward_testkit::postgres::{Postgres, PostgresOptions, create_database, drop_database};

use crate::Result;
use crate::layout::{Data, Ports, SERVICES};
use crate::probe::Ready;
use crate::supervisor::Spec;

/// The choice of databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Databases {
    /// One file per service in the data folder.
    Sqlite,
    /// A database per service on the server whose URL this is; its database name is not used.
    Postgres(String),
}

impl Databases {
    /// URL of a service's database.
    pub fn url(&self, data: &Data, service: &str) -> String {
        match self {
            Self::Sqlite => data.sqlite_url(service),
            Self::Postgres(server) => with_database(server, &database_name(service)),
        }
    }

    /// Creates the databases that are missing. Blocks.
    pub fn create(&self) -> Result<()> {
        if let Self::Postgres(server) = self {
            for service in SERVICES {
                create_database(server, &database_name(service.name))?;
            }
        }
        Ok(())
    }
}

/// Drops our databases from a server given with `--database`; others on it are not touched. Blocks.
pub fn drop_all(server: &str) -> Result<()> {
    for service in SERVICES {
        drop_database(server, &database_name(service.name))?;
    }
    Ok(())
}

fn database_name(service: &str) -> String {
    format!("onceward_{}", service.replace('-', "_"))
}

/// Replaces the database's name in a URL of PostgreSQL, keeping its query.
pub fn with_database(url: &str, name: &str) -> String {
    let (address, query) = match url.split_once('?') {
        Some((address, query)) => (address, format!("?{query}")),
        None => (url, String::new()),
    };
    let start = address.find("://").map_or(0, |at| at + 3);
    let end = address[start..]
        .find('/')
        .map_or(address.len(), |at| start + at);
    format!("{}/{name}{query}", &address[..end])
}

/// Checks the URL given with `--database`.
pub fn parse_server(url: &str) -> Result<Databases> {
    let known = ["postgres://", "postgresql://"];
    if !known.iter().any(|scheme| url.starts_with(scheme)) {
        bail!("--database takes postgres://user@host:port/database, not {url:?}");
    }
    Ok(Databases::Postgres(url.to_owned()))
}

/// Prepares our own server and gives its URL and the process to supervise. Blocks.
pub fn local_server(data: &Data, ports: Ports) -> Result<(String, Spec)> {
    let folder = data.postgres();
    if nix::unistd::geteuid().is_root() {
        move_where_others_may_look(&folder)?;
    }
    let postgres = Postgres::prepare(PostgresOptions {
        data_dir: Some(folder),
        port: Some(ports.postgres()),
        settings: Vec::new(),
    })?;
    let url = postgres.url("postgres");
    let mut spec = Spec::new("postgres", move || postgres.command());
    spec.port = Some(ports.postgres());
    spec.ready = Ready::Postgres(url.clone());
    spec.stop_signal = Signal::SIGINT; // "fast": open transactions are rolled back
    spec.stop_at_most = Duration::from_secs(30);
    spec.stop_rank = 3;
    Ok((url, spec))
}

/// PostgreSQL refuses root and runs as another user, who can't reach a data folder inside, say,
/// /root. Then the real folder lies under /var/tmp, and ours is a link to it.
fn move_where_others_may_look(folder: &Path) -> Result<()> {
    let hidden = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0)
    };
    let parents = folder.parent().map(Path::ancestors);
    if folder.exists() || !parents.into_iter().flatten().any(hidden) {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    let name = format!("onceward-postgres-{}", std::process::id());
    let real = Path::new("/var/tmp").join(name);
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    builder
        .create(&real)
        .with_context(|| format!("creating {}", real.display()))?;
    let _ = std::fs::remove_file(folder); // a link to nowhere
    std::os::unix::fs::symlink(&real, folder)
        .with_context(|| format!("linking {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn the_database_in_a_url_is_replaced_and_the_query_kept() {
        let all = [
            ("postgres://u:p@h:5/db", "postgres://u:p@h:5/order"),
            ("postgres://u@h", "postgres://u@h/order"),
            (
                "postgres://h/?sslmode=require",
                "postgres://h/order?sslmode=require",
            ),
        ];
        for (given, wanted) in all {
            assert_eq!(with_database(given, "order"), wanted);
        }
    }
}

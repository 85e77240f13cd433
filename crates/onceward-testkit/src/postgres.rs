//! PostgreSQL as one server process: found or fetched, initialised, started, stopped the hard way.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use sqlx::{Connection, PgConnection};

use crate::kafka::cache_folder;
use crate::ports::Port;
use crate::process::{OwnFolder, Process, asked_or_own, tail};
use crate::{Result, wait};

const START_AT_MOST: Duration = Duration::from_secs(60);
const STOP_AT_MOST: Duration = Duration::from_secs(30);

/// How to start a server; `Default` is what tests want.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Where the cluster lives, kept when the server ends; `None` = a folder that is removed.
    pub data_dir: Option<PathBuf>,
    /// The port; `None` takes a free one.
    pub port: Option<u16>,
    /// Settings beside ours, e.g. `("max_prepared_transactions", "4")`. `fsync` is on unless set here.
    pub settings: Vec<(String, String)>,
}

/// The server's programs, and who runs them.
#[derive(Debug, Clone)]
struct Programs {
    bin: PathBuf,
    // Postgres refuses root, so as root it runs as this user.
    run_as: Option<(u32, u32)>,
}

impl Programs {
    fn find_or_fetch() -> Result<Self> {
        let bin = match find_bin() {
            Some(bin) => bin,
            None => fetch_bin().context(
                "PostgreSQL is not installed (e.g. apt-get install postgresql) and could not be fetched",
            )?,
        };
        Ok(Self {
            bin,
            run_as: other_user()?,
        })
    }

    fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.bin.join(program));
        command.current_dir("/");
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// The folder of the newest server on this machine: `$ONCEWARD_POSTGRES_BIN`, else the usual places.
fn find_bin() -> Option<PathBuf> {
    let complete = |folder: &PathBuf| {
        ["initdb", "postgres"]
            .iter()
            .all(|program| folder.join(program).is_file())
    };
    if let Some(folder) = std::env::var_os("ONCEWARD_POSTGRES_BIN").map(PathBuf::from) {
        return Some(folder).filter(complete);
    }
    let mut versions: Vec<(u32, PathBuf)> = Vec::new();
    for root in [
        "/usr/lib/postgresql",
        "/usr/local/lib/postgresql",
        "/opt/homebrew/opt",
    ] {
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.trim_start_matches("postgresql@").parse().unwrap_or(0);
            versions.push((version, entry.path().join("bin")));
        }
    }
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).collect::<Vec<_>>();
    versions
        .into_iter()
        .rev()
        .map(|(_, bin)| bin)
        .chain(on_path)
        .find(complete)
}

/// PostgreSQL 17 as a bundle from Maven Central, unpacked once into the user's cache.
fn fetch_bin() -> Result<PathBuf> {
    let system = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "linux-amd64",
        ("linux", "aarch64") => "linux-arm64v8",
        (os, arch) => bail!("no bundle for {os} on {arch}"),
    };
    // Root's own cache can't be read by the user whom the server runs as.
    let cache = match nix::unistd::geteuid().is_root() {
        true => PathBuf::from("/var/cache/onceward"),
        false => cache_folder()?,
    };
    let home = cache.join(format!("postgres-17-{system}"));
    let bin = home.join("server/bin");
    if bin.join("postgres").exists() {
        return Ok(bin);
    }
    std::fs::create_dir_all(&home)?;
    let lock = std::fs::File::create(home.join("lock"))?;
    lock.lock()?;
    if bin.join("postgres").exists() {
        return Ok(bin);
    }
    let pom = format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>onceward</groupId><artifactId>postgres</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency><groupId>io.zonky.test.postgres</groupId>
    <artifactId>embedded-postgres-binaries-{system}</artifactId><version>17.6.0</version></dependency></dependencies>
</project>
"#
    );
    std::fs::write(home.join("pom.xml"), pom)?;
    let jar = home.join("jar");
    run(Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(home.join("pom.xml"))
        .arg("dependency:unpack-dependencies")
        .arg(format!("-DoutputDirectory={}", jar.display())))?;
    let bundle = std::fs::read_dir(&jar)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "txz"))
        .context("the bundle from Maven holds no .txz")?;
    let fresh = home.join("server.partial");
    let _ = std::fs::remove_dir_all(&fresh);
    std::fs::create_dir_all(&fresh)?;
    run(Command::new("tar")
        .arg("-xJf")
        .arg(bundle)
        .arg("-C")
        .arg(&fresh))?;
    std::fs::rename(&fresh, home.join("server"))?;
    Ok(bin)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!("{program} failed:\n{}", tail(&text, 10));
    }
    Ok(())
}

/// As root: the user `postgres`, else `nobody`. Otherwise nobody else.
fn other_user() -> Result<Option<(u32, u32)>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    bail!("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
}

/// One server.
#[derive(Debug)]
pub struct Postgres {
    programs: Programs,
    folder: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    process: Option<Process>,
    _port: Option<Port>,
    // Removed last, when the server is gone.
    _own: Option<OwnFolder>,
}

impl Postgres {
    /// Starts a server on a free port of 127.0.0.1 (trust authentication, user `postgres`, durable
    /// commits) with data that is removed at the end, and waits until it answers.
    pub fn start() -> Result<Self> {
        Self::start_with(PostgresOptions::default())
    }

    /// Starts a server as described and waits until it answers.
    pub fn start_with(options: PostgresOptions) -> Result<Self> {
        let mut postgres = Self::prepare(options)?;
        postgres.start_again()?;
        Ok(postgres)
    }

    /// Everything but the start: programs, and an initialised cluster in the data folder.
    pub fn prepare(options: PostgresOptions) -> Result<Self> {
        let programs = Programs::find_or_fetch()?;
        let (port, lock) = match options.port {
            Some(port) => (port, None),
            None => {
                let port = Port::take()?;
                (port.number(), Some(port))
            }
        };
        let (folder, own) = asked_or_own(options.data_dir, "onceward-postgres-")?;
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {folder:?}"))?;
        let folder = folder.canonicalize()?;
        let postgres = Self {
            programs,
            folder,
            port,
            settings: options.settings,
            process: None,
            _port: lock,
            _own: own,
        };
        postgres.initialise()?;
        Ok(postgres)
    }

    fn initialise(&self) -> Result<()> {
        let data = self.folder.join("data");
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        self.hand_over(&self.folder)?;
        run(self
            .programs
            .command("initdb")
            .args([
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .args(["--no-sync", "-D"])
            .arg(&data))
        .with_context(|| format!("initialising PostgreSQL in {data:?}"))
    }

    /// Gives a file to the user whom the server runs as.
    pub(crate) fn hand_over(&self, file: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.programs.run_as {
            std::os::unix::fs::chown(file, Some(uid), Some(gid))
                .with_context(|| format!("giving {file:?} to uid {uid}"))?;
        }
        Ok(())
    }

    /// The command that runs the server, for a supervisor of its own.
    pub fn command(&self) -> Command {
        let mut command = self.programs.command("postgres");
        command
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["-p", &self.port.to_string()]);
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("max_connections", "300"),
            ("shared_buffers", "64MB"),
            ("fsync", "on"),
        ];
        for (name, value) in ours {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its data and `postgres.log`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The postmaster's process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Whether it runs: a server that panics, as on a full disk, ends by itself.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Copies the whole server as it stands (`pg_basebackup`) and starts the copy on a port of its own: as a
    /// restored backup, or as a standby that follows this one until somebody says `pg_promote()` to it.
    pub fn base_backup(&self, standby: bool) -> Result<Self> {
        let port = Port::take()?;
        let own = OwnFolder::new("onceward-postgres-")?;
        let folder = own.path().canonicalize()?;
        let mut copy = Self {
            programs: self.programs.clone(),
            folder,
            port: port.number(),
            settings: self.settings.clone(),
            process: None,
            _port: Some(port),
            _own: Some(own),
        };
        copy.hand_over(&copy.folder)?;
        let mut command = copy.programs.command("pg_basebackup");
        command
            .args([
                "--host=127.0.0.1",
                "--username=postgres",
                "--checkpoint=fast",
            ])
            .args([&format!("--port={}", self.port), "--no-sync", "-D"])
            .arg(copy.folder.join("data"))
            .args(standby.then_some("--write-recovery-conf"));
        run(&mut command)?;
        copy.start_again()?;
        Ok(copy)
    }

    /// The URL of the database `name` on this server.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// Makes a fresh, empty database and gives its URL.
    pub fn create_database(&self) -> Result<String> {
        let name = format!("test_{:016x}", rand::random::<u64>());
        create_database(&self.url("postgres"), &name)?;
        Ok(self.url(&name))
    }

    /// Starts the server on the same port and data, and waits until it answers.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("PostgreSQL on port {} runs already", self.port);
        }
        let deadline = Instant::now() + START_AT_MOST;
        let log = self.folder.join("postgres.log");
        let mut process = Process::spawn("postgres", self.command(), &log)?;
        wait::until("an answer of PostgreSQL", START_AT_MOST, || {
            if !process.is_running() {
                // After kill -9 the killed server's children need a moment to notice and go; each of
                // them says so in the same log.
                let is_early = process.log().contains("still in use");
                if !is_early || Instant::now() >= deadline {
                    bail!("PostgreSQL ended while starting:\n{}", process.log_tail(15));
                }
                process = Process::spawn("postgres", self.command(), &log)?;
            }
            Ok(answers(&self.url("postgres")).then_some(()))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops like a crash (`SIGQUIT`, "immediate"): no checkpoint; the next start recovers from the
    /// WAL, and transaction ids that were not durable are handed out again.
    pub fn stop_immediate(&mut self) -> Result<()> {
        self.stop_by(Signal::SIGQUIT)
    }

    /// Stops in order ("fast": open transactions are rolled back).
    pub fn stop(&mut self) -> Result<()> {
        self.stop_by(Signal::SIGINT)
    }

    /// Kills the postmaster at once; its children follow by themselves.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill9()?;
        }
        Ok(())
    }

    /// Kills all of its processes at once, as when the machine dies. With [`kill9`](Self::kill9) alone those that wait
    /// for a synchronous standby let their commits be seen before they follow, though the standby may lack them.
    pub fn power_off(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            // It starts no further one, and as long as it is there nobody notices anything.
            process.pause()?;
            let pid = process.pid();
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            for child in children.split_whitespace() {
                let _gone_already = kill(Pid::from_raw(child.parse()?), Signal::SIGKILL);
            }
        }
        self.kill9()
    }

    fn stop_by(&mut self, signal: Signal) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(signal, STOP_AT_MOST)?;
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.stop_immediate();
    }
}

/// The one server that the tests of this binary share; started on first use, gone with the binary.
/// Take a database of your own from it; don't stop it: take [`Postgres::start`] for that.
pub fn shared() -> Result<&'static Postgres> {
    static SHARED: OnceLock<std::result::Result<Postgres, String>> = OnceLock::new();
    SHARED
        .get_or_init(|| Postgres::start().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

/// Whether the server at `url` accepts a connection.
pub fn answers(url: &str) -> bool {
    let url = url.to_owned();
    blocking(async move {
        let connection = tokio::time::timeout(Duration::from_secs(2), PgConnection::connect(&url));
        connection.await??.close().await?;
        Ok(())
    })
    .is_ok()
}

/// Creates the database `name` through a connection to `url`; one that is there already is fine.
pub fn create_database(url: &str, name: &str) -> Result<()> {
    // 42P04 = duplicate_database
    on_database(url, name, "create database", "", Some("42P04"))
}

/// Drops the database `name` through a connection to `url`, disconnecting whoever uses it; one that
/// is not there is fine.
pub fn drop_database(url: &str, name: &str) -> Result<()> {
    on_database(url, name, "drop database if exists", " with (force)", None)
}

fn on_database(
    url: &str,
    name: &str,
    verb: &'static str,
    suffix: &str,
    fine: Option<&'static str>,
) -> Result<()> {
    let quoted = name.replace('"', "\"\"");
    let statement = format!("{verb} \"{quoted}\"{suffix}");
    let (url, name) = (url.to_owned(), name.to_owned());
    blocking(async move {
        let mut connection = PgConnection::connect(&url)
            .await
            .context("connecting to PostgreSQL")?;
        let outcome = sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut connection)
            .await;
        connection.close().await?;
        match outcome {
            Ok(_) => Ok(()),
            Err(sqlx::Error::Database(error))
                if fine.is_some() && error.code().as_deref() == fine =>
            {
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("{verb} {name}")),
        }
    })
}

/// Runs a future to its end on a thread of its own, so that callers may be async or not.
pub(crate) fn blocking<T: Send + 'static>(
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(future)
    })
    .join()
    .map_err(|_| anyhow!("the thread that talks to PostgreSQL panicked"))?
}

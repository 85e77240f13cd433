//! `./dev up`: builds, starts everything in order, keeps it running, stops it in order.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::control::{self, Lock, Order};
use crate::layout::{Data, MAIL, Ports, RELAY, SERVICES, kafka_names};
use crate::supervisor::{Handle, Supervisor};
use crate::view::{self, Said, Wish};
use crate::{Result, cargo, databases, kafka, preflight, ps};

mod hints;
mod plan;

pub use hints::Hints;
use plan::Run;

/// Everything must be ready after so long.
const READY_AT_MOST: Duration = Duration::from_secs(180);

/// How to start everything.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Use this Kafka (host:port) instead of starting one
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Start Kafka with this many brokers; three keep copies of each other's data, and one of them may die
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_brokers(), conflicts_with = "kafka")]
    brokers: u16,
    /// Start a local PostgreSQL and keep all databases there, instead of SQLite files
    #[arg(long, conflicts_with = "database")]
    postgres: bool,
    /// Keep the databases (one per service, created if missing) on this PostgreSQL server
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Start anew: throw away all data of earlier runs
    #[arg(long)]
    fresh: bool,
    /// Come back once everything is ready, and keep it running in the background
    #[arg(short, long)]
    detach: bool,
    /// Seconds after which a Kafka that ended by itself is started again
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    kafka_restart_after: f32,
    /// A setting for the relay and the services, e.g. ONCEWARD_PAYMENT_FAIL_PERCENT=0
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
    /// Which topics messages go to: a preset (default, request-reply, pipeline) or a file; see `shop order --help`
    #[arg(long, value_name = "PRESET|FILE")]
    routing: Option<String>,
    /// Build and run optimised binaries
    #[arg(long)]
    release: bool,
    /// Run the binaries that are there, without a build
    #[arg(long)]
    no_build: bool,
    /// Added to every port, so that two runs can share a machine
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..40_000))]
    port_offset: u16,
    /// Plain lines also on a terminal, instead of the live view
    #[arg(long, visible_alias = "plain")]
    no_view: bool,
    /// We are the process in the background
    #[arg(long, hide = true)]
    in_background: bool,
    /// Start Kafka and nothing else
    #[arg(skip)]
    pub only_kafka: bool,
}

fn parse_brokers() -> impl TypedValueParser<Value = u16> {
    PossibleValuesParser::new(["1", "3"]).try_map(|number| number.parse())
}

fn parse_setting(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Runs `./dev up` (or `./dev kafka`) to its end.
pub fn run(options: Options, data: &Data) -> Result<()> {
    data.create()?;
    if options.in_background {
        return front(options, data);
    }
    // Said before the build: nobody wants to wait for this.
    let lock = Lock::take(data)?;
    check(&options, data)?;
    drop(lock);
    // Kafka's jars come while the compiler works.
    let fetching = match options.kafka {
        None => kafka::fetch()?,
        Some(_) => None,
    };
    if !options.only_kafka && !options.no_build {
        build(options.release)?;
    }
    if let Some(fetching) = fetching {
        let outcome = fetching.join();
        outcome.unwrap_or_else(|_| Err(anyhow!("fetching Apache Kafka has panicked")))?;
    }
    match options.detach {
        true => background(data),
        false => front(options, data),
    }
}

/// What can be known to fail before anything is built, emptied or started.
fn check(options: &Options, data: &Data) -> Result<()> {
    let ports = Ports::new(options.port_offset);
    if options.fresh && options.kafka.is_some() {
        bail!(
            "--fresh can't empty a Kafka that isn't ours: give it another Kafka, or drop --fresh"
        );
    }
    let mut needed = Vec::new();
    let names = kafka_names(options.brokers);
    if options.kafka.is_none() {
        if !options.fresh {
            kafka::fits(data, options.brokers)?;
        }
        for (name, (port, controller_port)) in names.iter().zip(ports.kafka(options.brokers)) {
            needed.push((name.as_str(), port));
            needed.push(("kafka's controller", controller_port));
        }
    }
    if options.postgres {
        needed.push(("postgres", ports.postgres()));
    }
    if !options.only_kafka {
        needed.push((RELAY, ports.relay()));
        needed.extend([(MAIL, ports.smtp()), (MAIL, ports.mail())]);
        needed.extend(SERVICES.map(|service| (service.name, ports.service(service))));
    }
    preflight::ports_are_free(&needed)?;
    preflight::disk_has_room(data.folder())?;
    if let Some(kafka) = &options.kafka {
        preflight::is_reachable("Kafka", kafka)?;
    }
    if let Some(url) = &options.database {
        databases::parse_server(url)?;
        if let Some(address) = preflight::address_of(url) {
            preflight::is_reachable("PostgreSQL", &address)?;
        }
    }
    Ok(())
}

fn build(release: bool) -> Result<()> {
    // The selection that ./dev itself builds with: the dependencies are compiled once.
    let mut arguments = vec!["--workspace", "--bins"];
    if release {
        arguments.push("--release");
    }
    cargo::build(&arguments)
}

/// Starts ourselves once more in the background and shows what it says until all is ready.
fn background(data: &Data) -> Result<()> {
    let log = data.log("supervisor");
    let file = std::fs::File::create(&log).with_context(|| format!("{}", log.display()))?;
    let mut child = {
        use std::os::unix::process::CommandExt;
        Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .arg("--in-background")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0) // the terminal's Ctrl-C and hang-up are not for it
            .spawn()?
    };
    let (sender, is_ready) = std::sync::mpsc::channel();
    let socket = data.clone();
    std::thread::spawn(move || {
        // Before it listens and after it failed there is no answer; the loop below sees the latter.
        while control::send(&socket, &Order::Ready).is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = sender.send(());
    });
    let mut shown = 0;
    loop {
        let ended = child.try_wait()?;
        let ready = is_ready.recv_timeout(Duration::from_millis(50)).is_ok();
        let text = std::fs::read_to_string(&log)?;
        print!("{}", &text[shown..]);
        shown = text.len();
        if ready {
            return Ok(());
        }
        if ended.is_some() {
            // It has said why; the reason stays the last line.
            std::process::exit(1);
        }
    }
}

/// Starts everything, stays until Ctrl-C or `./dev down`, stops everything.
fn front(options: Options, data: &Data) -> Result<()> {
    let _lock = Lock::take(data)?;
    check(&options, data)?;
    if options.fresh {
        forget(&options, data)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(supervise(options, data.clone()));
    let _ = std::fs::remove_file(data.socket());
    // Don't wait for a download that somebody gave up on.
    runtime.shutdown_background();
    outcome
}

async fn supervise(options: Options, data: Data) -> Result<()> {
    let with_view = !options.no_view && !options.only_kafka && view::is_possible();
    let said = Said::since(Instant::now());
    let say = |text: &str| said.say(text);
    let run = Run::new(options, data.clone())?;
    rotate_logs(&data)?;
    let (supervisor, handle) = Supervisor::new(
        run.manifest()?,
        &data.manifest(),
        &data.logs(),
        Box::new({
            let said = said.clone();
            move |text| said.say(text)
        }),
    );
    let supervisor = tokio::spawn(supervisor.run());
    let (started, outcome) = watch::channel(None);
    let answering = control::listen(&data, handle.clone(), outcome)?;
    let mut signals = Signals::new()?;

    let result = tokio::select! {
        result = tokio::time::timeout(READY_AT_MOST, run.start(&handle, &say)) =>
            result.unwrap_or_else(|_| Err(anyhow!("not ready within {READY_AT_MOST:?}"))),
        () = signals.next() => Err(anyhow!("interrupted")),
        () = handle.ended() => Err(anyhow!("stopped while starting")),
    };
    match result {
        Ok(()) => {
            let list = ps::table(&handle.list().await);
            let hints = run.hints();
            say(&format!("everything is ready\n\n{list}{}", hints.plain()));
            started.send_replace(Some(Ok("everything is ready".to_owned())));
            let leave = async {
                if with_view {
                    match view::run(&handle, &said, &hints).await {
                        Ok(Wish::Stop) => return,
                        Ok(Wish::PlainLines) => {}
                        Err(error) => say(&format!("no view, plain lines instead: {error:#}")),
                    }
                }
                std::future::pending().await
            };
            tokio::select! {
                () = signals.next() => stop(&handle, &mut signals, &say).await,
                () = leave => stop(&handle, &mut signals, &say).await,
                () = handle.ended() => say("stopped by ./dev down; the data is kept"),
            }
            supervisor.await?;
            answering.finish().await;
            Ok(())
        }
        Err(error) => {
            started.send_replace(Some(Err(format!("{error:#}"))));
            stop(&handle, &mut signals, &say).await;
            supervisor.await?;
            answering.finish().await;
            // After what was said while stopping, so that it is the last that is seen.
            Err(error.context(format!("not started (logs in {})", data.logs().display())))
        }
    }
}

/// Stops all in order; a second Ctrl-C kills.
async fn stop(handle: &Handle, signals: &mut Signals, say: &impl Fn(&str)) {
    say("stopping: services, relay, Kafka");
    let shutdown = handle.shutdown();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            _ = &mut shutdown => break say("all stopped; the data is kept"),
            () = signals.next() => handle.kill_all(),
        }
    }
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// The logs of the run before are kept as `NAME.log.1`.
fn rotate_logs(data: &Data) -> Result<()> {
    for entry in std::fs::read_dir(data.logs())?.flatten() {
        let path = entry.path();
        let ours = path
            .file_name()
            .is_some_and(|name| name == "supervisor.log");
        if path.extension().is_some_and(|extension| extension == "log") && !ours {
            std::fs::rename(&path, path.with_extension("log.1"))?;
        }
    }
    Ok(())
}

/// Removes what earlier runs have stored, and nothing else that may lie in the folder.
fn forget(options: &Options, data: &Data) -> Result<()> {
    let ours = |name: &str| {
        let mut brokers = kafka::BROKERS.into_iter().flat_map(kafka_names);
        matches!(name, "postgres" | "onceward.json")
            || brokers.any(|broker| broker == name)
            || SERVICES
                .iter()
                .any(|service| name.starts_with(&format!("{}.db", service.name)))
    };
    for entry in std::fs::read_dir(data.folder())?.flatten() {
        if entry.file_name().to_str().is_some_and(ours) {
            let path = entry.path();
            remove(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    if let Some(url) = &options.database {
        databases::drop_all(url)?;
    }
    Ok(())
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_symlink() {
        // PostgreSQL's folder may have been moved elsewhere.
        if let Ok(real) = path.canonicalize() {
            std::fs::remove_dir_all(real)?;
        }
        return std::fs::remove_file(path);
    }
    match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    }
}

//! The command line of `outbox-relay`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches as _};
use onceward::Secret;
use onceward::secret::without_passwords;
use onceward_http::Guard;
use onceward_kafka::{KafkaBroker, KafkaConfig};
use onceward_telemetry::{Settings, Telemetry, TelemetryError, traces_endpoint};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Layer, SETTINGS, list, read_file, sources_in};
use crate::{Relay, check, http, metrics};

/// Worked and ended in order.
const OK: u8 = 0;
/// `check` found something that must be mended, or the relay ended on an error.
const FAILED: u8 = 1;
/// The command line, the environment or the config file is wrong.
const USAGE: u8 = 2;

const EXIT_CODES: &str = "\
Exit codes:
  0    ended in order (run), nothing to mend (check)
  1    ended on an error (run), something must be mended (check)
  2    the settings are wrong; every problem is printed
  137  killed by the second signal

Each setting is a flag, an environment variable and a line of the TOML file; a flag outranks the
environment, which outranks the file. In the file sources are a table: [sources] order = \"sqlite:…\"
or order = { file = \"/run/secrets/order\" }, and Kafka's settings another: [kafka].";

/// Parses, works, and says how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            if error.use_stderr() {
                // It may quote a URL that stands where none belongs.
                eprint!("{}", without_passwords(&error.render().to_string()));
                return ExitCode::from(USAGE);
            }
            let _ = error.print();
            return ExitCode::from(OK);
        }
    };
    let (name, matches) = match matches.subcommand() {
        Some(("config", inner)) => match inner.subcommand() {
            Some((_, inner)) => ("print", inner),
            None => return ExitCode::from(USAGE),
        },
        Some(found) => found,
        None => return ExitCode::from(USAGE),
    };
    let config = match read(matches) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("error: {problem}");
            }
            return ExitCode::from(USAGE);
        }
    };
    if name == "print" {
        print!("{}", config.to_toml());
        return ExitCode::from(OK);
    }
    let telemetry = match telemetry(&config, name == "run") {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            return ExitCode::from(USAGE);
        }
    };
    let stopping = OnceLock::new();
    let outcome = runtime().and_then(|runtime| {
        let outcome = match name {
            "check" => runtime.block_on(async {
                let broker = KafkaBroker::new(config.kafka.clone())
                    .context("Kafka settings")?
                    .with_publisher(config.publisher);
                Ok(check::run(&config, &broker).await)
            }),
            _ => runtime
                .block_on(relay(config, &telemetry, &stopping))
                .map(|()| true),
        };
        // A call that waits for a dead broker must not hold the end up.
        runtime.shutdown_background();
        outcome
    });
    telemetry.stop(last_spans(stopping.get()));
    match outcome {
        Ok(true) => ExitCode::from(OK),
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// How long the collector may take for the last spans: what is left of the two seconds of a stop by default.
fn last_spans(stopping: Option<&Instant>) -> Duration {
    let used = stopping.map(Instant::elapsed).unwrap_or_default();
    let left = Duration::from_millis(1_950).saturating_sub(used);
    left.clamp(Duration::from_millis(50), Duration::from_secs(1))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
}

/// The whole command line, built from the table of settings.
pub fn command() -> Command {
    let with_settings = |command: Command| {
        let command = command
            .after_help(EXIT_CODES)
            .arg(
                Arg::new("config")
                    .long("config")
                    .env("ONCEWARD_CONFIG")
                    .value_name("FILE")
                    .help("TOML file with the same names"),
            )
            .arg(
                Arg::new("source")
                    .long("source")
                    .value_name("NAME=URL")
                    .action(ArgAction::Append)
                    .help(
                        "A database to relay, may be repeated [env: ONCEWARD_SOURCES, comma \
                         separated]. With a password better in a file: command lines and \
                         environments can be seen by others",
                    ),
            )
            .arg(
                Arg::new("source-file")
                    .long("source-file")
                    .env("ONCEWARD_SOURCES_FILE")
                    .value_name("FILE")
                    .help("File with all databases: NAME=URL, one a line or comma separated"),
            )
            .args(SETTINGS.iter().map(|setting| {
                Arg::new(setting.name)
                    .long(setting.flag)
                    .env(setting.env)
                    // An endpoint may hold a password.
                    .hide_env_values(setting.name == "otlp_endpoint")
                    .value_name(setting.value)
                    .help(setting.help)
            }));
        KafkaConfig::augment_args(command)
    };
    Command::new("outbox-relay")
        .about("Publishes committed outbox rows to Kafka, each exactly once")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(EXIT_CODES)
        .subcommand(with_settings(
            Command::new("run").about("Relay until SIGTERM or SIGINT; a second signal kills"),
        ))
        .subcommand(with_settings(Command::new("check").about(
            "Check databases, Kafka and topics for what endangers the guarantees",
        )))
        .subcommand(
            Command::new("config")
                .about("Look at the settings")
                .subcommand_required(true)
                .subcommand(with_settings(
                    Command::new("print")
                        .about("Print the effective settings as TOML, passwords replaced"),
                )),
        )
}

/// Flags and environment over file over defaults.
fn read(matches: &ArgMatches) -> Result<Config, Vec<String>> {
    let mut problems = Vec::new();
    let mut flags = Layer::default();
    for setting in SETTINGS {
        if let Some(value) = matches.get_one::<String>(setting.name) {
            flags.values.insert(setting.name.to_owned(), value.clone());
        }
    }
    match KafkaConfig::from_arg_matches(matches) {
        Ok(kafka) => flags.kafka = kafka,
        Err(error) => problems.push(format!("kafka: {error}")),
    }
    let sources: Vec<String> = match matches.get_many::<String>("source") {
        Some(sources) => sources.cloned().collect(),
        None => std::env::var("ONCEWARD_SOURCES")
            .map(|text| list(&text))
            .unwrap_or_default(),
    };
    flags.sources = sources.into_iter().map(Secret::from).collect();
    if let Some(file) = matches.get_one::<String>("source-file") {
        if !flags.sources.is_empty() {
            let text = "sources are given twice, by --source (ONCEWARD_SOURCES) and by --source-file \
                        (ONCEWARD_SOURCES_FILE): keep one";
            problems.push(text.to_owned());
        }
        match sources_in(Path::new(file)) {
            Ok(sources) => flags.sources = sources,
            Err(problem) => problems.push(problem),
        }
    }
    let mut layers = vec![flags];
    if let Some(path) = matches.get_one::<String>("config") {
        layers.push(read_file(&PathBuf::from(path), &mut problems));
    }
    Config::from_layers(&layers, problems)
}

/// Logger and metrics; the export of spans only for a relay that runs.
fn telemetry(config: &Config, runs: bool) -> Result<Telemetry, TelemetryError> {
    let endpoint = config.otlp_endpoint.as_ref().map(Secret::reveal);
    onceward_telemetry::init(&Settings {
        service: "outbox-relay",
        instance: Some(&config.relay.instance_id),
        log_filter: &config.log_filter,
        log_format: config.log_format,
        traces: runs.then(|| traces_endpoint(endpoint)).flatten(),
    })
}

/// Relays until a signal comes, and notes when it did.
async fn relay(
    config: Config,
    telemetry: &Telemetry,
    stopping: &OnceLock<Instant>,
) -> anyhow::Result<()> {
    metrics::describe();
    let broker = KafkaBroker::new(config.kafka)
        .context("Kafka settings")?
        .with_publisher(config.publisher);
    let relay = Relay::new(config.relay, broker)?;
    let listener = tokio::net::TcpListener::bind(&config.http)
        .await
        .with_context(|| format!("HTTP cannot listen on {}", config.http))?;
    let address = listener.local_addr().context("HTTP address")?;
    tracing::info!(http = %address, "relay starts");
    let stop = CancellationToken::new();
    let router = http::router(relay.handle(), Some(telemetry.metrics().clone()));
    let app = Guard::new(config.limits.clone()).protect(router);
    let server = {
        let stop = stop.clone();
        async move { onceward_http::serve(listener, app, &config.limits, stop).await }
    };
    let mut relaying = tokio::task::JoinSet::new();
    relaying.spawn(relay.run(stop.clone()));
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(server);
    let upkeep = telemetry.upkeep();
    serving.spawn(async move {
        upkeep.await;
        Ok(())
    });
    let mut signals = Signals::new()?;
    let ended = tokio::select! {
        ended = relaying.join_next() => ended,
        () = signals.next() => {
            let _first = stopping.set(Instant::now());
            tracing::info!("stopping; a second signal kills");
            stop.cancel();
            tokio::select! {
                ended = relaying.join_next() => ended,
                () = signals.next() => std::process::exit(137),
            }
        }
    };
    stop.cancel();
    // Open keep-alive connections don't hold the end up.
    serving.abort_all();
    match ended {
        Some(outcome) => outcome.context("the relay panicked")?.context("relay"),
        None => Ok(()),
    }
}

/// SIGTERM and SIGINT, as one stream.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

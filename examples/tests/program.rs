//! An example as a process.

use std::process::Command;
use std::time::Duration;

use onceward_testkit::ports::Port;
use onceward_testkit::process::Process;
use onceward_testkit::{Result, wait};
use serde_json::json;

/// A relay that was killed is replaced when its lease ends; the rest is a slow machine.
pub fn at_most() -> Duration {
    Duration::from_secs(120)
}

/// One example with its database.
pub struct Program {
    name: &'static str,
    path: &'static str,
    database: String,
    kafka: String,
    port: Port,
    folder: tempfile::TempDir,
    process: Option<Process>,
}

impl Program {
    /// Not started yet.
    pub fn new(name: &'static str, database: &str, kafka: &str) -> Self {
        let path = match name {
            "axum-postgres" => env!("CARGO_BIN_EXE_axum-postgres"),
            "axum-sqlite" => env!("CARGO_BIN_EXE_axum-sqlite"),
            "consume-once" => env!("CARGO_BIN_EXE_consume-once"),
            "loyalty" => env!("CARGO_BIN_EXE_loyalty"),
            "trip-saga" => env!("CARGO_BIN_EXE_trip-saga"),
            "routing" => env!("CARGO_BIN_EXE_routing"),
            _ => panic!("no example {name}"),
        };
        Self {
            name,
            path,
            database: database.to_owned(),
            kafka: kafka.to_owned(),
            port: Port::take().unwrap(),
            folder: tempfile::tempdir().unwrap(),
            process: None,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.path);
        command
            .env("DATABASE_URL", &self.database)
            .env("KAFKA", &self.kafka)
            .env("LISTEN", format!("127.0.0.1:{}", self.port.number()))
            .env("RUST_LOG", "info");
        command
    }

    /// Starts it; whoever needs an answer waits for it.
    pub fn start(&mut self) {
        let log = self.folder.path().join("log");
        self.process = Some(Process::spawn(self.name, self.command(), &log).unwrap());
    }

    /// Runs it to its end and gives what it printed.
    pub fn run(&mut self) -> String {
        let log = self.folder.path().join("log");
        let process = Process::spawn(self.name, self.command(), &log).unwrap();
        let process = self.process.insert(process);
        let ended = process.wait(at_most()).unwrap();
        let said = process.log();
        assert!(
            ended.is_some_and(|status| status.success()),
            "{}: {ended:?}\n{said}",
            self.name
        );
        said
    }

    /// As a power cut would have it.
    pub fn kill9_and_restart(&mut self) {
        self.process.take().unwrap().kill9().unwrap();
        self.start();
    }

    /// SIGTERM, and an end in order.
    pub fn terminate(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let process = self.process.as_mut().unwrap();
        let pid = process.pid().to_string();
        Command::new("kill").arg(&pid).status().unwrap();
        let status = process.wait(at_most()).unwrap().expect("it ends");
        assert_eq!(
            (status.code(), status.signal()),
            (Some(0), None),
            "{}",
            self.log()
        );
    }

    /// What it said, for a test that failed.
    pub fn log(&self) -> String {
        self.process
            .as_ref()
            .map(|p| p.log_tail(30))
            .unwrap_or_default()
    }

    /// What a path answers, if anything does.
    pub fn get(&self, path: &str) -> Option<String> {
        block_on(async { reqwest::get(self.url(path)).await.ok()?.text().await.ok() })
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port.number())
    }
}

/// Places an order of `amount` and waits until it is taken.
pub fn place(shop: &Program, amount: i64) {
    let order = json!({
        "id": format!("00000000-0000-7000-8000-{amount:012}"),
        "item": "chair",
        "amount_minor": amount,
    });
    let url = shop.url("/orders");
    let taken = wait::until("an answer of the shop", at_most(), || {
        let answer =
            block_on(async { reqwest::Client::new().post(&url).json(&order).send().await });
        Ok(answer.ok().map(|answer| answer.status().as_u16()))
    });
    assert_eq!(
        taken.unwrap_or_else(|e| panic!("{e}\n{}", shop.log())),
        201,
        "{}",
        shop.log()
    );
}

/// What the relay's own route says.
pub fn readyz(shop: &Program) -> u16 {
    let answer = block_on(reqwest::get(shop.url("/relay/readyz")));
    answer.unwrap().status().as_u16()
}

/// One row of two numbers.
pub fn query(url: &str, sql: &'static str) -> Result<(i64, i64)> {
    use sqlx::Connection;
    block_on(async {
        let mut connection = sqlx::PgConnection::connect(url).await?;
        let row = sqlx::query_as(sql).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(row)
    })
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

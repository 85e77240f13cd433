//! `./dev check api`: does every service keep to its own OpenAPI document?
//!
//! A shop of its own runs on real parts and takes some orders. Then schemathesis reads each service's
//! `/openapi.json` and makes up requests that the document allows and such that it forbids: every
//! answer must be one that the document names, no answer may be a server error, what is forbidden
//! must be refused. At the end nothing may be lost or doubled (`onceward verify`).

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use onceward_testkit::wait;
use serde_json::{Value, json};

use crate::Result;
use crate::layout::{Ports, SERVICES, root, target};
use crate::tool::{curl, text};

/// All packages with their versions, schemathesis among them.
const REQUIREMENTS: &str = include_str!("../schemathesis/requirements.txt");
/// Operator routes of the checked shop need this.
const TOKEN: &str = "the-operators-of-this-check";
/// Longest wait for what the machine does in a second or two when it has nothing else to do.
const SOON: Duration = Duration::from_secs(60);

/// How to check.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Requests that are made up for each route and phase
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub examples: u32,
    /// Another seed makes up other requests
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// On a local PostgreSQL instead of SQLite files
    #[arg(long)]
    pub postgres: bool,
    /// Use the binaries as they are
    #[arg(long)]
    pub no_build: bool,
}

impl Options {
    /// What `./dev test` has time for.
    pub fn short() -> Self {
        Self {
            examples: 20,
            seed: 1,
            postgres: false,
            no_build: true,
        }
    }
}

/// Checks every service; fails if one answers anything its document does not say.
pub fn check(options: &Options) -> Result<()> {
    let schemathesis = install()?;
    let shop = Shop::up(options)?;
    shop.take_orders()?;
    let failed = std::thread::scope(|scope| -> Result<Vec<&str>> {
        // Side by side: each waits for its service half of the time.
        let running = SERVICES.map(|service| {
            let url = shop.url(service);
            let (shop, schemathesis) = (&shop, &schemathesis);
            let name = service.name;
            (
                name,
                scope.spawn(move || shop.ask(schemathesis, name, &url, options)),
            )
        });
        let mut failed = Vec::new();
        for (name, thread) in running {
            match thread.join() {
                Ok(Ok(line)) => println!("{name}: {line}"),
                Ok(Err(error)) => {
                    println!("{name}: {error:#}");
                    failed.push(name);
                }
                Err(_) => failed.push(name),
            }
        }
        Ok(failed)
    })?;
    shop.verify()?;
    ensure!(
        failed.is_empty(),
        "not as the document says: {}",
        failed.join(", ")
    );
    Ok(())
}

/// The program, in a virtual environment of this project that is made once per list of packages.
fn install() -> Result<PathBuf> {
    let mut hash = DefaultHasher::new();
    REQUIREMENTS.hash(&mut hash);
    let folder = target()?.join(format!("schemathesis-{:016x}", hash.finish()));
    let program = folder.join("bin/schemathesis");
    if program.exists() {
        return Ok(program);
    }
    println!("installing schemathesis for Python in {}", folder.display());
    // A half-made one, left by somebody who had no patience.
    let _none_there = std::fs::remove_dir_all(&folder);
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(&folder)
        .output()
        .context("python3 is missing; with apt: apt-get install python3-venv")?;
    ensure!(
        made.status.success(),
        "python3 -m venv failed; with apt: apt-get install python3-venv\n{}",
        text(&made)
    );
    let installed = Command::new(folder.join("bin/pip"))
        .args(["install", "-q", "--disable-pip-version-check", "-r"])
        .arg(root().join("xtask/schemathesis/requirements.txt"))
        .output()
        .context("starting pip")?;
    if !installed.status.success() {
        // Else the next call would take it for whole.
        std::fs::remove_dir_all(&folder)?;
        bail!("pip could not install schemathesis\n{}", text(&installed));
    }
    Ok(program)
}

/// A shop started by `up -d`; brought down however the check ends.
struct Shop {
    folder: PathBuf,
    ports: Ports,
}

impl Shop {
    fn up(options: &Options) -> Result<Self> {
        let (offset, ports) = Ports::free()?;
        let folder = target()?.join("api");
        let _none_there = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        let shop = Self { folder, ports };
        let (offset, token) = (
            offset.to_string(),
            format!("ONCEWARD_OPERATOR_TOKEN={TOKEN}"),
        );
        let mut arguments = vec!["up", "-d", "--port-offset", &offset, "--set", &token];
        if options.no_build {
            arguments.push("--no-build");
        }
        if options.postgres {
            arguments.push("--postgres");
        }
        let output = shop.dev(&arguments)?;
        ensure!(output.status.success(), "{}", text(&output));
        Ok(shop)
    }

    fn dev(&self, arguments: &[&str]) -> Result<Output> {
        // By name: a build since this process began has replaced the file it was started from.
        let xtask = std::env::current_exe()?.with_file_name("xtask");
        let mut command = Command::new(xtask);
        command.args(arguments).arg("--data").arg(self.data());
        command.output().context("starting xtask")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn url(&self, service: crate::layout::Service) -> String {
        format!("http://127.0.0.1:{}", self.ports.service(service))
    }

    /// One order for each way it can go, so that every service has something to show.
    fn take_orders(&self) -> Result<()> {
        let url = format!("{}/orders", self.url(SERVICES[0]));
        for (user, product, quantity) in [
            ("user_123", "product_1", 1),
            ("user_123", "product_2", 2),
            ("user_123", "product_1", 3),
            ("user_123", "product_3", 100),
            ("user_declined", "product_1", 1),
            ("user_undeliverable", "product_1", 1),
        ] {
            let order = json!({
                "user_id": user, "product_id": product, "quantity": quantity, "amount": 199.99
            });
            let json = "content-type: application/json";
            curl(&["-H", json, "-d", &order.to_string(), &url])?;
        }
        wait::until("the end of every order", SOON, || {
            let page = curl(&[&url])?;
            let orders = page["items"].as_array().context("no items")?;
            let ended =
                |order: &Value| matches!(order["status"].as_str(), Some("completed" | "failed"));
            Ok(orders.iter().all(ended).then_some(()))
        })
    }

    /// Lets schemathesis ask one service; how many requests that were, and how long it took.
    fn ask(&self, program: &Path, name: &str, url: &str, options: &Options) -> Result<String> {
        let log = self.folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let begun = Instant::now();
        // It ends with the service, and asking would wait for that.
        let streams: &[&str] = match name {
            "analytics" => &["--exclude-path", "/analytics/live"],
            _ => &[],
        };
        let status = Command::new(program)
            .arg("--config-file")
            .arg(root().join("xtask/schemathesis/schemathesis.toml"))
            .args(["run", &format!("{url}/openapi.json")])
            .args(["--max-examples", &options.examples.to_string()])
            .args(["--seed", &options.seed.to_string()])
            .args(["--continue-on-failure", "--no-color"])
            .args(["--generation-database", "none"])
            .args(streams)
            .env("ONCEWARD_OPERATOR_TOKEN", TOKEN)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file)
            .status()
            .context("starting schemathesis")?;
        let said = std::fs::read_to_string(&log)?;
        ensure!(status.success(), "schemathesis ended with {status}\n{said}");
        let count = said.lines().find_map(|line| {
            let (count, _) = line.trim().split_once(" generated")?;
            count.parse::<u32>().ok()
        });
        match count {
            Some(count) if count >= options.examples => Ok(format!(
                "{count} requests, answered as the document says ({:.1} s)",
                begun.elapsed().as_secs_f32()
            )),
            _ => bail!("schemathesis has asked too little\n{said}"),
        }
    }

    /// Whatever was asked: nothing is lost or doubled.
    fn verify(&self) -> Result<()> {
        let onceward = std::env::current_exe()?.with_file_name("onceward");
        let verify = || {
            Command::new(&onceward)
                .arg("--data")
                .arg(self.data())
                .arg("verify")
                .output()
                .with_context(|| format!("starting {}", onceward.display()))
        };
        let found = verify()?;
        ensure!(found.status.success(), "onceward verify: {}", text(&found));
        let clean = String::from_utf8_lossy(&found.stdout);
        println!("verify: {}", clean.lines().last().unwrap_or_default());
        Ok(())
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if let Err(error) = self.dev(&["down"]) {
            eprintln!("the checked shop may still run: {error:#}");
        }
        // The logs stay, the data is of no use to anybody.
        let _none_there = std::fs::remove_dir_all(self.data());
    }
}

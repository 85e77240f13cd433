//! What a stranger does first: start everything, place an order with curl, kill what it went through.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use onceward_testkit::{Result, wait};
use serde_json::Value;
use xtask::layout::Ports;

const SOON: Duration = Duration::from_secs(300);

/// A shop started by `./dev up -d`; brought down however the test ends.
struct Shop {
    folder: tempfile::TempDir,
    offset: u16,
    down: bool,
}

impl Shop {
    fn up(arguments: &[&str]) -> Result<Self> {
        let mut shop = Self {
            folder: tempfile::tempdir()?,
            offset: Ports::free()?.0,
            down: false,
        };
        let offset = shop.offset.to_string();
        let mut all = vec!["up", "-d", "--no-build", "--port-offset", &offset];
        all.extend(arguments);
        let output = shop.dev(&all)?;
        shop.down = !output.status.success();
        ensure!(output.status.success(), "{}", text(&output));
        let said = text(&output);
        ensure!(
            said.contains("everything is ready") && said.contains("Try it:\n  curl "),
            "{said}"
        );
        println!("{said}");
        Ok(shop)
    }

    fn dev(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(arguments)
            .arg("--data")
            .arg(self.folder.path());
        Ok(command.output()?)
    }

    /// `./dev load` in the background.
    fn begin_load(&self) -> Result<Child> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(["load", "--rate", "20", "--seconds", "6", "--json", "--data"])
            .arg(self.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command.spawn()?)
    }

    fn curl(&self, path: &str, more: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.curl_text(path, more)?)?)
    }

    fn curl_text(&self, path: &str, more: &[&str]) -> Result<String> {
        let url = format!("http://127.0.0.1:{}{path}", 8001 + self.offset);
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "10"])
            .args(more)
            .arg(url)
            .output()
            .context("starting curl")?;
        ensure!(output.status.success(), "{}", text(&output));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Places the README's order and waits for its end.
    fn order_completes(&self) -> Result<()> {
        let body =
            r#"{"user_id":"user_123","product_id":"product_1","quantity":2,"amount":199.99}"#;
        let header = "content-type: application/json";
        let placed = self.curl("/orders", &["-H", header, "-d", body])?;
        let id = placed["order_id"].as_str().context("no order_id")?;
        let begun = Instant::now();
        wait::until("the end of the order", SOON, || {
            let order = self.curl(&format!("/orders/{id}"), &[])?;
            match order["status"].as_str() {
                Some("completed") => Ok(Some(())),
                Some("failed") => bail!("{order}"),
                _ => Ok(None),
            }
        })?;
        println!("completed after {:?}", begun.elapsed());
        Ok(())
    }

    /// The process as the manifest has it now.
    fn process(&self, name: &str) -> Result<Value> {
        let text = std::fs::read(self.folder.path().join("onceward.json"))?;
        let manifest: Value = serde_json::from_slice(&text)?;
        let all = manifest["processes"].as_array().context("no processes")?;
        let found = all.iter().find(|process| process["name"] == name);
        Ok(found.with_context(|| format!("no {name}"))?.clone())
    }

    fn kill9(&self, name: &str) -> Result<()> {
        let before = self.process(name)?["pid"].clone();
        let pid = before.as_i64().context("it has no pid")?;
        let begun = Instant::now();
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        wait::until(&format!("{name} after kill -9"), SOON, || {
            let now = self.process(name)?;
            let back = now["state"] == "running" && now["pid"] != before;
            Ok(back.then_some(()))
        })?;
        let took = begun.elapsed();
        println!("{name} is back after {took:?}");
        // Promised is a second; this machine runs other tests beside.
        ensure!(took < Duration::from_secs(5), "{name} took {took:?}");
        Ok(())
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if !self.down {
            let _ = self.dev(&["down"]);
        }
    }
}

/// Nothing fails by chance in this shop, so each kind of order has one end.
fn all_orders_end_as_they_must(load: Child) -> Result<()> {
    let output = load.wait_with_output()?;
    let said = text(&output);
    println!("{said}");
    ensure!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(
        (&report["sent"], &report["taken"]),
        (&120.into(), &120.into())
    );
    assert_eq!(report["post_latency_ms"]["count"], 120);
    for none in ["missing", "doubled", "open", "wrong"] {
        assert_eq!(report[none], 0, "{none}");
    }
    let ended = |reason: Value| {
        let outcomes = report["outcomes"].as_array().into_iter().flatten();
        let mut outcomes = outcomes.filter(|outcome| outcome["reason"] == reason);
        outcomes.next().map_or(Value::Null, |o| o["count"].clone())
    };
    let kinds = &report["kinds"];
    assert_eq!(ended(Value::Null), kinds["good"]);
    assert_eq!(
        ended("insufficient inventory".into()),
        kinds["insufficient"]
    );
    assert_eq!(ended("payment declined".into()), kinds["declined"]);
    assert_eq!(
        ended("address undeliverable".into()),
        kinds["undeliverable"]
    );
    Ok(())
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn an_order_by_curl_completes_before_and_after_kill_9_of_what_it_goes_through() -> Result<()> {
    let onceward = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("onceward");
    ensure!(
        onceward.exists(),
        "the binaries are missing: run `cargo build --workspace --bins` first"
    );
    let mut shop = Shop::up(&[
        "--set",
        "ONCEWARD_PAYMENT_FAIL_PERCENT=0",
        "--set",
        "ONCEWARD_DELIVERY_FAIL_PERCENT=0",
    ])?;
    shop.order_completes()?;
    let metrics = shop.curl_text("/metrics", &[])?;
    assert!(
        metrics.contains("\nonceward_order_placed_total 1\n"),
        "{metrics}"
    );
    let load = shop.begin_load()?;
    for name in ["order", "payment", "outbox-relay"] {
        shop.kill9(name)?;
    }
    shop.order_completes()?;
    all_orders_end_as_they_must(load)?;

    let stopped = shop.dev(&["stop", "payment"])?;
    assert_eq!(text(&stopped).trim(), "payment is stopped");
    assert_eq!(shop.process("payment")?["state"], "stopped");
    let started = text(&shop.dev(&["start", "payment"])?);
    assert!(
        started.starts_with("payment (pid ") && started.trim().ends_with("is ready"),
        "{started}"
    );

    let verified = Command::new(onceward)
        .arg("--data")
        .arg(shop.folder.path())
        .arg("verify")
        .output()?;
    assert!(verified.status.success(), "{}", text(&verified));
    let listed = text(&shop.dev(&["ps"])?);
    assert!(listed.contains("(restarted once)"), "{listed}");

    let down = shop.dev(&["down"])?;
    shop.down = true;
    assert_eq!(text(&down).trim(), "all stopped");
    assert!(TcpListener::bind(("127.0.0.1", 8001 + shop.offset)).is_ok());
    assert!(
        shop.folder.path().join("order.db").exists(),
        "the data is kept"
    );
    Ok(())
}

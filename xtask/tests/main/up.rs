//! What `./dev` says when it can't start, and about a run that is there already.

use std::net::TcpListener;
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use onceward_testkit::{Result, kafka, ports::Port, process::Process, wait};
use std::path::Path;
use std::time::Duration;

fn dev(data: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    Ok(command.args(arguments).arg("--data").arg(data).output()?)
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// An offset whose two ports for Kafka are free, and stay ours until the value is dropped.
fn free_offset() -> Result<(u16, Port)> {
    wait::until("two free ports in a row", Duration::from_secs(30), || {
        let port = Port::take()?;
        let number = port.number();
        let next = TcpListener::bind(("127.0.0.1", number + 1)).is_ok();
        Ok((next && number < 19_000 + 9092).then_some(port))
    })
    .map(|port| (port.number() - 9092, port))
}

#[test]
fn a_taken_port_is_one_clear_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (offset, _port) = free_offset()?;
    let _taken = TcpListener::bind(("127.0.0.1", 9092 + offset))?;
    let output = dev(
        folder.path(),
        &["kafka", "--port-offset", &offset.to_string()],
    )?;
    assert!(!output.status.success());
    let said = text(&output);
    let wanted = format!(
        "error: port {}, which kafka needs, is taken by ",
        9092 + offset
    );
    assert!(
        said.starts_with(&wanted) && said.lines().count() == 1,
        "{said}"
    );
    assert!(
        said.contains(&format!("(pid {})", std::process::id())),
        "{said}"
    );
    Ok(())
}

#[test]
fn the_data_of_another_number_of_brokers_is_refused_and_kept() -> Result<()> {
    for (held, brokers, wanted) in [
        (
            "kafka-1",
            "1",
            "holds a Kafka of 3 brokers: start with --brokers 3, ",
        ),
        (
            "kafka",
            "3",
            "holds a Kafka of 1 broker: start with --brokers 1, ",
        ),
    ] {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join(held).join("data");
        std::fs::create_dir_all(&data)?;
        let output = dev(folder.path(), &["kafka", "--brokers", brokers])?;
        assert!(!output.status.success());
        let said = text(&output);
        assert!(said.contains(wanted) && said.lines().count() == 1, "{said}");
        assert!(data.exists());
    }
    Ok(())
}

#[test]
fn missing_java_is_one_clear_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (offset, _port) = free_offset()?;
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["kafka", "--port-offset", &offset.to_string(), "--data"])
        .arg(folder.path())
        .env("PATH", folder.path())
        .env_remove("JAVA_HOME")
        .output()?;
    assert!(!output.status.success());
    let said = text(&output);
    let line = said
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_default();
    assert_eq!(
        line, "error: Java 17 or newer is missing: it runs Apache Kafka",
        "{said}"
    );
    Ok(())
}

#[test]
fn a_kafka_or_a_database_that_does_not_answer_is_one_clear_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (offset, port) = free_offset()?;
    let (number, nobody) = (offset.to_string(), format!("127.0.0.1:{}", port.number()));
    let url = format!("postgres://me@{nobody}/shop");
    for (option, value, what) in [
        ("--kafka", &nobody, "Kafka"),
        ("--database", &url, "PostgreSQL"),
    ] {
        let output = dev(
            folder.path(),
            &["up", "--port-offset", &number, option, value],
        )?;
        assert!(!output.status.success());
        let said = text(&output);
        let wanted = format!("error: nobody answers at {what} {nobody}: ");
        assert!(
            said.starts_with(&wanted) && said.lines().count() == 1,
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn in_front_a_signal_stops_all_in_order_and_keeps_the_data() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (offset, port) = free_offset()?;
    let log = folder.path().join("said");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["kafka", "--port-offset", &offset.to_string(), "--data"]);
    command.arg(folder.path());
    let mut front = Process::spawn("dev", command, &log)?;
    wait::until("a ready Kafka", Duration::from_secs(300), || {
        Ok(front.log().contains("everything is ready").then_some(()))
    })?;
    let status = front.stop(Signal::SIGINT, Duration::from_secs(120))?;
    assert!(status.success(), "{}", front.log());
    let said = front.log();
    assert!(said.contains("Ctrl-C stops everything"), "{said}");
    assert!(
        said.trim_end().ends_with("all stopped; the data is kept"),
        "{said}"
    );
    assert!(!kafka::answers(&format!("127.0.0.1:{}", port.number())));
    assert!(folder.path().join("kafka").exists());
    Ok(())
}

#[test]
fn with_nothing_running_each_order_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = dev(folder.path(), &["stop", "payment"])?;
    assert!(!output.status.success());
    assert_eq!(
        text(&output).trim(),
        "error: nothing runs here: start it with ./dev up"
    );
    let output = dev(folder.path(), &["down"])?;
    assert!(output.status.success());
    let output = dev(folder.path(), &["ps", "--json"])?;
    assert_eq!(text(&output).trim(), "[]");
    Ok(())
}

#[test]
fn kafka_in_the_background_is_ready_survives_kill_9_and_goes_down() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (offset, _port) = free_offset()?;
    let number = offset.to_string();
    let arguments = [
        "kafka",
        "-d",
        "--port-offset",
        &number,
        "--kafka-restart-after",
        "0.5",
    ];
    let output = dev(folder.path(), &arguments)?;
    assert!(output.status.success(), "{}", text(&output));
    let address = format!("127.0.0.1:{}", 9092 + offset);
    assert!(
        kafka::answers(&address),
        "it is ready when the command comes back"
    );

    let second = dev(folder.path(), &arguments)?;
    assert!(!second.status.success());
    assert!(
        text(&second).starts_with("error: it runs already (pid "),
        "{}",
        text(&second)
    );

    let pid = || -> Result<Option<i32>> {
        let listed: serde_json::Value =
            serde_json::from_slice(&dev(folder.path(), &["ps", "--json"])?.stdout)?;
        Ok(listed[0]["pid"].as_i64().map(i32::try_from).transpose()?)
    };
    let first = pid()?.unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    wait::until(
        "another Kafka that answers",
        Duration::from_secs(40),
        || Ok((pid()?.is_some_and(|pid| pid != first) && kafka::answers(&address)).then_some(())),
    )?;

    for (order, answer) in [("stop", "kafka is stopped"), ("start", "kafka (pid ")] {
        let output = dev(folder.path(), &[order, "kafka"])?;
        assert!(text(&output).starts_with(answer), "{}", text(&output));
    }
    let output = dev(folder.path(), &["down"])?;
    assert_eq!(text(&output).trim(), "all stopped");
    assert!(!kafka::answers(&address));
    Ok(())
}

//! The real processes behave: they start, die, come back with their data, and leave nothing behind.

use std::process::{Command, Stdio};
use std::time::Duration;

use onceward_testkit::kafka::{self, Kafka};
use onceward_testkit::ports::Port;
use onceward_testkit::postgres::{self, Postgres};
use onceward_testkit::process::{DeathGuard, Process};
use onceward_testkit::{Result, wait};
use sqlx::{Connection, PgConnection, Row};

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";

fn is_alive(pid: u32) -> bool {
    // A zombie is dead, but still has a pid.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}

#[test]
fn a_topic_survives_kill_9_of_kafka() -> Result<()> {
    let mut kafka = Kafka::start()?;
    let (bootstrap, folder) = (kafka.bootstrap(), kafka.folder().to_owned());
    kafka.run_tool(
        TOPICS,
        &[
            "--bootstrap-server",
            &bootstrap,
            "--create",
            "--topic",
            "kept",
        ],
    )?;
    let first = kafka.pid();
    kafka.kill9()?;
    assert!(!kafka::answers(&bootstrap));
    kafka.start_again()?;
    assert_ne!(kafka.pid(), first);
    assert_eq!(kafka.bootstrap(), bootstrap);
    let topics = kafka.run_tool(TOPICS, &["--bootstrap-server", &bootstrap, "--list"])?;
    assert_eq!(topics.trim(), "kept");

    kafka.pause()?;
    assert!(
        !kafka::answers(&bootstrap),
        "a frozen broker answers nothing"
    );
    kafka.resume()?;
    wait::until("an answer after SIGCONT", Duration::from_secs(60), || {
        Ok(kafka::answers(&bootstrap).then_some(()))
    })?;
    kafka.stop()?;
    drop(kafka);
    assert!(!folder.exists(), "the data folder is removed");
    Ok(())
}

#[tokio::test]
async fn committed_rows_survive_an_immediate_stop_of_postgres() -> Result<()> {
    let mut server = Postgres::start()?;
    let url = server.create_database()?;
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql("create table t (n int); insert into t values (7)")
        .execute(&mut connection)
        .await?;
    server.stop_immediate()?;
    assert!(!postgres::answers(&url));
    server.start_again()?;
    let mut connection = PgConnection::connect(&url).await?;
    let row = sqlx::query("select n from t")
        .fetch_one(&mut connection)
        .await?;
    assert_eq!(row.get::<i32, _>(0), 7);
    server.kill9()?;
    server.start_again()?;
    let fsync = sqlx::query("show fsync")
        .fetch_one(&mut PgConnection::connect(&url).await?)
        .await?;
    assert_eq!(fsync.get::<String, _>(0), "on");
    Ok(())
}

#[tokio::test]
async fn each_test_gets_a_database_of_its_own() -> Result<()> {
    let server = postgres::shared()?;
    let (one, other) = (server.create_database()?, server.create_database()?);
    assert_ne!(one, other);
    sqlx::raw_sql("create table t (n int)")
        .execute(&mut PgConnection::connect(&one).await?)
        .await?;
    sqlx::raw_sql("create table t (n int)")
        .execute(&mut PgConnection::connect(&other).await?)
        .await?;
    Ok(())
}

#[test]
fn a_child_dies_with_a_parent_that_was_killed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // A stand-in for the pipe's end of a killed test: the guard's own shell sees end of file.
    let mut victim = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()?;
    let doomed = folder.path().join("doomed");
    std::fs::create_dir(&doomed)?;
    let guard = DeathGuard::over(Some(victim.id()), Some(&doomed))?;
    drop(guard); // without dismissal, as when the process ends
    wait::until("the victim's end", Duration::from_secs(60), || {
        Ok(victim.try_wait()?)
    })?;
    wait::until("the folder's end", Duration::from_secs(60), || {
        Ok((!doomed.exists()).then_some(()))
    })
}

#[test]
fn a_dropped_process_is_gone_and_its_log_stays() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "echo one; echo two >&2; exec sleep 600"]);
    let process = Process::spawn("sleeper", command, &log)?;
    let pid = process.pid();
    wait::until("both lines", Duration::from_secs(60), || {
        Ok((process.log_tail(5) == "one\ntwo").then_some(()))
    })?;
    assert!(is_alive(pid));
    drop(process);
    assert!(!is_alive(pid));
    assert_eq!(std::fs::read_to_string(&log)?, "one\ntwo\n");
    Ok(())
}

#[test]
fn no_port_is_given_out_twice() -> Result<()> {
    let ports = (0..50).map(|_| Port::take()).collect::<Result<Vec<_>>>()?;
    let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 50);
    Ok(())
}

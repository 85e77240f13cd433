//! The program: settings, `check`, the janitor, metrics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Duration;

use onceward_testkit::kafka;
use sqlx::{Postgres, Sqlite};

use crate::support::relay::Start;
use crate::support::source::{Database, Source};
use crate::support::topic::{Topic, assert_exactly_once};
use crate::support::until;

fn program(arguments: &[&str]) -> (Command, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command.args(arguments).env_clear();
    (command, arguments.join(" "))
}

fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_flag_outranks_the_environment_which_outranks_the_file_and_no_password_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    let secret = folder.path().join("payment");
    std::fs::write(&secret, "postgres://you:hush@host/payment\n").unwrap();
    let settings = format!(
        "kafka = \"file:1\"\nbatch_rows = 7\nretention_seconds = 7\ninstance_id = \"f\"\n\
         [sources]\norder = \"postgres://me:hush@host/order\"\npayment = {{ file = {secret:?} }}\n"
    );
    std::fs::write(&file, settings).unwrap();
    let (mut command, _) = program(&["config", "print", "--batch-rows", "9", "--config"]);
    let output = command
        .arg(&file)
        .env("ONCEWARD_RETENTION_SECONDS", "8")
        .env("ONCEWARD_BATCH_ROWS", "8")
        .env("ONCEWARD_KAFKA_PASSWORD", "hush")
        .env("ONCEWARD_KAFKA_USERNAME", "me")
        .env("ONCEWARD_KAFKA_SECURITY_PROTOCOL", "sasl_plaintext")
        .env("ONCEWARD_KAFKA_SASL_MECHANISM", "PLAIN")
        .output()
        .unwrap();
    let printed = text(&output);
    assert!(output.status.success(), "{printed}");
    for line in [
        "batch_rows = 9",
        "publisher = \"auto\"",
        "retention_seconds = 8",
        "instance_id = \"f\"",
        "bootstrap_servers = \"file:1\"",
        "\"order\" = \"postgres://me:***@host/order\"",
        "\"payment\" = \"postgres://you:***@host/payment\"",
    ] {
        assert!(printed.contains(line), "{line} not in\n{printed}");
    }
    assert!(!printed.contains("hush"), "{printed}");
    let again: toml::Table = printed.parse().unwrap();
    assert_eq!(again["kafka"]["username"].as_str(), Some("me"));
}

#[test]
fn all_problems_are_told_at_once_with_exit_code_two() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    std::fs::write(
        &file,
        "no_such_setting = 1
log_format = \"loud\"
publisher = \"x\"
",
    )
    .unwrap();
    let (mut command, _) = program(&[
        "run",
        "--batch-rows",
        "many",
        "--max-requests",
        "0",
        "--source",
        "nonsense",
    ]);
    let output = command.arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output);
    for part in [
        "no_such_setting",
        "log_format must be",
        "publisher must be auto or native or rdkafka",
        "batch_rows",
        "max_requests must be 1",
        "NAME=URL",
        "--kafka",
    ] {
        assert!(told.contains(part), "{part} not in\n{told}");
    }
}

#[test]
fn what_is_wrong_with_a_secret_is_told_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let sources = folder.path().join("sources");
    let toml = folder.path().join("relay.toml");
    std::fs::write(&sources, "a=postgres://u:hush@h/a\nb=sqlite:///b.db\n").unwrap();
    std::fs::write(&toml, "[kafka]\npassword = 7777777\n").unwrap();
    let (file, toml) = (sources.to_str().unwrap(), toml.to_str().unwrap());
    let print = &["config", "print", "--kafka", "h:1"];
    let told = |arguments: &[&str], sources: Option<&str>| {
        let (mut command, _) = program(&[print, arguments].concat());
        command.envs(sources.map(|sources| ("ONCEWARD_SOURCES", sources)));
        let output = command.output().unwrap();
        let text = text(&output);
        assert!(!text.contains("hush") && !text.contains("7777"), "{text}");
        (output.status.code().unwrap(), text)
    };
    let (code, fine) = told(&["--source-file", file], None);
    assert_eq!(code, 0, "{fine}");
    assert!(fine.contains("\"a\" = \"postgres://u:***@h/a\""), "{fine}");
    assert!(fine.contains("\"b\" = \"sqlite:///b.db\""), "{fine}");
    for (arguments, sources, says) in [
        (
            &["--source-file", file][..],
            Some("c=postgres://u:hush@h/c"),
            "sources are given twice",
        ),
        (
            &["--source-file", "/nowhere"],
            None,
            "/nowhere can't be read",
        ),
        (
            &["--source", "postgres://u:hush@h/c"],
            None,
            "is not NAME=URL",
        ),
        (
            &["--source", "c=postgres://h/c?pass=hush"],
            None,
            "\"pass\"",
        ),
        (&["c=postgres://u:hush@h/c"], None, "unexpected argument"),
        (
            &["--source-file", file, "--config", toml],
            None,
            "text in quotes",
        ),
        (
            &["--source-file", file, "--kafka-properties", "hush"],
            None,
            "must be NAME=VALUE",
        ),
    ] {
        let (code, text) = told(arguments, sources);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(says), "{says} not in\n{text}");
    }
}

#[test]
fn the_help_tells_every_setting_and_the_exit_codes() {
    let (mut command, _) = program(&["run", "--help"]);
    let help = text(&command.output().unwrap());
    for setting in outbox_relay::config::SETTINGS {
        assert!(help.contains(setting.flag), "{}", setting.flag);
        assert!(help.contains(setting.env), "{}", setting.env);
    }
    assert!(help.contains("Exit codes"), "{help}");
}

/// All that the relay answers to this, until it closes the connection.
fn say(port: u16, request: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return "nobody listens yet".into();
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
fn no_client_can_exhaust_the_http_server() {
    let source = Source::<Sqlite>::new("limits");
    let relay = Start::new("127.0.0.1:1", &[source.option()])
        .arg("--max-body-bytes", "10")
        .arg("--max-connections", "2")
        .arg("--header-timeout-ms", "3000")
        .go();
    let close = "connection: close\r\n";
    let ask = format!("GET /healthz HTTP/1.1\r\n{close}\r\n");
    let lives = || Ok(say(relay.port(), &ask).contains("alive").then_some(()));
    until("the relay to answer", lives);
    let large = format!("GET /status HTTP/1.1\r\n{close}content-length: 11\r\n\r\n0123456789a");
    let told = say(relay.port(), &large);
    assert!(told.starts_with("HTTP/1.1 413 "), "{told}");
    assert!(told.contains("application/problem+json"), "{told}");
    // Two that never finish their heads have both places, until they are cut off.
    let silent: Vec<_> = (0..2)
        .map(|_| TcpStream::connect(("127.0.0.1", relay.port())).unwrap())
        .collect();
    until("a refusal for want of a place", || {
        let told = say(relay.port(), &ask);
        let refused = told.starts_with("HTTP/1.1 503 ") && told.contains("retry-after: 1");
        Ok(refused.then_some(()))
    });
    until("a place again", lives);
    drop(silent);
    let metrics = relay.get("/metrics").unwrap().1;
    let help = "# HELP onceward_http_refused_total Requests and connections that went over a limit";
    assert!(metrics.contains(help), "{metrics}");
    for reason in ["body", "connections"] {
        let counted = format!("onceward_http_refused_total{{reason=\"{reason}\"}}");
        assert!(metrics.contains(&counted), "{counted} not in\n{metrics}");
    }
}

#[test]
fn check_is_content_with_a_sound_source_and_names_what_is_wrong() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Postgres>::new("check");
    let topic = Topic::new(&kafka, "check", 1);
    let mut relay = Start::new(&kafka, &[source.option()]).go();
    source.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || relay.process.log_tail(30));
    relay.stop();
    let check = || {
        let option = source.option();
        let (mut command, _) = program(&["check", "--kafka", &kafka, "--source", &option]);
        let output = command.output().unwrap();
        (output.status.code(), text(&output))
    };
    let (code, told) = check();
    assert_eq!(code, Some(0), "{told}");
    source.execute("delete from outbox where seq = (select max(seq) from outbox)");
    let (code, told) = check();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("is gone"), "{told}");
}

fn the_janitor_sweeps<B: Database>() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("janitor");
    let topic = Topic::new(&kafka, "janitor", 1);
    let start = || {
        Start::new(&kafka, &[source.option()])
            .arg("--retention-seconds", "0")
            .arg("--janitor-schedule", "* * * * * *")
            .arg("--janitor-chunk-rows", "4")
            .arg("--instance-id", "one")
    };
    let relay = start().go();
    source.write_key(&topic.name, "a", 0..15);
    until("one row to be left", || {
        let rows = source.number("select cast(count(*) as bigint) from outbox");
        Ok((rows == 1).then_some(()))
    });
    assert_eq!(topic.wait_for(15, || relay.process.log_tail(30)).len(), 15);
    drop(relay);
    // Dies between two chunks; what it swept is not missed, what is left is swept later.
    source.write_key(&topic.name, "a", 15..30);
    let mut relay = start().dying_at("janitor-swept:2").go();
    relay.wait_for_death();
    let relay = start().go();
    source.write_key(&topic.name, "a", 30..33);
    topic.wait_for(33, || relay.process.log_tail(30));
    assert_exactly_once(&topic.read(), &[("a", 33)]);
    let floor = "select floor_seq from outbox_progress";
    until("the floor to rise", || {
        Ok((source.number(floor) == 32).then_some(()))
    });
}

#[test]
fn the_janitor_keeps_the_last_published_row_of_a_sqlite_source() {
    the_janitor_sweeps::<Sqlite>();
}

#[test]
fn the_janitor_keeps_the_last_published_row_of_a_postgres_source() {
    the_janitor_sweeps::<Postgres>();
}

#[test]
fn headers_follow_cloudevents_and_metrics_tell_what_was_done() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Sqlite>::new("headers");
    let topic = Topic::new(&kafka, "headers", 1);
    let relay = Start::new(&kafka, &[source.option()]).go();
    source.write_key(&topic.name, "a", 0..1);
    let seen = topic.wait_for(1, || relay.process.log_tail(30));
    let headers = &seen[0].headers;
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_source", source.name.as_str()),
        ("ce_type", "test.happened.v1"),
        ("ce_subject", "a"),
        ("content-type", "application/json"),
        ("onceward-kind", "event"),
        ("onceward-aggregate-type", "test"),
        ("onceward-format", "1"),
        ("onceward-position", "1"),
        ("onceward-previous-position", "0"),
    ];
    for (name, value) in expected {
        assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(headers["ce_id"].len(), 36);
    let time = &headers["ce_time"];
    assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
    assert!(headers.contains_key("correlation-id"));
    until("metrics", || {
        let metrics = relay.get("/metrics").map(|(_, text)| text);
        let counted = format!(
            "onceward_relay_published_records_total{{source=\"{}\"}} 1",
            source.name
        );
        Ok(metrics.filter(|text| text.contains(&counted)))
    });
}

#[test]
fn a_row_published_days_late_is_dated_by_its_publishing_and_not_refused() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Sqlite>::new("late");
    let an_hour = [("message.timestamp.before.max.ms", "3600000")];
    let topic = Topic::with(&kafka, "late", 1, &an_hour);
    source.write_key(&topic.name, "a", 0..3);
    source.execute("update outbox set occurred_at = occurred_at - 30 * 86400000000");
    let relay = Start::new(&kafka, &[source.option()]).go();
    let seen = topic.wait_for(3, || relay.process.log_tail(30));
    let happened = &seen[0].headers["ce_time"];
    let at: jiff::Timestamp = happened.parse().unwrap();
    let days = jiff::Timestamp::now().duration_since(at).as_hours() / 24;
    assert!((29..=31).contains(&days), "{happened}");
    assert_exactly_once(&seen, &[("a", 3)]);
}

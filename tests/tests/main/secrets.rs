//! Everything secured: every process a user of its own, every connection TLS, every secret a file. It
//! works, says what is wrong where it does not, and never tells a secret.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use integration_tests::{
    Client, Database, MARK, Order, PATIENCE, Result, SERVICES, Settings, World,
};
use onceward_testkit::secure::password;
use onceward_testkit::secure_postgres::Shown;

/// Everything that was said, with where.
#[derive(Default)]
struct Heard(Vec<(String, String)>);

impl Heard {
    fn note(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    /// A command that must end with this code and say that.
    fn command(
        &mut self,
        what: &str,
        (code, out, err): (i32, String, String),
        expected: i32,
        says: &str,
    ) -> Result<()> {
        let text = format!("{out}{err}");
        self.note(what, text.clone());
        ensure!(
            code == expected && text.contains(says),
            "{what} ended with {code}, not {expected}, and {says:?} is to be in:\n{text}"
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secured_shop_works_with_the_documented_rights_and_tells_no_secret() -> Result<()> {
    let settings = Settings {
        secure: true,
        log_filter: Some("debug,sqlx=info,hyper_util=info"),
        ..Settings::default()
    };
    let mut world = World::start(Database::Postgres, settings).await?;
    let client = world.client();
    let mut heard = Heard::default();

    for saga in [None, Some("choreography")] {
        let order = Order {
            saga,
            ..Order::default()
        };
        let id = client.order(&order).await?;
        client.wait_for(&id, "completed", PATIENCE).await?;
    }
    world.closed_books().await?;
    // On a busy machine a first handshake may take longer than the tool waits for it.
    let begun = Instant::now();
    let verified = loop {
        let said = world.onceward(&["verify"])?;
        if said.0 != 3 || begun.elapsed() > PATIENCE {
            break said;
        }
        heard.note("verify", format!("{}{}", said.1, said.2));
    };
    heard.command("verify", verified, 0, "clean")?;
    heard.command("status", world.onceward(&["status"])?, 0, "order")?;
    let sources = world.onceward(&["source", "list"])?;
    heard.command("source list", sources, 0, "sslmode=verify-full")?;
    let config = world.run_as("relay", "outbox-relay", &["config", "print"], &[])?;
    heard.command("config print", config, 0, "postgres://relay:***@")?;
    operators_are_let_in(&world, &client).await?;
    pages(&client, &mut heard).await?;

    a_wrong_password_of_kafka_is_told_until_it_is_mended(&mut world, &client).await?;
    an_expired_certificate_is_told_until_it_is_mended(&world, &client).await?;
    let id = client.order(&Order::default()).await?;
    client.wait_for(&id, "completed", PATIENCE).await?;
    pages(&client, &mut heard).await?;
    wrong_settings_are_refused(&world, &mut heard)?;

    for name in SERVICES.into_iter().chain(["relay"]) {
        let log = world.log(name)?;
        ensure!(
            log.lines().count() > 20,
            "{name} has logged nothing:\n{log}"
        );
        // No right on the group of a reader that never joins one is needed, so none is missed.
        let missed = log.lines().find(|line| {
            line.contains("Group authorization failed") && !line.contains(r#""level":"DEBUG""#)
        });
        ensure!(name != "relay" || missed.is_none(), "{missed:?}");
        heard.note(format!("log of {name}"), log);
    }
    for (place, text) in &heard.0 {
        if let Some(line) = text.lines().find(|line| line.contains(MARK)) {
            bail!("{place} tells a secret: {line}");
        }
    }
    Ok(())
}

async fn operators_are_let_in(world: &World, client: &Client) -> Result<()> {
    let token = world.secrets()?.token();
    for (token, expected) in [(token.as_str(), 200), ("not-the-token-Zq7x-at-all", 401)] {
        let status = client.set_stock("product_3", 500, token).await?;
        ensure!(status == expected, "{status}, not {expected}");
    }
    Ok(())
}

/// All that can be read without a right.
async fn pages(client: &Client, heard: &mut Heard) -> Result<()> {
    for name in SERVICES.into_iter().chain(["relay"]) {
        let own = if name == "relay" {
            "/status"
        } else {
            "/openapi.json"
        };
        for path in ["/healthz", "/readyz", "/metrics", own] {
            let text = client.text(name, path).await?;
            ensure!(!text.is_empty(), "{name}{path}");
            heard.note(format!("{name}{path}"), text);
        }
    }
    let mails = client.text("notification", "/notifications").await?;
    ensure!(mails.contains("order_completed"), "no mail waits:\n{mails}");
    heard.note("notification/notifications", mails);
    Ok(())
}

/// Waits until `/readyz` of this process says that, or is ready if that is nothing.
async fn until_ready_says(client: &Client, name: &str, says: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let text = client.text(name, "/readyz").await.unwrap_or_default();
        let ready = text == "ready\n" || text.contains(r#""ready":true"#);
        ensure!(!text.contains(MARK), "{name}: {text}");
        if (says.is_empty() && ready) || (!says.is_empty() && text.contains(says)) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{name}: no {says:?} in {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn a_wrong_password_of_kafka_is_told_until_it_is_mended(
    world: &mut World,
    client: &Client,
) -> Result<()> {
    for name in ["payment", "relay"] {
        let file = format!("{name}-kafka");
        world.secrets()?.write(&file, &format!("wrong-{MARK}"))?;
        world.stop(name)?;
        world.spawn(name)?;
        let says = "refused the user name or password";
        until_ready_says(client, name, says).await?;
        world.secrets()?.write(&file, &password(name))?;
        // It reads the file again by itself.
        until_ready_says(client, name, "").await?;
    }
    Ok(())
}

async fn an_expired_certificate_is_told_until_it_is_mended(
    world: &World,
    client: &Client,
) -> Result<()> {
    let all = || SERVICES.into_iter().chain(["relay"]);
    let postgres = world.secrets()?.postgres();
    tokio::task::block_in_place(|| {
        postgres.show(Shown::Expired)?;
        postgres.end_sessions()
    })?;
    for name in all() {
        until_ready_says(client, name, "has expired: renew it on the server").await?;
    }
    let (code, out, err) = world.onceward(&["status"])?;
    ensure!(
        code == 3 && err.contains("has expired"),
        "{code}\n{out}{err}"
    );
    tokio::task::block_in_place(|| postgres.show(Shown::Valid))?;
    for name in all() {
        until_ready_says(client, name, "").await?;
    }
    Ok(())
}

/// What ends at once: each way in which a secret can be wrong, for each program.
fn wrong_settings_are_refused(world: &World, heard: &mut Heard) -> Result<()> {
    let plain = format!("postgres://u:{MARK}@127.0.0.1:1/d");
    let typo = format!("postgres://h/d?pasword={MARK}");
    let wrong =
        world
            .secrets()?
            .postgres()
            .url_of("order", &format!("wrong-{MARK}"), "127.0.0.1", "order");
    let named = |url: &str| format!("order={url}");
    let none = ("ONCEWARD_DATABASE_FILE", "");
    for (what, database, code, says) in [
        ("unreachable", plain.as_str(), 1, "Postgres at 127.0.0.1:1 "),
        ("wrong password", &wrong, 1, "refuses the password of user"),
        ("typo", &typo, 1, "pasword"),
        ("no URL", MARK, 1, "must start with sqlite: or postgres:"),
        ("twice", "", 2, "cannot be used with"),
    ] {
        let variables: &[(&str, &str)] = match database {
            "" => &[("ONCEWARD_DATABASE", &plain)],
            database => &[none, ("ONCEWARD_DATABASE", database)],
        };
        for arguments in [&["order"][..], &["migrate", "order"]] {
            let said = world.run_as("order", "shop", arguments, variables)?;
            heard.command(&format!("shop, {what}"), said, code, says)?;
        }
    }
    let misplaced = ["migrate", "order", &plain];
    let said = world.run_as("order", "shop", &misplaced, &[])?;
    heard.command("shop, misplaced", said, 2, "unexpected argument")?;
    let token = &[
        ("ONCEWARD_OPERATOR_TOKEN_FILE", ""),
        ("ONCEWARD_OPERATOR_TOKEN", MARK),
    ];
    let said = world.run_as("order", "shop", &["order"], token)?;
    heard.command("shop, weak token", said, 1, "at least 16 characters")?;
    let mail_user = format!("smtp://shop:{MARK}@");
    for (what, smtp, code, says) in [
        ("no URL", MARK, 1, "no URL of a mail server"),
        ("no host", &mail_user, 1, "no URL of a mail server"),
        ("twice", "smtp://127.0.0.1:1", 2, "cannot be used with"),
    ] {
        let variables: &[(&str, &str)] = match what {
            "twice" => &[("ONCEWARD_SMTP", smtp)],
            _ => &[("ONCEWARD_SMTP_FILE", ""), ("ONCEWARD_SMTP", smtp)],
        };
        let said = world.run_as("notification", "shop", &["notification"], variables)?;
        heard.command(&format!("notification, mail, {what}"), said, code, says)?;
    }
    let headers = &[("OTEL_EXPORTER_OTLP_HEADERS", MARK)];
    let said = world.run_as("order", "shop", &["order"], headers)?;
    heard.command("shop, headers twice", said, 1, "is set as well")?;

    for (what, source, relay, says) in [
        ("unreachable", named(&plain), 1, "can't be reached"),
        (
            "wrong password",
            named(&wrong),
            1,
            "refuses the password of user",
        ),
        ("typo", named(&typo), 2, "pasword"),
        ("no name", plain.clone(), 2, "NAME=URL"),
    ] {
        let variables = [
            ("ONCEWARD_SOURCES_FILE", ""),
            ("ONCEWARD_SOURCES", source.as_str()),
        ];
        let said = world.run_as("relay", "outbox-relay", &["check"], &variables)?;
        heard.command(&format!("check, {what}"), said, relay, says)?;
        let code = if relay == 1 { 3 } else { 64 };
        for command in ["status", "verify"] {
            let said = world.run_as("onceward", "onceward", &[command], &variables)?;
            heard.command(&format!("onceward {command}, {what}"), said, code, says)?;
        }
    }
    let wrong = [
        ("ONCEWARD_KAFKA_PASSWORD_FILE", ""),
        ("ONCEWARD_KAFKA_PASSWORD", MARK),
    ];
    let said = world.run_as("relay", "outbox-relay", &["check"], &wrong)?;
    heard.command("check, Kafka", said, 1, "refused the user name or password")?;
    let said = world.run_as("onceward", "onceward", &["source", "check"], &wrong)?;
    heard.note("source check, Kafka", format!("{}{}", said.1, said.2));
    let both = [("ONCEWARD_KAFKA_PASSWORD", MARK)];
    let said = world.run_as("setup", "shop", &["topics"], &both)?;
    heard.command("topics, password twice", said, 1, "exclude each other")?;
    let properties = [("ONCEWARD_KAFKA_PROPERTIES", MARK)];
    let said = world.run_as("setup", "shop", &["topics"], &properties)?;
    heard.command("topics, properties", said, 1, "must be NAME=VALUE")?;
    for (program, arguments) in [
        ("shop", &["order", "--help"][..]),
        ("shop", &["notification", "--help"]),
        ("outbox-relay", &["run", "--help"]),
        ("onceward", &["--help"]),
    ] {
        let variables = [
            ("ONCEWARD_DATABASE", plain.as_str()),
            ("ONCEWARD_SOURCES", &plain),
            ("ONCEWARD_KAFKA_PASSWORD", MARK),
            ("ONCEWARD_KAFKA_PROPERTIES", MARK),
            ("ONCEWARD_OPERATOR_TOKEN", MARK),
            ("ONCEWARD_SMTP", &mail_user),
        ];
        let said = world.run_as("order", program, arguments, &variables)?;
        heard.command(program, said, 0, "password")?;
    }
    Ok(())
}

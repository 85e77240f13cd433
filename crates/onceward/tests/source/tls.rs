//! A Postgres that is reached by TLS only: what works, and what is said where it does not.

use std::time::{Duration, Instant};

use onceward::source::{Remedy, SourceStore, Wake, Woken};
use onceward::{Db, MessageContext, OpenOptions, Outbox, Tx, UuidV7, schema};
use onceward_testkit::certificates::{Authority, Request};
use onceward_testkit::secure::password;
use onceward_testkit::secure_postgres::{SecurePostgres, Shown};
use sqlx::Postgres;

use super::support::{Follower, TestDb, message, name};

/// A server that knows alice by her password and carol by her certificate.
async fn server() -> SecurePostgres {
    let started = tokio::task::spawn_blocking(|| {
        let server = SecurePostgres::start().unwrap();
        server.add_user("alice").unwrap();
        server.add_user("carol").unwrap();
        server
    });
    started.await.unwrap()
}

async fn append(db: &Db<Postgres>, rows: usize) -> bool {
    let work = async move |tx: &mut Tx<'static, Postgres>| {
        let outbox = Outbox::new(name());
        for n in 0..rows {
            let row = message(Some("k"), n.to_string());
            let context = MessageContext::start(&UuidV7);
            outbox.append_raw(tx, &context, row).await?;
        }
        Ok::<_, onceward::Error>(())
    };
    db.write(work).await.is_ok()
}

/// Carol's certificate and key as files, and her URL with them.
fn carols_url(server: &SecurePostgres, authority: &Authority, file: &str, expired: bool) -> String {
    let file = |what: &str| server.postgres().folder().join(format!("{file}.{what}"));
    let (cert, key) = (file("pem"), file("key"));
    let request = Request {
        name: "carol",
        expired,
        ..Request::default()
    };
    let issued = authority.issue(request).unwrap();
    issued.write_certificate(&cert).unwrap();
    issued.write_key(&key).unwrap();
    let url = server.url("carol").replace(&password("carol"), "");
    format!("{url}&sslcert={}&sslkey={}", cert.display(), key.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_readers_hints_and_the_relays_connections_all_speak_tls() {
    let server = server().await;
    let carol = carols_url(&server, server.authority(), "carol", false);
    for (user, url) in [("alice", server.url("alice")), ("carol", carol)] {
        let options = OpenOptions {
            write_time_limit: Duration::from_secs(30),
        };
        let db = Db::<Postgres>::open(&url, options).await.unwrap();
        schema::migrate(db.pool(), &name()).await.unwrap();
        let found = TestDb {
            url: url.clone(),
            pool: db.pool().clone(),
            folder: None,
        };
        let mut follower = Follower::start(&found).await;
        let mut wake = follower.store.wake().await.unwrap();
        // The first hint tells that it listens.
        while wake.wait(Duration::from_millis(50)).await == Woken::Hint {}
        // More than the follower takes at once, so that the rest comes by COPY.
        assert!(append(&db, 500).await, "{user}");
        let woken = wake.wait(Duration::from_secs(10)).await;
        assert_eq!(woken, Woken::Hint, "{user}");
        assert_eq!(follower.drain().await.len(), 500, "{user}");
        let (all, plain): (i64, i64) = sqlx::query_as(
            "select count(*), count(*) filter (where not ssl) \
             from pg_stat_activity join pg_stat_ssl using (pid) where usename = current_user",
        )
        .fetch_one(db.pool())
        .await
        .unwrap();
        // Reader, writer, hint; the relay's own, its listener.
        assert!(
            all >= 5 && plain == 0,
            "{user}: {plain} of {all} without TLS"
        );
        db.close().await;
    }
}

/// What a service and a relay are told, and how long that takes.
async fn told(url: &str) -> Vec<String> {
    let begun = Instant::now();
    let opened = Db::<Postgres>::open(url, OpenOptions::default()).await;
    let service = opened.err().map(|error| error.to_string());
    let source = SourceStore::<Postgres>::open(url, &name()).await;
    let relay = source.err().map(|error| {
        assert_eq!(error.remedy(), Remedy::Reconnect, "{error}");
        error.to_string()
    });
    assert!(begun.elapsed() < Duration::from_secs(4), "it hangs");
    let all = [service, relay];
    all.into_iter()
        .map(|told| told.unwrap_or_default())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_connection_is_one_sentence_and_works_once_it_is_mended() {
    let server = server().await;
    let url = server.url("alice");
    let db = Db::<Postgres>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    schema::migrate(db.pool(), &name()).await.unwrap();
    let alice = |password: &str, host: &str| server.url_of("alice", password, host, "alice");
    let other = Authority::new("somebody-else").unwrap();
    let other_ca = other.write(server.postgres().folder()).unwrap();
    let other_ca = other_ca.display().to_string();
    let ca = server.ca_file().display().to_string();
    let mut failed = Vec::new();
    let mut expect = async |what: &str, url: String, says: &str| {
        for told in told(&url).await {
            println!("{what}: {told}");
            let at = format!(":{}", server.postgres().port());
            if !told.contains(says) || !told.contains(&at) || told.contains("Zq7x") {
                failed.push(format!("{what}: no {says:?} in {told}"));
            }
        }
    };
    let wrong_ca = alice(&password("alice"), "127.0.0.1").replace(&ca, &other_ca);
    let no_ca = alice(&password("alice"), "127.0.0.1").replace(&ca, "/nowhere.pem");
    let plain = format!(
        "{}/alice?sslmode=disable",
        url.split("/alice?").next().unwrap()
    );
    for (what, url, says) in [
        (
            "password",
            alice("no-Zq7x", "127.0.0.1"),
            "refuses the password of user \"alice\"",
        ),
        (
            "authority",
            wrong_ca,
            "is signed by none of the authorities",
        ),
        (
            "authority's file",
            no_ca,
            "sslrootcert, sslcert or sslkey can't be read",
        ),
        (
            "host name",
            alice(&password("alice"), "localhost"),
            "is not made out to localhost",
        ),
        ("no TLS from us", plain, "no encryption"),
        ("no client certificate", server.url("carol"), "certificate"),
        (
            "somebody else's client certificate",
            carols_url(&server, &other, "other-carol", false),
            "refuses our certificate",
        ),
        (
            "expired client certificate",
            carols_url(&server, server.authority(), "old-carol", true),
            "refuses our certificate",
        ),
    ] {
        expect(what, url, says).await;
    }
    // What is wrong with the server stops a service that runs as well, until it is mended.
    for (what, says) in [("expired", "has expired"), ("no TLS", "offers no TLS")] {
        let (expired, tls) = (what == "expired", what != "no TLS");
        tokio::task::block_in_place(|| {
            let shown = if expired {
                Shown::Expired
            } else {
                Shown::Valid
            };
            server.show(shown).unwrap();
            server.speak_tls(tls).unwrap();
            server.end_sessions().unwrap();
        });
        let begun = Instant::now();
        while told(&url).await.iter().any(String::is_empty) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{what} has no effect"
            );
        }
        expect(what, url.clone(), says).await;
        let asked = sqlx::query("select 1").execute(db.pool()).await;
        let why = db.trouble(&asked.unwrap_err());
        assert!(why.contains(says), "{why}");
        assert!(!append(&db, 1).await, "{what}");
        tokio::task::block_in_place(|| {
            server.show(Shown::Valid).unwrap();
            server.speak_tls(true).unwrap();
        });
        let begun = Instant::now();
        while !append(&db, 1).await {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}, mended");
        }
        assert_eq!(told(&url).await, ["", ""], "{what}, mended");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

//! The words of each command. SQLite's are golden files; Postgres must say the same.

use onceward::consumer::rebuild::{Rebuilt, Report, RowDifference, TableDifference};

use crate::fixture::{SOURCES, Shop, id, onceward_in};

/// Commands whose words do not depend on the database.
fn portable() -> Vec<(&'static str, Vec<String>)> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    vec![
        ("message list", words("message list")),
        (
            "message list unpublished",
            words("message list --unpublished --source order"),
        ),
        ("message show", words(&format!("message show {}", id(11)))),
        (
            "message show unknown",
            words(&format!("message show {}", id(99))),
        ),
        ("message trace order", words("message trace order-1")),
        (
            "message trace message",
            words(&format!("message trace {}", id(21))),
        ),
        ("message trace purged", words("message trace order-7")),
        ("message trace unknown", words("message trace nothing")),
        ("inbox list", words("inbox list")),
        (
            "inbox list filtered",
            words("inbox list --state dead --key order-7"),
        ),
        (
            "consumer rebuild unknown",
            words("consumer rebuild --consumer nobody --into shadow.db"),
        ),
        (
            "consumer rebuild without its program",
            words("consumer rebuild --consumer inventory-service-group --into x --program ./none"),
        ),
        ("dead-letter list", words("dead-letter list")),
        (
            "dead-letter show inbox",
            words("dead-letter show inventory.reserve/1@6"),
        ),
        (
            "dead-letter show outbox",
            words(&format!("dead-letter show {}", id(3))),
        ),
        ("dead-letter requests", words("dead-letter requests")),
        (
            "dead-letter discard unacknowledged",
            words("dead-letter discard inventory.reserve/1@6"),
        ),
        ("saga list", words("saga list")),
        ("saga list none", words("saga list --status completed")),
        ("saga list wrong", words("saga list --status lost")),
        ("saga show", words("saga show order-1")),
        ("source check", words("source check")),
        ("verify without Kafka", words("verify")),
        ("source unknown", words("message list --source nobody")),
    ]
}

#[test]
fn each_command_says_these_words() {
    let shop = Shop::on_sqlite().with_story();
    for (name, arguments) in portable() {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        insta::assert_snapshot!(name.replace(' ', "_"), shop.onceward(&arguments).all());
    }
    insta::assert_snapshot!("status", shop.onceward(&["status"]).all());
}

#[test]
fn each_command_says_the_same_on_postgres() {
    let (sqlite, postgres) = (
        Shop::on_sqlite().with_story(),
        Shop::on_postgres().with_story(),
    );
    for (name, arguments) in portable() {
        for json in [&[][..], &["--json"]] {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let (here, there) = (
                sqlite.onceward_with(&arguments, json).all(),
                postgres.onceward_with(&arguments, json).all(),
            );
            assert_eq!(here, there, "{name}");
        }
    }
}

#[test]
fn status_differs_on_postgres_in_nothing_but_the_cursor() {
    let json = |shop: &Shop| {
        let said = shop.onceward(&["status", "--json"]);
        let mut value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        for source in value["sources"].as_array_mut().unwrap() {
            assert!(source["cursor"].is_object(), "{source}");
            source["cursor"].take();
        }
        value
    };
    let (sqlite, postgres) = (
        Shop::on_sqlite().with_story(),
        Shop::on_postgres().with_story(),
    );
    assert_eq!(json(&sqlite), json(&postgres));
}

#[test]
fn json_is_json_for_every_command() {
    let shop = Shop::on_sqlite().with_story();
    for (name, arguments) in portable() {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = shop.onceward_with(&arguments, &["--json"]);
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&said.out);
        assert!(parsed.is_ok(), "{name}: {}", said.out);
    }
}

#[test]
fn the_help_texts_are_these() {
    let here = tempfile::tempdir().unwrap();
    for command in [
        "-h",
        "message -h",
        "message list -h",
        "consumer rebuild -h",
        "dead-letter -h",
        "dead-letter discard -h",
        "saga -h",
        "saga list -h",
        "saga skip -h",
        "source -h",
        "schema migrate -h",
        "topic plan -h",
        "verify -h",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let said = onceward_in(here.path().to_owned(), &arguments);
        insta::assert_snapshot!(format!("help {command}").replace(' ', "_"), said.all());
    }
}

#[test]
fn a_missing_and_an_unmigrated_database_leave_the_others_readable() {
    let shop = Shop::on_sqlite().with_story();
    let folder = shop.folder();
    std::fs::write(folder.join("empty.db"), "").unwrap();
    let empty = format!("empty=sqlite://{}/empty.db", folder.display());
    let said = shop.onceward_with(
        &["source", "list"],
        &["--database", "gone=sqlite://gone.db", "--database", &empty],
    );
    let url = format!("{}/", folder.display());
    insta::assert_snapshot!("source_list", said.all().replace(&url, "/data/"));
    assert!(!folder.join("gone.db").exists());
}

#[test]
fn reading_creates_no_file() {
    let shop = Shop::on_sqlite().with_story();
    let files = || {
        let mut names: Vec<_> = std::fs::read_dir(shop.folder())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = files();
    for (_, arguments) in portable() {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        shop.onceward(&arguments);
    }
    assert_eq!(files(), before);
}

#[test]
fn a_database_that_is_being_written_is_read_without_waiting() {
    let shop = Shop::on_sqlite().with_story();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut writer = runtime.block_on(async {
        let pool = sqlx::SqlitePool::connect(shop.url("order")).await.unwrap();
        pool.begin_with("begin immediate").await.unwrap()
    });
    runtime.block_on(async {
        sqlx::query("delete from outbox_parked_key")
            .execute(&mut *writer)
            .await
            .unwrap();
    });
    let said = shop.onceward(&["message", "list", "--source", "order"]);
    assert_eq!(said.exit.code(), 0, "{}", said.err);
    assert!(said.out.contains("order-2"), "{}", said.out);
    runtime.block_on(writer.rollback()).unwrap();
}

#[test]
fn the_data_folder_is_found_upward_and_read_by_its_manifest() {
    let shop = Shop::on_sqlite().with_story();
    let root = tempfile::tempdir().unwrap();
    let (data, below) = (root.path().join("data"), root.path().join("a/b"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::create_dir_all(&below).unwrap();
    let sources: Vec<serde_json::Value> = SOURCES
        .iter()
        .map(|s| serde_json::json!({ "name": s, "url": shop.url(s) }))
        .collect();
    let manifest = serde_json::json!({ "format": 1, "kafka": "127.0.0.1:1",
        "relay": "http://127.0.0.1:9100", "sources": sources, "processes": [] });
    std::fs::write(data.join("onceward.json"), manifest.to_string()).unwrap();
    let said = onceward_in(below, &["message", "list", "--limit", "1"]);
    assert_eq!(
        said.out,
        shop.onceward(&["message", "list", "--limit", "1"]).out
    );
    assert_eq!(said.exit.code(), 0);
    let lost = onceward_in(std::env::temp_dir(), &["status", "--data", "/nowhere"]);
    assert_ne!(lost.exit.code(), 0);
    assert!(lost.err.contains("/nowhere"), "{}", lost.err);
}

#[test]
fn a_postgres_that_is_down_is_one_line() {
    let port = onceward_testkit::ports::Port::take().unwrap().number();
    let url = format!("order=postgres://postgres:hidden@127.0.0.1:{port}/x");
    let said = onceward_in(std::env::temp_dir(), &["status", "--database", &url]);
    assert_eq!(said.exit.code(), 3);
    assert!(
        said.err.starts_with("note: source order is left out: "),
        "{}",
        said.err
    );
    assert!(!said.all().contains("hidden"), "{}", said.err);
}

#[test]
fn a_url_that_is_refused_is_shown_without_its_password() {
    for wrong in [
        &["status", "--database", "postgres://u:hush@h/d"][..],
        &["status", "--database", "postgres://u:hush@h/d?sslmode=x"],
        &["status", "--database", "order=hush"],
        &["status", "--database", "order=postgres://h/d?pasword=hush"],
        &["status", "postgres://u:hush@h/d"],
        &[
            "schema",
            "migrate",
            "mysql://u:hush@h/d",
            "--source",
            "order",
        ],
        &["schema", "check"],
        &[
            "schema",
            "check",
            "--source",
            "order",
            "--database-file",
            "/nowhere",
        ],
    ] {
        let said = onceward_in(std::env::temp_dir(), wrong);
        assert_eq!(said.exit.code(), 64, "{wrong:?}: {}", said.all());
        assert!(!said.all().contains("hush"), "{}", said.all());
        assert!(!said.err.is_empty());
    }
}

#[test]
fn databases_may_be_named_in_a_file() {
    let shop = Shop::on_sqlite().with_story();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sources");
    let lines: Vec<String> = SOURCES
        .iter()
        .map(|s| format!("{s}={}", shop.url(s)))
        .collect();
    let list = ["message", "list", "--limit", "1", "--database-file"];
    let list: Vec<&str> = list.into_iter().chain(file.to_str()).collect();
    for separator in ["\n", ","] {
        std::fs::write(&file, lines.join(separator) + "\n").unwrap();
        let said = onceward_in(std::env::temp_dir(), &list);
        assert_eq!(said.exit.code(), 0, "{}", said.all());
        assert_eq!(
            said.out,
            shop.onceward(&["message", "list", "--limit", "1"]).out
        );
    }
    let migrate = ["schema", "migrate", "--source", "order", "--database-file"];
    let migrate: Vec<&str> = migrate.into_iter().chain(file.to_str()).collect();
    let said = onceward_in(std::env::temp_dir(), &migrate);
    assert_eq!(said.exit.code(), 0, "{}", said.all());
    assert!(said.out.contains("nothing to apply"), "{}", said.out);
    let both = onceward_in(
        std::env::temp_dir(),
        &[&list[..], &["--database", &lines[0]]].concat(),
    );
    assert_eq!(both.exit.code(), 64, "{}", both.all());
}

#[test]
fn the_report_of_a_rebuild_is_that_of_the_manual() {
    let table = |name: &str, rows, ignored: &[&str]| TableDifference {
        table: name.to_owned(),
        live_count: rows,
        rebuilt_count: rows,
        ignored: ignored.iter().map(|name| (*name).to_owned()).collect(),
        ..TableDifference::default()
    };
    let values = |live: &str, rebuilt: &str| [Some(live.to_owned()), Some(rebuilt.to_owned())];
    let differing = RowDifference {
        key: [("product_id".to_owned(), Some("product_5".to_owned()))].into(),
        columns: [
            ("stock".to_owned(), values("998", "999")),
            ("supplied".to_owned(), values("999", "1000")),
        ]
        .into(),
    };
    let report = Report {
        consumer: "inventory-service-group".to_owned(),
        rebuilt: Rebuilt {
            topic_count: 5,
            partition_count: 15,
            handled_count: 412,
            ..Rebuilt::default()
        },
        tables: vec![
            TableDifference {
                differing_count: 1,
                differing: vec![differing],
                ..table("product", 5, &["updated_at"])
            },
            table("reservation", 103, &["created_at", "updated_at"]),
        ],
    };
    let manual = include_str!("../../../docs/OPERATIONS.md");
    assert!(manual.contains(&report.to_string()), "{report}");
}

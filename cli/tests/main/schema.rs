//! Migrating by hand.

use onceward_testkit::postgres;

use crate::fixture::onceward_in;

fn migrates(url: &str) {
    let here = std::env::temp_dir();
    let run = |words: &[&str]| onceward_in(here.clone(), words);
    assert_eq!(run(&["schema", "check", url]).exit.code(), 1);
    let first = run(&["schema", "migrate", url, "--source", "order"]);
    assert_eq!(first.exit.code(), 0, "{}", first.err);
    assert_eq!(
        first.out,
        "source order\napplied 0001 outbox\napplied 0002 inbox\napplied 0003 dead letters\n"
    );
    let second = run(&["schema", "migrate", url, "--source", "order"]);
    assert_eq!(second.out, "source order\nnothing to apply\n");
    let other = run(&["schema", "migrate", url, "--source", "payment"]);
    assert_eq!(other.exit.code(), 1);
    assert!(
        other.err.contains("this database is source order"),
        "{}",
        other.err
    );
    let check = run(&["schema", "check", url]);
    assert_eq!(check.exit.code(), 0);
    assert_eq!(
        check.out,
        "0001 outbox: applied\n0002 inbox: applied\n0003 dead letters: applied\n"
    );
}

#[test]
fn migrating_says_what_it_did_and_may_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    migrates(&format!(
        "sqlite://{}",
        folder.path().join("a.db").display()
    ));
    migrates(&postgres::shared().unwrap().create_database().unwrap());
}

#[test]
fn a_name_unfit_for_topics_is_refused() {
    let said = onceward_in(
        std::env::temp_dir(),
        &[
            "schema",
            "migrate",
            "sqlite://x.db",
            "--source",
            "no spaces",
        ],
    );
    assert_eq!(said.exit.code(), 64);
    assert!(said.err.contains("source name"), "{}", said.err);
}

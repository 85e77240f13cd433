//! kill -9: what was answered is there.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};

use onceward::{Db, Tx};
use sqlx::Sqlite;

use super::{ids, insert, on_sqlite, options};

/// Names the database to the child process, which is this test binary again.
const DATABASE: &str = "ONCEWARD_TEST_CRASH_DATABASE";
/// Answers the parent waits for before it kills.
const ANSWERS: usize = 500;

#[tokio::test]
async fn every_answered_write_survives_kill_9() {
    let (_dir, url, db) = on_sqlite().await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "unit_of_work::crash::child_that_writes_until_killed",
        ])
        .args(["--ignored", "--nocapture"])
        .env(DATABASE, &url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut answered = BTreeSet::new();
    for line in stdout.lines() {
        let line = line.unwrap();
        // The line that the kill cut in two is no answer.
        let Some(id) = line
            .strip_prefix("answered ")
            .and_then(|l| l.strip_suffix('.'))
        else {
            continue;
        };
        answered.insert(id.parse::<i64>().unwrap());
        if answered.len() == ANSWERS {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(answered.len() >= ANSWERS, "{}", answered.len());
    let stored: BTreeSet<i64> = ids(&db).await.into_iter().collect();
    let lost: Vec<_> = answered.difference(&stored).collect();
    assert!(lost.is_empty(), "answered and lost: {lost:?}");
}

/// Not a test: what the test above starts.
#[tokio::test]
#[ignore = "started by every_answered_write_survives_kill_9"]
async fn child_that_writes_until_killed() {
    let Ok(url) = std::env::var(DATABASE) else {
        return;
    };
    let db = Db::<Sqlite>::open(&url, options()).await.unwrap();
    let writers = (0..16_i64).map(|writer| {
        let db = db.clone();
        tokio::spawn(async move {
            for round in 0.. {
                let id = round * 16 + writer;
                db.write(async move |tx: &mut Tx<'static, Sqlite>| insert(tx, id).await)
                    .await
                    .unwrap();
                writeln!(std::io::stdout(), "answered {id}.").unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

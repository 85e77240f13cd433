//! How a service ends.

use std::time::Duration;

use clap::Parser;
use onceward::{Db, Routing, Tx};
use skeleton::{App, Background, Routes, ServerOptions, Service, run};
use sqlx::Sqlite;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{DEFINITION, world};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: ServerOptions,
}

fn options(more: &[&str]) -> ServerOptions {
    // The database is open already; its URL is not looked at.
    let all = [
        "service",
        "--database",
        "sqlite:",
        "--listen",
        "127.0.0.1:0",
    ];
    Cli::parse_from(all.iter().chain(more)).server
}

/// Panics in whichever thread drops it.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// Makes the writer's thread drop a bomb.
async fn kill_writer(db: &Db<Sqlite>) {
    let (caller_is_gone, go) = oneshot::channel::<()>();
    let go = std::sync::Mutex::new(Some(go));
    let work = async move |_: &mut Tx<'static, Sqlite>| {
        let go = go.lock().unwrap().take();
        if let Some(go) = go {
            let _told = go.await;
        }
        Ok::<_, sqlx::Error>(Bomb)
    };
    drop(db.write(work));
    caller_is_gone.send(()).unwrap();
}

/// Runs a service with these tasks until it ends by itself, and says why it did.
async fn end_of(more: &[&str], task: fn(Db<Sqlite>) -> Option<Background>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let db = world(&dir).await.db().clone();
    let make = |app: &App<Sqlite>| {
        let service = Service::new(Routes::new());
        Ok(match task(app.db().clone()) {
            Some(task) => service.with_background(task),
            None => service,
        })
    };
    let options = options(more);
    let running = run(
        &DEFINITION,
        db,
        Routing::default(),
        &options,
        make,
        |_, _| Ok(Vec::new()),
    );
    let ended = tokio::time::timeout(Duration::from_secs(120), Box::pin(running));
    format!("{:#}", ended.await.unwrap().unwrap_err())
}

#[tokio::test]
async fn a_service_whose_writer_dies_ends_with_an_error_so_that_it_is_started_again() {
    let killer = |db: Db<Sqlite>| {
        let task = async move |stop: CancellationToken| {
            kill_writer(&db).await;
            stop.cancelled().await;
            Ok(())
        };
        Some(Background::new("killer", task))
    };
    let told = end_of(&[], killer).await;
    assert!(told.contains("database writer failed"), "{told}");
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_before_anything_starts() {
    let told = end_of(&["--max-requests", "0", "--max-uri-bytes", "9"], |_| None).await;
    assert!(told.contains("max_requests must be 1"), "{told}");
    assert!(told.contains("max_uri_bytes must be 256"), "{told}");
    let told = end_of(&["--operator-token", "hush"], |_| None).await;
    assert!(
        told.contains("16 characters") && !told.contains("hush"),
        "{told}"
    );
}

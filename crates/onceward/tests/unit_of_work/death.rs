//! The end of the writer's thread.

use std::time::Duration;

use onceward::{Tx, WriteError};
use sqlx::Sqlite;
use tokio::sync::oneshot;

use super::{on_sqlite, write};

/// Panics in whichever thread drops it.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[tokio::test]
async fn a_writer_whose_thread_died_says_so_and_takes_nothing_more() {
    let (_dir, _url, db) = on_sqlite().await;
    write(&db, 1).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_millis(50), db.ended());
    assert!(ended.await.is_err(), "it lives");
    let (caller_is_gone, go) = oneshot::channel::<()>();
    let go = std::sync::Mutex::new(Some(go));
    let work = async move |_: &mut Tx<'static, Sqlite>| {
        let go = go.lock().unwrap().take();
        if let Some(go) = go {
            let _told = go.await;
        }
        Ok::<_, sqlx::Error>(Bomb)
    };
    // Nobody takes the answer, so it is dropped where it was made: in the writer's thread.
    drop(db.write(work));
    caller_is_gone.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(120), db.ended())
        .await
        .unwrap();
    let refused = write(&db, 2).await;
    assert!(matches!(refused, Err(WriteError::Closed)), "{refused:?}");
    // The last act of a process: it does not hang.
    db.close().await;
}

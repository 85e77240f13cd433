//! The connection that writes into the source's database.
//!
//! Mirror and janitor write on a task of their own while rows go on being published: a commit there may
//! take longer than a Kafka transaction, and every row that arrives meanwhile would wait for it.

use onceward::source::{Dialect, RelayEpoch, SourceError, SourceStore};
use tokio::task::JoinHandle;

use super::{Exit, Standing};
use crate::failpoint;

/// The connection, here or away with a chore.
pub(super) struct Work<D: Dialect>(State<D>);

enum State<D: Dialect> {
    Here(Box<SourceStore<D>>),
    Away(JoinHandle<Returned<D>>),
    /// Its task died with it.
    Lost,
}

struct Returned<D: Dialect> {
    store: Box<SourceStore<D>>,
    outcome: Result<Tidied, SourceError>,
}

/// What is to be written.
pub(super) struct Tidying {
    pub(super) epoch: RelayEpoch,
    /// What is known to be committed.
    pub(super) standing: Standing,
    /// Also delete rows older than this, so many at most.
    pub(super) sweep: Option<(i64, u32)>,
}

/// What was written.
pub(super) struct Tidied {
    /// Offset of the progress that the mirror holds now.
    pub(super) mirrored: i64,
    /// Rows deleted, if the janitor was asked.
    pub(super) swept: Option<u64>,
}

impl<D: Dialect> Work<D> {
    pub(super) fn new(store: SourceStore<D>) -> Self {
        Self(State::Here(Box::new(store)))
    }

    /// The connection; waits until it is back. What came of the chore it was away with is dropped, so
    /// the chore comes again.
    pub(super) async fn store(&mut self) -> Result<&mut SourceStore<D>, Exit> {
        if let State::Away(task) = &mut self.0 {
            self.0 = match task.await {
                Ok(returned) => State::Here(returned.store),
                Err(_) => State::Lost,
            };
        }
        match &mut self.0 {
            State::Here(store) => Ok(store),
            State::Away(_) | State::Lost => {
                Err(Exit::Anew("the connection that writes was lost".into()))
            }
        }
    }

    /// Whether it is away and not done yet.
    pub(super) fn is_away(&self) -> bool {
        matches!(&self.0, State::Away(task) if !task.is_finished())
    }

    /// Whether it is away and done.
    pub(super) fn is_back(&self) -> bool {
        matches!(&self.0, State::Away(task) if task.is_finished())
    }

    /// What came of the chore, if it is done.
    pub(super) async fn back(&mut self) -> Option<Result<Tidied, SourceError>> {
        let State::Away(task) = &mut self.0 else {
            return None;
        };
        if !task.is_finished() {
            return None;
        }
        match task.await {
            Ok(returned) => {
                self.0 = State::Here(returned.store);
                Some(returned.outcome)
            }
            Err(_) => {
                // `store` tells.
                self.0 = State::Lost;
                None
            }
        }
    }

    /// Sends the connection away with a chore. One that is away already stays so.
    pub(super) fn tidy(&mut self, chore: Tidying) {
        match std::mem::replace(&mut self.0, State::Lost) {
            State::Here(mut store) => {
                self.0 = State::Away(tokio::spawn(async move {
                    let outcome = write(&mut store, chore).await;
                    Returned { store, outcome }
                }));
            }
            other => self.0 = other,
        }
    }
}

impl<D: Dialect> Drop for Work<D> {
    fn drop(&mut self) {
        // Whatever is under way is guarded by the epoch, and may happen or not.
        if let State::Away(task) = &self.0 {
            task.abort();
        }
    }
}

async fn write<D: Dialect>(
    store: &mut SourceStore<D>,
    chore: Tidying,
) -> Result<Tidied, SourceError> {
    let Tidying {
        epoch,
        standing,
        sweep,
    } = chore;
    failpoint::hit(failpoint::MIRRORING);
    store
        .write_mirror(epoch, &standing.progress, standing.place())
        .await?;
    // CRASH: died here = mirror and progress agree, or more was published since; before = the mirror
    // is older. The take-over counts the rows in between.
    failpoint::hit(failpoint::MIRRORED);
    let swept = match sweep {
        None => None,
        Some((older_than, most)) => {
            let chunk = store.purge(epoch, older_than, most).await?;
            failpoint::hit(failpoint::JANITOR_SWEPT);
            Some(chunk.deleted)
        }
    };
    Ok(Tidied {
        mirrored: standing.offset,
        swept,
    })
}

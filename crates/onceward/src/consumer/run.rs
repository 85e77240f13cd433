//! The consumer as a component: subscriber thread and loop, started and stopped together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::options::jittered;
use super::subscriber::{Control, Item, LoopEnd, line};
use super::worker::Worker;
use super::{
    ConsumerOptions, ConsumerState, Handle, Handlers, Subscriber, SubscriberError, Subscription,
};
use crate::{Backend, Clock, Db, Error, SourceId, SystemClock, metrics};

/// Handles the records of some topics exactly once in effect.
///
/// ```ignore
/// let consumer = Consumer::new(db, handlers, KafkaSubscriber::new(kafka), options);
/// let handle = consumer.handle();
/// tracker.spawn(consumer.run(stop.clone()));
/// ```
#[derive(Debug)]
pub struct Consumer<B: Backend> {
    db: Db<B>,
    handlers: Arc<Handlers<B>>,
    subscriber: Box<dyn Subscriber>,
    options: Arc<ConsumerOptions>,
    clock: Arc<dyn Clock>,
    handle: Handle,
}

impl std::fmt::Debug for dyn Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subscriber")
    }
}

/// Why a consumer could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The options don't fit; every problem is named.
    #[error("invalid options of consumer {name}: {}", .problems.join("; "))]
    Options {
        /// The consumer.
        name: String,
        /// What [`ConsumerOptions::validate`] told.
        problems: Vec<String>,
    },
    /// The database's identity could not be read (not reachable, or not migrated).
    #[error("consumer {name} can't start")]
    Start {
        /// The consumer.
        name: String,
        /// Why.
        #[source]
        source: Error,
    },
}

/// How long to wait before a subscription that failed is tried again.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

impl<B: Backend> Consumer<B> {
    /// A consumer that handles records in `db`. Nothing happens before [`Self::run`].
    pub fn new(
        db: Db<B>,
        handlers: Handlers<B>,
        subscriber: impl Subscriber,
        options: ConsumerOptions,
    ) -> Self {
        Self {
            db,
            handlers: Arc::new(handlers),
            subscriber: Box::new(subscriber),
            handle: Handle::new(options.name.clone()),
            options: Arc::new(options),
            clock: Arc::new(SystemClock),
        }
    }

    /// Takes the time from this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// A look at it, for status pages.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `stop`: then it ends the transaction it is in, leaves the group at once and
    /// returns. Trouble with Kafka or the database is waited out.
    ///
    /// # Errors
    /// [`ConsumerError::Options`] with everything that is wrong with them, [`ConsumerError::Start`] if
    /// the database can't be read at the start.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ConsumerError> {
        let ended = Ended(self.handle.clone());
        let problems = self.options.validate(self.db.write_time_limit());
        if !problems.is_empty() {
            return Err(ConsumerError::Options {
                name: self.options.name.to_string(),
                problems,
            });
        }
        let source_id = source_id(&self.db, &self.options).await?;
        let subscription = Subscription {
            group: self.options.name.clone(),
            instance_id: self.options.instance_id.clone(),
            topics: self.options.topics.clone(),
            source_id,
        };
        while !stop.is_cancelled() {
            let reason = match self.subscribe(&subscription, &stop).await {
                Ok(()) if stop.is_cancelled() => break,
                Ok(()) => "the subscriber ended by itself".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(consumer = %self.options.name, error = reason, "subscription lost");
            let labels = [("consumer", self.options.name.to_string())];
            ::metrics::counter!(metrics::SUBSCRIPTIONS_LOST, &labels).increment(1);
            self.handle.change(|status| {
                status.state = ConsumerState::Joining;
                status.partitions.clear();
                status.trouble = Some(reason);
            });
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(jittered(RESUBSCRIBE, 0.2)) => {}
            }
        }
        drop(ended);
        Ok(())
    }

    /// One subscription from joining to leaving.
    async fn subscribe(
        &mut self,
        subscription: &Subscription,
        stop: &CancellationToken,
    ) -> Result<(), SubscriberError> {
        let leave = CancellationToken::new();
        let _leave_when_dropped = leave.clone().drop_guard();
        let (mut link, end) = line(
            2 * self.options.max_batch_records,
            2 * self.options.max_batch_bytes,
            leave.clone(),
        );
        let (done, ended) = oneshot::channel();
        let failed = |doing, reason| SubscriberError { doing, reason };
        let mut subscriber = std::mem::replace(&mut self.subscriber, Box::new(Gone));
        let wanted = subscription.clone();
        let thread = std::thread::Builder::new().name(format!("consumer {}", self.options.name));
        thread
            .spawn(move || {
                let run = || subscriber.subscribe(&wanted, &mut link);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
                    .unwrap_or_else(|_| Err(failed("subscribe", "it panicked".to_owned())));
                drop(link);
                // The receiver is gone only if `run` was dropped.
                let _ = done.send((subscriber, result));
            })
            .map_err(|error| failed("thread start", error.to_string()))?;
        let worker = Worker::new(
            self.db.clone(),
            Arc::clone(&self.handlers),
            Arc::clone(&self.options),
            Arc::clone(&self.clock),
            subscription.clone(),
            self.handle.clone(),
            end.commands.clone(),
        );
        serve(worker, end, stop).await;
        leave.cancel();
        match ended.await {
            Ok((subscriber, result)) => {
                self.subscriber = subscriber;
                result
            }
            Err(_) => Err(failed("subscribe", "its thread died".to_owned())),
        }
    }
}

async fn source_id<B: Backend>(
    db: &Db<B>,
    options: &ConsumerOptions,
) -> Result<SourceId, ConsumerError> {
    let id: Result<Uuid, _> =
        sqlx::query_scalar("select source_id from outbox_source where id = 1")
            .fetch_one(db.pool())
            .await;
    id.map(SourceId).map_err(|source| ConsumerError::Start {
        name: options.name.to_string(),
        source: Error::Database {
            doing: "source lookup",
            source,
        },
    })
}

/// Until `stop`, or until the subscriber has hung up.
async fn serve<B: Backend>(mut worker: Worker<B>, mut end: LoopEnd, stop: &CancellationToken) {
    let mut items: Vec<Item> = Vec::new();
    loop {
        let room = worker.room();
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            control = end.control.recv() => match control {
                None => break,
                Some(Control::Assigned { generation, partitions, answer }) => {
                    let Some(starts) = worker.assigned(generation, partitions, stop).await else {
                        break;
                    };
                    // No receiver: the subscriber was told to stop meanwhile.
                    let _ = answer.send(starts);
                }
                Some(Control::Revoked) => worker.revoked(),
                Some(Control::LogEnd { at, offset }) => worker.log_end(&at, offset),
                Some(Control::OutOfRange { at, reason }) => worker.out_of_range(&at, reason).await,
                Some(Control::Trouble(what)) => worker.trouble(Some(what)),
                Some(Control::Refused(what)) => worker.refused(what),
                Some(Control::Well) => worker.well(),
                Some(Control::InstanceConflict) => worker.instance_conflict(),
            },
            received = end.items.recv_many(&mut items, room.max(1)), if room > 0 => {
                if received == 0 {
                    break;
                }
                end.taken(&items);
                worker.take(items.drain(..));
            }
            () = tokio::time::sleep(worker.idle_time()) => {}
        }
        worker.work().await;
    }
    worker.stop();
}

/// Marks the handle when `run` ends, however it does.
struct Ended(Handle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.change(|status| {
            status.state = ConsumerState::Stopped;
            status.partitions.clear();
        });
    }
}

/// Stands in while the subscriber is away on its thread.
struct Gone;

impl Subscriber for Gone {
    fn subscribe(&mut self, _: &Subscription, _: &mut super::Link) -> Result<(), SubscriberError> {
        Err(SubscriberError {
            doing: "subscribe",
            reason: "the subscriber was lost".to_owned(),
        })
    }
}

/// Compiles only while [`Consumer::run`] can be spawned on any database.
const _: () = {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    fn run<B: Backend>(consumer: Consumer<B>, stop: CancellationToken) {
        drop(is_send(consumer.run(stop)));
    }
    let _ = run::<sqlx::Sqlite>;
    let _ = run::<sqlx::Postgres>;
};

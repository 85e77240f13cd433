//! Sending orders at a fixed rate, whatever the answers do.
//!
//! The loop is open: order N is due at start + N / rate, and its latency counts from then, not from
//! when a client was free to send it. A shop that stands still for a second so shows in every order
//! that was due in that second ("coordinated omission" is leaving those out).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::mix::{self, Kind};
use crate::Result;

/// Longest wait for one answer; the services give up after ten seconds.
const ANSWER_AT_MOST: Duration = Duration::from_secs(15);
/// After so long from when it was due an order is not sent again.
const REPEATED_AT_MOST: Duration = Duration::from_secs(60);
/// An order that begins so much later than it was due had no free client; less is the timer's doing.
const LATE: Duration = Duration::from_millis(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What to send, and where to.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// `http://host:port/orders`
    pub(super) orders: String,
    pub(super) rate: f64,
    pub(super) count: u64,
    pub(super) clients: u32,
    pub(super) seed: u64,
    /// Makes the keys of this run differ from those of every other run.
    pub(super) run: Uuid,
}

/// An order that was sent and what became of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) kind: Kind,
    /// Its `correlation-id`, by which it is found again; also its `Idempotency-Key`.
    pub(super) key: Uuid,
    pub(super) fate: Fate,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// 201 with this id.
    Taken(Uuid),
    /// An answer that repeating does not change.
    Refused,
    /// No such answer, however often it was sent.
    Unanswered,
}

/// What was counted so far.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) sent: Vec<Sent>,
    /// Microseconds from when an order was due to its last answer.
    pub(super) latency: Histogram<u64>,
    /// Every answer, also those after which the order was sent again.
    pub(super) answers: BTreeMap<String, u64>,
    /// The text of the first refusal.
    pub(super) refusal: Option<String>,
    /// Orders that were due while all clients were waiting for an answer.
    pub(super) began_late: u64,
    pub(super) waiting: u64,
}

/// Shared by all clients.
pub(super) type Shared = Arc<Mutex<Tally>>;

pub(super) fn lock(tally: &Shared) -> MutexGuard<'_, Tally> {
    // Counters, changed one by one: a panic leaves them usable.
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A histogram of microseconds up to an hour, to 3 digits.
pub(super) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 3_600_000_000, 3)?)
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Tally {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            sent: Vec::new(),
            latency: histogram()?,
            answers: BTreeMap::new(),
            refusal: None,
            began_late: 0,
            waiting: 0,
        })
    }
}

/// Sends all orders; with `stop`, only those that are due before it. Comes back when all have their
/// last answer, and tells how long that took.
pub(super) async fn all(
    client: &Client,
    plan: &Plan,
    tally: &Shared,
    stop: &CancellationToken,
) -> Result<Duration> {
    let (start, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..plan.clients {
        let one = One {
            client: client.clone(),
            plan: plan.clone(),
            tally: tally.clone(),
            stop: stop.clone(),
        };
        let next = next.clone();
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= one.plan.count {
                    return;
                }
                let due = start + Duration::from_secs_f64(number as f64 / one.plan.rate);
                let late = due + LATE < Instant::now();
                tokio::select! {
                    biased;
                    () = one.stop.cancelled() => return,
                    () = tokio::time::sleep_until(due) => one.order(number, due, late).await,
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended?;
    }
    Ok(start.elapsed())
}

struct One {
    client: Client,
    plan: Plan,
    tally: Shared,
    stop: CancellationToken,
}

#[derive(Deserialize)]
struct Placed {
    order_id: Uuid,
}

impl One {
    async fn order(&self, number: u64, due: Instant, late: bool) {
        {
            let mut tally = lock(&self.tally);
            tally.waiting += 1;
            tally.began_late += u64::from(late);
        }
        let (kind, body) = mix::order(self.plan.seed, number);
        let key = Uuid::new_v5(&self.plan.run, &number.to_be_bytes());
        let fate = self.until_answered(&body, key, due).await;
        let mut tally = lock(&self.tally);
        tally.waiting -= 1;
        tally.latency.saturating_record(micros(due.elapsed()));
        tally.sent.push(Sent { kind, key, fate });
    }

    /// Sends the order until an answer settles it: 503 and a lost connection leave open whether it
    /// was placed, and with the same key it is safe to ask again.
    async fn until_answered(&self, body: &mix::Body, key: Uuid, due: Instant) -> Fate {
        let mut pause = FIRST_PAUSE;
        loop {
            let (name, fate) = self.send(body, key).await;
            *lock(&self.tally).answers.entry(name).or_default() += 1;
            if let Some(fate) = fate {
                return fate;
            }
            if due.elapsed() > REPEATED_AT_MOST {
                return Fate::Unanswered;
            }
            tokio::select! {
                () = self.stop.cancelled() => return Fate::Unanswered,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    /// The answer as it is counted and, unless it must be sent again, what it means.
    async fn send(&self, body: &mix::Body, key: Uuid) -> (String, Option<Fate>) {
        let request = self
            .client
            .post(&self.plan.orders)
            .header("idempotency-key", key.to_string())
            .header("correlation-id", key.to_string())
            .timeout(ANSWER_AT_MOST)
            .json(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_timeout() => return ("no answer in time".to_owned(), None),
            Err(error) if error.is_connect() => return ("connection refused".to_owned(), None),
            Err(_) => return ("connection lost".to_owned(), None),
        };
        let status = response.status();
        let name = status.as_u16().to_string();
        match status {
            StatusCode::CREATED => match response.json::<Placed>().await {
                Ok(placed) => (name, Some(Fate::Taken(placed.order_id))),
                Err(error) if error.is_decode() => {
                    self.refuse(format!("201 with a body that is none: {error}"));
                    (name, Some(Fate::Refused))
                }
                Err(_) => ("connection lost".to_owned(), None),
            },
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => (name, None),
            _ => {
                let text = response.text().await.unwrap_or_default();
                self.refuse(format!("{status}: {}", text.trim()));
                (name, Some(Fate::Refused))
            }
        }
    }

    fn refuse(&self, text: String) {
        lock(&self.tally).refusal.get_or_insert(text);
    }
}

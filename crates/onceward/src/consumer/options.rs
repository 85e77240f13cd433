//! How a consumer behaves.

use std::time::Duration;

use rand::RngExt;

use crate::{ConsumerName, Outbox, is_topic_name};

/// Settings of one consumer. [`ConsumerOptions::new`] gives the defaults named at each field.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// What deduplication is scoped to, and the Kafka consumer group.
    pub name: ConsumerName,
    /// Topics to read; one that does not exist yet is read once it appears.
    pub topics: Vec<String>,
    /// Static member id (KIP-345), one per configured instance: a restart within the session
    /// time-out then moves no partition. `None` joins as a dynamic member. Default `None`.
    pub instance_id: Option<String>,
    /// Records in one transaction, 1..=10_000. Default 1000.
    pub max_batch_records: usize,
    /// Bytes of payloads, keys and headers in one transaction, at least 1; a single record may be larger.
    /// Default 4 MiB.
    pub max_batch_bytes: usize,
    /// A transaction that has run this long takes no further records. On SQLite every other write
    /// of the process waits for it, an HTTP request's too. Default 50 ms.
    pub max_batch_time: Duration,
    /// Longest run of one handler; then it is rolled back and tried again later. A statement under way
    /// can't be taken back: if it outlasts the unit of work too, twice, that is the failed attempt. Must stay
    /// below the time a unit of work may last (1 s unless told otherwise). Default 800 ms.
    pub handler_timeout: Duration,
    /// When a message is tried again, and how often.
    pub retry: RetryPolicy,
    /// Waiting messages of one partition above which it is paused, at least 1. Default 10,000.
    pub waiting_cap: usize,
    /// Least age of a purged inbox row; a topic's own retention counts if longer. Default 7 days.
    pub retention: Duration,
    /// How often old inbox rows are purged. Default 10 minutes.
    pub janitor_interval: Duration,
    /// Least time between two idle advances of `next_offset` of one partition. Default 5 s.
    pub idle_advance_interval: Duration,
    /// How often dead-letter requests are looked for. Default 500 ms.
    pub request_interval: Duration,
    /// Where copies of dead letters are published for reading. Default `None`.
    pub dead_letter_topic: Option<DeadLetterTopic>,
}

impl ConsumerOptions {
    /// Defaults for a consumer of these topics.
    pub fn new(name: ConsumerName, topics: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            name,
            topics: topics.into_iter().map(Into::into).collect(),
            instance_id: None,
            max_batch_records: 1_000,
            max_batch_bytes: 4 << 20,
            max_batch_time: Duration::from_millis(50),
            handler_timeout: Duration::from_millis(800),
            retry: RetryPolicy::default(),
            waiting_cap: 10_000,
            retention: Duration::from_secs(7 * 24 * 3600),
            janitor_interval: Duration::from_secs(600),
            idle_advance_interval: Duration::from_secs(5),
            request_interval: Duration::from_millis(500),
            dead_letter_topic: None,
        }
    }

    /// Everything that is wrong with these settings for a [`Db`](crate::Db) whose units of work may last
    /// this long; empty if they are fit to run.
    pub fn validate(&self, write_time_limit: Duration) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |fine: bool, problem: String| {
            if !fine {
                problems.push(problem);
            }
        };
        check(!self.topics.is_empty(), "topics is empty".into());
        let dead_letters = self.dead_letter_topic.iter().map(|to| &to.topic);
        for topic in self.topics.iter().chain(dead_letters) {
            check(
                is_topic_name(topic),
                format!("Kafka does not allow the topic name {topic:?}"),
            );
        }
        check(
            (1..=10_000).contains(&self.max_batch_records),
            "max_batch_records must be 1 to 10000".into(),
        );
        check(
            self.max_batch_bytes >= 1,
            "max_batch_bytes must be at least 1".into(),
        );
        check(
            self.waiting_cap >= 1,
            "waiting_cap must be at least 1".into(),
        );
        for (name, time) in [
            ("max_batch_time", self.max_batch_time),
            ("handler_timeout", self.handler_timeout),
        ] {
            check(
                time < write_time_limit,
                format!(
                    "{name} must be below the {write_time_limit:?} that a unit of work may last"
                ),
            );
        }
        check(
            !self.handler_timeout.is_zero(),
            "handler_timeout must be more than 0".into(),
        );
        for (name, time) in [
            ("janitor_interval", self.janitor_interval),
            ("idle_advance_interval", self.idle_advance_interval),
            ("request_interval", self.request_interval),
            ("retry.first_delay", self.retry.first_delay),
            ("retry.max_delay", self.retry.max_delay),
        ] {
            check(
                time <= LONGEST_PAUSE,
                format!("{name} must be at most 365 days"),
            );
        }
        check(
            self.retry.max_attempts >= 1,
            "retry.max_attempts must be at least 1".into(),
        );
        check(
            (0.0..=1.0).contains(&self.retry.jitter),
            "retry.jitter must be 0.0 to 1.0".into(),
        );
        problems
    }
}

/// Longest delay or interval: what lies beyond is a slip, and not every clock can add it.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Publishes a readable copy of each dead letter through the outbox, in the transaction that makes
/// it one.
#[derive(Debug, Clone)]
pub struct DeadLetterTopic {
    /// The outbox of the consumer's own database.
    pub outbox: Outbox,
    /// Usually `dead_letter_queue`.
    pub topic: String,
}

/// Attempts and back-off: `first_delay`, doubled each time up to `max_delay`, each ± `jitter`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one counted; then the message is a dead letter. At least 1.
    /// Default 10.
    pub max_attempts: u32,
    /// Delay after the first attempt. Default 200 ms.
    pub first_delay: Duration,
    /// Longest delay. Default 30 s.
    pub max_delay: Duration,
    /// Part of the delay by which it varies, 0.0..=1.0. Default 0.2.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(30),
            jitter: 0.2,
        }
    }
}

impl RetryPolicy {
    /// How long to wait after `attempts` tries, or `None` when they are used up.
    pub fn delay(&self, attempts: u32, at_least: Option<Duration>) -> Option<Duration> {
        if attempts >= self.max_attempts.max(1) {
            return None;
        }
        let doubled = self
            .first_delay
            .saturating_mul(1 << attempts.saturating_sub(1).min(20))
            .min(self.max_delay);
        Some(jittered(doubled, self.jitter).max(at_least.unwrap_or_default()))
    }
}

/// `delay` varied by ± `jitter` (a part of it, 0.0..=1.0).
pub(super) fn jittered(delay: Duration, jitter: f64) -> Duration {
    let jitter = if jitter.is_finite() {
        jitter.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let varied = delay.as_secs_f64() * (1.0 - jitter + 2.0 * jitter * rand::rng().random::<f64>());
    Duration::try_from_secs_f64(varied).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WRITE_TIME_LIMIT;

    #[test]
    fn the_delay_doubles_up_to_its_maximum_and_ends_with_the_attempts() {
        let policy = RetryPolicy {
            max_attempts: 5,
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_millis(300),
            jitter: 0.0,
        };
        let delays: Vec<_> = (1..=5).map(|n| policy.delay(n, None)).collect();
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(delays, [ms(100), ms(200), ms(300), ms(300), None]);
        assert_eq!(policy.delay(1, Some(Duration::from_secs(9))), ms(9_000));
    }

    #[test]
    fn the_longest_delay_there_is_can_be_varied() {
        let policy = RetryPolicy {
            first_delay: Duration::MAX,
            max_delay: Duration::MAX,
            ..RetryPolicy::default()
        };
        assert!(policy.delay(1, None) > Some(LONGEST_PAUSE));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let name = ConsumerName::new("c").unwrap();
        assert_eq!(
            ConsumerOptions::new(name.clone(), ["t"]).validate(WRITE_TIME_LIMIT),
            [""; 0]
        );
        let wrong = ConsumerOptions {
            max_batch_records: 0,
            max_batch_bytes: 0,
            waiting_cap: 0,
            handler_timeout: Duration::from_secs(1),
            request_interval: Duration::MAX,
            retry: RetryPolicy {
                max_attempts: 0,
                first_delay: Duration::MAX,
                jitter: f64::NAN,
                ..RetryPolicy::default()
            },
            ..ConsumerOptions::new(name, ["not a topic"])
        };
        let problems = wrong.validate(WRITE_TIME_LIMIT).join("\n");
        for told in [
            "\"not a topic\"",
            "max_batch_records",
            "max_batch_bytes",
            "waiting_cap",
            "handler_timeout must be below the 1s",
            "request_interval",
            "retry.first_delay",
            "retry.max_attempts",
            "retry.jitter",
        ] {
            assert!(problems.contains(told), "{told} is missing in {problems}");
        }
        assert_eq!(problems.lines().count(), 9, "{problems}");
    }
}

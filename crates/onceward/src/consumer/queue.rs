//! What the owner of a partition knows of its queues, so that the usual record costs no query.
//!
//! Only the owner changes the rows behind it, and only under its `owner_epoch`; after anything
//! unclear the partition is claimed anew and this is read again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::TopicPartition;
use crate::trace::TraceParent;
use crate::{Backend, ConsumerName, Error, Micros, Result, Tx};

/// Which queue a message stands in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum QueueId {
    /// All of one key.
    Key(Bytes),
    /// A record without a key waits alone, by its offset.
    Alone(i64),
}

impl QueueId {
    pub(super) fn of(key: Option<&Bytes>, offset: i64) -> Self {
        key.map_or(Self::Alone(offset), |key| Self::Key(key.clone()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub offset: i64,
    pub attempts: u32,
    pub due_at: Micros,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Offsets of dead letters; while there is one, nothing behind it is tried.
    dead: Vec<i64>,
    waiting: VecDeque<Waiting>,
}

/// All queues of one partition.
#[derive(Debug, Default)]
pub(super) struct Queues {
    by_id: BTreeMap<QueueId, Queue>,
    /// Those whose head was not tried since the claim: it may be what ended the process before. With the
    /// span of the batch that it came in.
    untried: BTreeMap<QueueId, Option<TraceParent>>,
}

impl Queues {
    /// Reads the queues of a partition that was just claimed in this transaction.
    pub(super) async fn load<B: Backend>(
        tx: &mut Tx<'_, B>,
        consumer: &ConsumerName,
        at: &TopicPartition,
    ) -> Result<Self> {
        let mut queues = Self::default();
        let waiting: Vec<(i64, Option<Vec<u8>>, i32, i64)> = sqlx::query_as(
            "select record_offset, message_key, attempts, due_at from inbox_waiting \
             where consumer = $1 and topic = $2 and partition = $3 order by record_offset",
        )
        .bind(consumer.as_str())
        .bind(&*at.topic)
        .bind(at.partition)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::database("waiting queue read"))?;
        for (offset, key, attempts, due_at) in waiting {
            let id = QueueId::of(key.map(Bytes::from).as_ref(), offset);
            let attempts = u32::try_from(attempts).unwrap_or(0);
            queues.untried.insert(id.clone(), None);
            queues.push(
                id,
                Waiting {
                    offset,
                    attempts,
                    due_at,
                },
            );
        }
        let dead: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "select record_offset, message_key from inbox_dead_letter where consumer = $1 and \
             topic = $2 and partition = $3 and state = 'dead' and message_key is not null",
        )
        .bind(consumer.as_str())
        .bind(&*at.topic)
        .bind(at.partition)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::database("dead letter read"))?;
        for (offset, key) in dead {
            queues.bury(QueueId::Key(key.into()), offset);
        }
        Ok(queues)
    }

    /// Whether a new record of this key must queue.
    pub(super) fn is_blocked(&self, key: Option<&Bytes>) -> bool {
        !self.by_id.is_empty()
            && key.is_some_and(|key| self.by_id.contains_key(&QueueId::Key(key.clone())))
    }

    /// Appends to a queue.
    pub(super) fn push(&mut self, id: QueueId, waiting: Waiting) {
        self.by_id.entry(id).or_default().waiting.push_back(waiting);
    }

    /// [`Self::push`] of the first message since the claim.
    pub(super) fn push_first(&mut self, id: QueueId, waiting: Waiting, batch: Option<TraceParent>) {
        self.untried.insert(id.clone(), batch);
        self.push(id, waiting);
    }

    /// The head of this queue had an outcome.
    pub(super) fn tried(&mut self, id: &QueueId) {
        self.untried.remove(id);
    }

    /// A due head that was not tried since the claim.
    pub(super) fn due_untried(
        &self,
        now: Micros,
    ) -> Option<(QueueId, Waiting, Option<TraceParent>)> {
        let due = self.untried.iter().filter_map(|(id, batch)| {
            let queue = self.by_id.get(id)?;
            let head = queue.waiting.front().filter(|_| queue.dead.is_empty())?;
            (head.due_at <= now).then(|| (id.clone(), *head, *batch))
        });
        due.min_by_key(|(_, head, _)| head.due_at)
    }

    /// A dead letter parks its key; one without a key parks nothing.
    pub(super) fn bury(&mut self, id: QueueId, offset: i64) {
        if matches!(id, QueueId::Key(_)) {
            self.by_id.entry(id).or_default().dead.push(offset);
        }
    }

    /// The dead letter at `offset` was replayed or discarded.
    pub(super) fn unbury(&mut self, id: &QueueId, offset: i64) {
        if let Some(queue) = self.by_id.get_mut(id) {
            queue.dead.retain(|dead| *dead != offset);
        }
        self.tidy(id);
    }

    /// The message at `offset`, the head of its queue, waits no more.
    pub(super) fn pop(&mut self, id: &QueueId, offset: i64) {
        if let Some(queue) = self.by_id.get_mut(id) {
            queue.waiting.retain(|waiting| waiting.offset != offset);
        }
        self.tidy(id);
    }

    /// The head waits on.
    pub(super) fn postpone(&mut self, id: &QueueId, attempts: u32, due_at: Micros) {
        let head = self
            .by_id
            .get_mut(id)
            .and_then(|queue| queue.waiting.front_mut());
        if let Some(head) = head {
            (head.attempts, head.due_at) = (attempts, due_at);
        }
    }

    fn tidy(&mut self, id: &QueueId) {
        if self
            .by_id
            .get(id)
            .is_some_and(|queue| queue.dead.is_empty() && queue.waiting.is_empty())
        {
            self.by_id.remove(id);
        }
    }

    /// Queues whose head is due, the longest due first, each with up to `depth` of its messages in
    /// order.
    pub(super) fn due(&self, now: Micros, depth: usize) -> Vec<(QueueId, Vec<Waiting>)> {
        let mut due: Vec<_> = self
            .by_id
            .iter()
            .filter(|(id, queue)| {
                !self.untried.contains_key(*id) && queue.head_due().is_some_and(|due| due <= now)
            })
            .map(|(id, queue)| {
                let first = queue.waiting.iter().take(depth);
                (id.clone(), first.copied().collect::<Vec<_>>())
            })
            .collect();
        due.sort_by_key(|(_, messages)| messages.first().map(|head| head.due_at));
        due
    }

    /// When the next head is due.
    pub(super) fn next_due(&self) -> Option<Micros> {
        self.by_id.values().filter_map(Queue::head_due).min()
    }

    /// Messages that wait.
    pub(super) fn waiting_count(&self) -> usize {
        self.by_id.values().map(|queue| queue.waiting.len()).sum()
    }

    /// Keys parked behind a dead letter.
    pub(super) fn dead_key_count(&self) -> usize {
        self.by_id
            .values()
            .filter(|queue| !queue.dead.is_empty())
            .count()
    }
}

impl Queue {
    fn head_due(&self) -> Option<Micros> {
        if self.dead.is_empty() {
            self.waiting.front().map(|head| head.due_at)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_head_parks_its_key_and_lets_the_others_go() {
        let mut queues = Queues::default();
        let key = |text: &'static str| QueueId::Key(Bytes::from_static(text.as_bytes()));
        let waiting = |offset, due_at| Waiting {
            offset,
            attempts: 1,
            due_at,
        };
        queues.push(key("a"), waiting(1, 10));
        queues.push(key("a"), waiting(4, 0));
        queues.push(key("b"), waiting(2, 20));
        queues.bury(key("c"), 3);
        queues.push(key("c"), waiting(5, 0));
        assert_eq!(queues.next_due(), Some(10));
        assert_eq!(
            queues.due(15, 9),
            [(key("a"), vec![waiting(1, 10), waiting(4, 0)])]
        );
        assert!(queues.is_blocked(Some(&Bytes::from_static(b"c"))));
        assert!(!queues.is_blocked(None));
        queues.unbury(&key("c"), 3);
        assert_eq!(queues.next_due(), Some(0));
        queues.pop(&key("c"), 5);
        assert!(!queues.is_blocked(Some(&Bytes::from_static(b"c"))));
        assert_eq!((queues.waiting_count(), queues.dead_key_count()), (3, 0));
    }
}

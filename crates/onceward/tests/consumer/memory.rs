//! A topic in memory, and a subscriber of it. It gives every partition to everybody who asks, so that
//! two consumers on it are each other's zombies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use onceward::consumer::{
    AssignedPartition, Command, Link, Record, Retention, Subscriber, SubscriberError, Subscription,
    TopicPartition,
};

#[derive(Clone)]
pub struct Log {
    pub state: Arc<Mutex<State>>,
}

pub struct State {
    pub topic_id: String,
    pub log_start: i64,
    pub retention: Retention,
    pub metadata: BTreeMap<i32, String>,
    pub partitions: Vec<Vec<Option<Record>>>,
    /// Raised to make every subscriber rebalance.
    pub rebalances: u32,
    pub paused: BTreeSet<TopicPartition>,
    pub assignments: u32,
}

pub const TOPIC: &str = "ping";

/// Of all records.
const LEADER_EPOCH: i32 = 3;

pub fn at(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: TOPIC.into(),
        partition,
    }
}

impl Log {
    pub fn new(partitions: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                topic_id: "id-1".into(),
                log_start: 0,
                retention: Retention::Time(Duration::ZERO),
                metadata: BTreeMap::new(),
                partitions: vec![Vec::new(); partitions],
                rebalances: 0,
                paused: BTreeSet::new(),
                assignments: 0,
            })),
        }
    }

    /// Appends a record; returns its offset.
    pub fn append(
        &self,
        partition: i32,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: &[(&str, &[u8])],
    ) -> i64 {
        let mut state = self.state.lock().unwrap();
        let records = &mut state.partitions[usize::try_from(partition).unwrap()];
        let offset = i64::try_from(records.len()).unwrap();
        records.push(Some(Record {
            at: at(partition),
            offset,
            leader_epoch: Some(LEADER_EPOCH),
            key: key.map(Bytes::copy_from_slice),
            payload: Bytes::copy_from_slice(payload),
            headers: headers
                .iter()
                .map(|(n, v)| ((*n).to_owned(), Bytes::copy_from_slice(v)))
                .collect(),
            defect: None,
        }));
        offset
    }

    /// An offset without a record, as a transaction marker takes it.
    pub fn append_marker(&self, partition: i32) {
        let mut state = self.state.lock().unwrap();
        state.partitions[usize::try_from(partition).unwrap()].push(None);
    }

    /// Ping `n` of key `key`, with id `id-n`.
    pub fn ping(&self, partition: i32, key: &str, n: i64) -> i64 {
        let payload = serde_json::json!({"n": n, "key": key}).to_string();
        let id = format!("id-{n}");
        self.append(
            partition,
            Some(key.as_bytes()),
            payload.as_bytes(),
            &[
                ("ce_id", id.as_bytes()),
                ("ce_source", b"test"),
                ("ce_type", b"ping.v1"),
            ],
        )
    }

    pub fn rebalance(&self) {
        self.state.lock().unwrap().rebalances += 1;
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    fn record_before(&self, partition: i32, offset: i64) -> Option<Record> {
        let index = usize::try_from(offset).unwrap().checked_sub(1)?;
        let state = self.state.lock().unwrap();
        let records = &state.partitions[usize::try_from(partition).unwrap()];
        records.get(index).cloned().flatten()
    }

    pub fn subscriber(&self) -> Reader {
        Reader { log: self.clone() }
    }

    fn facts(&self) -> Vec<AssignedPartition> {
        let state = self.state.lock().unwrap();
        (0..state.partitions.len())
            .map(|index| AssignedPartition {
                at: at(i32::try_from(index).unwrap()),
                topic_id: state.topic_id.clone(),
                log_start: state.log_start,
                log_end: i64::try_from(state.partitions[index].len()).unwrap(),
                committed_metadata: state.metadata.get(&i32::try_from(index).unwrap()).cloned(),
                retention: state.retention,
            })
            .collect()
    }
}

pub struct Reader {
    log: Log,
}

impl Subscriber for Reader {
    fn subscribe(&mut self, _: &Subscription, link: &mut Link) -> Result<(), SubscriberError> {
        let mut seen_rebalances = self.log.state.lock().unwrap().rebalances;
        let mut positions = self.assign(link);
        let mut ended = BTreeMap::new();
        while !link.is_stopping() {
            let mut idle = true;
            while let Some(command) = link.command() {
                match command {
                    Command::Commit { offsets, metadata } => self.log.change(|state| {
                        for (at, _) in offsets {
                            state.metadata.insert(at.partition, metadata.clone());
                        }
                    }),
                    Command::Pause(at) => drop(self.log.change(|s| s.paused.insert(at))),
                    Command::Resume(at) => drop(self.log.change(|s| s.paused.remove(&at))),
                    Command::Reassign => {
                        positions = self.assign(link);
                        ended.clear();
                    }
                }
            }
            if self.log.state.lock().unwrap().rebalances != seen_rebalances {
                seen_rebalances += 1;
                link.revoked();
                positions = self.assign(link);
                ended.clear();
            }
            for (at, position) in &mut positions {
                if self.log.state.lock().unwrap().paused.contains(at) {
                    continue;
                }
                let index = usize::try_from(at.partition).unwrap();
                let next = {
                    let state = self.log.state.lock().unwrap();
                    state.partitions[index]
                        .get(usize::try_from(*position).unwrap())
                        .cloned()
                };
                match next {
                    Some(None) => *position += 1,
                    Some(Some(record)) => match link.offer(record) {
                        Ok(()) => *position += 1,
                        Err(_full) => continue,
                    },
                    None if ended.get(at) == Some(position) => continue,
                    None => {
                        if link.reached_end(at.clone(), *position) {
                            ended.insert(at.clone(), *position);
                        }
                    }
                }
                idle = false;
            }
            if idle {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }
}

impl Reader {
    fn assign(&self, link: &mut Link) -> BTreeMap<TopicPartition, i64> {
        self.log.change(|state| state.assignments += 1);
        let starts = link.assigned(self.log.facts()).unwrap_or_default();
        starts
            .into_iter()
            .filter_map(|start| {
                let offset = start.offset?;
                // A marker's epoch is not told, and another one would look like a lost record.
                let before = self.log.record_before(start.at.partition, offset);
                assert_eq!(start.leader_epoch, before.map(|_| LEADER_EPOCH), "{offset}");
                Some((start.at, offset))
            })
            .collect()
    }
}

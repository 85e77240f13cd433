//! What the writers know: which events were committed, which rolled back, and of which nobody can say.
//!
//! A transaction takes the next number of each key from a row in the same database, under that row's
//! lock. So whatever happened, the numbers of a key that are committed are 1, 2, 3 … without a gap,
//! and the topic must show just these, in this order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;

use onceward::Micros;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::reader::Sight;

/// One event as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, onceward::Event)]
#[event(type = "faults.happened.v1", id = key)]
pub struct Event {
    /// Which key, by number.
    pub key: u32,
    /// The how many-th of its key.
    pub number: i64,
    /// Which try to write it; a try that was rolled back is never used again.
    pub token: u64,
    /// When it was written.
    pub written: Micros,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            number,
            token,
            written,
        } = self;
        write!(f, "{key} {number} {token} {written}")
    }
}

impl Event {
    /// Reads a payload; `None` for anything else.
    pub fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        Some(Self {
            key: words.next()?.parse().ok()?,
            number: words.next()?.parse().ok()?,
            token: words.next()?.parse().ok()?,
            written: words.next()?.parse().ok()?,
        })
    }
}

/// How a transaction ended, as its writer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// COMMIT was answered.
    Committed,
    /// It was rolled back, or broke before COMMIT was sent.
    RolledBack,
    /// COMMIT was sent, and no answer came.
    Unknown,
}

/// All writers' account.
#[derive(Debug, Default)]
pub struct Account {
    known: Mutex<HashMap<u64, (Event, End)>>,
    journal: Option<File>,
}

impl Account {
    /// One that a process keeps which is going to be killed: all is written down as it comes.
    pub fn with_journal(file: File) -> Self {
        Self {
            known: Mutex::default(),
            journal: Some(file),
        }
    }

    /// Notes that COMMIT will be sent now.
    pub fn intend(&self, events: &[Event]) {
        self.write_down('?', events);
    }

    /// Notes how the transaction of these events ended.
    pub fn note(&self, events: &[Event], end: End) {
        match end {
            End::Committed => self.write_down('+', events),
            End::RolledBack => self.write_down('-', events),
            End::Unknown => {}
        }
        let mut known = self.known();
        known.extend(events.iter().map(|event| (event.token, (*event, end))));
    }

    fn write_down(&self, mark: char, events: &[Event]) {
        if let Some(mut journal) = self.journal.as_ref() {
            let lines = events.iter().map(|event| format!("{mark} {event}\n"));
            // One write, so that nothing of it is there or all. A line that is missing makes the audit
            // fail, which is how it would be noticed.
            let _ = journal.write_all(lines.collect::<String>().as_bytes());
        }
    }

    /// Takes over what a killed process wrote down.
    pub fn merge(&self, journal: &str) -> Result<()> {
        let mut known = self.known();
        for line in journal.split_inclusive('\n') {
            let Some(line) = line.strip_suffix('\n') else {
                continue; // its writer died writing it
            };
            let (mark, event) = line.split_once(' ').context("a journal's line")?;
            let event = Event::parse(event).context("a journal's event")?;
            let end = match mark {
                "?" => End::Unknown,
                "+" => End::Committed,
                _ => End::RolledBack,
            };
            known.insert(event.token, (event, end));
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, (Event, End)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many events ended so.
    pub fn count(&self, end: End) -> u64 {
        let known = self.known();
        known.values().filter(|(_, how)| *how == end).count() as u64
    }

    /// Holds the account and the database's own last numbers against what is in the topic, all of it,
    /// in the order of each partition.
    pub fn check(&self, last_numbers: &BTreeMap<u32, i64>, seen: &[Sight]) -> Tally {
        let known = self.known();
        let mut tally = Tally::default();
        let mut tokens = HashSet::new();
        let mut keys: BTreeMap<u32, KeySeen> = BTreeMap::new();
        for sight in seen {
            let Some(event) = sight.event else {
                tally.made_up += 1;
                tally.tell(|| format!("a record that nobody wrote: {sight}"));
                continue;
            };
            match known.get(&event.token) {
                Some((written, End::Committed | End::Unknown)) if *written == event => {}
                Some((_, End::RolledBack)) => {
                    tally.made_up += 1;
                    tally.tell(|| format!("rolled back, and published: {sight}"));
                }
                _ => {
                    tally.made_up += 1;
                    tally.tell(|| format!("written by nobody so: {sight}"));
                }
            }
            tokens.insert(event.token);
            let key = keys.entry(event.key).or_default();
            if *key.partition.get_or_insert(sight.partition) != sight.partition {
                tally.reordered += 1;
                tally.tell(|| format!("in another partition than others of its key: {sight}"));
            }
            if !key.numbers.insert(event.number) {
                tally.doubled += 1;
                tally.tell(|| format!("published before: {sight}"));
            } else if event.number < key.last {
                tally.reordered += 1;
                tally.tell(|| format!("behind number {} of its key: {sight}", key.last));
            }
            key.last = key.last.max(event.number);
        }
        for (key, last) in last_numbers {
            let numbers = keys.entry(*key).or_default();
            for number in 1..=*last {
                if !numbers.numbers.contains(&number) {
                    tally.lost += 1;
                    tally.tell(|| format!("number {number} of key {key} is not in the topic"));
                }
            }
            if numbers.last > *last {
                tally.made_up += 1;
                tally.tell(|| format!("key {key} goes to {}, not to {last}", numbers.last));
            }
        }
        for (token, (event, end)) in known.iter() {
            let there = last_numbers.get(&event.key).copied().unwrap_or(0) >= event.number;
            if *end == End::Committed && !tokens.contains(token) && !there {
                // Not the relay's doing, but a loss all the same.
                tally.lost += 1;
                tally.tell(|| format!("committed, and gone from the database: {event}"));
            }
        }
        tally
    }
}

#[derive(Debug, Default)]
struct KeySeen {
    partition: Option<i32>,
    numbers: HashSet<i64>,
    last: i64,
}

/// What does not add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Committed, and not in the topic.
    pub lost: u64,
    /// In the topic more than once, each further time.
    pub doubled: u64,
    /// Behind a later one of its key.
    pub reordered: u64,
    /// In the topic, and not committed.
    pub made_up: u64,
    /// The first of them, in words.
    pub told: Vec<String>,
}

impl Tally {
    /// Adds what was found elsewhere.
    pub fn add(&mut self, other: Self, place: &str) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.made_up += other.made_up;
        let told = other.told.into_iter();
        self.told
            .extend(told.map(|what| format!("{place}: {what}")));
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.told.len() < 10 {
            self.told.push(what());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Account, End, Event};
    use crate::reader::Sight;

    fn event(number: i64, token: u64) -> Event {
        Event {
            key: 0,
            number,
            token,
            written: 5,
        }
    }

    fn seen(offset: i64, event: Event) -> Sight {
        Sight {
            partition: 0,
            offset,
            event: Some(event),
            visible: 9,
        }
    }

    #[test]
    fn an_event_reads_back_as_it_was_written() {
        let one = event(7, 8);
        assert_eq!(Event::parse(&one.to_string()), Some(one));
        assert_eq!(Event::parse("7 8"), None);
    }

    #[test]
    fn each_way_of_being_wrong_is_counted_as_such() {
        let account = Account::default();
        account.note(&[event(1, 1), event(2, 2), event(3, 3)], End::Committed);
        account.note(&[event(4, 4)], End::RolledBack);
        account.note(&[event(4, 5)], End::Unknown);
        let last = BTreeMap::from([(0, 3)]);
        let all = [
            seen(0, event(1, 1)),
            seen(1, event(2, 2)),
            seen(2, event(3, 3)),
        ];
        assert_eq!(account.check(&last, &all), Default::default());
        let count = |records: &[Sight]| {
            let tally = account.check(&last, records);
            (tally.lost, tally.doubled, tally.reordered, tally.made_up)
        };
        assert_eq!(count(&all[..2]), (1, 0, 0, 0));
        assert_eq!(count(&[all[0], all[1], all[1], all[2]]), (0, 1, 0, 0));
        assert_eq!(count(&[all[1], all[0], all[2]]), (0, 0, 1, 0));
        let more = |one| [all[0], all[1], all[2], seen(3, one)];
        assert!(count(&more(event(4, 4))).3 > 0, "rolled back");
        assert!(count(&more(event(4, 9))).3 > 0, "of nobody");
        // The unknown one did commit.
        let last = BTreeMap::from([(0, 4)]);
        assert_eq!(account.check(&last, &more(event(4, 5))), Default::default());
        // A commit that the database itself forgot.
        let last = BTreeMap::from([(0, 2)]);
        assert_eq!(account.check(&last, &all[..2]).lost, 1);
    }
}

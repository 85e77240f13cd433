//! Topics read once, from one end to the other, in one order.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use tokio::sync::mpsc;

use super::RebuildError;
use crate::Micros;
use crate::consumer::entry::Entry;
use crate::consumer::{Record, SubscriberError, TopicPartition};

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// With the first record there ever was.
    Beginning,
    /// With the records that were published at this time or later.
    Time(Micros),
}

/// A text that is no [`Since`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither \"beginning\" nor a time such as 2026-01-02T03:04:05Z")]
pub struct InvalidSince(String);

impl FromStr for Since {
    type Err = InvalidSince;

    /// Reads `beginning`, or a time as RFC 3339 has it.
    fn from_str(text: &str) -> Result<Self, InvalidSince> {
        if text == "beginning" {
            return Ok(Self::Beginning);
        }
        let time: Result<jiff::Timestamp, _> = text.parse();
        let time = time.map_err(|_| InvalidSince(text.to_owned()))?;
        Ok(Self::Time(time.as_microsecond()))
    }
}

/// A partition, and which part of it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Which partition.
    pub at: TopicPartition,
    /// Kafka's id of the topic.
    pub topic_id: String,
    /// First offset that Kafka still has.
    pub log_start: i64,
    /// The first offset to read.
    pub start: i64,
    /// Behind the last offset to read. Everything below it is committed or aborted for good.
    pub end: i64,
}

/// Reads topics outside of any group. Kafka's lives in `onceward-kafka`. Everything may block.
pub trait History: Send + 'static {
    /// Every partition of these topics, from `since` to the end that a `read_committed` reader sees
    /// now.
    ///
    /// # Errors
    /// Kafka can't be asked, or a topic does not exist.
    fn stretches(
        &mut self,
        topics: &[String],
        since: Since,
    ) -> Result<Vec<Stretch>, SubscriberError>;

    /// Begins to read them.
    ///
    /// # Errors
    /// Kafka can't be reached.
    fn read(&self, stretches: &[Stretch]) -> Result<Box<dyn Reading + '_>, SubscriberError>;
}

/// Stretches that are being read.
pub trait Reading {
    /// The next record of the stretch at this place that a `read_committed` reader sees; `None` at
    /// its end.
    ///
    /// # Errors
    /// Kafka does not answer any more.
    fn next(&mut self, place: usize) -> Result<Option<Record>, SubscriberError>;
}

/// Where the live consumer stands in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stand {
    pub(super) topic_id: String,
    pub(super) next_offset: i64,
}

/// Cuts the stretches at where the live consumer stands.
pub(super) fn up_to(
    stretches: Vec<Stretch>,
    stands: &BTreeMap<TopicPartition, Stand>,
    since: Since,
) -> Result<Vec<Stretch>, RebuildError> {
    let cut = stretches.into_iter().map(|mut stretch| {
        let gone = |why: String| RebuildError::Gone {
            at: stretch.at.clone(),
            why,
        };
        // What the live one has never read is no part of its state.
        let Some(stand) = stands.get(&stretch.at) else {
            stretch.end = stretch.start;
            return Ok(stretch);
        };
        if stand.topic_id != stretch.topic_id {
            return Err(gone("the topic was deleted and made anew".into()));
        }
        if stand.next_offset > stretch.end {
            return Err(gone(format!(
                "the live service has read up to offset {}, and the log ends at {}",
                stand.next_offset, stretch.end
            )));
        }
        let begins_whole = match since {
            Since::Beginning => stretch.log_start == 0,
            // What was deleted may have been younger.
            Since::Time(_) => stretch.log_start == 0 || stretch.start > stretch.log_start,
        };
        if !begins_whole {
            return Err(gone(format!(
                "its log begins at offset {}, Kafka keeps the records before it no more; \
                 rebuild from a later time (--from), or keep the topic for ever (retention.ms=-1)",
                stretch.log_start
            )));
        }
        stretch.end = stand.next_offset;
        Ok(stretch)
    });
    cut.collect()
}

/// In which order the live service took its messages: a rank for each offset.
#[derive(Debug, Default)]
pub(super) struct Order(HashMap<TopicPartition, Ranks>);

#[derive(Debug, Default)]
struct Ranks {
    first: i64,
    /// 0: not known.
    of_offset: Vec<u64>,
}

impl Order {
    /// The next message that was taken. Of one partition, offsets come in no order.
    pub(super) fn push(&mut self, at: TopicPartition, offset: i64, rank: u64) {
        let ranks = self.0.entry(at).or_default();
        if ranks.of_offset.is_empty() {
            ranks.first = offset;
        }
        if offset < ranks.first {
            let more = usize::try_from(ranks.first - offset).unwrap_or(0);
            ranks.of_offset.splice(0..0, std::iter::repeat_n(0, more));
            ranks.first = offset;
        }
        let place = usize::try_from(offset - ranks.first).unwrap_or(0);
        if place >= ranks.of_offset.len() {
            ranks.of_offset.resize(place + 1, 0);
        }
        ranks.of_offset[place] = rank;
    }

    /// 0 for what the inbox does not tell any more: it came before everything else.
    fn of(&self, at: &TopicPartition, offset: i64) -> u64 {
        let ranks = self.0.get(at);
        let found = ranks.and_then(|ranks| {
            let place = usize::try_from(offset - ranks.first).ok()?;
            ranks.of_offset.get(place).copied()
        });
        found.unwrap_or_default()
    }
}

/// Reads all stretches, and hands their records over in one order.
pub(super) fn in_one_order(
    history: &impl History,
    stretches: &[Stretch],
    order: &Order,
    to: &mpsc::Sender<Entry>,
) -> Result<(), SubscriberError> {
    let mut reading = history.read(stretches)?;
    let mut next = |place: usize| {
        let stretch: &Stretch = &stretches[place];
        let record = reading.next(place)?;
        Ok::<_, SubscriberError>(record.map(|record| {
            let rank = order.of(&record.at, record.offset);
            let entry = Entry::new(record, &stretch.topic_id);
            let written = entry.envelope.occurred_at.unwrap_or_default();
            ((rank, written), entry)
        }))
    };
    let mut heads = (0..stretches.len())
        .map(&mut next)
        .collect::<Result<Vec<_>, _>>()?;
    loop {
        let keys = heads.iter().enumerate();
        let keys = keys.filter_map(|(place, head)| Some((head.as_ref()?.0, place)));
        let Some((_, place)) = keys.min() else {
            return Ok(());
        };
        let Some((_, entry)) = std::mem::replace(&mut heads[place], next(place)?) else {
            return Ok(());
        };
        // Closed: the other end has failed, and says why.
        if to.blocking_send(entry).is_err() {
            return Ok(());
        }
    }
}

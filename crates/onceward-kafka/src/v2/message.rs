//! The few requests a transactional producer needs, each in the one version it is used in: the
//! newest that every broker with transactions V2 (Kafka 4.0 and later) has.
//!
//! Written by hand: the codec crate that covers the whole protocol reserves memory for counts as they
//! come from the wire, copies records once more, and is 83,000 lines to compile.

use super::codec::{Malformed, Put, Reader};

/// A request and how its answer is read.
pub(super) trait Request {
    /// Kafka's number of this kind of request.
    const KEY: i16;
    /// The version used.
    const VERSION: i16;
    /// Whether request and answer have tagged fields, their headers included.
    const TAGGED: bool = true;
    /// The answer.
    type Answer;

    /// Writes the fields.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads the answer's fields.
    fn read(answer: &mut Reader<'_>) -> Result<Self::Answer, Malformed>;
}

/// What a broker can do.
pub(super) struct ApiVersions;

#[derive(Debug, Default)]
pub(super) struct Abilities {
    pub(super) error: i16,
    /// Kind of request, lowest and highest version.
    pub(super) versions: Vec<(i16, i16, i16)>,
    /// The finalized level of `transaction.version`.
    pub(super) transaction_version: i16,
}

/// Kinds this producer sends, for the check of a broker's abilities.
pub(super) const NEEDED: &[(&str, i16, i16)] = &[
    ("Produce", 0, 12),
    needed::<Metadata<'_>>("Metadata"),
    needed::<FindCoordinator<'_>>("FindCoordinator"),
    needed::<InitProducerId<'_>>("InitProducerId"),
    needed::<EndTxn<'_>>("EndTxn"),
    needed::<DescribeTransactions<'_>>("DescribeTransactions"),
];

const fn needed<R: Request>(name: &'static str) -> (&'static str, i16, i16) {
    (name, R::KEY, R::VERSION)
}

impl Request for ApiVersions {
    const KEY: i16 = 18;
    const VERSION: i16 = 3;
    type Answer = Abilities;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_text("onceward");
        out.put_text(env!("CARGO_PKG_VERSION"));
        out.put_no_tags();
    }

    fn read(answer: &mut Reader<'_>) -> Result<Abilities, Malformed> {
        let mut abilities = Abilities {
            error: answer.i16()?,
            ..Abilities::default()
        };
        if abilities.error != 0 {
            // Answered in the oldest version, by a broker that does not know this one.
            return Ok(abilities);
        }
        abilities.versions = answer.items(|item| {
            let versions = (item.i16()?, item.i16()?, item.i16()?);
            item.skip_tagged()?;
            Ok(versions)
        })?;
        answer.skip(4)?; // throttle time
        answer.tagged(|tag, field| {
            // 2: finalized features
            if tag == 2 {
                let levels = field.items(|item| {
                    let is_it = item.text()? == Some("transaction.version");
                    let level = item.i16()?;
                    item.i16()?;
                    item.skip_tagged()?;
                    Ok(if is_it { level } else { 0 })
                })?;
                abilities.transaction_version = levels.into_iter().max().unwrap_or(0);
            }
            Ok(())
        })?;
        Ok(abilities)
    }
}

/// Brokers, and the leaders of the named topics.
pub(super) struct Metadata<'a> {
    pub(super) topics: &'a [&'a str],
}

#[derive(Debug)]
pub(super) struct ClusterMetadata {
    /// Id, host and port.
    pub(super) brokers: Vec<(i32, String, i32)>,
    pub(super) topics: Vec<TopicMetadata>,
}

#[derive(Debug)]
pub(super) struct TopicMetadata {
    pub(super) error: i16,
    pub(super) name: String,
    /// Number, error and leader.
    pub(super) partitions: Vec<(i32, i16, i32)>,
}

impl Request for Metadata<'_> {
    const KEY: i16 = 3;
    const VERSION: i16 = 12;
    type Answer = ClusterMetadata;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_count(self.topics.len());
        for topic in self.topics {
            out.extend_from_slice(&[0; 16]); // no topic id
            out.put_text(topic);
            out.put_no_tags();
        }
        out.put_bool(false); // make none
        out.put_bool(false); // no authorised operations
        out.put_no_tags();
    }

    fn read(answer: &mut Reader<'_>) -> Result<ClusterMetadata, Malformed> {
        answer.skip(4)?; // throttle time
        let brokers = answer.items(|item| {
            let broker = (
                item.i32()?,
                item.text()?.unwrap_or_default().to_owned(),
                item.i32()?,
            );
            item.text()?; // rack
            item.skip_tagged()?;
            Ok(broker)
        })?;
        answer.text()?; // cluster id
        answer.skip(4)?; // controller
        let topics = answer.items(|item| {
            let error = item.i16()?;
            let name = item.text()?.unwrap_or_default().to_owned();
            item.skip(16 + 1)?; // id, internal
            let partitions = item.items(|item| {
                let error = item.i16()?;
                let partition = (item.i32()?, error, item.i32()?);
                item.skip(4)?; // leader epoch
                for _ in 0..3 {
                    item.skip_i32s()?; // replicas: all, in sync, offline
                }
                item.skip_tagged()?;
                Ok(partition)
            })?;
            item.skip(4)?; // authorised operations
            item.skip_tagged()?;
            Ok(TopicMetadata {
                error,
                name,
                partitions,
            })
        })?;
        answer.skip_tagged()?;
        Ok(ClusterMetadata { brokers, topics })
    }
}

/// Which broker coordinates the transactions of an id.
pub(super) struct FindCoordinator<'a> {
    pub(super) transactional_id: &'a str,
}

#[derive(Debug)]
pub(super) struct Coordinator {
    pub(super) node: i32,
    pub(super) host: String,
    pub(super) port: i32,
    pub(super) error: i16,
}

impl Request for FindCoordinator<'_> {
    const KEY: i16 = 10;
    const VERSION: i16 = 4;
    type Answer = Coordinator;

    fn put(&self, out: &mut Vec<u8>) {
        out.push(1); // of a transaction
        out.put_count(1);
        out.put_text(self.transactional_id);
        out.put_no_tags();
    }

    fn read(answer: &mut Reader<'_>) -> Result<Coordinator, Malformed> {
        answer.skip(4)?; // throttle time
        let found = answer.items(|item| {
            item.text()?; // the id
            let coordinator = Coordinator {
                node: item.i32()?,
                host: item.text()?.unwrap_or_default().to_owned(),
                port: item.i32()?,
                error: item.i16()?,
            };
            item.text()?; // error message
            item.skip_tagged()?;
            Ok(coordinator)
        })?;
        answer.skip_tagged()?;
        found
            .into_iter()
            .next()
            .ok_or(Malformed("no coordinator in it"))
    }
}

/// A producer id and epoch, as Kafka gave it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProducerIdentity {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

impl ProducerIdentity {
    /// Of a producer that has none yet.
    pub(super) const NONE: Self = Self { id: -1, epoch: -1 };
}

/// A fresh epoch: fences all older producers of the id and aborts what they left open.
pub(super) struct InitProducerId<'a> {
    pub(super) transactional_id: &'a str,
    pub(super) transaction_timeout_ms: i32,
    pub(super) current: ProducerIdentity,
}

/// Error code and identity.
pub(super) type Identified = (i16, ProducerIdentity);

impl Request for InitProducerId<'_> {
    const KEY: i16 = 22;
    const VERSION: i16 = 5;
    type Answer = Identified;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_text(self.transactional_id);
        out.put_i32(self.transaction_timeout_ms);
        out.put_i64(self.current.id);
        out.put_i16(self.current.epoch);
        out.put_no_tags();
    }

    fn read(answer: &mut Reader<'_>) -> Result<Identified, Malformed> {
        identified(answer)
    }
}

/// Commits or aborts; the answer carries the identity for the next transaction.
pub(super) struct EndTxn<'a> {
    pub(super) transactional_id: &'a str,
    pub(super) producer: ProducerIdentity,
    pub(super) commit: bool,
}

impl Request for EndTxn<'_> {
    const KEY: i16 = 26;
    const VERSION: i16 = 5;
    type Answer = Identified;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_text(self.transactional_id);
        out.put_i64(self.producer.id);
        out.put_i16(self.producer.epoch);
        out.put_bool(self.commit);
        out.put_no_tags();
    }

    fn read(answer: &mut Reader<'_>) -> Result<Identified, Malformed> {
        identified(answer)
    }
}

fn identified(answer: &mut Reader<'_>) -> Result<Identified, Malformed> {
    answer.skip(4)?; // throttle time
    let error = answer.i16()?;
    let identity = ProducerIdentity {
        id: answer.i64()?,
        epoch: answer.i16()?,
    };
    answer.skip_tagged()?;
    Ok((error, identity))
}

/// How far a transaction is.
pub(super) struct DescribeTransactions<'a> {
    pub(super) transactional_id: &'a str,
}

/// Error code, and whether the markers of the last transaction are still being written.
pub(super) type Described = (i16, bool);

impl Request for DescribeTransactions<'_> {
    const KEY: i16 = 65;
    const VERSION: i16 = 0;
    type Answer = Described;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_count(1);
        out.put_text(self.transactional_id);
        out.put_no_tags();
    }

    fn read(answer: &mut Reader<'_>) -> Result<Described, Malformed> {
        answer.skip(4)?; // throttle time
        // Of one id only; what follows its state is of no interest.
        if answer.count()? == 0 {
            return Err(Malformed("no transaction in it"));
        }
        let error = answer.i16()?;
        answer.text()?; // the id
        let state = answer.text()?.unwrap_or_default();
        Ok((error, state.starts_with("Prepare")))
    }
}

/// Names the mechanism that follows.
pub(super) struct SaslHandshake<'a> {
    pub(super) mechanism: &'a str,
}

impl Request for SaslHandshake<'_> {
    const KEY: i16 = 17;
    const VERSION: i16 = 1;
    const TAGGED: bool = false;
    /// Error code and the mechanisms the broker has.
    type Answer = (i16, Vec<String>);

    fn put(&self, out: &mut Vec<u8>) {
        out.put_classic_text(self.mechanism);
    }

    fn read(answer: &mut Reader<'_>) -> Result<Self::Answer, Malformed> {
        let error = answer.i16()?;
        let known = answer.classic_items(|item| Ok(item.classic_text()?.to_owned()))?;
        Ok((error, known))
    }
}

/// One step of the mechanism.
pub(super) struct SaslAuthenticate<'a> {
    pub(super) bytes: &'a [u8],
}

pub(super) struct SaslStep {
    pub(super) error: i16,
    pub(super) message: String,
    pub(super) bytes: Vec<u8>,
    /// After this the broker wants to be asked anew; 0 for never.
    pub(super) lifetime_ms: i64,
}

impl Request for SaslAuthenticate<'_> {
    const KEY: i16 = 36;
    const VERSION: i16 = 2;
    type Answer = SaslStep;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.bytes);
        out.put_no_tags();
    }

    fn read(answer: &mut Reader<'_>) -> Result<SaslStep, Malformed> {
        let step = SaslStep {
            error: answer.i16()?,
            message: answer.text()?.unwrap_or_default().to_owned(),
            bytes: answer.bytes()?.unwrap_or_default().to_owned(),
            lifetime_ms: answer.i64()?,
        };
        answer.skip_tagged()?;
        Ok(step)
    }
}

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchAnswer {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) error: i16,
    pub(super) base_offset: i64,
    /// Index in the batch of the first record that is to blame, where Kafka names one.
    pub(super) culprit: Option<usize>,
    pub(super) message: String,
}

/// Reads the answer to a Produce; its request is written by [`super::produce`].
pub(super) fn read_produced(answer: &mut Reader<'_>) -> Result<Vec<BatchAnswer>, Malformed> {
    let topics = answer.items(|item| {
        let topic = item.text()?.unwrap_or_default().to_owned();
        let batches = item.items(|item| {
            let (partition, error, base_offset) = (item.i32()?, item.i16()?, item.i64()?);
            item.skip(8 + 8)?; // append time, log start
            let culprits = item.items(|item| {
                let index = item.i32()?;
                item.text()?;
                item.skip_tagged()?;
                Ok(usize::try_from(index).unwrap_or(0))
            })?;
            let message = item.text()?.unwrap_or_default().to_owned();
            item.skip_tagged()?;
            Ok(BatchAnswer {
                topic: topic.clone(),
                partition,
                error,
                base_offset,
                culprit: culprits.into_iter().min(),
                message,
            })
        })?;
        item.skip_tagged()?;
        Ok(batches)
    })?;
    answer.skip(4)?; // throttle time
    answer.skip_tagged()?;
    Ok(topics.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hostile or broken broker may send anything. What is read must end, without a panic and without
    /// memory for what is not there.
    #[test]
    fn no_answer_makes_it_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..20_000_usize {
            let length = usize::try_from(random() % 200).unwrap();
            let mut bytes: Vec<u8> = (0..length).map(|_| random().to_le_bytes()[0]).collect();
            if round % 2 == 0 {
                // Mostly zeros and large lengths come further than noise.
                for byte in &mut bytes {
                    *byte = [0, 0, 0, 2, 0xff][usize::from(*byte) % 5];
                }
            }
            let _ = ApiVersions::read(&mut Reader::new(&bytes));
            let _ = Metadata::read(&mut Reader::new(&bytes));
            let _ = FindCoordinator::read(&mut Reader::new(&bytes));
            let _ = identified(&mut Reader::new(&bytes));
            let _ = DescribeTransactions::read(&mut Reader::new(&bytes));
            let _ = SaslHandshake::read(&mut Reader::new(&bytes));
            let _ = SaslAuthenticate::read(&mut Reader::new(&bytes));
            let _ = read_produced(&mut Reader::new(&bytes));
            let _ = Reader::new(&bytes).skip_tagged();
        }
    }
}

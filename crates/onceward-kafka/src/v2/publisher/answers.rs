//! What brokers answer to the batches of one transaction, and which refusal counts.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::v2::cluster::Cluster;
use crate::v2::codec::Malformed;
use crate::v2::connection::WireError;
use crate::v2::fault::{Code, Kind};
use crate::v2::message::{BatchAnswer, read_produced};
use crate::v2::produce::{Lanes, Sent, SentBatch};

/// Why the transaction must be aborted, or worse.
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) batch: SentBatch,
    /// Index in the transaction of the record that is to blame, or the first of the batch.
    pub(super) record: usize,
}

/// What the answers said so far.
#[derive(Default)]
pub(super) struct Answers {
    /// Index and offset of the highest record known to be stored.
    pub(super) last: Option<(usize, i64)>,
    pub(super) failure: Option<Failure>,
    /// Partitions of which a batch was refused: those behind it are out of sequence, and say so.
    broken: BTreeSet<usize>,
}

impl Answers {
    fn fail(&mut self, failure: Failure) {
        // What concerns the producer outranks what concerns a record, that what may pass; then the
        // lowest record is the suspect.
        let rank = |failure: &Failure| {
            let rank = match failure.code.kind() {
                Kind::Fenced => 0,
                Kind::Lost => 1,
                Kind::TooLarge | Kind::Record | Kind::Topic | Kind::Configuration => 2,
                Kind::Moved => 3,
                Kind::Outage | Kind::Coordinator => 4,
            };
            (rank, failure.record)
        };
        if self
            .failure
            .as_ref()
            .is_none_or(|known| rank(&failure) < rank(known))
        {
            self.failure = Some(failure);
        }
    }
}

/// Receives the answer to the oldest request of a broker.
pub(super) async fn receive(
    cluster: &mut Cluster,
    lanes: &Lanes,
    sent: &Sent,
    answers: &mut Answers,
    until: Instant,
) -> Result<(), WireError> {
    let connection = cluster.connection(sent.broker).ok_or_else(gone)?;
    let mut reader = connection.receive(true, until).await?;
    let produced = read_produced(&mut reader);
    let produced = produced.map_err(|source| connection.malformed(source))?;
    for batch in &sent.batches {
        let is_it = |answer: &&BatchAnswer| {
            lanes.place(batch).is_some_and(|(topic, partition)| {
                topic == answer.topic && partition == answer.partition
            })
        };
        let answer = produced.iter().find(is_it).ok_or_else(gone)?;
        match Code::of(answer.error) {
            None => {
                let last = lanes.record(batch, usize::MAX);
                let offset = answer.base_offset;
                if answers.last.is_none_or(|(known, _)| known < last) {
                    answers.last = Some((last, offset));
                }
            }
            Some(_) if !answers.broken.insert(batch.lane) => {}
            Some(code) => answers.fail(Failure {
                code,
                message: answer.message.clone(),
                batch: *batch,
                record: lanes.record(batch, answer.culprit.unwrap_or(0)),
            }),
        }
    }
    Ok(())
}

/// A broker did not say what became of a batch.
pub(super) fn gone() -> WireError {
    WireError::Malformed {
        peer: "Kafka".into(),
        source: Malformed("a batch has no answer"),
    }
}

//! The events of a group consumer, read from librdkafka's queue. The safe wrapper drops what the
//! consumer protocol needs: the topic and the offset at which a partition ended, the partition that
//! an error belongs to; and it panics on header names that are not UTF-8.
#![expect(
    unsafe_code,
    reason = "calls librdkafka's C functions that the safe wrapper hides"
)]

use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onceward::consumer::{Record, TopicPartition};
use rdkafka::TopicPartitionList;
use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;

use crate::ffi::text;

/// What a poll gave.
#[derive(Debug)]
pub(crate) enum Event {
    /// Nothing within the time, or nothing of interest.
    Nothing,
    /// The next record of its partition.
    Record(Record),
    /// Everything below the offset was delivered, and nothing stands at it yet.
    End { at: TopicPartition, offset: i64 },
    /// The group assigned exactly these.
    Assign(Vec<TopicPartition>),
    /// All partitions are taken away.
    Revoke,
    /// The rebalance failed.
    RebalanceFailed(RDKafkaErrorCode),
    /// Something went wrong, with a partition or in general; after a fatal error the client is of
    /// no more use.
    Failed {
        at: Option<TopicPartition>,
        code: RDKafkaErrorCode,
        text: String,
        fatal: bool,
    },
    /// librdkafka's statistics, JSON.
    Statistics(String),
}

/// Reads a consumer's events; nobody else may poll it meanwhile.
pub(crate) struct Events<'c, C: ConsumerContext> {
    consumer: &'c BaseConsumer<C>,
    queue: *mut c::rd_kafka_queue_t,
    /// The last topic's name, shared by its records.
    topic: Arc<str>,
}

impl<'c, C: ConsumerContext> Events<'c, C> {
    /// `None` if the consumer has no group.
    pub(crate) fn of(consumer: &'c BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the client lives as long as `consumer`, which outlives `self`. The queue is a
        // reference of our own, given back in `drop`.
        let queue = unsafe { c::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        (!queue.is_null()).then(|| Self {
            consumer,
            queue,
            topic: "".into(),
        })
    }

    /// The records, the end and the errors of one assigned partition, which then come by no other
    /// queue. `None` if there can be no such topic.
    pub(crate) fn of_partition(consumer: &'c BaseConsumer<C>, at: &TopicPartition) -> Option<Self> {
        let topic = CString::new(&*at.topic).ok()?;
        let client = consumer.client().native_ptr();
        // SAFETY: as above; the name is only read during the call. A queue that is forwarded
        // nowhere keeps its events until they are polled.
        let queue = unsafe {
            let queue = c::rd_kafka_queue_get_partition(client, topic.as_ptr(), at.partition);
            if !queue.is_null() {
                c::rd_kafka_queue_forward(queue, ptr::null_mut());
            }
            queue
        };
        (!queue.is_null()).then(|| Self {
            consumer,
            queue,
            topic: "".into(),
        })
    }

    /// The consumer whose events these are.
    pub(crate) fn consumer(&self) -> &'c BaseConsumer<C> {
        self.consumer
    }

    /// Waits up to `timeout` for the next event.
    pub(crate) fn poll(&mut self, timeout: Duration) -> Event {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is ours and alive. A non-null event is ours until it is destroyed, once,
        // after everything in it has been copied.
        unsafe {
            let event = c::rd_kafka_queue_poll(self.queue, timeout_ms);
            if event.is_null() {
                return Event::Nothing;
            }
            let read = self.read(event);
            c::rd_kafka_event_destroy(event);
            read
        }
    }

    /// SAFETY: `event` is a live event of our queue.
    unsafe fn read(&mut self, event: *mut c::rd_kafka_event_t) -> Event {
        // SAFETY: all pointers read here belong to the event.
        unsafe {
            match c::rd_kafka_event_type(event) {
                c::RD_KAFKA_EVENT_FETCH => match c::rd_kafka_event_message_next(event).as_ref() {
                    Some(message) => self.record(message),
                    None => Event::Nothing,
                },
                c::RD_KAFKA_EVENT_REBALANCE => {
                    match RDKafkaErrorCode::from(c::rd_kafka_event_error(event)) {
                        RDKafkaErrorCode::AssignPartitions => Event::Assign(partitions(event)),
                        RDKafkaErrorCode::RevokePartitions => Event::Revoke,
                        code => Event::RebalanceFailed(code),
                    }
                }
                c::RD_KAFKA_EVENT_ERROR => error(event),
                c::RD_KAFKA_EVENT_STATS => Event::Statistics(text(c::rd_kafka_event_stats(event))),
                _ => Event::Nothing,
            }
        }
    }

    /// SAFETY: `message` belongs to a live event.
    unsafe fn record(&mut self, message: &c::rd_kafka_message_t) -> Event {
        // SAFETY: pointers and lengths in a message belong together, and to the event.
        unsafe {
            let topic = c::rd_kafka_topic_name(message.rkt);
            if CStr::from_ptr(topic).to_bytes() != self.topic.as_bytes() {
                self.topic = text(topic).into();
            }
            let (headers, defect) = headers(message);
            Event::Record(Record {
                at: TopicPartition {
                    topic: Arc::clone(&self.topic),
                    partition: message.partition,
                },
                offset: message.offset,
                leader_epoch: Some(c::rd_kafka_message_leader_epoch(message))
                    .filter(|epoch| *epoch >= 0),
                key: bytes(message.key, message.key_len),
                payload: bytes(message.payload, message.len).unwrap_or_default(),
                headers,
                defect,
            })
        }
    }
}

impl<C: ConsumerContext> Drop for Events<'_, C> {
    fn drop(&mut self) {
        // SAFETY: our own reference, given back once.
        unsafe { c::rd_kafka_queue_destroy(self.queue) }
    }
}

/// Lets the broker check, before anything is read from there, that the record before the listed
/// offset is still the one of this leader epoch (KIP-320). A partition that is not listed is left out.
pub(crate) fn set_leader_epoch(list: &mut TopicPartitionList, at: &TopicPartition, epoch: i32) {
    let Ok(topic) = CString::new(&*at.topic) else {
        return;
    };
    // SAFETY: the list lives as long as the borrow; its element belongs to it, and the name is only
    // read during the call.
    unsafe {
        let found = c::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), at.partition);
        if !found.is_null() {
            c::rd_kafka_topic_partition_set_leader_epoch(found, epoch);
        }
    }
}

/// SAFETY: `message` belongs to a live event.
unsafe fn headers(message: &c::rd_kafka_message_t) -> (Vec<(String, Bytes)>, Option<String>) {
    let (mut found, mut defect) = (Vec::new(), None);
    // SAFETY: names are C strings, values come with their lengths, all owned by the message.
    unsafe {
        let mut list = ptr::null_mut();
        match RDKafkaErrorCode::from(c::rd_kafka_message_headers(message, &mut list)) {
            RDKafkaErrorCode::NoError => {}
            RDKafkaErrorCode::NoEnt => return (found, None),
            code => return (found, Some(format!("headers can't be read: {code}"))),
        }
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        let ok = c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        while c::rd_kafka_header_get_all(list, found.len(), &mut name, &mut value, &mut size) == ok
        {
            let name = CStr::from_ptr(name).to_string_lossy();
            if matches!(name, std::borrow::Cow::Owned(_)) {
                defect = Some(format!("header name {name:?} is not UTF-8"));
            }
            let value = bytes(value, size).unwrap_or_default();
            found.push((name.into_owned(), value));
        }
    }
    (found, defect)
}

/// SAFETY: `event` is a live rebalance event.
unsafe fn partitions(event: *mut c::rd_kafka_event_t) -> Vec<TopicPartition> {
    // SAFETY: the list and its elements belong to the event; the count comes with them.
    unsafe {
        let Some(list) = c::rd_kafka_event_topic_partition_list(event).as_ref() else {
            return Vec::new();
        };
        let count = usize::try_from(list.cnt).unwrap_or(0);
        (0..count)
            .map(|i| {
                let element = &*list.elems.add(i);
                TopicPartition {
                    topic: text(element.topic).into(),
                    partition: element.partition,
                }
            })
            .collect()
    }
}

/// SAFETY: `event` is a live error event.
unsafe fn error(event: *mut c::rd_kafka_event_t) -> Event {
    // SAFETY: the topic partition is ours until it is destroyed, once, after it has been copied.
    unsafe {
        let code = RDKafkaErrorCode::from(c::rd_kafka_event_error(event));
        let fatal = c::rd_kafka_event_error_is_fatal(event) != 0;
        let at = c::rd_kafka_event_topic_partition(event);
        let found = at.as_ref().map(|found| {
            let at = TopicPartition {
                topic: text(found.topic).into(),
                partition: found.partition,
            };
            (at, found.offset)
        });
        if !at.is_null() {
            c::rd_kafka_topic_partition_destroy(at);
        }
        match (code, found) {
            (RDKafkaErrorCode::PartitionEOF, Some((at, offset))) => Event::End { at, offset },
            (RDKafkaErrorCode::PartitionEOF, None) => Event::Nothing,
            (code, found) => Event::Failed {
                at: found.map(|(at, _)| at),
                code,
                text: text(c::rd_kafka_event_error_string(event)),
                fatal,
            },
        }
    }
}

/// SAFETY: null, or `length` bytes that live during the call.
unsafe fn bytes(pointer: *const c_void, length: usize) -> Option<Bytes> {
    // SAFETY: as above.
    (!pointer.is_null())
        .then(|| unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), length) })
        .map(Bytes::copy_from_slice)
}

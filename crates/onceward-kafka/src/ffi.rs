//! What librdkafka can and its Rust wrapper can't: topic ids, at which offset a partition ended, and
//! whether a member has left its group.
//!
//! Unsafe code stands here and in [`crate::events`], nowhere else.
#![expect(
    unsafe_code,
    reason = "calls librdkafka's C functions that the safe wrapper lacks"
)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;

/// A topic as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicDescription {
    /// Base64, as Kafka's own tools print it.
    pub(crate) id: String,
    pub(crate) partitions: Vec<PartitionDescription>,
}

/// One partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionDescription {
    pub(crate) partition: i32,
    /// `None` while it has no leader.
    pub(crate) leader: Option<i32>,
    pub(crate) replica_count: usize,
    pub(crate) in_sync_count: usize,
}

/// A topic's name and what was told of it.
pub(crate) type Named<T> = (String, Result<T, RDKafkaErrorCode>);

/// A topic's settings by name; those without a value are left out.
pub(crate) type Settings = BTreeMap<String, String>;

/// The id of a broker that answers: an admin call without one goes to what the client last heard was the
/// controller, and waits for that broker to come back if it is gone. Creates no topic.
pub(crate) fn answering_broker<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<i32, RDKafkaErrorCode> {
    // The first answer to a client is from a broker whose id it does not know yet.
    for _ in 0..3 {
        match client.fetch_metadata(Some(topic), timeout) {
            Ok(answer) if answer.orig_broker_id() >= 0 => return Ok(answer.orig_broker_id()),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Err(RDKafkaErrorCode::OperationTimedOut)
}

fn c_names(names: &[String]) -> Result<Vec<CString>, RDKafkaErrorCode> {
    let names = names.iter().map(|name| CString::new(name.as_str()));
    names
        .collect::<Result<_, _>>()
        .map_err(|_| RDKafkaErrorCode::InvalidTopic)
}

/// Topics by name, each described or with its own error; none is created by asking.
pub(crate) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    timeout: Duration,
) -> Result<Vec<Named<TopicDescription>>, RDKafkaErrorCode> {
    let Some(first) = names.first() else {
        return Ok(Vec::new());
    };
    let texts = c_names(names)?;
    let mut pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let operation = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: the collection is made here, non-null by librdkafka's contract, copies the names, and is
    // freed once, after the call. The event that is read is the answer to this call.
    unsafe {
        let topics = c::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), names.len());
        let ask = |rk, options, queue| c::rd_kafka_DescribeTopics(rk, topics, options, queue);
        let answer = call(client, first, operation, timeout, ask, |event| {
            read_descriptions(event)
        });
        c::rd_kafka_TopicCollection_destroy(topics);
        answer
    }
}

/// The settings of topics by name, or each one's own error, which the wrapper's call swallows.
pub(crate) fn describe_settings<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    timeout: Duration,
) -> Result<Vec<Named<Settings>>, RDKafkaErrorCode> {
    let Some(first) = names.first() else {
        return Ok(Vec::new());
    };
    let texts = c_names(names)?;
    let operation = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
    let kind = c::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
    // SAFETY: the resources are made here, non-null by librdkafka's contract, copy the names, and are
    // freed once, after the call. The event that is read is the answer to this call.
    unsafe {
        let mut resources: Vec<*mut c::rd_kafka_ConfigResource_t> = texts
            .iter()
            .map(|name| c::rd_kafka_ConfigResource_new(kind, name.as_ptr()))
            .collect();
        let (array, count) = (resources.as_mut_ptr(), resources.len());
        let ask =
            |rk, options, queue| c::rd_kafka_DescribeConfigs(rk, array, count, options, queue);
        let answer = call(client, first, operation, timeout, ask, |event| {
            read_settings(event)
        });
        c::rd_kafka_ConfigResource_destroy_array(array, count);
        answer
    }
}

/// Asks a broker that answers by one admin call about `topic`, and reads its answer.
///
/// SAFETY: `ask` starts `operation` on the client, with these options and this queue, and keeps none of
/// them; `read` gets the non-null answer to it and keeps nothing of it.
unsafe fn call<C: ClientContext, T>(
    client: &Client<C>,
    topic: &str,
    operation: c::rd_kafka_admin_op_t,
    timeout: Duration,
    ask: impl FnOnce(*mut c::rd_kafka_t, *const c::rd_kafka_AdminOptions_t, *mut c::rd_kafka_queue_t),
    read: impl FnOnce(*mut c::rd_kafka_event_t) -> Result<T, RDKafkaErrorCode>,
) -> Result<T, RDKafkaErrorCode> {
    let broker = answering_broker(client, topic, timeout)?;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let rk = client.native_ptr();
    // SAFETY: `rk` lives as long as `client`, which outlives this call. Queue and options are made here,
    // non-null by librdkafka's contract, used by this thread only, and freed once, in this function.
    // The event is read before it is freed.
    unsafe {
        let queue = c::rd_kafka_queue_new(rk);
        let options = c::rd_kafka_AdminOptions_new(rk, operation);
        let mut error_text: [c_char; 256] = [0; 256];
        c::rd_kafka_AdminOptions_set_request_timeout(
            options,
            timeout_ms,
            error_text.as_mut_ptr(),
            error_text.len(),
        );
        c::rd_kafka_AdminOptions_set_broker(
            options,
            broker,
            error_text.as_mut_ptr(),
            error_text.len(),
        );
        ask(rk, options, queue);
        let event = c::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1_000));
        let answer = if event.is_null() {
            Err(RDKafkaErrorCode::OperationTimedOut)
        } else {
            match RDKafkaErrorCode::from(c::rd_kafka_event_error(event)) {
                RDKafkaErrorCode::NoError => read(event),
                error => Err(error),
            }
        };
        if !event.is_null() {
            c::rd_kafka_event_destroy(event);
        }
        c::rd_kafka_AdminOptions_destroy(options);
        c::rd_kafka_queue_destroy(queue);
        answer
    }
}

/// Sets one setting of a topic and leaves its others as they are, which the wrapper's call would reset.
/// An error of Kafka's comes with its words.
pub(crate) fn set_topic_setting<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    (setting, value): (&str, &str),
    timeout: Duration,
) -> Result<(), (RDKafkaErrorCode, String)> {
    let invalid = |_| (RDKafkaErrorCode::InvalidArgument, "a zero byte".to_owned());
    let name = CString::new(topic).map_err(invalid)?;
    let setting = CString::new(setting).map_err(invalid)?;
    let value = CString::new(value).map_err(invalid)?;
    let operation = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS;
    let set = c::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET;
    // SAFETY: the resource is made here, non-null by librdkafka's contract, copies the texts, and is
    // freed once, after the call, as is the error, which may be null. The event that is read is the
    // answer to this call, and what it says is copied.
    unsafe {
        let mut resource = c::rd_kafka_ConfigResource_new(
            c::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            name.as_ptr(),
        );
        let wrong = c::rd_kafka_ConfigResource_add_incremental_config(
            resource,
            setting.as_ptr(),
            set,
            value.as_ptr(),
        );
        let answer = if wrong.is_null() {
            let ask = |rk, options, queue| {
                c::rd_kafka_IncrementalAlterConfigs(rk, &raw mut resource, 1, options, queue);
            };
            let answer = call(client, topic, operation, timeout, ask, |event| {
                read_outcome(event)
            });
            answer.unwrap_or_else(|code| Err((code, code.to_string())))
        } else {
            let code = RDKafkaErrorCode::from(c::rd_kafka_error_code(wrong));
            let said = text(c::rd_kafka_error_string(wrong));
            c::rd_kafka_error_destroy(wrong);
            Err((code, said))
        };
        c::rd_kafka_ConfigResource_destroy(resource);
        answer
    }
}

/// What became of the one resource that was to be changed.
type SetOutcome = Result<(), (RDKafkaErrorCode, String)>;

/// SAFETY: `event` is the non-null answer of `IncrementalAlterConfigs` and is not freed meanwhile.
unsafe fn read_outcome(event: *mut c::rd_kafka_event_t) -> Result<SetOutcome, RDKafkaErrorCode> {
    // SAFETY: all pointers read here belong to the event; the count comes with its array.
    unsafe {
        let result = c::rd_kafka_event_IncrementalAlterConfigs_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::Fail);
        }
        let mut count = 0;
        let resources = c::rd_kafka_IncrementalAlterConfigs_result_resources(result, &mut count);
        if count == 0 {
            return Err(RDKafkaErrorCode::Fail);
        }
        let resource = *resources;
        Ok(
            match RDKafkaErrorCode::from(c::rd_kafka_ConfigResource_error(resource)) {
                RDKafkaErrorCode::NoError => Ok(()),
                code => Err((
                    code,
                    text(c::rd_kafka_ConfigResource_error_string(resource)),
                )),
            },
        )
    }
}

/// SAFETY: `event` is the non-null answer of `DescribeConfigs` and is not freed meanwhile.
unsafe fn read_settings(
    event: *mut c::rd_kafka_event_t,
) -> Result<Vec<Named<Settings>>, RDKafkaErrorCode> {
    // SAFETY: all pointers read here belong to the event; counts come with their arrays.
    unsafe {
        let result = c::rd_kafka_event_DescribeConfigs_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::Fail);
        }
        let mut count = 0;
        let array = c::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
        let mut found = Vec::with_capacity(count);
        for i in 0..count {
            let resource = *array.add(i);
            let name = text(c::rd_kafka_ConfigResource_name(resource));
            let settings = match RDKafkaErrorCode::from(c::rd_kafka_ConfigResource_error(resource))
            {
                RDKafkaErrorCode::NoError => Ok(read_entries(resource)),
                code => Err(code),
            };
            found.push((name, settings));
        }
        Ok(found)
    }
}

/// SAFETY: `resource` belongs to a live event and carries no error.
unsafe fn read_entries(resource: *const c::rd_kafka_ConfigResource_t) -> Settings {
    // SAFETY: all pointers read here belong to the resource; the count comes with its array.
    unsafe {
        let mut count = 0;
        let array = c::rd_kafka_ConfigResource_configs(resource, &mut count);
        (0..count)
            .filter_map(|i| {
                let entry = *array.add(i);
                let value = c::rd_kafka_ConfigEntry_value(entry);
                let name = c::rd_kafka_ConfigEntry_name(entry);
                (!value.is_null()).then(|| (text(name), text(value)))
            })
            .collect()
    }
}

/// SAFETY: `event` is the non-null answer of `DescribeTopics` and is not freed meanwhile.
unsafe fn read_descriptions(
    event: *mut c::rd_kafka_event_t,
) -> Result<Vec<Named<TopicDescription>>, RDKafkaErrorCode> {
    // SAFETY: all pointers read here belong to the event; counts come with their arrays.
    unsafe {
        let result = c::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::Fail);
        }
        let mut count = 0;
        let array = c::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let mut found = Vec::with_capacity(count);
        for i in 0..count {
            let topic = *array.add(i);
            let name = text(c::rd_kafka_TopicDescription_name(topic));
            let error = RDKafkaErrorCode::from(c::rd_kafka_error_code(
                c::rd_kafka_TopicDescription_error(topic),
            ));
            let description = if error == RDKafkaErrorCode::NoError {
                Ok(TopicDescription {
                    id: text(c::rd_kafka_Uuid_base64str(
                        c::rd_kafka_TopicDescription_topic_id(topic),
                    )),
                    partitions: read_partitions(topic),
                })
            } else {
                Err(error)
            };
            found.push((name, description));
        }
        Ok(found)
    }
}

/// SAFETY: `topic` belongs to a live event and carries no error.
unsafe fn read_partitions(
    topic: *const c::rd_kafka_TopicDescription_t,
) -> Vec<PartitionDescription> {
    // SAFETY: all pointers read here belong to the topic; counts come with their arrays.
    unsafe {
        let mut count = 0;
        let array = c::rd_kafka_TopicDescription_partitions(topic, &mut count);
        (0..count)
            .map(|i| {
                let partition = *array.add(i);
                let leader = c::rd_kafka_TopicPartitionInfo_leader(partition);
                let (mut replica_count, mut in_sync_count) = (0, 0);
                c::rd_kafka_TopicPartitionInfo_replicas(partition, &mut replica_count);
                c::rd_kafka_TopicPartitionInfo_isr(partition, &mut in_sync_count);
                PartitionDescription {
                    partition: c::rd_kafka_TopicPartitionInfo_partition(partition),
                    leader: (!leader.is_null())
                        .then(|| c::rd_kafka_Node_id(leader))
                        .filter(|id| *id >= 0),
                    replica_count,
                    in_sync_count,
                }
            })
            .collect()
    }
}

/// SAFETY: null, or a C string that lives during the call.
pub(crate) unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// Whether the consumer has no membership in its group: it never joined, or its LeaveGroup request is
/// on its way. librdkafka forgets the member id in the moment it sends that request.
pub(crate) fn has_no_member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    // SAFETY: the client lives as long as `consumer`. The metadata is ours until we free it, once,
    // after its text has been read.
    unsafe {
        let metadata = c::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return true;
        }
        let id = text(c::rd_kafka_consumer_group_metadata_member_id(metadata));
        c::rd_kafka_consumer_group_metadata_destroy(metadata);
        id.is_empty()
    }
}

/// What a poll of an assigned consumer gave.
#[derive(Debug)]
pub(crate) enum Polled {
    /// Nothing within the time.
    Nothing,
    /// A record.
    Record {
        offset: i64,
        payload: Option<Vec<u8>>,
    },
    /// The partition ended here: everything below this offset has been seen.
    End { offset: i64 },
    /// An error of the partition or the connection.
    Failed(RDKafkaErrorCode, String),
}

/// Polls a consumer that has one partition assigned. Unlike the wrapper's poll it tells the offset of
/// a partition's end, which counts transaction markers: without it "read up to the high watermark"
/// can't be known to be done.
pub(crate) fn poll<C: ConsumerContext>(consumer: &BaseConsumer<C>, timeout: Duration) -> Polled {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client lives as long as `consumer`. A non-null message is ours until we free it,
    // once, after payload and error text have been copied; payload and length belong together.
    unsafe {
        let message = c::rd_kafka_consumer_poll(consumer.client().native_ptr(), timeout_ms);
        let Some(found) = message.as_ref() else {
            return Polled::Nothing;
        };
        let polled = match RDKafkaErrorCode::from(found.err) {
            RDKafkaErrorCode::NoError => Polled::Record {
                offset: found.offset,
                payload: (!found.payload.is_null()).then(|| {
                    std::slice::from_raw_parts(found.payload.cast::<u8>(), found.len).to_vec()
                }),
            },
            RDKafkaErrorCode::PartitionEOF => Polled::End {
                offset: found.offset,
            },
            code => Polled::Failed(code, text(c::rd_kafka_message_errstr(message))),
        };
        c::rd_kafka_message_destroy(message);
        polled
    }
}

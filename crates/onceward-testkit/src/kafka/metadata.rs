//! What a broker knows of its cluster, asked over a plain connection: no client, no JVM.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::Result;

const AT_MOST: Duration = Duration::from_secs(1);
/// No cluster of a test has this much to say.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// A broker that may lead.
#[derive(Debug)]
pub(super) struct Broker {
    /// Where it tells clients to find it.
    pub(super) port: u16,
}

/// A partition of any topic, Kafka's own included.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: String,
    pub(super) index: i32,
    pub(super) replicas: usize,
    pub(super) in_sync: usize,
}

/// The brokers that may lead, as the broker at `address` knows them.
pub(super) fn brokers(address: &str) -> Result<Vec<Broker>> {
    Ok(ask(address, 0)?.0)
}

/// The same, and the partitions of all topics.
pub(super) fn brokers_and_partitions(address: &str) -> Result<(Vec<Broker>, Vec<Partition>)> {
    ask(address, -1)
}

/// Metadata request v8, the last without tagged fields. `topics` is the length of the list of topics
/// that follows: 0 = of none, -1 = of all.
fn ask(address: &str, topics: i32) -> Result<(Vec<Broker>, Vec<Partition>)> {
    let target = address.to_socket_addrs()?.next().context("no address")?;
    let mut stream = TcpStream::connect_timeout(&target, AT_MOST)?;
    stream.set_read_timeout(Some(AT_MOST))?;
    let mut request = Vec::new();
    request.extend(3_i16.to_be_bytes()); // Metadata
    request.extend(8_i16.to_be_bytes());
    request.extend(1_i32.to_be_bytes()); // correlation id
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend(topics.to_be_bytes());
    request.extend([0, 0, 0]); // create nothing, no authorised operations
    stream.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length))?;
    if length > LONGEST_ANSWER {
        bail!("an answer of {length} bytes: no Kafka listens at {address}");
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    read(Answer(&answer))
}

fn read(mut answer: Answer<'_>) -> Result<(Vec<Broker>, Vec<Partition>)> {
    answer.i32()?; // correlation id
    answer.i32()?; // throttle time
    let brokers = answer.list(|answer| {
        answer.i32()?; // id
        answer.text()?; // host
        let port = u16::try_from(answer.i32()?)?;
        answer.text()?; // rack
        Ok(Broker { port })
    })?;
    answer.text()?; // cluster id
    answer.i32()?; // controller
    let topics = answer.list(|answer| {
        answer.i16()?; // error
        let topic = answer.text()?;
        answer.bytes::<1>()?; // internal
        let partitions = answer.list(|answer| {
            answer.i16()?; // error
            let index = answer.i32()?;
            answer.i32()?; // leader
            answer.i32()?; // its epoch
            let replicas = answer.list(Answer::i32)?.len();
            let in_sync = answer.list(Answer::i32)?.len();
            answer.list(Answer::i32)?; // offline
            Ok(Partition {
                topic: topic.clone(),
                index,
                replicas,
                in_sync,
            })
        });
        answer.i32()?; // authorised operations
        partitions
    })?;
    Ok((brokers, topics.into_iter().flatten().collect()))
}

/// What is left to read.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().context("a short answer")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.bytes()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.bytes()?))
    }

    /// Empty for none.
    fn text(&mut self) -> Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        let (taken, rest) = self.0.split_at_checked(length).context("a short answer")?;
        self.0 = rest;
        Ok(String::from_utf8_lossy(taken).into_owned())
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        (0..self.i32()?).map(|_| item(self)).collect()
    }
}

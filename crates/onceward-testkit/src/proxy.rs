//! A TCP proxy that reads the headers of Kafka's requests and can hold one back, lose its answer or
//! cut its connection. Faults are data: armed for the next request of a kind, each fires once.
//!
//! Clients go where the broker says it is, so give the broker a listener that is advertised at the
//! proxy's address: see [`ProxiedKafka`].

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::Result;
use crate::kafka::{Kafka, KafkaOptions};
use crate::ports::Port;

/// Kinds of requests, by Kafka's numbers.
pub mod api {
    /// Records to a partition.
    pub const PRODUCE: i16 = 0;
    /// Records from a partition.
    pub const FETCH: i16 = 1;
    /// Which brokers and topics there are.
    pub const METADATA: i16 = 3;
    /// A producer's id and epoch; fences older ones.
    pub const INIT_PRODUCER_ID: i16 = 22;
    /// Partitions that join a transaction.
    pub const ADD_PARTITIONS_TO_TXN: i16 = 24;
    /// Commit or abort.
    pub const END_TXN: i16 = 26;
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It waits in the proxy, with all that follows on its connection, until [`Hit::release`].
    Hold,
    /// It is done, but its answer is lost and the client's connection with it.
    LoseAnswer,
    /// Its connection is cut before the broker sees it.
    Cut,
    /// It waits so long, with all that follows on its connection, and then goes on. With no time at all
    /// it lets one request pass, so that the next fault meets a later one.
    Delay(Duration),
}

/// An armed fault, and what came of it.
#[derive(Debug, Clone)]
pub struct Hit(Arc<(Mutex<HitState>, Condvar)>);

#[derive(Debug, Default)]
struct HitState {
    fired: bool,
    released: bool,
    cut: bool,
    frame: Vec<u8>,
    client: Option<TcpStream>,
    broker: Option<TcpStream>,
}

impl Hit {
    fn new() -> Self {
        Self(Arc::new((Mutex::default(), Condvar::new())))
    }

    fn state(&self) -> MutexGuard<'_, HitState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the fault has fired.
    pub fn wait(&self, at_most: Duration) -> Result<()> {
        let (_state, waited) = self
            .0
            .1
            .wait_timeout_while(self.state(), at_most, |state| !state.fired)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            bail!("no such request came to the proxy in {at_most:?}");
        }
        Ok(())
    }

    /// Cuts the client's side of a held request; the broker's side stays open, as for a packet that is
    /// still under way.
    pub fn cut(&self) -> Result<()> {
        let mut state = self.state();
        state.cut = true;
        let client = state.client.take().context("nothing is held")?;
        client.shutdown(Shutdown::Both)?;
        self.0.1.notify_all();
        Ok(())
    }

    /// Lets a held request go on to the broker, even if its client is gone.
    pub fn release(&self) -> Result<()> {
        let mut state = self.state();
        if !state.fired || state.released {
            bail!("nothing is held");
        }
        state.released = true;
        if state.cut {
            let frame = std::mem::take(&mut state.frame);
            let broker = state.broker.as_mut().context("nothing is held")?;
            write_frame(broker, &frame)?;
        }
        self.0.1.notify_all();
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Plan(Mutex<Vec<(i16, Fault, Hit)>>);

impl Plan {
    fn take(&self, api_key: i16) -> Option<(Fault, Hit)> {
        let mut armed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = armed.iter().position(|(key, ..)| *key == api_key)?;
        let (_, fault, hit) = armed.remove(index);
        Some((fault, hit))
    }
}

/// The proxy. Ends with the test's process; its threads hold nothing but sockets.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    plan: Arc<Plan>,
}

impl Proxy {
    /// Listens at `port` of 127.0.0.1 (0 = a free one) and forwards to `broker`.
    pub fn start(port: u16, broker: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))
            .with_context(|| format!("binding the proxy to port {port}"))?;
        let port = listener.local_addr()?.port();
        let plan = Arc::new(Plan::default());
        let (broker, armed) = (broker.to_owned(), plan.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A broker that is down refuses us; so do we, by closing.
                if let Ok(broker) = TcpStream::connect(&broker) {
                    let _ = forward(client, broker, armed.clone());
                }
            }
        });
        Ok(Self { port, plan })
    }

    /// `127.0.0.1:port`, for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Arms a fault for the next request of this kind (see [`api`]). Several of one kind fire in turn.
    pub fn on(&self, api_key: i16, fault: Fault) -> Hit {
        let hit = Hit::new();
        let mut armed = self.plan.0.lock().unwrap_or_else(PoisonError::into_inner);
        armed.push((api_key, fault, hit.clone()));
        hit
    }

    /// Forgets the faults that have not fired.
    pub fn disarm(&self) {
        let mut armed = self.plan.0.lock().unwrap_or_else(PoisonError::into_inner);
        armed.clear();
    }
}

/// A broker with a second listener that is advertised at a proxy: clients of [`Proxy::address`] stay
/// behind the proxy, clients of [`Kafka::bootstrap`] go straight.
#[derive(Debug)]
pub struct ProxiedKafka {
    /// The broker.
    pub kafka: Kafka,
    /// The proxy before its second listener.
    pub proxy: Proxy,
    _ports: [Port; 3],
}

impl ProxiedKafka {
    /// Starts both and waits until the broker answers.
    pub fn start() -> Result<Self> {
        let ports = [Port::take()?, Port::take()?, Port::take()?];
        let [direct, controller, behind] = ports.each_ref().map(Port::number);
        let proxy = Proxy::start(0, &format!("127.0.0.1:{behind}"))?;
        let property = |name: &str, value: String| (name.to_owned(), value);
        let listeners = format!(
            "PLAINTEXT://127.0.0.1:{direct},CONTROLLER://127.0.0.1:{controller},\
             BEHIND://127.0.0.1:{behind}"
        );
        let advertised = format!(
            "PLAINTEXT://127.0.0.1:{direct},BEHIND://{}",
            proxy.address()
        );
        let protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,BEHIND:PLAINTEXT".to_owned();
        let kafka = Kafka::start_with(KafkaOptions {
            port: Some(direct),
            controller_port: Some(controller),
            properties: vec![
                property("listeners", listeners),
                property("advertised.listeners", advertised),
                property("listener.security.protocol.map", protocols),
            ],
            ..KafkaOptions::default()
        })?;
        Ok(Self {
            kafka,
            proxy,
            _ports: ports,
        })
    }
}

/// Two threads per connection: requests there, answers back.
fn forward(client: TcpStream, broker: TcpStream, plan: Arc<Plan>) -> Result<()> {
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let lost: Arc<Mutex<BTreeSet<[u8; 4]>>> = Arc::default();
    let (mut answers_from, answers_to) = (broker.try_clone()?, client.try_clone()?);
    let lost_answers = lost.clone();
    std::thread::spawn(move || {
        let mut answers_to = Some(answers_to);
        // Read on when the client is gone: the broker's side ends by itself.
        while let Ok(frame) = read_frame(&mut answers_from) {
            let correlation = frame.first_chunk::<4>().copied().unwrap_or_default();
            let is_lost = lost_answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&correlation);
            if is_lost {
                if let Some(client) = answers_to.take() {
                    let _ = client.shutdown(Shutdown::Both);
                }
            } else if let Some(client) = &mut answers_to
                && write_frame(client, &frame).is_err()
            {
                answers_to = None;
            }
        }
        if let Some(client) = answers_to {
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    std::thread::spawn(move || {
        let _ = requests(client, broker, &plan, &lost);
    });
    Ok(())
}

fn requests(
    mut client: TcpStream,
    mut broker: TcpStream,
    plan: &Plan,
    lost: &Mutex<BTreeSet<[u8; 4]>>,
) -> Result<()> {
    loop {
        let Ok(frame) = read_frame(&mut client) else {
            broker.shutdown(Shutdown::Both)?;
            return Ok(());
        };
        // A request begins with kind (2 bytes), version (2), correlation id (4).
        let api_key = frame.first_chunk::<2>().map(|key| i16::from_be_bytes(*key));
        let Some((fault, hit)) = api_key.and_then(|key| plan.take(key)) else {
            write_frame(&mut broker, &frame)?;
            continue;
        };
        // A fault has fired before the client can feel it: who asks after the client failed must not be
        // told "not yet".
        {
            let mut state = hit.state();
            state.fired = true;
            if fault == Fault::Hold {
                state.frame.clone_from(&frame);
                state.client = Some(client.try_clone()?);
                state.broker = Some(broker.try_clone()?);
            }
        }
        hit.0.1.notify_all();
        match fault {
            Fault::Cut => {
                client.shutdown(Shutdown::Both)?;
                broker.shutdown(Shutdown::Both)?;
            }
            Fault::LoseAnswer => {
                let correlation: Option<[u8; 4]> =
                    frame.get(4..8).and_then(|id| id.try_into().ok());
                lost.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(correlation);
                write_frame(&mut broker, &frame)?;
            }
            Fault::Delay(time) => {
                std::thread::sleep(time);
                write_frame(&mut broker, &frame)?;
            }
            Fault::Hold => {
                let state = hit
                    .0
                    .1
                    .wait_while(hit.state(), |state| !state.released && !state.cut)
                    .unwrap_or_else(PoisonError::into_inner);
                if state.cut {
                    // The hit keeps the broker's side open.
                    return Ok(());
                }
                drop(state);
                write_frame(&mut broker, &frame)?;
            }
        }
    }
}

/// A frame's content, without its length.
fn read_frame(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0_u8; 4];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn write_frame(stream: &mut TcpStream, frame: &[u8]) -> Result<()> {
    let mut whole = u32::try_from(frame.len())?.to_be_bytes().to_vec();
    whole.extend_from_slice(frame);
    stream.write_all(&whole)?;
    Ok(())
}

//! One connection to one broker: requests in order, answers in the same order, TLS and SASL beneath.
//! Whatever goes wrong, the connection is of no further use.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use rsasl::prelude::{Mechname, SASLClient, SASLConfig};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::codec::{Malformed, Put, Reader};
use super::fault::Code;
use super::message::{Request, SaslAuthenticate, SaslHandshake};
use super::settings::{Sasl, Settings};

/// Time to connect, handshakes included.
pub(super) const CONNECT_AT_MOST: Duration = Duration::from_secs(5);
/// Answers are short; a longer one is not one.
const ANSWER_AT_MOST: usize = 64 << 20;

/// Trouble on the way to or from a broker.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// No connection, or it broke.
    #[error("{peer}: {source}")]
    Io {
        /// The broker.
        peer: String,
        /// What happened.
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("{peer}: no answer in time")]
    TimedOut {
        /// The broker.
        peer: String,
    },
    /// An answer that can't be read.
    #[error("{peer}: {source}")]
    Malformed {
        /// The broker.
        peer: String,
        /// What is wrong with it.
        source: Malformed,
    },
    /// TLS or SASL settings that the broker or this side refuses.
    #[error("{peer}: {reason}")]
    Refused {
        /// The broker.
        peer: String,
        /// Why.
        reason: String,
    },
}

trait Io: AsyncRead + AsyncWrite + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Send + Sync> Io for T {}

/// A connection. Answers must be received in the order of the requests sent.
pub(super) struct Connection {
    stream: BufReader<Pin<Box<dyn Io>>>,
    peer: String,
    client_id: String,
    next_correlation: i32,
    next_answer: i32,
    /// The broker closes it then: it wants a new proof of who we are.
    expires: Option<Instant>,
    out: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    /// Connects to `host:port`, with TLS and SASL as the settings say.
    pub(super) async fn open(address: &str, settings: &Settings) -> Result<Self, WireError> {
        match tokio::time::timeout(CONNECT_AT_MOST, Self::connect(address, settings)).await {
            Ok(connected) => connected,
            Err(_) => Err(WireError::TimedOut {
                peer: address.to_owned(),
            }),
        }
    }

    async fn connect(address: &str, settings: &Settings) -> Result<Self, WireError> {
        let io = |source| WireError::Io {
            peer: address.to_owned(),
            source,
        };
        let plain = TcpStream::connect(address).await.map_err(io)?;
        plain.set_nodelay(true).map_err(io)?;
        let stream: Pin<Box<dyn Io>> = match &settings.tls {
            None => Box::pin(plain),
            Some(config) => {
                let refused = |reason: String| WireError::Refused {
                    peer: address.to_owned(),
                    reason,
                };
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|error| refused(format!("{host}: {error}")))?;
                let connector = TlsConnector::from(config.clone());
                let tls = connector.connect(name, plain).await.map_err(|source| {
                    // What rustls says of a certificate comes as invalid data.
                    if source.kind() == std::io::ErrorKind::InvalidData {
                        refused(format!("TLS handshake failed: {source}"))
                    } else {
                        io(source)
                    }
                })?;
                Box::pin(tls)
            }
        };
        let mut connection = Self {
            stream: BufReader::with_capacity(4096, stream),
            peer: address.to_owned(),
            client_id: settings.client_id.clone(),
            next_correlation: 0,
            next_answer: 0,
            expires: None,
            out: Vec::new(),
            answer: Vec::new(),
        };
        if let Some(sasl) = &settings.sasl {
            connection.authenticate(sasl).await?;
        }
        Ok(connection)
    }

    /// The broker's address.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// Begins a request in `out`: its length, filled in by [`Self::send`], and its header.
    pub(super) fn begin(&self, out: &mut Vec<u8>, key: i16, version: i16, tagged: bool) {
        out.clear();
        out.put_i32(0); // length
        out.put_i16(key);
        out.put_i16(version);
        out.put_i32(self.next_correlation);
        out.put_classic_text(&self.client_id);
        if tagged {
            out.put_no_tags();
        }
    }

    /// Sends a request made with [`Self::begin`].
    pub(super) async fn send(
        &mut self,
        request: &mut [u8],
        until: Instant,
    ) -> Result<(), WireError> {
        let length = i32::try_from(request.len().saturating_sub(4)).unwrap_or(i32::MAX);
        if let Some(place) = request.first_chunk_mut::<4>() {
            *place = length.to_be_bytes();
        }
        self.next_correlation = self.next_correlation.wrapping_add(1);
        let writing = async {
            self.stream.write_all(request).await?;
            // A plain stream has nothing to flush, a TLS one may.
            self.stream.flush().await
        };
        match tokio::time::timeout_at(until, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(self.io(source)),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Receives the answer to the oldest request that has none yet, behind its header.
    pub(super) async fn receive(
        &mut self,
        tagged: bool,
        until: Instant,
    ) -> Result<Reader<'_>, WireError> {
        let reading = async {
            let length = self.stream.read_i32().await?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > ANSWER_AT_MOST {
                return Ok(Err(Malformed("its length is no length")));
            }
            self.answer.clear();
            // `take` and not a buffer of that length: memory follows what really comes.
            let read = (&mut self.stream)
                .take(length as u64)
                .read_to_end(&mut self.answer)
                .await?;
            if read < length {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            Ok(Ok(()))
        };
        match tokio::time::timeout_at(until, reading).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(source))) => return Err(self.malformed(source)),
            Ok(Err(source)) => return Err(self.io(source)),
            Err(_) => return Err(self.timed_out()),
        }
        let expected = self.next_answer;
        self.next_answer = self.next_answer.wrapping_add(1);
        let peer = &self.peer;
        let malformed = |source| WireError::Malformed {
            peer: peer.clone(),
            source,
        };
        let mut reader = Reader::new(&self.answer);
        if reader.i32().map_err(malformed)? != expected {
            return Err(malformed(Malformed("it answers another request")));
        }
        if tagged {
            reader.skip_tagged().map_err(malformed)?;
        }
        Ok(reader)
    }

    /// One request and its answer.
    pub(super) async fn call<R: Request>(
        &mut self,
        request: &R,
        until: Instant,
    ) -> Result<R::Answer, WireError> {
        let mut out = std::mem::take(&mut self.out);
        self.begin(&mut out, R::KEY, R::VERSION, R::TAGGED);
        request.put(&mut out);
        let sent = self.send(&mut out, until).await;
        self.out = out;
        sent?;
        // The answer that tells which versions there are can't have a header that depends on one.
        let tagged = R::TAGGED && R::KEY != super::message::ApiVersions::KEY;
        let mut reader = self.receive(tagged, until).await?;
        let answer = R::read(&mut reader);
        answer.map_err(|source| self.malformed(source))
    }

    /// Whether it can carry another request, as far as this side can know without asking: the broker
    /// has not closed it, sent nothing unasked, and will not want a new proof of who we are soon.
    pub(super) async fn is_fit(&mut self) -> bool {
        if self.expires.is_some_and(|at| Instant::now() > at) {
            return false;
        }
        std::future::poll_fn(|context| {
            let polled = Pin::new(&mut self.stream).poll_fill_buf(context);
            Poll::Ready(matches!(polled, Poll::Pending))
        })
        .await
    }

    async fn authenticate(&mut self, sasl: &Sasl) -> Result<(), WireError> {
        let until = Instant::now() + CONNECT_AT_MOST;
        let mechanism = sasl.mechanism.name();
        let (error, known) = self.call(&SaslHandshake { mechanism }, until).await?;
        if let Some(code) = Code::of(error) {
            let known = known.join(", ");
            return Err(self.refused(format!("{mechanism}: {code}; the broker has {known}")));
        }
        let refused = |error: &dyn std::error::Error| format!("{mechanism}: {error}");
        let config = SASLConfig::with_credentials(
            None,
            sasl.username.clone(),
            sasl.password.reveal().to_owned(),
        );
        let config = config.map_err(|error| self.refused(refused(&error)))?;
        let name = Mechname::parse(mechanism.as_bytes());
        let name = name.map_err(|error| self.refused(refused(&error)))?;
        let session = SASLClient::new(config).start_suggested(&[name]);
        let mut session = session.map_err(|error| self.refused(refused(&error)))?;
        let mut challenge: Option<Vec<u8>> = None;
        loop {
            let mut bytes = Vec::new();
            let state = session
                .step(challenge.as_deref(), &mut bytes)
                .map_err(|error| self.refused(refused(&error)))?;
            if state.is_finished() && !state.has_sent_message() {
                // The broker's own proof was the last word.
                return Ok(());
            }
            let step = self
                .call(&SaslAuthenticate { bytes: &bytes }, until)
                .await?;
            if let Some(code) = Code::of(step.error) {
                return Err(self.refused(format!("{mechanism}: {code} {}", step.message)));
            }
            if let Ok(lifetime @ 1..) = u64::try_from(step.lifetime_ms) {
                // Between two transactions, well before the broker would cut one short.
                let fit = Duration::from_millis(lifetime).saturating_sub(Duration::from_secs(15));
                self.expires = Some(Instant::now() + fit.max(Duration::from_millis(lifetime / 2)));
            }
            if state.is_finished() {
                return Ok(());
            }
            challenge = Some(step.bytes);
        }
    }

    pub(super) fn malformed(&self, source: Malformed) -> WireError {
        WireError::Malformed {
            peer: self.peer.clone(),
            source,
        }
    }

    fn io(&self, source: std::io::Error) -> WireError {
        WireError::Io {
            peer: self.peer.clone(),
            source,
        }
    }

    fn timed_out(&self) -> WireError {
        WireError::TimedOut {
            peer: self.peer.clone(),
        }
    }

    fn refused(&self, reason: String) -> WireError {
        WireError::Refused {
            peer: self.peer.clone(),
            reason,
        }
    }
}

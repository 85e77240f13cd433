//! The worker of one source: waits for the lease, takes over, publishes.
//!
//! The arrows are drawn in [`crate::phase`]. Three loops nest: [`SourceWorker::run`] (the life of
//! the process), one *ownership* (a claim, its lease renewed beside it), one *term* (the life of a
//! producer). Whatever ends an inner loop is an [`Exit`]; what it leaves behind is only what is in
//! Kafka and the database, because everything in memory goes with it.

mod headers;
mod lease;
mod meter;
mod publish;
mod records;
mod replay;
mod share;
mod spans;
mod standing;
mod stop;
mod tail;
mod take_over;
mod topics;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onceward::publisher::{Broker, BrokerError};
use onceward::source::{Dialect, LEASE_TTL, ParkedKeys, RelayEpoch, SourceStore};
use onceward::{DatabaseUrl, SourceName};
use tokio_util::sync::CancellationToken;

use crate::janitor::Appointments;
use crate::metrics as names;
use crate::options::{RelayOptions, SourceOptions};
use crate::phase::{Input, Phase};
use crate::status::Board;

use meter::Meter;
pub(crate) use share::Backlogs;
use share::Share;
use standing::Standing;
pub(crate) use stop::Stop;
use topics::Topics;
use work::Work;

/// Losing the source more often than this within a minute is an alarm: two relays fight.
const LOSSES_A_MINUTE: usize = 3;

/// Time between two tries where a person must mend something first.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// Why a loop ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// The process stops.
    Stop,
    /// Somebody else owns the source, or may: drop all work, wait the lease's time out.
    Lost(String),
    /// The producer can't be used any more; what is committed must be read again.
    Anew(String),
    /// Kafka or the database did not answer while nothing was owned.
    Unreachable(String),
    /// Kafka refused this relay while nothing was owned: rights, passwords, settings of the progress
    /// topic. A person must mend it, and nothing is at risk meanwhile: so it is tried again.
    Refused(Stop),
    /// Only a person can help.
    Broken(Stop),
}

/// The life of one producer.
struct Term<D: Dialect, Br: Broker> {
    epoch: RelayEpoch,
    /// For everything written under `epoch`.
    work: Work<D>,
    publisher: Br::Publisher,
    standing: Standing,
    parked: ParkedKeys,
    topics: Topics,
}

/// Reads rows while `Term::work` writes.
struct Reader<D: Dialect> {
    store: SourceStore<D>,
    wake: D::Wake,
    share: Share,
}

pub(crate) struct SourceWorker<D: Dialect, Br: Broker> {
    name: SourceName,
    url: DatabaseUrl,
    options: Arc<RelayOptions>,
    broker: Br,
    board: Board,
    meter: Meter,
    backlogs: Backlogs,
    appointments: Appointments,
    stop: CancellationToken,
    phase: Phase,
    /// "Retake at once" for the same instance id counts only once, at process start: else two
    /// processes with one id would take the source from each other for ever.
    may_retake: bool,
    losses: VecDeque<Instant>,
    /// Topics that rows wait for, and since when.
    waited_for: BTreeMap<String, Instant>,
    /// When the mirror was last begun.
    mirrored_at: Option<Instant>,
    requests_at: Option<Instant>,
    /// The janitor has an appointment and has not found the end yet.
    sweeping: bool,
    database: PhantomData<fn() -> D>,
}

/// What a worker is made of.
pub(crate) struct Parts<Br> {
    pub(crate) source: SourceOptions,
    pub(crate) options: Arc<RelayOptions>,
    pub(crate) broker: Br,
    pub(crate) board: Board,
    pub(crate) backlogs: Backlogs,
    pub(crate) appointments: Appointments,
    pub(crate) stop: CancellationToken,
}

impl<D: Dialect, Br: Broker> SourceWorker<D, Br> {
    pub(crate) fn new(parts: Parts<Br>) -> Self {
        Self {
            meter: Meter::new(&parts.source.name),
            name: parts.source.name,
            url: parts.source.url,
            options: parts.options,
            broker: parts.broker,
            board: parts.board,
            backlogs: parts.backlogs,
            appointments: parts.appointments,
            stop: parts.stop,
            phase: Phase::Standby,
            may_retake: true,
            losses: VecDeque::new(),
            waited_for: BTreeMap::new(),
            mirrored_at: None,
            requests_at: None,
            sweeping: false,
            database: PhantomData,
        }
    }

    /// Works until the process stops. A source that needs a person stays stopped, and the others
    /// go on.
    pub(crate) async fn run(mut self) {
        self.show_phase();
        loop {
            match Box::pin(self.own_once()).await {
                Exit::Stop => break,
                Exit::Lost(reason) => self.lost(&reason).await,
                // `own` goes on by itself after these; out here nothing is owned.
                Exit::Anew(reason) | Exit::Unreachable(reason) => self.unreachable(&reason).await,
                Exit::Refused(stop) => {
                    let _ = self.step(Input::Unreachable);
                    self.board.write(|status| status.owner = None);
                    self.refused(&stop);
                    let _ = self.pause(REFUSED_PAUSE).await;
                }
                Exit::Broken(stop) => {
                    self.broken(&stop);
                    self.stop.clone().cancelled_owned().await;
                    break;
                }
            }
            if self.stop.is_cancelled() {
                break;
            }
        }
        if self.phase != Phase::Stopped {
            let _ = self.step(Input::Stop);
        }
    }

    /// Moves the state machine. An arrow that is not drawn is a bug and stops the source.
    fn step(&mut self, input: Input) -> Result<(), Exit> {
        let next = self
            .phase
            .next(input)
            .map_err(|illegal| Exit::Broken(Stop::bug(&illegal.to_string())))?;
        tracing::debug!(source = %self.name, from = self.phase.as_str(), to = next.as_str(), "phase");
        self.phase = next;
        self.show_phase();
        Ok(())
    }

    fn show_phase(&self) {
        let phase = self.phase;
        self.board.write(|status| status.state = phase);
        self.meter.phase(phase);
    }

    fn show_standing(&self, term: &Term<D, Br>) {
        let progress = &term.standing.progress;
        self.meter.position(progress.position);
        self.board.write(|status| {
            status.position = progress.position;
            status.passed = progress.passed;
            status.cursor = Some(progress.cursor.clone());
        });
    }

    /// A commit went through: whatever was wrong is over.
    fn calm(&mut self) {
        if self.phase == Phase::Hold && self.step(Input::Unblocked).is_ok() {
            tracing::info!(source = %self.name, "source goes on");
        }
        let mut alarmed = false;
        self.board.write(|status| {
            alarmed = std::mem::take(&mut status.alarm);
            status.way_out = None;
        });
        if alarmed {
            self.meter.alarm(false);
        }
    }

    /// Whether the source was lost so often of late that two relays must be fighting for it.
    fn is_fought_for(&mut self) -> bool {
        let now = Instant::now();
        while self
            .losses
            .front()
            .is_some_and(|at| now.duration_since(*at) > Duration::from_secs(60))
        {
            self.losses.pop_front();
        }
        self.losses.len() > LOSSES_A_MINUTE
    }

    async fn lost(&mut self, reason: &str) {
        let _ = self.step(Input::Lost);
        self.meter.count(names::LOST);
        self.losses.push_back(Instant::now());
        let fight = self.is_fought_for();
        self.meter.alarm(fight);
        if fight {
            tracing::error!(source = %self.name, reason, times = self.losses.len(),
                "source lost again and again: two relays fight for it");
        } else {
            tracing::warn!(source = %self.name, reason, "source lost; waiting as standby");
        }
        self.board.write(|status| {
            status.owner = None;
            status.relay_epoch = None;
            status.last_error = Some(reason.to_owned());
            status.alarm = fight;
        });
        // Let the winner work: claiming at once is how two relays start to fight.
        let _ = self.pause(LEASE_TTL).await;
    }

    async fn unreachable(&mut self, reason: &str) {
        let _ = self.step(Input::Unreachable);
        self.board.write(|status| {
            // Nothing is known of an owner, so nothing says that the source works.
            status.owner = None;
            status.relay_epoch = None;
            if status.last_error.as_deref() != Some(reason) {
                tracing::warn!(source = %self.name, reason, "waiting");
            }
            status.last_error = Some(reason.to_owned());
        });
        let _ = self.pause(Duration::from_millis(500)).await;
    }

    fn broken(&mut self, stop: &Stop) {
        // The reason first: whoever sees the state must find it.
        self.board.write(|status| {
            status.owner = None;
            status.relay_epoch = None;
            status.alarm = true;
            status.last_error = Some(stop.reason.clone());
            status.way_out = Some(stop.way_out.clone());
        });
        let _ = self.step(Input::Broken);
        self.meter.alarm(true);
        tracing::error!(source = %self.name, reason = %stop.reason, way_out = %stop.way_out,
            "source stopped, and stays stopped until this relay is restarted; it needs a person");
    }

    /// Kafka refuses this relay: says so, and the caller tries again. Most often a password or a right
    /// that is being changed; stopping for good would cost all sources at once.
    fn refused(&self, stop: &Stop) {
        self.meter.alarm(true);
        self.board.write(|status| {
            if status.last_error.as_ref() != Some(&stop.reason) {
                tracing::error!(source = %self.name, reason = %stop.reason, way_out = %stop.way_out,
                    "Kafka refuses this relay");
            }
            status.alarm = true;
            status.last_error = Some(stop.reason.clone());
            status.way_out = Some(stop.way_out.clone());
        });
    }

    /// Sleeps, or leaves when the process stops.
    fn pause(&self, time: Duration) -> impl Future<Output = Result<(), Exit>> + Send + use<D, Br> {
        let stop = self.stop.clone();
        async move {
            tokio::select! {
                () = tokio::time::sleep(time) => Ok(()),
                () = stop.cancelled_owned() => Err(Exit::Stop),
            }
        }
    }

    /// Comes when a stop was asked for and the time for finishing is over.
    fn stop_overdue(&self) -> impl Future<Output = ()> + Send + use<D, Br> {
        let stop = self.stop.clone();
        let time = Duration::from_millis(self.options.stop_ms);
        async move {
            stop.cancelled_owned().await;
            tokio::time::sleep(time).await;
        }
    }

    /// Trouble with Kafka between transactions: waits, or ends the loop.
    async fn broker_trouble(&mut self, error: BrokerError) -> Result<(), Exit> {
        match error {
            BrokerError::Unavailable(reason) => {
                self.board.write(|status| {
                    let text = format!("Kafka is not available: {reason}");
                    if status.last_error.as_deref() != Some(text.as_str()) {
                        tracing::warn!(source = %self.name, reason, "Kafka is not available");
                    }
                    status.last_error = Some(text);
                });
                self.pause(Duration::from_millis(250)).await
            }
            BrokerError::Fenced => Err(Exit::Lost("fenced by a newer relay".into())),
            // Looking again is safe, and finds the end of a transaction that a person aborted.
            refused @ (BrokerError::Configuration(_) | BrokerError::HangingTransaction { .. }) => {
                self.refused(&Stop::broker(&refused));
                self.pause(REFUSED_PAUSE).await
            }
            other @ BrokerError::Unreadable { .. } => Err(Exit::Broken(Stop::broker(&other))),
        }
    }
}

//! A saga of two steps. Coordinator, airline and bank share this process to be short; their messages go
//! through outbox, Kafka and inbox as between three services.

mod messages;
mod trip;

use std::env;

use onceward::consumer::{Consumer, ConsumerOptions, HandlerError, Handlers};
use onceward::{
    CancellationToken, Db, MessageContext, OpenOptions, Outbox, Tx, WriteError, schema,
};
use onceward_kafka::{KafkaBroker, KafkaConfig, KafkaSubscriber};
use onceward_saga::{
    Answer, Participant, Performer, SagaStatus, Sagas, TimerOptions, TimerRunner, inspect,
    take_part,
};
use outbox_relay::{Relay, RelayOptions};
use sqlx::Sqlite;

use messages::*;
use trip::Trip;

/// Has two seats. That commands come twice, or after their cancels, is not its business.
struct Airline;

impl Performer<Sqlite> for Airline {
    type Command = BookSeat;
    type Done = SeatBooked;
    type Refused = SoldOut;

    async fn perform(
        &self,
        tx: &mut Tx<'static, Sqlite>,
        _context: &MessageContext,
        command: &BookSeat,
    ) -> Result<Answer<SeatBooked>, HandlerError> {
        let booked = sqlx::query("update seats set free = free - 1 where free > 0")
            .execute(&mut **tx)
            .await?;
        if booked.rows_affected() == 0 {
            return Ok(Answer::Refused("sold out".into()));
        }
        let (at, trip) = (command.at.clone(), command.trip);
        Ok(Answer::Done(SeatBooked { at, trip }))
    }
}

impl Participant<Sqlite> for Airline {
    type Cancel = FreeSeat;
    type Cancelled = SeatFreed;

    async fn undo(
        &self,
        tx: &mut Tx<'static, Sqlite>,
        _context: &MessageContext,
        _command: &BookSeat,
    ) -> Result<(), HandlerError> {
        sqlx::query("update seats set free = free + 1")
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

/// Declines what costs more than 100.00.
struct Bank;

impl Performer<Sqlite> for Bank {
    type Command = ChargeCard;
    type Done = CardCharged;
    type Refused = CardDeclined;

    async fn perform(
        &self,
        _tx: &mut Tx<'static, Sqlite>,
        _context: &MessageContext,
        command: &ChargeCard,
    ) -> Result<Answer<CardCharged>, HandlerError> {
        if command.amount_minor > 10_000 {
            return Ok(Answer::Refused("the card was declined".into()));
        }
        let (at, trip) = (command.at.clone(), command.trip);
        Ok(Answer::Done(CardCharged { at, trip }))
    }
}

impl Participant<Sqlite> for Bank {
    type Cancel = RefundCard;
    type Cancelled = CardRefunded;

    async fn undo(
        &self,
        _tx: &mut Tx<'static, Sqlite>,
        _context: &MessageContext,
        _command: &ChargeCard,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("DATABASE_URL")?; // sqlite:///path/trips.db?mode=rwc
    let db = Db::<Sqlite>::open(&url, OpenOptions::default()).await?;
    let outbox = Outbox::new("trips".parse()?);
    schema::migrate(db.pool(), outbox.source()).await?;
    onceward_saga::schema::migrate(db.pool()).await?;
    sqlx::raw_sql("create table if not exists seats as select 2 as free")
        .execute(db.pool())
        .await?;

    let definition = trip::definition()?;
    let sagas = Sagas::new(outbox.clone()).with(definition.clone());
    let handlers = Handlers::default()
        .on::<SeatBooked, _>(sagas.clone())
        .on::<SoldOut, _>(sagas.clone())
        .on::<SeatFreed, _>(sagas.clone())
        .on::<CardCharged, _>(sagas.clone())
        .on::<CardDeclined, _>(sagas.clone())
        .on::<CardRefunded, _>(sagas.clone());
    let handlers = take_part(handlers, Airline, outbox.clone(), Default::default());
    let handlers = take_part(handlers, Bank, outbox.clone(), Default::default());

    let kafka = KafkaConfig::plaintext(env::var("KAFKA")?);
    let broker = KafkaBroker::new(kafka.clone())?;
    broker.make_topics(TOPICS, 1, 1).await?;
    let topics = handlers.topics(outbox.routing());
    let options = ConsumerOptions::new("trips".parse()?, topics);
    let consumer = Consumer::new(db.clone(), handlers, KafkaSubscriber::new(kafka), options);
    let timers = TimerRunner::new(db.clone(), sagas.clone(), TimerOptions::default());
    let relay = Relay::new(RelayOptions::for_source(outbox.source(), &url), broker)?;

    let stop = CancellationToken::new();
    let consuming = tokio::spawn(consumer.run(stop.clone()));
    let timing = tokio::spawn(timers.run(stop.clone()));
    let relaying = tokio::spawn(relay.run(stop.clone()));

    let context = outbox.new_context();
    let started = db.write(async move |tx| {
        for (number, amount_minor) in [(1, 8_000), (2, 12_000)] {
            let trip = Trip {
                number,
                amount_minor,
            };
            let subject = number.to_string();
            sagas
                .start(tx, &context, &definition, &subject, &trip)
                .await?;
        }
        Ok(())
    });
    started
        .await
        .map_err(|error: WriteError<anyhow::Error>| error)?;

    for trip in ["1", "2"] {
        let (status, reason) = end_of(&db, trip).await?;
        println!("trip {trip}: {status} {reason}");
    }
    let free: i64 = sqlx::query_scalar("select free from seats")
        .fetch_one(db.pool())
        .await?;
    println!("seats left: {free}");

    stop.cancel();
    consuming.await??;
    timing.await?;
    relaying.await??;
    Ok(())
}

async fn end_of(db: &Db<Sqlite>, trip: &str) -> anyhow::Result<(SagaStatus, String)> {
    let filter = inspect::SagaFilter {
        subject: Some(trip.to_owned()),
        ..Default::default()
    };
    loop {
        let found = inspect::list(db.pool(), &filter).await?.pop();
        if let Some(saga) = found.filter(|saga| saga.status.has_ended()) {
            return Ok((saga.status, saga.reason.unwrap_or_default()));
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

//! `Handler::handle_batch`: many messages by one statement, and nobody else's fault.

use std::sync::{Arc, Mutex};

use onceward::consumer::{Handler, HandlerError, Handlers};
use onceward::schema::SchemaBackend;
use onceward::{MessageContext, Tx};

use super::on_both_databases;
use super::support::{Ping, TestBackend, World, until};

on_both_databases!(
    messages_of_one_type_are_handled_together_and_in_order,
    one_bad_message_of_a_batch_is_found_and_the_others_take_effect_once,
);

/// Writes a batch by one insert. Refuses ping 13, whichever way it comes.
#[derive(Clone, Default)]
struct Multi {
    /// Sizes of the batches that came, tried again or not.
    sizes: Arc<Mutex<Vec<usize>>>,
}

const UNLUCKY: i64 = 13;

impl<B: SchemaBackend> Handler<B, Ping> for Multi {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        ping: Ping,
    ) -> Result<(), HandlerError> {
        self.handle_batch(tx, vec![(context.clone(), ping)]).await
    }

    async fn handle_batch(
        &self,
        tx: &mut Tx<'static, B>,
        messages: Vec<(MessageContext, Ping)>,
    ) -> Result<(), HandlerError> {
        self.sizes.lock().unwrap().push(messages.len());
        let mut insert = sqlx::QueryBuilder::<B>::new("insert into effect (n, message_key) ");
        insert.push_values(&messages, |mut row, (_, ping)| {
            row.push_bind(ping.n).push_bind(ping.key.clone());
        });
        insert.build().execute(&mut **tx).await?;
        if messages.iter().any(|(_, ping)| ping.n == UNLUCKY) {
            return Err(HandlerError::Reject("unlucky".into()));
        }
        Ok(())
    }
}

async fn messages_of_one_type_are_handled_together_and_in_order<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    for n in 100..400 {
        world.log.ping(0, &format!("key-{}", n % 7), n);
    }
    let multi = Multi::default();
    let running = world.start_handling(world.options(), handlers(&multi));
    world.all_once(100..400).await;
    assert_eq!(
        world.effects().await,
        (100..400).collect::<Vec<_>>(),
        "in the partition's order"
    );
    let sizes = multi.sizes.lock().unwrap().clone();
    assert!(sizes.len() < 60, "300 messages in many calls: {sizes:?}");
    running.stop().await;
}

async fn one_bad_message_of_a_batch_is_found_and_the_others_take_effect_once<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    for n in 1..=30 {
        world.log.ping(0, &format!("key-{n}"), n);
    }
    let running = world.start_handling(world.options(), handlers(&Multi::default()));
    world.all_once((1..=30).filter(|n| *n != UNLUCKY)).await;
    until("dead letter", async || {
        world.count("select count(*) from inbox_dead_letter").await == 1
    })
    .await;
    running.stop().await;
}

fn handlers<B: TestBackend>(multi: &Multi) -> Handlers<B> {
    Handlers::default().on::<Ping, _>(multi.clone())
}

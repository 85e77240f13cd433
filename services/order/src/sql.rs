//! The order tables. One text for both databases.

use std::collections::HashSet;

use onceward::bulk::{Bulk, pieces};
use onceward::{
    Backend, BoxError, CorrelationId, Error, Event, MessageContext, MessageId, Micros, Outbox,
    QueryResult, Result, Routing, Tx,
};
use skeleton::{Money, PageQuery};
use sqlx::{Pool, Row};
use uuid::Uuid;

use crate::domain::{Choreographed, Order, OrderEvent, OrderStatus, SagaStyle, Step};

const COLUMNS: &str = "order_id, status, reason, user_id, product_id, quantity, amount_minor, \
                       correlation_id, saga, choreography, created_at, updated_at";

/// Whether the product can be ordered.
pub(crate) async fn is_product<B: Backend>(
    tx: &mut Tx<'_, B>,
    product_id: &str,
) -> Result<bool, sqlx::Error> {
    let known: i64 = sqlx::query_scalar("select count(*) from product where product_id = $1")
        .bind(product_id)
        .fetch_one(&mut **tx)
        .await?;
    Ok(known > 0)
}

/// Inserts a new order, which began in this context by this message.
pub(crate) async fn insert<B: Backend>(
    tx: &mut Tx<'_, B>,
    order: &Order,
    context: &MessageContext,
    message_id: MessageId,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into orders (order_id, user_id, product_id, quantity, amount_minor, status, \
         correlation_id, saga, choreography, created_at, updated_at, message_id, traceparent) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(order.order_id)
    .bind(&*order.user_id)
    .bind(&*order.product_id)
    .bind(order.quantity)
    .bind(order.amount.minor())
    .bind(order.status.as_str())
    .bind(order.correlation_id.0)
    .bind(order.saga.as_str())
    .bind(order.choreography.map(Choreographed::as_str))
    .bind(order.created_at)
    .bind(order.updated_at)
    .bind(message_id.0)
    .bind(context.traceparent.as_deref())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// An order whose row this transaction has locked.
pub(crate) struct Locked {
    pub(crate) status: OrderStatus,
    pub(crate) reason: Option<String>,
    pub(crate) user_id: String,
    pub(crate) choreographed: Choreographed,
    /// The story it was placed in.
    pub(crate) story: MessageContext,
}

/// Locks a choreographed order's row. **First**, by facts and deadline alike: what one of them commits is
/// seen by the other, and the first commit wins.
pub(crate) async fn lock<B: Backend>(
    tx: &mut Tx<'_, B>,
    order_id: Uuid,
) -> Result<Option<Locked>, sqlx::Error> {
    // An update that changes nothing locks on both databases; `for update` does not exist on one.
    let row = sqlx::query(
        "update orders set updated_at = updated_at where order_id = $1 and saga = 'choreography' \
         returning status, reason, user_id, choreography, correlation_id, traceparent",
    )
    .bind(order_id)
    .fetch_optional(&mut **tx)
    .await?;
    row.map(|row| {
        let status: String = row.try_get("status")?;
        let unknown = || sqlx::Error::Decode(format!("status {status}").into());
        Ok(Locked {
            status: OrderStatus::parse(&status).ok_or_else(unknown)?,
            reason: row.try_get("reason")?,
            user_id: row.try_get("user_id")?,
            choreographed: flow_of(row.try_get("choreography")?).map_err(sqlx::Error::Decode)?,
            story: MessageContext::correlated(CorrelationId(row.try_get("correlation_id")?))
                .traced(row.try_get("traceparent")?),
        })
    })
    .transpose()
}

/// Who reacts to whom, as stored; a service of before stores none, and knows but one.
fn flow_of(stored: Option<String>) -> Result<Choreographed, BoxError> {
    let Some(text) = stored else {
        return Ok(Choreographed::PaymentFirst);
    };
    Choreographed::parse(&text).ok_or_else(|| format!("choreography {text}").into())
}

/// Types of the messages about an order that were noted.
pub(crate) async fn heard<B: Backend>(
    tx: &mut Tx<'_, B>,
    order_id: Uuid,
) -> Result<HashSet<String>, sqlx::Error> {
    // Rows of before migration 3 have no type, and the default topic.
    let types: Vec<String> = sqlx::query_scalar(
        "select coalesce(message_type, topic || '.v1') from order_step where order_id = $1",
    )
    .bind(order_id)
    .fetch_all(&mut **tx)
    .await?;
    Ok(types.into_iter().collect())
}

/// A message about an order, as it is noted.
pub(crate) struct Said<'a, E> {
    pub(crate) order_id: Uuid,
    pub(crate) topic: &'a str,
    pub(crate) at: Micros,
    pub(crate) message_id: Option<Uuid>,
    pub(crate) source: Option<&'a str>,
    pub(crate) event: &'a E,
}

impl<'a, E: Event> Said<'a, E> {
    /// A message that is being handled in this context.
    pub(crate) fn handled(
        order_id: Uuid,
        topic: &'a str,
        now: Micros,
        context: &'a MessageContext,
        event: &'a E,
    ) -> Self {
        Self {
            order_id,
            topic,
            at: context.caused_at.unwrap_or(now),
            message_id: context.causation_id.map(|id| id.0),
            source: context.caused_in.as_deref(),
            event,
        }
    }

    /// Notes that it was said; of a topic the first time counts.
    pub(crate) async fn note<B: Backend>(self, tx: &mut Tx<'_, B>) -> Result<()> {
        note(tx, &[self]).await
    }
}

static NOTE: Bulk = Bulk::insert(
    "insert into order_step (order_id, topic, at, message_id, message_type, source, payload) values",
    7,
    "on conflict do nothing",
);

/// Notes that these were said; of a topic the first time counts.
pub(crate) async fn note<B: Backend, E: Event>(
    tx: &mut Tx<'_, B>,
    all: &[Said<'_, E>],
) -> Result<()> {
    for piece in pieces(all) {
        let mut insert = sqlx::query::<B>(NOTE.text::<B>(piece.len()));
        for said in piece {
            let payload = serde_json::to_string(said.event).map_err(|source| Error::Encode {
                message_type: E::TYPE,
                source,
            })?;
            insert = insert
                .bind(said.order_id)
                .bind(said.topic)
                .bind(said.at)
                .bind(said.message_id)
                .bind(E::TYPE)
                .bind(said.source)
                .bind(payload);
        }
        let noted = insert.execute(&mut **tx).await;
        noted.map_err(Error::database("order step"))?;
    }
    Ok(())
}

/// Moves an order to `status`, unless it has come as far or farther. `true` if it moved.
pub(crate) async fn move_to<B: Backend>(
    tx: &mut Tx<'_, B>,
    order_id: Uuid,
    status: OrderStatus,
    reason: Option<&str>,
    now: Micros,
) -> Result<bool, sqlx::Error> {
    let statement = match status {
        // Nothing comes before it.
        OrderStatus::Pending => return Ok(false),
        OrderStatus::Cancelling => {
            "update orders set status = $2, reason = $3, updated_at = $4 \
             where order_id = $1 and status = 'pending'"
        }
        OrderStatus::Failed | OrderStatus::Completed => {
            "update orders set status = $2, reason = $3, updated_at = $4 \
             where order_id = $1 and status in ('pending', 'cancelling')"
        }
    };
    let moved = sqlx::query(statement)
        .bind(order_id)
        .bind(status.as_str())
        .bind(reason)
        .bind(now)
        .execute(&mut **tx)
        .await?
        .rows_affected();
    Ok(moved == 1)
}

/// One order without its steps, and the message it began in.
async fn lookup<B: Backend>(
    pool: &Pool<B>,
    order_id: Uuid,
) -> Result<Option<(Order, Option<Uuid>)>> {
    let failed = || Error::database("order lookup");
    let statement = format!("select message_id, {COLUMNS} from orders where order_id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(order_id)
        .fetch_optional(pool)
        .await
        .map_err(failed())?;
    let Some(row) = row else { return Ok(None) };
    let message_id = row.try_get("message_id").map_err(failed())?;
    Ok(Some((read::<B>(&row)?, message_id)))
}

/// One order with its steps.
pub(crate) async fn find<B: Backend>(
    pool: &Pool<B>,
    routing: &Routing,
    order_id: Uuid,
) -> Result<Option<Order>> {
    let Some((mut order, _)) = lookup(pool, order_id).await? else {
        return Ok(None);
    };
    // Its own first message does not come back to it.
    let mut steps = vec![Step {
        step: routing.topic(order.way().created_type()).into(),
        at: order.created_at,
    }];
    let said: Vec<(String, i64)> =
        sqlx::query_as("select topic, at from order_step where order_id = $1 order by at, topic")
            .bind(order_id)
            .fetch_all(pool)
            .await
            .map_err(Error::database("order steps"))?;
    steps.extend(said.into_iter().map(|(step, at)| Step { step, at }));
    order.steps = Some(steps);
    Ok(Some(order))
}

/// The messages about an order, oldest first; its own first one is made of the order again.
pub(crate) async fn events<B: Backend>(
    pool: &Pool<B>,
    outbox: &Outbox,
    order_id: Uuid,
) -> Result<Option<Vec<OrderEvent>>> {
    let Some((order, message_id)) = lookup(pool, order_id).await? else {
        return Ok(None);
    };
    let created = order.created().map_err(|source| Error::Encode {
        message_type: order.way().created_type(),
        source,
    })?;
    let mut events = vec![OrderEvent {
        message_id,
        topic: outbox.routing().topic(&created.message_type).to_owned(),
        message_type: Some(created.message_type),
        source: Some(outbox.source().to_string()),
        at: order.created_at,
        payload: Some(json(&created.payload)?),
    }];
    type Row = (
        String,
        i64,
        Option<Uuid>,
        Option<String>,
        Option<String>,
        Option<String>,
    );
    let said: Vec<Row> = sqlx::query_as(
        "select topic, at, message_id, message_type, source, payload from order_step \
         where order_id = $1 order by at, topic",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await
    .map_err(Error::database("order events"))?;
    for (topic, at, message_id, message_type, source, payload) in said {
        events.push(OrderEvent {
            message_id,
            message_type,
            topic,
            source,
            at,
            payload: payload.map(|text| json(text.as_bytes())).transpose()?,
        });
    }
    Ok(Some(events))
}

fn json(text: &[u8]) -> Result<serde_json::Value> {
    serde_json::from_slice(text).map_err(|error| Error::Corrupt {
        what: "order event",
        reason: error.to_string(),
    })
}

/// Orders newest first, one more than the page holds. Served by the primary key.
pub(crate) async fn list<B: Backend>(pool: &Pool<B>, page: PageQuery) -> Result<Vec<Order>> {
    let statement =
        format!("select {COLUMNS} from orders where order_id < $1 order by order_id desc limit $2");
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(page.below())
        .bind(page.limit + 1)
        .fetch_all(pool)
        .await
        .map_err(Error::database("order list"))?;
    rows.iter().map(read::<B>).collect()
}

fn read<B: Backend>(row: &B::Row) -> Result<Order> {
    let corrupt = |reason: String| Error::Corrupt {
        what: "order",
        reason,
    };
    let failed = |e: sqlx::Error| corrupt(e.to_string());
    let status: String = row.try_get("status").map_err(failed)?;
    let saga: String = row.try_get("saga").map_err(failed)?;
    let amount: i64 = row.try_get("amount_minor").map_err(failed)?;
    let correlation_id: Uuid = row.try_get("correlation_id").map_err(failed)?;
    let saga = SagaStyle::parse(&saga).ok_or_else(|| corrupt(format!("saga {saga}")))?;
    let choreography = match saga {
        SagaStyle::Orchestration => None,
        SagaStyle::Choreography => {
            let stored = row.try_get("choreography").map_err(failed)?;
            Some(flow_of(stored).map_err(|e| corrupt(e.to_string()))?)
        }
    };
    Ok(Order {
        order_id: row.try_get("order_id").map_err(failed)?,
        status: OrderStatus::parse(&status).ok_or_else(|| corrupt(format!("status {status}")))?,
        reason: row.try_get("reason").map_err(failed)?,
        saga,
        choreography,
        user_id: row.try_get("user_id").map_err(failed)?,
        product_id: row.try_get("product_id").map_err(failed)?,
        quantity: row.try_get("quantity").map_err(failed)?,
        amount: Money::from_minor(amount).ok_or_else(|| corrupt(format!("amount {amount}")))?,
        correlation_id: CorrelationId(correlation_id),
        created_at: row.try_get("created_at").map_err(failed)?,
        updated_at: row.try_get("updated_at").map_err(failed)?,
        steps: None,
    })
}

//! Rows of the `timer` table.

use std::time::Duration;

use onceward::bulk::{Bulk, pieces};
use onceward::{Backend, Micros, QueryResult, Tx};
use sqlx::{Pool, Row};
use uuid::Uuid;

use crate::SagaError;

/// An armed timer, as the runner finds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ArmedTimer {
    pub(crate) owner: Uuid,
    pub(crate) name: String,
    pub(crate) fire_at: Micros,
}

/// A timer, by its name and owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) owner: Uuid,
    pub(crate) name: String,
}

static ARM: Bulk = Bulk::insert(
    "insert into timer (owner_kind, owner_id, name, state, armed_at, fire_at) values",
    6,
    "",
);

/// Arms timers to fire so long from now; an owner arms a name once.
pub(crate) async fn arm<B: Backend>(
    tx: &mut Tx<'static, B>,
    kind: &'static str,
    now: Micros,
    timers: &[(Named, Duration)],
) -> Result<(), SagaError> {
    for piece in pieces(timers) {
        let mut insert = sqlx::query::<B>(ARM.text::<B>(piece.len()));
        for (timer, delay) in piece {
            let delay = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
            insert = insert
                .bind(kind)
                .bind(timer.owner)
                .bind(&*timer.name)
                .bind("armed")
                .bind(now)
                .bind(now.saturating_add(delay));
        }
        let armed = insert.execute(&mut **tx).await;
        armed.map_err(SagaError::database("timer insert"))?;
    }
    Ok(())
}

/// Owner and name of each; then kind and now.
static DISARM: Bulk = Bulk::custom(|rows, parameters| {
    let named = parameters.typed_rows(rows, &["uuid", "text"]);
    format!(
        "with named (owner_id, name) as (values {named}) \
         update timer set state = 'disarmed', finished_at = {now} from named \
         where timer.owner_kind = {kind} and timer.owner_id = named.owner_id \
         and timer.name = named.name and timer.state = 'armed'",
        kind = parameters.shared(2 * rows + 1),
        now = parameters.shared(2 * rows + 2),
    )
});

/// Disarms timers that are still armed; those that have fired stay as they are.
pub(crate) async fn disarm<B: Backend>(
    tx: &mut Tx<'static, B>,
    kind: &'static str,
    now: Micros,
    timers: &[Named],
) -> Result<(), SagaError> {
    for piece in pieces(timers) {
        let mut update = sqlx::query::<B>(DISARM.text::<B>(piece.len()));
        for timer in piece {
            update = update.bind(timer.owner).bind(&*timer.name);
        }
        let disarmed = update.bind(kind).bind(now).execute(&mut **tx).await;
        disarmed.map_err(SagaError::database("timer disarm"))?;
    }
    Ok(())
}

/// `armed → fired`, if it still is armed and its time has come. The caller holds its owner's lock.
pub(crate) async fn mark_fired<B: Backend>(
    tx: &mut Tx<'static, B>,
    kind: &str,
    owner: Uuid,
    name: &str,
    now: Micros,
) -> Result<bool, SagaError> {
    let done = sqlx::query(
        "update timer set state = 'fired', finished_at = $4 where owner_kind = $1 \
         and owner_id = $2 and name = $3 and state = 'armed' and fire_at <= $4",
    )
    .bind(kind.to_owned())
    .bind(owner)
    .bind(name.to_owned())
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(SagaError::database("timer firing"))?;
    Ok(done.rows_affected() == 1)
}

/// The armed timers that fire next, due or not. Served by the index `timer_due`.
pub(crate) async fn next_armed<B: Backend>(
    pool: &Pool<B>,
    kind: &str,
    limit: i64,
) -> Result<Vec<ArmedTimer>, SagaError> {
    sqlx::query(
        "select owner_id, name, fire_at from timer where state = 'armed' and owner_kind = $1 \
         order by fire_at limit $2",
    )
    .bind(kind.to_owned())
    .bind(limit)
    .fetch_all(pool)
    .await
    .and_then(|rows| {
        rows.iter()
            .map(|row| {
                Ok(ArmedTimer {
                    owner: row.try_get("owner_id")?,
                    name: row.try_get("name")?,
                    fire_at: row.try_get("fire_at")?,
                })
            })
            .collect()
    })
    .map_err(SagaError::database("timer lookup"))
}

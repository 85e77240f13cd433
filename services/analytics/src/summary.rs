//! What happened in a window of time.

use std::collections::BTreeMap;

use onceward::{Backend, Micros};
use serde::Serialize;
use skeleton::iso_time;
use sqlx::{Pool, Row};
use utoipa::ToSchema;

use crate::facts::MINUTE;

/// Most minutes listed: a day.
const MAX_MINUTES: i64 = 1_440;

/// What happened in a window of time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Summary {
    /// The window in seconds; absent for everything since the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, minimum = 1, example = 3600)]
    window_seconds: Option<i64>,
    /// Orders placed in the window.
    #[schema(minimum = 0, example = 120)]
    placed: i64,
    /// Orders that ended well in the window.
    #[schema(minimum = 0, example = 93)]
    completed: i64,
    /// Orders that ended undone in the window.
    #[schema(minimum = 0, example = 27)]
    cancelled: i64,
    /// What the completed ones brought, in minor units (cents).
    #[schema(minimum = 0, example = 1_859_907)]
    revenue_minor: i64,
    /// Completed of all that ended, 0 to 1; null if none did.
    #[schema(required, minimum = 0, maximum = 1, example = 0.775)]
    conversion: Option<f64>,
    /// Ended orders of which something had to be undone, 0 to 1; null if none ended.
    #[schema(required, minimum = 0, maximum = 1, example = 0.225)]
    compensation_rate: Option<f64>,
    /// From placed to ended, in milliseconds; null if none ended.
    #[schema(required)]
    duration_ms: Option<Durations>,
    /// Messages by topic, in whole minutes.
    messages: BTreeMap<String, i64>,
    /// The minutes in which something was said, newest first, at most 1,440.
    #[schema(max_items = 1440)]
    minutes: Vec<Minute>,
}

/// How long orders took.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Durations {
    /// Half of them took no longer.
    #[schema(example = 84.2)]
    p50: f64,
    /// 95 of 100 took no longer.
    #[schema(example = 212.9)]
    p95: f64,
}

/// What was said in a minute.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Minute {
    /// Its beginning.
    #[schema(format = DateTime)]
    minute: String,
    /// Messages by topic.
    messages: BTreeMap<String, i64>,
}

/// Reads what happened in the `window` up to `now`; everything if there is no window.
pub(crate) async fn read<B: Backend>(
    pool: &Pool<B>,
    window: Option<Micros>,
    now: Micros,
) -> Result<Summary, sqlx::Error> {
    let from = window.map_or(0, |window| now.saturating_sub(window).max(0));
    // One statement, so that its numbers agree with each other. By order_fact_created and _ended.
    let row = sqlx::query(
        "select cast(coalesce(sum(case when created_at >= $1 then 1 else 0 end), 0) as bigint) \
         as placed, \
         cast(coalesce(sum(case when outcome = 'completed' and ended_at >= $1 then 1 else 0 end), 0) \
         as bigint) as completed, \
         cast(coalesce(sum(case when outcome = 'cancelled' and ended_at >= $1 then 1 else 0 end), 0) \
         as bigint) as cancelled, \
         cast(coalesce(sum(case when ended_at >= $1 then undone else 0 end), 0) as bigint) \
         as undone, \
         cast(coalesce(sum(case when outcome = 'completed' and ended_at >= $1 then amount_minor \
         else 0 end), 0) as bigint) as revenue_minor, \
         cast(coalesce(sum(case when ended_at >= $1 and created_at is not null then 1 else 0 end), \
         0) as bigint) as timed \
         from order_fact where created_at >= $1 or ended_at >= $1",
    )
    .bind(from)
    .fetch_one(pool)
    .await?;
    let (completed, cancelled): (i64, i64) = (row.try_get("completed")?, row.try_get("cancelled")?);
    let ended = completed + cancelled;
    let minutes = minutes(pool, from).await?;
    Ok(Summary {
        window_seconds: window.map(|window| window / 1_000_000),
        placed: row.try_get("placed")?,
        completed,
        cancelled,
        revenue_minor: row.try_get("revenue_minor")?,
        conversion: share(completed, ended),
        compensation_rate: share(row.try_get("undone")?, ended),
        duration_ms: durations(pool, from, row.try_get("timed")?).await?,
        messages: messages(pool, from).await?,
        minutes,
    })
}

fn share(part: i64, whole: i64) -> Option<f64> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of so many that it mattered would be rounded anyway"
    )]
    (whole > 0).then(|| part as f64 / whole as f64)
}

async fn durations<B: Backend>(
    pool: &Pool<B>,
    from: Micros,
    count: i64,
) -> Result<Option<Durations>, sqlx::Error> {
    let ranked = async |percent: i64| -> Result<Option<f64>, sqlx::Error> {
        let took: Option<i64> = sqlx::query_scalar(
            "select ended_at - created_at as took from order_fact \
             where ended_at >= $1 and created_at is not null order by took limit 1 offset $2",
        )
        .bind(from)
        .bind(rank(percent, count))
        .fetch_optional(pool)
        .await?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of an order's life"
        )]
        Ok(took.map(|took| took as f64 / 1_000.0))
    };
    let (p50, p95) = (ranked(50).await?, ranked(95).await?);
    Ok(p50.zip(p95).map(|(p50, p95)| Durations { p50, p95 }))
}

/// Position of the percentile among `count` sorted values, from 0: the nearest rank.
fn rank(percent: i64, count: i64) -> i64 {
    ((percent * count + 99) / 100 - 1).max(0)
}

async fn messages<B: Backend>(
    pool: &Pool<B>,
    from: Micros,
) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let rows = sqlx::query(
        "select topic, cast(sum(messages) as bigint) as messages from minute_count \
         where minute >= $1 group by topic",
    )
    .bind(from - from.rem_euclid(MINUTE))
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| Ok((row.try_get("topic")?, row.try_get("messages")?)))
        .collect()
}

async fn minutes<B: Backend>(pool: &Pool<B>, from: Micros) -> Result<Vec<Minute>, sqlx::Error> {
    let rows = sqlx::query(
        "select minute, topic, messages from minute_count where minute in (select distinct minute \
         from minute_count where minute >= $1 order by minute desc limit $2) \
         order by minute desc, topic",
    )
    .bind(from - from.rem_euclid(MINUTE))
    .bind(MAX_MINUTES)
    .fetch_all(pool)
    .await?;
    let mut found: Vec<Minute> = Vec::new();
    for row in &rows {
        let minute = iso_time(row.try_get("minute")?);
        let (topic, count) = (row.try_get("topic")?, row.try_get("messages")?);
        match found.last_mut() {
            Some(last) if last.minute == minute => {
                last.messages.insert(topic, count);
            }
            _ => found.push(Minute {
                minute,
                messages: BTreeMap::from([(topic, count)]),
            }),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        for (percent, count, place) in [
            (50, 0, 0),
            (50, 1, 0),
            (50, 4, 1),
            (95, 20, 18),
            (95, 21, 19),
        ] {
            assert_eq!(rank(percent, count), place, "p{percent} of {count}");
        }
    }
}

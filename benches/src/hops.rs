//! Where the time of a saga goes, hop by hop: what the outboxes and inboxes of its services say.

use std::collections::HashMap;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use onceward::Backend;
use onceward::header::CAUSATION_ID;
use sqlx::Pool;
use uuid::Uuid;

/// Of all hops, nanoseconds.
pub(crate) struct Hops {
    /// From a message's append, before its COMMIT, to the transaction that took it.
    pub on_the_way: Histogram<u64>,
    /// From there to the append of a message that it caused.
    pub handled: Histogram<u64>,
}

/// One service's part, of after `since` (microseconds).
#[derive(Default)]
struct Known {
    /// Message, what caused it, when it was appended.
    sent: Vec<(String, Option<String>, i64)>,
    received: HashMap<String, i64>,
}

/// Reads the databases of all services.
pub(crate) async fn measure<B: Backend>(urls: &[String], since: i64) -> Result<Hops> {
    let mut services = Vec::new();
    for url in urls {
        services.push(known::<B>(url, since).await?);
    }
    let sent = services.iter().flat_map(|known| &known.sent);
    let sent: HashMap<_, _> = sent.map(|(id, _, at)| (id, *at)).collect();
    let mut hops = Hops {
        on_the_way: Histogram::new(3)?,
        handled: Histogram::new(3)?,
    };
    for Known {
        sent: own,
        received,
    } in &services
    {
        for (id, at) in received {
            if let Some(appended) = sent.get(id) {
                hops.on_the_way.record(nanoseconds(at - appended))?;
            }
        }
        for (_, cause, at) in own {
            if let Some(taken) = cause.as_ref().and_then(|cause| received.get(cause)) {
                hops.handled.record(nanoseconds(at - taken))?;
            }
        }
    }
    Ok(hops)
}

/// As histograms count.
pub(crate) fn nanoseconds(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or(0) * 1_000
}

async fn known<B: Backend>(url: &str, since: i64) -> Result<Known> {
    let pool = Pool::<B>::connect(url).await?;
    let mut known = Known::default();
    let sent = "select message_id, headers, occurred_at from outbox where occurred_at >= $1";
    let sent = sqlx::query_as::<B, (Uuid, String, i64)>(sent).bind(since);
    for (id, headers, at) in sent.fetch_all(&pool).await? {
        let headers = serde_json::from_str(&headers);
        let mut headers: HashMap<String, String> = headers.context("an outbox row's headers")?;
        let cause = headers.remove(CAUSATION_ID);
        known.sent.push((id.to_string(), cause, at));
    }
    let received = "select ce_id, received_at from inbox where received_at >= $1";
    let received = sqlx::query_as::<B, (String, i64)>(received).bind(since);
    known.received = received.fetch_all(&pool).await?.into_iter().collect();
    pool.close().await;
    Ok(known)
}

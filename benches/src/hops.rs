//! Where the time of a saga goes, hop by hop: what the outboxes and inboxes of its services say.

use std::collections::HashMap;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Deserialize;
use sqlx::{Postgres, Sqlite};
use uuid::Uuid;

use crate::source::Kind;
use crate::write::Opened;

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

#[derive(Deserialize)]
struct Headers {
    #[serde(rename = "causation-id")]
    causation_id: Option<String>,
}

/// Reads the databases of all services.
pub(crate) async fn measure(kind: Kind, urls: &[String], since: i64) -> Result<Hops> {
    let mut services = Vec::new();
    for url in urls {
        services.push(match kind {
            Kind::Postgres => known::<Postgres>(url, since).await?,
            Kind::Sqlite => known::<Sqlite>(url, since).await?,
        });
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

fn nanoseconds(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or(0) * 1_000
}

async fn known<B: Opened>(url: &str, since: i64) -> Result<Known> {
    let db = B::open(url).await?;
    let mut known = Known::default();
    let sent = "select message_id, headers, occurred_at from outbox where occurred_at >= $1";
    let sent = sqlx::query_as::<B, (Uuid, String, i64)>(sent).bind(since);
    for (id, headers, at) in sent.fetch_all(db.pool()).await? {
        let headers: Headers = serde_json::from_str(&headers).context("an outbox row's headers")?;
        known.sent.push((id.to_string(), headers.causation_id, at));
    }
    let received = "select ce_id, received_at from inbox where received_at >= $1";
    let received = sqlx::query_as::<B, (String, i64)>(received).bind(since);
    known.received = received.fetch_all(db.pool()).await?.into_iter().collect();
    db.close().await;
    Ok(known)
}

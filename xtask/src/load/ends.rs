//! Finding the orders of a load again, and waiting until each has ended.
//!
//! Orders are looked for in the order service's list by their `correlation-id`, not by the ids that
//! were answered: so an order that was placed twice shows, and so does one whose answer was lost.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use reqwest::Client;
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::progress::Progress;
use crate::Result;

/// Rows a page; the most that there may be.
const PAGE: u32 = 500;
/// Between two looks at the orders that have not ended.
const PAUSE: Duration = Duration::from_millis(500);
/// A list that fails for so long stays so.
const LIST_AT_MOST: Duration = Duration::from_secs(30);
/// The same before anything was sent: more likely nobody is there at all.
const FIRST_LIST_AT_MOST: Duration = Duration::from_secs(10);
const ANSWER_AT_MOST: Duration = Duration::from_secs(10);

/// An order as the list shows it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Listed {
    pub(super) order_id: Uuid,
    pub(super) status: String,
    pub(super) reason: Option<String>,
    correlation_id: Uuid,
    #[serde(deserialize_with = "rfc3339")]
    created_at: Timestamp,
    #[serde(deserialize_with = "rfc3339")]
    updated_at: Timestamp,
}

fn rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl Listed {
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed")
    }

    /// By the order service's clock.
    pub(super) fn took(&self) -> Duration {
        Duration::try_from(self.updated_at.duration_since(self.created_at)).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Listed>,
    next: Option<Uuid>,
}

/// The orders of one run, by the key they were sent with: one each, if all is well.
pub(super) type Found = HashMap<Uuid, BTreeMap<Uuid, Listed>>;

/// The list of an order service.
pub(super) struct List<'a> {
    pub(super) client: &'a Client,
    pub(super) orders: &'a str,
}

impl List<'_> {
    /// The newest order there is: nothing that comes later has a lower id. A service that was killed
    /// a moment ago gets the time to come back.
    pub(super) async fn newest(&self) -> Result<Uuid> {
        let begun = Instant::now();
        let page = loop {
            match self.page(None, 1).await {
                Err(_) if begun.elapsed() < FIRST_LIST_AT_MOST => tokio::time::sleep(PAUSE).await,
                page => break page,
            }
        };
        let page = page.with_context(|| format!("no orders can be listed at {}", self.orders))?;
        Ok(page
            .items
            .first()
            .map_or(Uuid::nil(), |order| order.order_id))
    }

    async fn page(&self, before: Option<Uuid>, limit: u32) -> Result<Page> {
        let mut url = format!("{}?limit={limit}", self.orders);
        if let Some(before) = before {
            url.push_str(&format!("&before={before}"));
        }
        let response = self.client.get(url).timeout(ANSWER_AT_MOST).send().await?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{status}: {}", text.trim());
        }
        serde_json::from_str(&text).context("this is not the list of an order service")
    }

    /// Notes our orders with ids above `after` and below `before`. The list is there again soon if
    /// its service was killed.
    async fn sweep(&self, after: Uuid, before: Option<Uuid>, found: &mut Found) -> Result<()> {
        let mut before = before;
        let mut failing: Option<Instant> = None;
        loop {
            let page = match self.page(before, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    if failing.get_or_insert_with(Instant::now).elapsed() > LIST_AT_MOST {
                        return Err(error.context("listing the orders"));
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            failing = None;
            let past = page.items.iter().any(|order| order.order_id <= after);
            for order in page.items.into_iter().filter(|o| o.order_id > after) {
                if let Some(ours) = found.get_mut(&order.correlation_id) {
                    ours.insert(order.order_id, order);
                }
            }
            match page.next {
                Some(next) if !past => before = Some(next),
                _ => return Ok(()),
            }
        }
    }

    /// Looks for the orders sent with `keys` until all that were placed have ended, but at most so
    /// long, and not after `stop`. Only orders newer than `after` are looked at.
    pub(super) async fn follow(
        &self,
        keys: impl Iterator<Item = Uuid>,
        after: Uuid,
        at_most: Duration,
        stop: &CancellationToken,
        progress: &mut Progress,
    ) -> Result<Found> {
        let mut found: Found = keys.map(|key| (key, BTreeMap::new())).collect();
        let begun = Instant::now();
        self.sweep(after, None, &mut found).await?;
        loop {
            let placed = || found.values().flat_map(BTreeMap::values);
            let open = placed()
                .filter(|order| !order.has_ended())
                .map(|o| o.order_id);
            let (lowest, highest) = (open.clone().min(), open.clone().max());
            progress.ended(placed().count() - open.count(), placed().count());
            let (Some(lowest), Some(highest)) = (lowest, highest) else {
                break;
            };
            if begun.elapsed() > at_most || stop.is_cancelled() {
                break;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
            // No lower than the oldest that is still open, no higher than the newest.
            let after = Uuid::from_u128(lowest.as_u128().saturating_sub(1));
            let before = Uuid::from_u128(highest.as_u128().saturating_add(1));
            self.sweep(after, Some(before), &mut found).await?;
        }
        // Once more from the top: a request that nobody waited for may have been carried out late.
        self.sweep(after, None, &mut found).await?;
        Ok(found)
    }
}

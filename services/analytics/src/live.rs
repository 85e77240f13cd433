//! The last minute, once a second, for whoever listens.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::Event;
use futures::Stream;
use onceward::Backend;
use skeleton::{App, Background};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::facts::MINUTE;
use crate::summary;

const EVERY: Duration = Duration::from_secs(1);

/// Where a listener gets the newest summary, as JSON. It ends when the service stops.
pub(crate) type Live = watch::Receiver<String>;

/// The task that reads once for all listeners, and not at all while there are none.
pub(crate) fn task<B: Backend>(app: App<B>) -> (Background, Live) {
    let (sender, live) = watch::channel(String::new());
    let task = Background::new("live", move |stop| async move {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // The sender ends with this task, and every stream with the sender.
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            // One is the routes' own.
            if sender.receiver_count() <= 1 {
                continue;
            }
            match summary::read(app.db().pool(), Some(MINUTE), app.clock().now()).await {
                Ok(summary) => sender.send_replace(serde_json::to_string(&summary)?),
                Err(error) => {
                    tracing::warn!(%error, "the last minute could not be read");
                    continue;
                }
            };
        }
    });
    (task, live)
}

/// Every new summary, from the next one on.
pub(crate) fn events(mut live: Live) -> impl Stream<Item = Result<Event, Infallible>> {
    live.mark_unchanged();
    futures::stream::unfold(live, async |mut live| {
        live.changed().await.ok()?;
        let json = live.borrow_and_update().clone();
        Some((Ok(Event::default().event("summary").data(json)), live))
    })
}

//! How many sagas are under way, and how many are stuck: what an alarm looks at.

use std::time::Duration;

use onceward::Db;
use onceward_saga::{SagaBackend, SagaStatus, inspect};
use skeleton::Background;

/// Sagas that have not ended, by `status`.
const OPEN_SAGAS: &str = "onceward_saga_open_sagas";
/// How often they are counted.
const INTERVAL: Duration = Duration::from_secs(5);

/// Counts open sagas for `/metrics`.
pub(crate) fn task<B: SagaBackend>(db: Db<B>) -> Background {
    Background::unfailing("saga-gauges", move |stop| async move {
        metrics::describe_gauge!(OPEN_SAGAS, "Sagas that have not ended");
        while !stop.is_cancelled() {
            match inspect::count_open(db.pool()).await {
                Ok(counts) => {
                    for status in [
                        SagaStatus::Running,
                        SagaStatus::Compensating,
                        SagaStatus::Stuck,
                    ] {
                        let found = counts.iter().find(|(counted, _)| *counted == status);
                        let count = found.map_or(0, |(_, count)| *count);
                        // A gauge is a float; so many sagas are not open at a time that it matters.
                        let count = u32::try_from(count).unwrap_or(u32::MAX);
                        metrics::gauge!(OPEN_SAGAS, "status" => status.as_str()).set(count);
                    }
                }
                Err(error) => tracing::warn!(%error, "open sagas could not be counted"),
            }
            let _stopped = tokio::time::timeout(INTERVAL, stop.cancelled()).await;
        }
    })
}

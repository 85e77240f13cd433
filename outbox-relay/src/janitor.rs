//! When the janitor runs. The sweeping itself is the worker's: it alone knows that the mirror is
//! written first and that the source is still its own.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

/// Counts the janitor's appointments; a worker that sees a new number sweeps.
pub(crate) type Appointments = watch::Receiver<u64>;

/// A running schedule. Shut it down; dropping alone leaves its tasks to the runtime.
pub(crate) struct Schedule {
    scheduler: JobScheduler,
    appointments: Appointments,
}

impl Schedule {
    /// Starts ticking by a cron expression with seconds.
    pub(crate) async fn start(expression: &str) -> Result<Self, JobSchedulerError> {
        let (tick, appointments) = watch::channel(0_u64);
        let tick = Arc::new(tick);
        let scheduler = JobScheduler::new().await?;
        let job = Job::new_async(expression, move |_, _| {
            let tick = tick.clone();
            Box::pin(async move { tick.send_modify(|count| *count += 1) })
        })?;
        scheduler.add(job).await?;
        scheduler.start().await?;
        Ok(Self {
            scheduler,
            appointments,
        })
    }

    pub(crate) fn appointments(&self) -> Appointments {
        self.appointments.clone()
    }

    /// Ends the schedule.
    pub(crate) async fn shutdown(mut self) {
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::warn!(error = %error, "the janitor's schedule did not shut down");
        }
    }
}

/// Whether the scheduler understands the expression.
pub(crate) fn check_schedule(expression: &str) -> Result<(), String> {
    Job::new(expression, |_, _| {})
        .map(|_| ())
        .map_err(|_| format!("{expression:?} is not a cron expression with seconds"))
}

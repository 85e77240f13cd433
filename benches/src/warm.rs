//! A broker that is as fast as one that has run for a while.

use std::time::Duration;

use anyhow::Result;
use onceward_testkit::machine;
use tokio::time::Instant;

/// What its compiler takes at most when it is done, of a core: half a core of two, minutes long, at first.
const DONE: f64 = 0.08;
const AT_MOST: Duration = Duration::from_secs(240);

/// Repeats a load of some seconds until the JVM of the broker, a process id, has compiled what the load uses.
pub(crate) async fn until_compiled(
    broker: u32,
    mut load: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let begun = Instant::now();
    loop {
        let (before, since) = (machine::compiler_seconds(broker)?, Instant::now());
        load().await?;
        let spent = machine::compiler_seconds(broker)? - before;
        let share = spent / since.elapsed().as_secs_f64();
        eprintln!(
            "warming up the broker: {:.0} s, its compiler takes {:.0} % of a core",
            begun.elapsed().as_secs_f64(),
            100.0 * share
        );
        if share < DONE || begun.elapsed() > AT_MOST {
            return Ok(());
        }
    }
}

//! Faults of Kafka, and of the way to it.

use onceward::{Clock, SystemClock};
use rand::rngs::StdRng;

use super::Struck;
use crate::Result;
use crate::rig::Rig;

/// Kills the broker and starts it again.
pub(super) fn killed(rig: &mut Rig<'_>, _: &mut StdRng) -> Result<Struck> {
    let begun = SystemClock.now();
    let kafka = &mut rig.stage.kafka.kafka;
    kafka.kill9()?;
    kafka.start_again()?;
    Ok(Struck::since(begun, ""))
}

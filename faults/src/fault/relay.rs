//! Faults of the relay's process.

use onceward::{Clock, SystemClock};
use rand::rngs::StdRng;

use super::Struck;
use crate::Result;
use crate::rig::Rig;

/// Kills the owner and starts it again.
pub(super) fn killed(rig: &mut Rig<'_>, _: &mut StdRng) -> Result<Struck> {
    let owner = rig.owner()?;
    let begun = SystemClock.now();
    rig.relay(owner)?.process.kill9()?;
    rig.restart(owner, None)?;
    Ok(Struck::since(begun, ""))
}

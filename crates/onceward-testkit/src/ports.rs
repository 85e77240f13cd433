//! Ports that stay ours while the process behind them is down.
//!
//! A port got by binding port 0 can be handed out again by the kernel as soon as it is free, for
//! example while a killed Kafka is being restarted. So ports are taken below the kernel's ephemeral
//! range, and a lock file keeps other test processes off them.

use std::fs::{File, OpenOptions, TryLockError};
use std::net::TcpListener;

use anyhow::{Context, bail};

use crate::Result;

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A TCP port of 127.0.0.1 that nobody else using this module gets while the value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a free port. Fails only if none of some 12,000 is free or the lock folder is not writable.
    pub fn take() -> Result<Self> {
        let folder = std::env::temp_dir().join("onceward-ports");
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {folder:?}"))?;
        // Several users may share the folder.
        open_to_all(&folder);
        let start = rand::random::<u16>() % COUNT;
        for step in 0..COUNT {
            let number = FIRST + (start + step) % COUNT;
            let path = folder.join(number.to_string());
            let Ok(lock) = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
            else {
                continue; // another user's
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {path:?}"));
                }
            }
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self {
                    number,
                    _lock: lock,
                });
            }
        }
        bail!("no free port between {FIRST} and {}", FIRST + COUNT)
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Lets every user write into the folder; only its owner can, and need only once.
fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o1777));
}

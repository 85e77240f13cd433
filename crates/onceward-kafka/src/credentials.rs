//! The files that say who we are and whom we trust. librdkafka reads them once, when a client is made.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::KafkaConfig;

/// Time between two looks at the files of a client that is refused.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a client was made of.
pub(crate) struct Credentials {
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
    looked: Instant,
}

impl Credentials {
    /// As they are now.
    pub(crate) fn of(config: &KafkaConfig) -> Self {
        let files = [
            &config.ca_file,
            &config.cert_file,
            &config.key_file,
            &config.key_password_file,
            &config.password_file,
        ];
        let files = files.into_iter().flatten();
        Self {
            files: files
                .map(|file| (file.clone(), std::fs::read(file).ok()))
                .collect(),
            looked: Instant::now(),
        }
    }

    /// Whether a file reads otherwise than it did; looks once a second, and says no in between. One
    /// that can't be read just now is being replaced.
    pub(crate) fn have_changed(&mut self) -> bool {
        if self.looked.elapsed() < LOOK_EVERY {
            return false;
        }
        self.looked = Instant::now();
        self.files.iter().any(|(file, before)| {
            let now = std::fs::read(file).ok();
            now.is_some() && now != *before
        })
    }
}

//! What a [`Relay`](crate::Relay) is told: sources, batch sizes, intervals.

use onceward::secret::without_passwords;
use onceward::{DatabaseUrl, SourceName};

/// One source and where its database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// Name of the source; must be the one the database was migrated with.
    pub name: SourceName,
    /// `sqlite:///abs/path/file.db` or `postgres://user:password@host:port/database`.
    pub url: DatabaseUrl,
}

impl std::str::FromStr for SourceOptions {
    type Err = String;

    /// Parses `NAME=URL`. The message never contains a password.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = text
            .split_once('=')
            .filter(|(name, _)| !name.contains(':'))
            .ok_or_else(|| format!("{:?} is not NAME=URL", without_passwords(text)))?;
        let name = SourceName::new(name.trim()).map_err(|e| e.to_string())?;
        let source = Self {
            name,
            url: DatabaseUrl::from(url),
        };
        match source.problem() {
            None => Ok(source),
            Some(problem) => Err(problem),
        }
    }
}

impl SourceOptions {
    /// What is wrong with the URL, without the URL.
    fn problem(&self) -> Option<String> {
        let problem = self.url.check().err()?;
        Some(format!("{}: {problem}", self.name))
    }
}

/// Settings of a [`Relay`](crate::Relay); [`Default`] gives the documented values and no source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayOptions {
    /// Name of this process among the relays of a source. A process that starts with the id of a
    /// dead one takes its sources at once instead of waiting for the lease to run out.
    pub instance_id: String,
    /// The databases to relay.
    pub sources: Vec<SourceOptions>,
    /// Rows of one Kafka transaction at most, 1 to 20,000. More raise throughput and delay. Sources that have
    /// backlogs at the same time share it (not below 500), so that memory grows little with their number.
    pub batch_rows: u32,
    /// Payload bytes of one Kafka transaction at most, shared alike; one larger row still travels alone.
    pub batch_bytes: u64,
    /// Time between fetches of a busy source, in milliseconds. An idle one polls each 25 ms, or
    /// each 250 ms while its writers send hints.
    pub poll_busy_ms: u64,
    /// Least time between two writes of the mirror, in milliseconds.
    pub mirror_ms: u64,
    /// Time between refreshes of the topics' partition counts, in milliseconds.
    pub topics_refresh_ms: u64,
    /// How long a source waits for a topic that does not exist or that it may not write, in milliseconds;
    /// then the topic's rows are parked, and those of other topics go on. 0: for ever.
    pub topic_hold_ms: u64,
    /// How long published rows stay in the outbox, in seconds.
    pub retention_seconds: u64,
    /// When the janitor runs: a cron expression with seconds, UTC.
    pub janitor_schedule: String,
    /// Rows the janitor deletes in one transaction, 1 to 10,000.
    pub janitor_chunk_rows: u32,
    /// Keyed topics whose changed partition count is accepted once, after they were drained.
    pub accept_repartitioned: Vec<String>,
    /// Time for a graceful stop to finish the open Kafka transaction, in milliseconds; 0.7 s more are for
    /// mirror and lease.
    pub stop_ms: u64,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            instance_id: default_instance_id(),
            sources: Vec::new(),
            batch_rows: 10_000,
            batch_bytes: 8 * 1024 * 1024,
            poll_busy_ms: 1,
            mirror_ms: 1_000,
            topics_refresh_ms: 30_000,
            topic_hold_ms: 60_000,
            retention_seconds: 24 * 3600,
            janitor_schedule: "0 * * * * *".to_owned(),
            janitor_chunk_rows: 500,
            accept_repartitioned: Vec::new(),
            stop_ms: 1_200,
        }
    }
}

impl RelayOptions {
    /// The defaults for one source: what a service that relays its own outbox needs.
    pub fn for_source(name: &SourceName, url: impl Into<DatabaseUrl>) -> Self {
        Self {
            sources: vec![SourceOptions {
                name: name.clone(),
                url: url.into(),
            }],
            ..Self::default()
        }
    }

    /// Everything that is wrong with these settings; empty if they are fit to run.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |fine: bool, problem: &str| {
            if !fine {
                problems.push(problem.to_owned());
            }
        };
        check(
            !self.sources.is_empty(),
            "no source: give at least one --source NAME=URL",
        );
        check(
            (1..=100).contains(&self.instance_id.len()),
            "instance_id must have 1 to 100 characters",
        );
        check(
            (1..=20_000).contains(&self.batch_rows),
            "batch_rows must be 1 to 20000",
        );
        check(self.batch_bytes > 0, "batch_bytes must be at least 1");
        check(
            (1..=1_000).contains(&self.poll_busy_ms),
            "poll_busy_ms must be 1 to 1000",
        );
        check(
            (1..=10_000).contains(&self.janitor_chunk_rows),
            "janitor_chunk_rows must be 1 to 10000",
        );
        check(
            self.topics_refresh_ms >= 100,
            "topics_refresh_ms must be at least 100",
        );
        check(self.stop_ms <= 60_000, "stop_ms must be at most 60000");
        if let Err(reason) = crate::janitor::check_schedule(&self.janitor_schedule) {
            problems.push(format!("janitor_schedule: {reason}"));
        }
        problems.extend(self.sources.iter().filter_map(SourceOptions::problem));
        let mut names: Vec<&str> = self.sources.iter().map(|s| s.name.as_str()).collect();
        names.sort_unstable();
        for pair in names.windows(2) {
            if let [a, b] = pair
                && a == b
            {
                problems.push(format!("source {a} is given twice"));
            }
        }
        problems
    }
}

/// `host-pid`: another one for each process, so that two relays on one host don't share a name.
fn default_instance_id() -> String {
    let host = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty() && name.len() <= 80)
        .unwrap_or_else(|| "relay".to_owned());
    format!("{host}-{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::{RelayOptions, SourceOptions};

    #[test]
    fn a_password_never_shows() {
        let source: SourceOptions = "order=postgres://u:secret@h/d".parse().unwrap();
        assert!(!format!("{source:?}").contains("secret"));
        let refused = "postgres://u:secret@h/d".parse::<SourceOptions>();
        assert!(!refused.unwrap_err().contains("secret"));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let wrong = RelayOptions {
            batch_rows: 0,
            janitor_schedule: "never".into(),
            ..RelayOptions::default()
        };
        let problems = wrong.validate().join("\n");
        for name in ["source", "batch_rows", "janitor_schedule"] {
            assert!(problems.contains(name), "{name} is missing in {problems}");
        }
    }
}

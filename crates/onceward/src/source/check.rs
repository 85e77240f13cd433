//! Settings that endanger the guarantees, for `outbox-relay check`.

use std::fmt;

use super::{Dialect, SourceError, SourceStore};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, but a guarantee is weaker than it seems.
    Warning,
    /// Messages can be lost, doubled or undone: do not run.
    Refusal,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    pub(super) fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            what: what.into(),
            remedy: remedy.into(),
        }
    }
    pub(super) fn refusal(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Refusal,
            ..Self::warning(what, remedy)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Refusal => "refused",
        };
        write!(f, "{severity}: {}; {}", self.what, self.remedy)
    }
}

impl<B: Dialect> SourceStore<B> {
    /// Looks at the database's settings. Changes nothing.
    pub async fn check(&mut self) -> Result<Vec<Finding>, SourceError> {
        B::findings(&mut self.conn).await
    }
}

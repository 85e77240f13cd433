//! What the run says: plain lines, or lines kept for the view and printed when it ends.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Most lines that are kept: for the view, and for the terminal after it.
const KEPT: usize = 200;

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How long after the start of the run.
    pub at: Duration,
    /// One line; more only where a process's last words follow.
    pub text: String,
}

/// Where the run writes what it does. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Said {
    begun: Instant,
    inner: Arc<Mutex<Inner>>,
    more: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<Line>,
    /// While a view has the terminal: how many of the last lines were not printed.
    unprinted: Option<usize>,
}

impl Said {
    /// Nothing said so far; times count from `begun`.
    pub fn since(begun: Instant) -> Self {
        Self {
            begun,
            inner: Arc::default(),
            more: Arc::default(),
        }
    }

    /// How long the run has lasted.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Says a line: prints it, or keeps it while a view has the terminal.
    pub fn say(&self, text: &str) {
        let line = Line {
            at: self.now(),
            text: text.to_owned(),
        };
        let mut inner = self.lock();
        match &mut inner.unprinted {
            Some(count) => *count = (*count + 1).min(KEPT),
            None => print(&line),
        }
        if inner.lines.len() == KEPT {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
        drop(inner);
        self.more.notify_one();
    }

    /// The last lines, oldest first.
    pub fn recent(&self) -> Vec<Line> {
        self.lock().lines.iter().cloned().collect()
    }

    /// Comes back when something was said since the last time.
    pub async fn more(&self) {
        self.more.notified().await;
    }

    /// From here on the terminal belongs to a view: lines are kept.
    pub fn hold_back(&self) {
        self.lock().unprinted = Some(0);
    }

    /// Prints what was kept, and from here on each line at once.
    pub fn catch_up(&self) {
        let mut inner = self.lock();
        let unprinted = inner.unprinted.take().unwrap_or(0);
        let printed = inner.lines.len().saturating_sub(unprinted);
        inner.lines.iter().skip(printed).for_each(print);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Lines are pushed whole; a panic in between leaves nothing half-done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn print(line: &Line) {
    // Not println: a closed terminal is no reason to die before all have stopped.
    let text = format!("{:6.1} s  {}\n", line.at.as_secs_f32(), line.text);
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{KEPT, Said};

    #[test]
    fn what_is_held_back_is_counted_and_never_more_than_what_is_kept() {
        let said = Said::since(Instant::now());
        said.hold_back();
        for number in 0..KEPT + 5 {
            said.say(&number.to_string());
        }
        let recent = said.recent();
        assert_eq!(recent.len(), KEPT);
        assert_eq!(recent[0].text, "5");
        assert_eq!(said.lock().unprinted, Some(KEPT));
    }
}

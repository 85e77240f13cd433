//! How far a load has come: a bar on a terminal, a line every few seconds elsewhere. On stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::send::{Shared, lock};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// One phase after the other.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let bar = std::io::stderr().is_terminal() && !dumb && !set("CI");
        Self {
            bar: bar.then(|| {
                let bar =
                    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
                let style =
                    ProgressStyle::with_template("{prefix:8} {wide_bar} {pos}/{len}  {msg}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar
            }),
            said: Instant::now(),
        }
    }

    /// How many orders of `count` have had their answer.
    pub(super) fn sent(&mut self, tally: &Shared, count: u64) {
        let (sent, latency, waiting) = {
            let tally = lock(tally);
            let at = |quantile| tally.latency.value_at_quantile(quantile) as f64 / 1e3;
            (tally.sent.len() as u64, (at(0.5), at(0.99)), tally.waiting)
        };
        let (p50, p99) = latency;
        let numbers = format!("p50 {p50:.1} ms  p99 {p99:.1} ms  {waiting} waiting");
        self.show("sending", sent, count, &numbers);
    }

    /// How many orders of those placed have ended.
    pub(super) fn ended(&mut self, ended: usize, placed: usize) {
        self.show("ending", ended as u64, placed as u64, "");
    }

    fn show(&mut self, phase: &'static str, done: u64, all: u64, numbers: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(phase);
                bar.set_length(all);
                bar.set_position(done);
                bar.set_message(numbers.to_owned());
            }
            None if self.said.elapsed() >= LINE_EVERY => {
                self.said = Instant::now();
                eprintln!("{}", format!("{phase} {done}/{all}  {numbers}").trim_end());
            }
            None => {}
        }
    }

    /// Takes the bar away: what follows is the result.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

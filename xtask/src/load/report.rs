//! What a load has shown, for people and as JSON.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;
use uuid::Uuid;

use super::ends::{Found, Listed};
use super::mix::Kind;
use super::send::{Fate, Tally, histogram, micros};
use crate::Result;

/// The result of one load.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    /// Version of this form.
    pub(super) format: u32,
    pub(super) orders: String,
    pub(super) rate: f64,
    pub(super) clients: u32,
    pub(super) seed: u64,
    pub(super) seconds: f64,
    /// Ctrl-C came before all was done.
    pub(super) interrupted: bool,
    /// Whether the orders' ends were waited for.
    pub(super) waited: bool,
    pub(super) sent: u64,
    pub(super) taken: u64,
    pub(super) refused: u64,
    pub(super) refusal: Option<String>,
    /// Orders without a last answer, and those of them that were placed all the same.
    pub(super) unanswered: u64,
    pub(super) unanswered_placed: u64,
    pub(super) began_late: u64,
    /// By status code, or what came instead; one order may have several.
    pub(super) answers: BTreeMap<String, u64>,
    pub(super) kinds: BTreeMap<Kind, u64>,
    /// From when an order was due to its last answer.
    pub(super) post_latency_ms: Latency,
    pub(super) outcomes: Vec<Outcome>,
    /// Placed and not ended.
    pub(super) open: u64,
    /// From created to ended, by the order service's clock.
    pub(super) end_latency_ms: Latency,
    /// Orders that were taken and are not in the list.
    pub(super) missing: u64,
    /// Orders that were placed more than once, and ids that were answered more than once.
    pub(super) doubled: u64,
    /// Orders that ended `completed` and could not.
    pub(super) wrong: u64,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: histogram.max() as f64 / 1e3,
        }
    }
}

/// Orders with the same end, or as far as they have come.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    pub(super) status: String,
    pub(super) reason: Option<String>,
    pub(super) count: u64,
}

impl Report {
    /// Adds what was sent.
    pub(super) fn add_sent(&mut self, tally: &Tally) {
        self.sent = tally.sent.len() as u64;
        for sent in &tally.sent {
            *self.kinds.entry(sent.kind).or_default() += 1;
            match sent.fate {
                Fate::Taken(_) => self.taken += 1,
                Fate::Refused => self.refused += 1,
                Fate::Unanswered => self.unanswered += 1,
            }
        }
        self.refusal.clone_from(&tally.refusal);
        self.began_late = tally.began_late;
        self.answers.clone_from(&tally.answers);
        self.post_latency_ms = Latency::of(&tally.latency);
    }

    /// Adds what was found again.
    pub(super) fn add_found(&mut self, tally: &Tally, found: &Found) -> Result<()> {
        let mut took = histogram()?;
        let mut outcomes = BTreeMap::<(String, Option<String>), u64>::new();
        let mut answered = HashMap::<Uuid, u64>::new();
        for sent in &tally.sent {
            let placed = found.get(&sent.key);
            let count = placed.map_or(0, BTreeMap::len);
            match sent.fate {
                Fate::Taken(id) => {
                    *answered.entry(id).or_default() += 1;
                    let is_there = placed.is_some_and(|placed| placed.contains_key(&id));
                    self.missing += u64::from(!is_there);
                }
                Fate::Unanswered => self.unanswered_placed += u64::from(count > 0),
                Fate::Refused => {}
            }
            self.doubled += u64::from(count > 1);
            for order in placed.into_iter().flat_map(BTreeMap::values) {
                self.add_order(order, sent.kind, &mut took);
                let outcome = (order.status.clone(), order.reason.clone());
                *outcomes.entry(outcome).or_default() += 1;
            }
        }
        self.doubled += answered.values().filter(|count| **count > 1).count() as u64;
        self.end_latency_ms = Latency::of(&took);
        self.outcomes = outcomes
            .into_iter()
            .map(|((status, reason), count)| Outcome {
                status,
                reason,
                count,
            })
            .collect();
        // The most frequent first.
        self.outcomes
            .sort_by_key(|outcome| std::cmp::Reverse(outcome.count));
        Ok(())
    }

    fn add_order(&mut self, order: &Listed, kind: Kind, took: &mut Histogram<u64>) {
        if !order.has_ended() {
            self.open += 1;
            return;
        }
        took.saturating_record(micros(order.took()));
        self.wrong += u64::from(order.status == "completed" && !kind.may_complete());
    }

    /// What must not be, in words; empty if all is well.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |count: u64, what: &str| {
            if count > 0 {
                faults.push(format!("{count} {what}"));
            }
        };
        fault(self.missing, "taken and lost");
        fault(self.doubled, "placed twice");
        fault(self.wrong, "completed that could not");
        fault(self.refused, "refused");
        if !self.interrupted {
            fault(self.unanswered, "without an answer");
            if self.waited {
                fault(self.open, "not ended in time");
            }
        }
        faults
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<14}{value}");
        };
        let pace = self.sent as f64 / self.seconds.max(0.001);
        line(
            "orders",
            format!(
                "{} sent in {:.1} s ({pace:.1} a second, {} wanted), {} taken",
                self.sent, self.seconds, self.rate, self.taken
            ),
        );
        let kinds = self.kinds.iter().map(|(kind, count)| {
            let word = format!("{kind:?}").to_lowercase();
            format!("{count} {word}")
        });
        line("", kinds.collect::<Vec<_>>().join(", "));
        if self.began_late > 0 {
            let clients = self.clients;
            line(
                "",
                format!(
                    "{} began late: all {clients} clients waited (--clients)",
                    self.began_late
                ),
            );
        }
        if let Some(refusal) = &self.refusal {
            line("refused", format!("{}, first: {refusal}", self.refused));
        }
        if self.unanswered > 0 {
            line(
                "unanswered",
                format!(
                    "{}, of which {} were placed",
                    self.unanswered, self.unanswered_placed
                ),
            );
        }
        let answers = self
            .answers
            .iter()
            .map(|(name, count)| format!("{name} × {count}"));
        line("answers", answers.collect::<Vec<_>>().join(", "));
        line(
            "POST",
            latency(&self.post_latency_ms, "from when each was due"),
        );
        let mut name = "outcomes";
        for outcome in &self.outcomes {
            let reason = outcome.reason.as_deref().unwrap_or_default();
            let value = format!("{:<10} {:>7}  {reason}", outcome.status, outcome.count);
            line(name, value.trim_end().to_owned());
            name = "";
        }
        if self.end_latency_ms.count > 0 {
            line(
                "to the end",
                latency(&self.end_latency_ms, "from created to ended"),
            );
        }
        let faults = self.faults();
        line(
            "verdict",
            match (faults.is_empty(), self.open) {
                (false, _) => faults.join(", "),
                (true, 0) => "none lost, none doubled, all ended".to_owned(),
                (true, open) => format!("none lost, none doubled; {open} not ended yet"),
            },
        );
        text
    }
}

fn latency(latency: &Latency, from: &str) -> String {
    let of = |millis: f64| match millis {
        ..1e3 => format!("{millis:.1} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    };
    let [p50, p90, p99, max] = [latency.p50, latency.p90, latency.p99, latency.max].map(of);
    format!("p50 {p50}  p90 {p90}  p99 {p99}  max {max}, {from}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    use uuid::Uuid;

    use super::super::ends::{Found, Listed};
    use super::super::mix::Kind;
    use super::super::send::{Fate, Sent, Tally};
    use super::Report;

    fn report() -> Report {
        Report {
            rate: 20.0,
            clients: 64,
            seconds: 30.0,
            waited: true,
            ..Report::default()
        }
    }

    fn listed(key: Uuid, id: u128, status: &str, reason: Option<&str>) -> (Uuid, Listed) {
        let order_id = Uuid::from_u128(id);
        let order = serde_json::from_value(json!({
            "order_id": order_id, "status": status, "reason": reason, "correlation_id": key,
            "created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:00.250Z",
        }));
        (order_id, order.unwrap())
    }

    /// Order N was sent with key N, answered with id N, and found as `completed` with that id.
    fn all_well(count: u128) -> (Tally, Found) {
        let mut found = Found::new();
        let mut tally = Tally::new().unwrap();
        for number in 1..=count {
            let key = Uuid::from_u128(number);
            tally.sent.push(Sent {
                kind: Kind::Good,
                key,
                fate: Fate::Taken(Uuid::from_u128(number)),
            });
            tally.latency.record(4_000).unwrap();
            found.insert(key, [listed(key, number, "completed", None)].into());
        }
        tally.answers.insert("201".to_owned(), 10);
        (tally, found)
    }

    fn faults(tally: &Tally, found: &Found) -> (Report, Vec<String>) {
        let mut report = report();
        report.add_sent(tally);
        report.add_found(tally, found).unwrap();
        let faults = report.faults();
        (report, faults)
    }

    #[test]
    fn a_lost_a_doubled_and_a_wrong_order_are_each_found() {
        let (tally, found) = all_well(10);
        assert!(faults(&tally, &found).1.is_empty());
        let key = Uuid::from_u128(3);

        let mut lost = found.clone();
        lost.insert(key, BTreeMap::new());
        assert_eq!(faults(&tally, &lost).1, ["1 taken and lost"]);

        let mut doubled = found.clone();
        let (id, order) = listed(key, 99, "failed", Some("payment declined"));
        doubled.get_mut(&key).unwrap().insert(id, order);
        assert_eq!(faults(&tally, &doubled).1, ["1 placed twice"]);

        let mut open = found.clone();
        open.insert(key, [listed(key, 3, "pending", None)].into());
        assert_eq!(faults(&tally, &open).1, ["1 not ended in time"]);

        let (mut wrong, found) = all_well(10);
        wrong.sent[4].kind = Kind::Declined;
        assert_eq!(faults(&wrong, &found).1, ["1 completed that could not"]);
        // Two requests that were answered with the same order.
        wrong.sent[4].kind = Kind::Good;
        wrong.sent[4].fate = wrong.sent[5].fate;
        assert_eq!(
            faults(&wrong, &found).1,
            ["1 taken and lost", "1 placed twice"]
        );
    }

    #[test]
    fn an_answer_that_never_came_is_a_fault_unless_somebody_interrupted() {
        let (mut tally, found) = all_well(10);
        tally.sent[0].fate = Fate::Unanswered;
        let (mut report, faults) = faults(&tally, &found);
        assert_eq!(faults, ["1 without an answer"]);
        assert_eq!(report.unanswered_placed, 1);
        report.interrupted = true;
        assert!(report.faults().is_empty());
    }

    #[test]
    fn the_text_is_readable() {
        let (mut tally, mut found) = all_well(10);
        for (number, reason) in [(2, "payment declined"), (7, "insufficient inventory")] {
            let key = Uuid::from_u128(number);
            found.insert(key, [listed(key, number, "failed", Some(reason))].into());
        }
        tally.sent[1].kind = Kind::Declined;
        tally.sent[6].kind = Kind::Insufficient;
        tally.answers.insert("connection refused".to_owned(), 2);
        tally.began_late = 3;
        let (report, _) = faults(&tally, &found);
        insta::assert_snapshot!("report", report.text());
    }
}

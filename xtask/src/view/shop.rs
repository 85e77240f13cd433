//! What the view knows of the shop. Pure: looks go in; numbers, trouble and sentences come out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Deserialize;

use super::scrape::Scrape;
use crate::layout::SERVICES;
use crate::manifest::{Process, State};

/// The service whose numbers tell how many orders there are.
const ORDERS: &str = SERVICES[0].name;
/// Rates are means over so long.
const RATE_OVER: Duration = Duration::from_secs(5);
/// Looks whose rate is kept for the curve.
const HISTORY: usize = 300;
/// Trouble is told once it was there in so many looks: one slow answer is none.
const LOOKS_BEFORE_TOLD: u32 = 2;

/// Everything that was asked at one moment.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Since the start of the run.
    pub at: Duration,
    /// All processes, in the order of `./dev ps`.
    pub processes: Vec<(Process, Health)>,
    /// What the relay tells; `None` if it did not answer.
    pub relay: Option<RelayStatus>,
    /// The metrics of the services that answered.
    pub services: BTreeMap<String, Scrape>,
}

/// What a running process answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It was not asked: it does not run.
    NotAsked,
    /// It can work.
    Ready,
    /// It answers, and says why it can't work.
    NotReady(String),
    /// It does not answer.
    Silent,
}

/// The relay's `/status`, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct RelayStatus {
    /// One entry a source.
    pub sources: Vec<SourceStatus>,
}

/// One source of the relay.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct SourceStatus {
    /// Its name, which is its service's.
    pub source: String,
    /// Where the relay's worker stands: `tail`, `hold` …
    pub state: String,
    /// Rows of the outbox not yet passed.
    pub unpublished_rows: Option<u64>,
    /// There are more than that.
    pub unpublished_capped: bool,
    /// Age of the oldest of them.
    pub oldest_age_ms: Option<u64>,
    /// Why the source holds or stopped.
    pub last_error: Option<String>,
    /// What a person can do.
    pub way_out: Option<String>,
    /// Something needs a person.
    pub alarm: bool,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The process.
    pub process: Process,
    /// What it answers.
    pub health: Health,
    /// Its outbox, where it has one and the relay answers.
    pub source: Option<SourceStatus>,
    /// Its consumer, where it has one and answers.
    pub consumer: Option<Consumer>,
}

/// A consumer's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumer {
    /// Records not yet handled.
    pub lag: u64,
    /// Messages that wait for another attempt.
    pub waiting: u64,
    /// Keys parked behind a dead letter.
    pub dead: u64,
    /// Partitions that stopped loudly.
    pub stopped: u64,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What it is about, so that the next look can tell whether it is the same.
    key: String,
    /// A sentence.
    pub text: String,
    /// A person must do something; the rest mends itself.
    pub alarm: bool,
    /// What is said when it is over; nothing if that is said otherwise.
    over: Option<String>,
}

/// Orders placed and ended, since the view began.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// Taken by the order service.
    pub placed: Counter,
    /// Ended well.
    pub completed: Counter,
    /// Ended otherwise, with everything undone.
    pub failed: Counter,
    /// Sagas under way.
    pub under_way: Option<u64>,
    /// Placed a second, one entry a look, oldest first.
    pub history: VecDeque<u64>,
}

/// A counter of a process that may restart and then counts from 0 again.
#[derive(Debug, Clone, Default)]
pub struct Counter {
    last: Option<f64>,
    /// Counted so far.
    pub total: f64,
    points: VecDeque<(Duration, f64)>,
}

impl Counter {
    /// Takes the value at a moment and tells by how much it has grown.
    fn take(&mut self, at: Duration, value: f64) -> f64 {
        let growth = match self.last {
            Some(last) if value >= last => value - last,
            Some(_) => value,
            // What was counted before is part of the total, not of a rate.
            None => {
                self.total = value;
                0.0
            }
        };
        self.last = Some(value);
        self.total += growth;
        self.points.push_back((at, self.total));
        while self.points.len() > 2 && at - self.points[1].0 >= RATE_OVER {
            self.points.pop_front();
        }
        growth
    }

    /// How much it grows a second; `None` until that is known.
    pub fn rate(&self) -> Option<f64> {
        let ((begin, before), (end, now)) = (self.points.front()?, self.points.back()?);
        let seconds = end.checked_sub(*begin)?.as_secs_f64();
        (seconds > 0.0).then(|| (now - before) / seconds)
    }
}

/// All that is shown of the shop itself.
#[derive(Debug, Clone, Default)]
pub struct Shop {
    /// When it was last looked at.
    pub at: Duration,
    /// One row a process.
    pub rows: Vec<Row>,
    /// Orders.
    pub orders: Orders,
    /// What is not as it should be; what needs a person first.
    pub trouble: Vec<Trouble>,
    /// How often each trouble was seen in a row, and what is said when it is over.
    seen: BTreeMap<String, (u32, Option<String>)>,
    relay: RelayStatus,
}

impl Shop {
    /// Takes a look in; gives the sentences that it is worth.
    pub fn take(&mut self, look: Look) -> Vec<String> {
        let since = look.at.saturating_sub(self.at).as_secs_f64();
        self.at = look.at;
        self.count_orders(&look, since);
        let relay = look.relay.as_ref();
        self.rows = look
            .processes
            .iter()
            .map(|(process, health)| Row {
                source: relay
                    .and_then(|relay| relay.sources.iter().find(|s| s.source == process.name))
                    .cloned(),
                consumer: look.services.get(&process.name).map(consumer),
                process: process.clone(),
                health: health.clone(),
            })
            .collect();
        // A relay that does not answer has not told that an alarm is over.
        if let Some(relay) = look.relay {
            self.relay = relay;
        }
        self.trouble = trouble(&self.rows, &self.relay);
        self.tell()
    }

    fn count_orders(&mut self, look: &Look, since: f64) {
        let mut placed_a_second = 0;
        if let Some(scrape) = look.services.get(ORDERS) {
            let orders = &mut self.orders;
            // A counter shows up when it first counts.
            let value = |name, labels: &[(&str, &str)]| scrape.sum(name, labels).unwrap_or(0.0);
            let handled = "onceward_consumer_handled_total";
            let completed = value(handled, &[("topic", "order.completed")]);
            let failed = value(handled, &[("topic", "order.cancelled")]);
            let growth = orders
                .placed
                .take(look.at, value("onceward_order_placed_total", &[]));
            orders.completed.take(look.at, completed);
            orders.failed.take(look.at, failed);
            if since > 0.0 {
                placed_a_second = whole((growth / since).ceil());
            }
        }
        self.orders.history.push_back(placed_a_second);
        if self.orders.history.len() > HISTORY {
            self.orders.history.pop_front();
        }
        let sagas = look.services.values().filter_map(|scrape| {
            let open = |status| scrape.sum("onceward_saga_open_sagas", &[("status", status)]);
            Some(open("running")? + open("compensating").unwrap_or(0.0))
        });
        self.orders.under_way = sagas.reduce(|sum, open| sum + open).map(whole);
    }

    /// Compares the trouble with that of earlier looks.
    fn tell(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        let before = std::mem::take(&mut self.seen);
        for trouble in &self.trouble {
            let looks = before.get(&trouble.key).map_or(0, |(looks, _)| *looks) + 1;
            if looks == LOOKS_BEFORE_TOLD {
                said.push(trouble.text.clone());
            }
            self.seen
                .insert(trouble.key.clone(), (looks, trouble.over.clone()));
        }
        for (key, (looks, over)) in before {
            let gone = !self.seen.contains_key(&key) && looks >= LOOKS_BEFORE_TOLD;
            if let Some(over) = over.filter(|_| gone)
                && self.is_running(&key)
            {
                said.push(over);
            }
        }
        said
    }

    /// Whether the trouble's process runs: what ended took its trouble with it.
    fn is_running(&self, key: &str) -> bool {
        let name = key.split(' ').next().unwrap_or(key);
        let row = self.rows.iter().find(|row| row.process.name == name);
        row.is_none_or(|row| row.process.state == State::Running)
    }
}

fn consumer(scrape: &Scrape) -> Consumer {
    let value = |name| scrape.sum(name, &[]).map_or(0, whole);
    Consumer {
        lag: value("onceward_consumer_lag_records"),
        waiting: value("onceward_consumer_waiting_messages"),
        dead: value("onceward_consumer_parked_keys"),
        stopped: value("onceward_consumer_stopped_partitions"),
    }
}

/// Keys begin with the name of the process.
fn trouble(rows: &[Row], relay: &RelayStatus) -> Vec<Trouble> {
    let mut found = Vec::new();
    for source in relay.sources.iter().filter(|source| source.alarm) {
        let name = &source.source;
        let why = source.last_error.as_deref().unwrap_or(&source.state);
        let way_out = source.way_out.as_deref().map(|way| format!("; {way}"));
        found.push(Trouble {
            key: format!("{name} alarm"),
            text: format!(
                "source {name} needs a person: {why}{}",
                way_out.unwrap_or_default()
            ),
            alarm: true,
            over: Some(format!("source {name} needs nobody any more")),
        });
    }
    for row in rows {
        let name = &row.process.name;
        if let Some(consumer) = row.consumer {
            if consumer.stopped > 0 {
                found.push(Trouble {
                    key: format!("{name} stopped"),
                    text: format!(
                        "{name} has stopped consuming {}: see ./dev logs {name}",
                        plural(consumer.stopped, "partition")
                    ),
                    alarm: true,
                    over: Some(format!("{name} consumes all its partitions again")),
                });
            }
            if consumer.dead > 0 {
                found.push(Trouble {
                    key: format!("{name} dead"),
                    text: format!(
                        "{name}: {} parked behind a dead letter: see onceward dead-letter list",
                        plural(consumer.dead, "key")
                    ),
                    alarm: true,
                    over: Some(format!("{name}: no key is parked any more")),
                });
            }
        }
        let text = match &row.health {
            Health::NotAsked | Health::Ready => continue,
            Health::NotReady(why) => format!("{name} is not ready: {why}"),
            Health::Silent => format!("{name} runs and does not answer"),
        };
        found.push(Trouble {
            key: name.clone(),
            text,
            alarm: false,
            over: Some(format!("{name} is ready again")),
        });
    }
    found.sort_by_key(|trouble| !trouble.alarm);
    found
}

fn plural(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        more => format!("{more} {noun}s"),
    }
}

/// Counts and gauges of things are far below 2^53, and a cast saturates.
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture;
    use super::{Counter, Health, Shop};
    use crate::manifest::State;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_counter_that_starts_over_still_grows() {
        let mut counter = Counter::default();
        counter.take(at(1), 100.0);
        assert_eq!((counter.total, counter.rate()), (100.0, None));
        counter.take(at(2), 110.0);
        counter.take(at(3), 4.0); // restarted
        assert_eq!((counter.total, counter.rate()), (114.0, Some(7.0)));
        for second in 4..20 {
            counter.take(at(second), 4.0);
        }
        assert_eq!(counter.rate(), Some(0.0), "the past is forgotten");
    }

    #[test]
    fn trouble_is_told_once_when_it_lasts_and_once_when_it_is_over() {
        let mut shop = Shop::default();
        let fine = |seconds| fixture::all_fine(at(seconds), 0);
        assert!(shop.take(fine(1)).is_empty());
        let not_ready = |seconds| {
            let mut look = fine(seconds);
            look.processes[4].1 = Health::NotReady("database: does not answer".to_owned());
            look
        };
        assert!(shop.take(not_ready(2)).is_empty(), "one look is none");
        let said = shop.take(not_ready(3));
        assert_eq!(said, ["payment is not ready: database: does not answer"]);
        assert!(shop.take(not_ready(4)).is_empty());
        assert_eq!(shop.take(fine(5)), ["payment is ready again"]);
        assert!(shop.take(fine(6)).is_empty());
    }

    #[test]
    fn what_ended_takes_its_trouble_with_it_and_an_alarm_outlasts_a_silent_relay() {
        let mut shop = Shop::default();
        let alarm = |seconds, relay_runs: bool| {
            let mut look = fixture::all_fine(at(seconds), 0);
            let order = &mut look.relay.as_mut().unwrap().sources[0];
            order.alarm = true;
            order.last_error = Some("rows are lost".to_owned());
            order.way_out = Some("onceward source reset order".to_owned());
            if !relay_runs {
                look.relay = None;
                look.processes[1].0.state = State::Waiting;
                look.processes[1].1 = Health::NotAsked;
            }
            look
        };
        shop.take(alarm(1, true));
        assert_eq!(
            shop.take(alarm(2, true)),
            ["source order needs a person: rows are lost; onceward source reset order"]
        );
        assert!(shop.take(alarm(3, false)).is_empty());
        assert_eq!(shop.trouble.len(), 1, "nobody said that it is over");
        let over = shop.take(fixture::all_fine(at(4), 0));
        assert_eq!(over, ["source order needs nobody any more"]);
    }
}

//! What the figures should be, on two cores that run relay, broker, database and load.

use crate::relay::Whose;
use crate::report::Better;

/// A figure of the cases whose names begin and end so.
struct Target {
    begins: &'static str,
    ends: &'static str,
    metric: &'static str,
    limit: f64,
}

const fn target(
    begins: &'static str,
    ends: &'static str,
    metric: &'static str,
    limit: f64,
) -> Target {
    Target {
        begins,
        ends,
        metric,
        limit,
    }
}

const TARGETS: &[Target] = &[
    target("live 100/s", "", "p50, ms", 2.0),
    target("live 100/s", "", "p99, ms", 8.0),
    target("live 1000/s", "", "p50, ms", 2.0),
    target("live 1000/s", "", "p99, ms", 12.0),
    target("live 5000/s", "", "p50, ms", 3.0),
    target("live 5000/s", "", "p99, ms", 17.0),
    target("live from idle with hints", "", "p50, ms", 5.0),
    target("live from idle without hints", "", "p50, ms", 25.0),
    target("drain", "Postgres", "rows/s", 350_000.0),
    target("drain", "SQLite", "rows/s", 400_000.0),
    target("drain", "", "start to first row, s", 1.0),
    target(
        "drain 1000000 rows while 1000/s arrive",
        "",
        "start to backlog cleared, s",
        4.0,
    ),
    // A backlog costs by its length, retained rows cost nothing: 1, and what two runs differ by.
    target("curve of", "", "cost a row, last ÷ first", 1.3),
    target(
        "",
        "rows retained, Postgres",
        "rows/s, % of with none",
        90.0,
    ),
    target("", "rows retained, SQLite", "rows/s, % of with none", 90.0),
    target("", "rows retained, Postgres", "relay peak RSS, MiB", 150.0),
    target("", "rows retained, SQLite", "relay peak RSS, MiB", 150.0),
    target("drain", "", "relay peak RSS, MiB", 150.0),
    target(
        "idle, 10 sources with hints",
        "",
        "relay CPU, % of a core",
        1.0,
    ),
    target(
        "idle, 10 sources without hints",
        "",
        "relay CPU, % of a core",
        4.0,
    ),
    target("idle", "", "relay RSS live, MiB", 40.0),
    target("kill -9 of the relay", "", "killed to next row, s", 2.0),
    target("kill -9 of Kafka", "", "port answers to next row, s", 1.0),
    target("write, own transactions", "", "with, % of without", 80.0),
    target(
        "write, Db::write",
        "SQLite",
        "with outbox row, tx/s",
        10_000.0,
    ),
    target("consumer", "Postgres", "messages/s", 25_000.0),
    target("consumer", "SQLite", "messages/s", 40_000.0),
    target("consumer", "", "duplicates skipped/s", 100_000.0),
    target("saga, one order at a time", "", "p50, ms", 60.0),
    target("saga, one order at a time", "", "p99, ms", 150.0),
    target("saga, as many as it can", "", "orders/s, end to end", 400.0),
    target("POST /orders, 500/s", "", "p99, ms", 15.0),
];

/// The target of a figure, if it has one.
pub(crate) fn of(case: &str, metric: &str) -> Option<f64> {
    if !Whose::is_ours(case) {
        return None;
    }
    let is_it = |target: &&Target| {
        case.starts_with(target.begins) && case.ends_with(target.ends) && target.metric == metric
    };
    TARGETS.iter().find(is_it).map(|target| target.limit)
}

/// Whether a value reaches its target.
pub(crate) fn reached(value: f64, limit: f64, better: Better) -> bool {
    match better {
        Better::Higher => value >= limit,
        Better::Lower | Better::None => value <= limit,
    }
}

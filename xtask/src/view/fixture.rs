//! Looks at a made-up shop, for tests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scrape::Scrape;
use super::shop::{Health, Look, RelayStatus, SourceStatus};
use crate::layout::{MAIL, RELAY, SERVICES};
use crate::manifest::{Process, State};

/// Everything works, and all orders placed so far have ended.
pub(super) fn all_fine(at: Duration, placed: u64) -> Look {
    look(at, placed, placed)
}

/// Everything works; `ended` of the orders have ended, 3 in 20 of them as failed.
pub(super) fn look(at: Duration, placed: u64, ended: u64) -> Look {
    let ports = [
        9092, 9100, 8001, 8002, 8003, 8004, 8005, 8006, 8007, 8008, 8009, 8025,
    ];
    let names = ["kafka", RELAY]
        .into_iter()
        .chain(SERVICES.map(|service| service.name))
        .chain([MAIL]);
    let processes = names.zip(ports).zip(0..).map(|((name, port), number)| {
        let process = Process {
            name: name.to_owned(),
            pid: Some(41_300 + number * 17),
            port: Some(port),
            url: (name != "kafka").then(|| format!("http://127.0.0.1:{port}")),
            state: State::Running,
            restarts: 0,
        };
        (process, Health::Ready)
    });
    let failed = ended * 3 / 20;
    let services = SERVICES.map(|service| {
        let text = match service.name {
            "order" => format!(
                "onceward_order_placed_total {placed}\n\
                 onceward_consumer_handled_total{{topic=\"order.completed\"}} {}\n\
                 onceward_consumer_handled_total{{topic=\"order.cancelled\"}} {failed}\n",
                ended - failed
            ),
            "saga-orchestrator" => "onceward_saga_open_sagas{status=\"running\"} 12\n\
                 onceward_saga_open_sagas{status=\"compensating\"} 3\n"
                .to_owned(),
            _ => String::new(),
        };
        (service.name.to_owned(), Scrape::parse(&text))
    });
    let sources = SERVICES.map(|service| SourceStatus {
        source: service.name.to_owned(),
        state: "tail".to_owned(),
        unpublished_rows: Some(0),
        ..SourceStatus::default()
    });
    Look {
        at,
        processes: processes.collect(),
        relay: Some(RelayStatus {
            sources: sources.to_vec(),
        }),
        services: BTreeMap::from(services),
    }
}

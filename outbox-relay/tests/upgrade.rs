//! Versions side by side on one database: what a newer program did, this one lives with or refuses.
//!
//! The newer program is played by its traces: real migrations of a version that is not written yet, and
//! progress in a format that is not known yet. What its own code would do with ours is tested when it is
//! written: from then on this version is the older one.

use std::time::Duration;

use onceward_testkit::kafka;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sqlx::{Postgres, Sqlite};

use crate::stops::stopped_because;
use crate::support::relay::Start;
use crate::support::source::{Database, Source};
use crate::support::topic::{Topic, assert_exactly_once};

fn over_the_next_migration_until_one_takes_away<B: Database>() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("upgraded");
    let topic = Topic::new(&kafka, "upgraded", 2);
    let start = || Start::new(&kafka, &[source.option()]).arg("--instance-id", "upgraded");
    let mut relay = start().go();
    source.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || relay.process.log_tail(30));

    // The next version's migration, under the feet of a relay and a service of this version.
    source.migrate_to(9_998);
    source.write_key(&topic.name, "a", 3..6);
    topic.wait_for(6, || relay.process.log_tail(30));
    relay.process.kill9().unwrap();
    let mut relay = start().go();
    source.migrate(); // a service of this version starts again as well
    source.write_key(&topic.name, "a", 6..9);
    let seen = topic.wait_for(9, || relay.process.log_tail(30));
    assert_exactly_once(&seen, &[("a", 9)]);
    relay.stop();

    // The version after it takes away what this one might need.
    source.migrate_to(9_999);
    source.write_key(&topic.name, "a", 9..12);
    let relay = start().go();
    stopped_because(
        &relay,
        "this database is too new: migration 9999 drop quota needs 9998 of _onceward_migrations, \
         this program knows up to 000",
    );
    assert_eq!(topic.read().len(), 9);
}

#[test]
fn this_version_goes_on_over_the_next_ones_migration_until_one_takes_away_on_sqlite() {
    over_the_next_migration_until_one_takes_away::<Sqlite>();
}

#[test]
fn this_version_goes_on_over_the_next_ones_migration_until_one_takes_away_on_postgres() {
    over_the_next_migration_until_one_takes_away::<Postgres>();
}

#[test]
fn progress_of_the_next_format_stops_its_source_and_no_other() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let (source, calm) = (
        Source::<Sqlite>::new("format"),
        Source::<Postgres>::new("calm"),
    );
    let (topic, other) = (
        Topic::new(&kafka, "format", 1),
        Topic::new(&kafka, "calm", 1),
    );
    let start = || Start::new(&kafka, &[source.option(), calm.option()]);
    let mut relay = start().go();
    source.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || relay.process.log_tail(30));
    relay.stop();

    // A field that is only added is no new format: whoever does not know it goes on without.
    rewrite_progress(&kafka, &source, 1);
    let mut relay = start().go();
    source.write_key(&topic.name, "a", 3..6);
    topic.wait_for(6, || relay.process.log_tail(30));
    relay.stop();

    rewrite_progress(&kafka, &source, onceward::PROGRESS_FORMAT + 1);
    let relay = start().go();
    source.write_key(&topic.name, "a", 6..9);
    stopped_because(
        &relay,
        "format 3 is newer than 2, which this relay knows; upgrade it",
    );
    calm.write_key(&other.name, "b", 0..3);
    other.wait_for(3, || relay.process.log_tail(30));
    assert_exactly_once(&topic.read(), &[("a", 6)]);
}

/// Commits the source's last progress once more, as a newer relay would: in `format`, with a field that
/// is not known here.
fn rewrite_progress<B: Database>(kafka: &str, source: &Source<B>, format: u32) {
    let at_most = Duration::from_secs(120);
    let topic = Topic::of_progress(kafka, &source.name);
    let last = topic.read().pop().unwrap();
    let mut progress: serde_json::Value = serde_json::from_str(&last.payload).unwrap();
    progress["format"] = format.into();
    progress["tenants"] = serde_json::json!({ "acme": 3 });
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("transactional.id", source.name.transactional_id())
        .create()
        .unwrap();
    producer.init_transactions(at_most).unwrap();
    producer.begin_transaction().unwrap();
    let (key, value) = (last.key.unwrap(), progress.to_string());
    let record = BaseRecord::to(&topic.name).key(&key).payload(&value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.commit_transaction(at_most).unwrap();
}

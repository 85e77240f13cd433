//! Frozen at every line that matters, replaced, and woken: a zombie writes nothing visible.

use std::sync::mpsc;
use std::time::Duration;

use onceward_testkit::cutter::{Cut, Cutter};
use onceward_testkit::kafka;
use outbox_relay::Phase;
use sqlx::{Postgres, Sqlite};

use crate::support::relay::{Relay, Start};
use crate::support::source::{Database, Row, Source, rand_u32};
use crate::support::topic::{Topic, assert_exactly_once};
use crate::support::until;

/// A relay frozen at `point`. On SQLite one that happens to renew its lease at that moment holds the
/// file's write lock, which blocks everybody until it is killed (see GUARANTEES): then another.
fn frozen_at<B: Database>(source: &Source<B>, start: impl Fn() -> Start, point: &str) -> Relay {
    loop {
        let mut zombie = start().freezing_at(point).go();
        zombie.wait_for_frost();
        if source.is_writable() {
            return zombie;
        }
        zombie.process.kill9().unwrap();
    }
}

fn zombie_at<B: Database>(point: &str) {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("zombie");
    let topic = Topic::new(&kafka, "zombie", 2);
    source.write_key(&topic.name, "a", 0..6);
    let start = || Start::new(&kafka, &[source.option()]).arg("--batch-rows", "4");
    let zombie = frozen_at(&source, start, point);
    let heir = start().go();
    source.write_key(&topic.name, "a", 6..12);
    topic.wait_for(12, || heir.process.log_tail(60));
    zombie.process.resume().unwrap();
    // The zombie may fence its heir once before it learns; then one of the two goes on.
    source.write_key(&topic.name, "a", 12..24);
    topic.wait_for(24, || heir.process.log_tail(60));
    until("one owner and one standby", || {
        let states = [&zombie, &heir].map(|relay| relay.status(0).map(|s| s.state));
        let count = |state| states.iter().filter(|s| **s == Some(state)).count();
        Ok((count(Phase::Tail) == 1 && count(Phase::Standby) == 1).then_some(()))
    });
    source.write_key(&topic.name, "a", 24..26);
    topic.wait_for(26, || heir.process.log_tail(60));
    assert_exactly_once(&topic.read(), &[("a", 26)]);
}

/// `claimed` is the stale claimer: it opens its producer after its heir has worked.
#[test]
fn a_zombie_of_a_sqlite_source_writes_nothing_wherever_it_froze() {
    for point in ["claimed", "taken-over", "publishing", "committed"] {
        println!("{point}");
        zombie_at::<Sqlite>(point);
    }
}

#[test]
fn a_zombie_of_a_postgres_source_writes_nothing_wherever_it_froze() {
    for point in [
        "claimed",
        "opened",
        "progress-read",
        "fetched",
        "publishing",
        "mirroring",
    ] {
        println!("{point}");
        zombie_at::<Postgres>(point);
    }
}

/// Frozen when Kafka had refused the row and the database did not know: the heir parks and
/// replays; the zombie must not park anew.
fn zombie_while_parking<B: Database>() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("stale");
    let topic = Topic::with(&kafka, "stale", 1, &[("max.message.bytes", "2000")]);
    source.write(&[Row {
        topic: &topic.name,
        key: Some("bad"),
        payload: format!("bad:0 {}", "x".repeat(5_000)),
    }]);
    let start = || Start::new(&kafka, &[source.option()]);
    let zombie = frozen_at(&source, start, "parking");
    topic.alter("max.message.bytes", "100000");
    let heir = start().go();
    source.write_key(&topic.name, "bad", 1..4);
    topic.wait_for(4, || heir.process.log_tail(60));
    zombie.process.resume().unwrap();
    zombie.wait_for_state(Phase::Standby);
    assert_eq!(source.parked_rows(), 0);
    source.write_key(&topic.name, "bad", 4..6);
    assert_eq!(topic.wait_for_key("bad", 6).len(), 6);
}

#[test]
fn a_zombie_parks_nothing() {
    zombie_while_parking::<Sqlite>();
    zombie_while_parking::<Postgres>();
}

/// A network that is gone while the owner counts what waits: the lease is lost, and claimed again.
#[test]
fn a_count_that_gets_no_answer_holds_no_source() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Postgres>::new("silent");
    let topic = Topic::new(&kafka, "silent", 1);
    let cutter = Cutter::start(&source.url).unwrap();
    let option = format!("{}={}", source.name, cutter.url(&source.url));
    cutter.cut_at("set statement_timeout", Cut::Silent);
    std::thread::scope(|scope| {
        // Dropped, by a wait that failed too, it ends the writer.
        let (_go_on, more) = mpsc::channel::<()>();
        let (source, topic) = (&source, &topic);
        scope.spawn(move || {
            // More than goes out: an owner that finds nothing counts nothing.
            let mut next = 0;
            while more.try_recv() == Err(mpsc::TryRecvError::Empty) {
                source.write_key(&topic.name, "a", next..next + 20);
                next += 20;
            }
        });
        let relay = Start::new(&kafka, &[option]).arg("--batch-rows", "1").go();
        until("the source to be claimed again", || {
            let epoch = relay.status(0).and_then(|status| status.relay_epoch);
            Ok((cutter.has_cut() && epoch >= Some(2)).then_some(()))
        });
    });
}

/// Killed and, if `freeze`, frozen at moments nobody chose, while rows keep coming.
fn torment<B: Database>(freeze: bool) {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("torment");
    let topic = Topic::new(&kafka, "torment", 3);
    let start = || {
        Start::new(&kafka, &[source.option()])
            .arg("--batch-rows", "20")
            .go()
    };
    let moment = || Duration::from_millis(u64::from(rand_u32() % 900));
    let (written, relays) = std::thread::scope(|scope| {
        // Dropped, by a wait that failed too, it ends the writer.
        let (go_on, more) = mpsc::channel::<()>();
        let (source, topic) = (&source, &topic);
        let writer = scope.spawn(move || {
            let mut next = 0;
            while more.try_recv() == Err(mpsc::TryRecvError::Empty) {
                source.write_key(&topic.name, "a", next..next + 3);
                source.write_key(&topic.name, "b", next..next + 3);
                next += 3;
            }
            next
        });
        let mut relays: Vec<Relay> = vec![start(), start()];
        for round in 0..6 {
            let owner = until("an owner", || {
                let owns = |r: &Relay| r.status(0).is_some_and(|s| s.state == Phase::Tail);
                Ok(relays.iter().position(owns))
            });
            // Not a wait for a state: the moment is the point.
            std::thread::sleep(moment());
            if !freeze || round % 2 == 0 {
                relays[owner].process.kill9().unwrap();
                relays[owner] = start();
            } else {
                relays[owner].process.pause().unwrap();
                let heir = 1 - owner;
                relays[heir].wait_for_state(Phase::Tail);
                relays[owner].process.resume().unwrap();
            }
        }
        drop(go_on);
        (writer.join().unwrap(), relays)
    });
    let count = usize::try_from(written * 2).unwrap();
    println!("{count} rows");
    topic.wait_for(count, || relays[0].process.log_tail(40));
    assert_exactly_once(&topic.read(), &[("a", written), ("b", written)]);
}

#[test]
fn killed_at_any_moment_each_row_of_a_sqlite_source_is_published_once() {
    // Not frozen: a process frozen inside a write transaction blocks the file for everybody, the
    // application included, until it is killed (see GUARANTEES).
    torment::<Sqlite>(false);
}

#[test]
fn killed_and_frozen_at_any_moment_each_row_of_a_postgres_source_is_published_once() {
    torment::<Postgres>(true);
}

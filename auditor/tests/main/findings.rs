//! What is found, and what is not.

use auditor::{FindingKind, Report, Verdict};

use crate::world::{World, told, uuid};

/// Three rows of two keys, published and handled: offsets 0, 1, 2 and the marker at 3.
fn honest(world: &World) {
    for (number, key) in [(1, "a"), (2, "b"), (3, "a")] {
        world.row(number, key);
    }
    world.publish(&[told(1, "a", 1), told(2, "b", 2), told(3, "a", 3)], 3, 3);
}

fn kinds(report: &Report) -> Vec<FindingKind> {
    report.counts.keys().copied().collect()
}

#[test]
fn rows_that_are_published_once_and_handled_are_clean() {
    for world in World::both("clean") {
        honest(&world);
        world.consumer_at(4);
        for (number, offset) in [(1, 0), (2, 1), (3, 2)] {
            world.handled(number, offset);
        }
        world.row(4, "c");
        let report = world.audit();
        assert_eq!(report.verdict, Verdict::Clean, "{report:#?}");
        let source = &report.sources[0];
        assert_eq!((source.rows, source.published, source.pending), (4, 3, 1));
        assert_eq!((source.position, source.records), (3, 3));
        let consumer = &report.consumers[0];
        assert_eq!(
            (consumer.records, consumer.handled, consumer.ahead),
            (3, 3, 0)
        );
    }
}

#[test]
fn progress_that_kafka_has_lost_is_found() {
    for world in World::both("behind") {
        honest(&world);
        world.mirror(4);
        let report = world.audit();
        assert_eq!(report.verdict, Verdict::Broken);
        let told = &report.findings[0].text;
        assert!(
            told.contains("stands at position 3, the database knows of 4"),
            "{told}"
        );
    }
}

#[test]
fn a_source_that_publishes_meanwhile_has_not_lost_its_progress() {
    for world in World::both("busy") {
        let mut number = 0;
        for _ in 0..2 {
            let report = world.audit_meanwhile(|| {
                number += 1;
                let position = i64::from(number);
                world.row(number, "a");
                world.publish(&[told(number, "a", position)], position, position);
                world.mirror(position);
            });
            assert_eq!(report.count(FindingKind::Identity), 0, "{report:#?}");
        }
    }
}

#[test]
fn a_lost_record_is_found_and_named() {
    for world in World::both("lost") {
        for number in 1..=3 {
            world.row(number, "a");
        }
        world.publish(&[told(1, "a", 1), told(3, "a", 3)], 3, 3);
        let report = world.audit();
        assert_eq!(report.verdict, Verdict::Broken);
        assert_eq!(report.count(FindingKind::Lost), 1, "{report:#?}");
        let lost = report
            .findings
            .iter()
            .find(|f| f.kind == FindingKind::Lost)
            .unwrap();
        assert_eq!(lost.message_id, Some(uuid(2).to_string()));
        let gap = report
            .findings
            .iter()
            .find(|f| f.kind == FindingKind::PositionGap)
            .unwrap();
        assert!(
            gap.text.starts_with("position 2 belongs to no record"),
            "{}",
            gap.text
        );
    }
}

#[test]
fn the_last_record_being_lost_is_found_too() {
    for world in World::both("last") {
        for number in 1..=2 {
            world.row(number, "a");
        }
        world.publish(&[told(1, "a", 1)], 2, 2);
        let report = world.audit();
        assert_eq!(
            kinds(&report),
            [FindingKind::Lost, FindingKind::PositionGap]
        );
    }
}

#[test]
fn a_doubled_record_is_found_and_named() {
    for world in World::both("doubled") {
        honest(&world);
        world.publish(&[told(2, "b", 4)], 4, 3);
        let report = world.audit();
        assert_eq!(kinds(&report), [FindingKind::Doubled], "{report:#?}");
        let doubled = &report.findings[0];
        assert_eq!(doubled.message_id, Some(uuid(2).to_string()));
        assert!(doubled.text.contains("/0@1, "), "{}", doubled.text);
    }
}

#[test]
fn a_reordered_key_is_found_and_named() {
    for world in World::both("reordered") {
        for (number, key) in [(1, "a"), (2, "b"), (3, "a")] {
            world.row(number, key);
        }
        world.publish(&[told(3, "a", 1), told(2, "b", 2), told(1, "a", 3)], 3, 3);
        let report = world.audit();
        assert_eq!(kinds(&report), [FindingKind::Reordered], "{report:#?}");
        assert!(
            report.findings[0]
                .text
                .contains("rows 1 and 3 have one key")
        );
    }
}

#[test]
fn a_record_without_its_inbox_row_is_found_and_named() {
    for world in World::both("unhandled") {
        honest(&world);
        world.consumer_at(4);
        world.handled(1, 0);
        world.handled(3, 2);
        let report = world.audit();
        assert_eq!(kinds(&report), [FindingKind::Unhandled], "{report:#?}");
        let found = &report.findings[0];
        assert_eq!(found.who, "group");
        assert_eq!(found.at, Some(format!("{}/0@1", world.topic)));
    }
}

#[test]
fn an_inbox_row_of_an_aborted_record_is_found() {
    for world in World::both("aborted") {
        world.row(1, "a");
        world.abort(&[told(1, "a", 1)]);
        world.publish(&[told(1, "a", 1)], 1, 1);
        assert_eq!(world.audit().verdict, Verdict::Clean);
        // Offset 0 was aborted, 1 is its marker, 2 the record.
        world.consumer_at(3);
        world.handled(1, 2);
        assert_eq!(world.audit().verdict, Verdict::Clean);
        world.handled(7, 0);
        let report = world.audit();
        assert_eq!(kinds(&report), [FindingKind::WithoutRecord], "{report:#?}");
    }
}

#[test]
fn a_foreign_record_is_found_and_named() {
    for world in World::both("foreign") {
        honest(&world);
        world.smuggle(&[told(66, "b", 4)]);
        let report = world.audit();
        assert_eq!(kinds(&report), [FindingKind::Foreign], "{report:#?}");
        assert_eq!(report.findings[0].message_id, Some(uuid(66).to_string()));
        assert!(
            report.findings[0]
                .text
                .contains("a position that was never given")
        );
    }
}

#[test]
fn a_foreign_record_that_borrows_a_position_is_found() {
    for world in World::both("borrowed") {
        honest(&world);
        let mut liar = told(66, "b", 2);
        liar.previous = 3;
        world.smuggle(&[liar]);
        let report = world.audit();
        assert_eq!(report.count(FindingKind::Foreign), 1, "{report:#?}");
        assert_eq!(report.count(FindingKind::PositionDoubled), 1);
    }
}

#[test]
fn a_changed_payload_is_found() {
    for world in World::both("changed") {
        world.row(1, "a");
        let mut changed = told(1, "a", 1);
        changed.payload = "another".to_owned();
        world.publish(&[changed], 1, 1);
        assert_eq!(kinds(&world.audit()), [FindingKind::Changed]);
    }
}

#[test]
fn a_parked_row_is_not_lost() {
    for world in World::both("parked") {
        world.row(1, "a");
        world.row(2, "b");
        world.park(1, "a");
        world.publish(&[told(2, "b", 1)], 1, 2);
        let report = world.audit();
        assert_eq!(report.verdict, Verdict::Clean, "{report:#?}");
        assert_eq!(report.sources[0].parked, 1);
    }
}

#[test]
fn an_offset_beyond_the_end_is_found() {
    for world in World::both("beyond") {
        honest(&world);
        world.consumer_at(400);
        for (number, offset) in [(1, 0), (2, 1), (3, 2)] {
            world.handled(number, offset);
        }
        assert_eq!(kinds(&world.audit()), [FindingKind::BeyondEnd]);
    }
}

#[test]
fn without_rows_and_records_there_is_nothing_to_check() {
    for world in World::both("nothing") {
        assert_eq!(world.audit().verdict, Verdict::NothingToCheck);
    }
}

#[test]
fn without_kafka_the_databases_are_still_read_and_nothing_is_called_clean() {
    for world in World::both("down") {
        honest(&world);
        let port = onceward_testkit::ports::Port::take().unwrap();
        let report = world.audit_at(&format!("127.0.0.1:{}", port.number()));
        assert_eq!(report.verdict, Verdict::Incomplete, "{report:#?}");
        assert_eq!(report.sources[0].rows, 3);
        assert!(
            report.unreadable[0].starts_with("Kafka: "),
            "{:?}",
            report.unreadable
        );
    }
}

//! Topics: made, described, checked.

use onceward::SourceName;
use onceward::publisher::{Broker, BrokerError};
use onceward_kafka::{Severity, TopicMade};
use onceward_testkit::kafka::{self, Kafka};

use crate::support::{Place, broker_at};

fn kafka() -> &'static Kafka {
    kafka::shared().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_once_and_counted() {
    let broker = broker_at(&kafka().bootstrap());
    let names = vec!["made.a".to_owned(), "made.b".to_owned()];
    let made = broker.make_topics(names.clone(), 3, 1).await.unwrap();
    assert!(
        made.values().all(|made| *made == TopicMade::Created),
        "{made:?}"
    );
    let again = broker.make_topics(names.clone(), 5, 1).await.unwrap();
    let existed = TopicMade::Existed { partition_count: 3 };
    assert!(again.values().all(|made| *made == existed), "{again:?}");
    let topics = broker
        .topics(vec!["made.a".into(), "made.c".into()])
        .await
        .unwrap();
    assert_eq!(topics.len(), 1);
    assert_eq!(topics["made.a"].partition_count, 3);
    let ids = broker.topic_ids(names).await.unwrap();
    assert_ne!(ids["made.a"], ids["made.b"]);
    assert_eq!(ids["made.a"].len(), 22, "{ids:?}");
    assert_eq!(broker.cluster_id().await.unwrap().len(), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_progress_topic_that_forgets_is_refused() {
    let broker = broker_at(&kafka().bootstrap());
    let source = SourceName::new("forgetful").unwrap();
    broker
        .make_topics(vec![source.progress_topic()], 2, 1)
        .await
        .unwrap();
    match broker.ensure_progress_topic(&source).await {
        Err(BrokerError::Configuration(text)) => {
            assert!(
                text.contains("2 partitions") && text.contains("cleanup.policy"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    let findings = broker
        .check(vec![source], vec!["missing.data".into()])
        .await;
    let errors = findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .count();
    assert_eq!(errors, 3, "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_setup_has_no_errors_to_find() {
    let place = Place::new(&kafka().bootstrap(), 3).await;
    place
        .broker
        .ensure_progress_topic(&place.source)
        .await
        .unwrap();
    let findings = place
        .broker
        .check(vec![place.source], vec![place.topic.to_string()])
        .await;
    assert!(
        findings.iter().all(|f| f.severity < Severity::Error),
        "{findings:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_cluster_is_a_finding() {
    let findings = broker_at("127.0.0.1:1").check(vec![], vec![]).await;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].severity, Severity::Error);
}

#[test]
fn a_program_ends_at_once_while_a_call_waits_for_a_silent_broker() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let broker = broker_at(&address);
        let asking = tokio::spawn(async move { broker.topics(vec!["a".into()]).await });
        let connected = tokio::task::spawn_blocking(move || silent.accept());
        connected.await.unwrap().unwrap();
        assert!(!asking.is_finished());
    });
    let begun = std::time::Instant::now();
    drop(runtime);
    assert!(begun.elapsed() < std::time::Duration::from_secs(1));
}

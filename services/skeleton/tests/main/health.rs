//! `/healthz`, `/readyz`.

use axum::http::StatusCode;
use onceward::ConsumerName;
use onceward::consumer::{ConsumerState, ConsumerStatus, PartitionStatus, TopicPartition};

use super::{get, router, world};

fn consumer(stopped: Option<&str>) -> ConsumerStatus {
    let partition = |partition, stopped: Option<&str>| PartitionStatus {
        at: TopicPartition {
            topic: "inventory.release".into(),
            partition,
        },
        next_offset: 0,
        log_end: None,
        waiting: 0,
        dead_keys: 0,
        paused: false,
        stopped: stopped.map(str::to_owned),
    };
    ConsumerStatus {
        name: ConsumerName::new("things-service-group").unwrap(),
        state: ConsumerState::Running,
        partitions: vec![partition(0, stopped), partition(1, None)],
        fenced_last_minute: 0,
        trouble: Some("Kafka is not reachable".into()),
    }
}

#[tokio::test]
async fn a_consumer_that_needs_a_person_makes_the_service_not_ready_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let app = world(&dir).await;
    let router = router(&app);
    let obstacle = |stopped, refusal: Option<&str>| {
        skeleton::consumer_obstacle(&consumer(stopped), refusal.map(str::to_owned))
    };
    app.readiness()
        .ask("consumer", move || obstacle(None, None));
    assert_eq!(get(&router, "/readyz").await.0, StatusCode::OK);
    app.readiness().ask("consumer", move || {
        obstacle(Some("topic id changed"), Some("Kafka refused the password"))
    });
    let (status, _, text) = get(&router, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let told = r#"{"consumer":"Kafka refused the password; inventory.release/0 is stopped: topic id changed"}"#;
    assert_eq!(text, told);
    assert_eq!(get(&router, "/healthz").await.0, StatusCode::OK);
}

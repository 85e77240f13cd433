//! A Kafka that asks who you are: what works, and what is said where it does not.

use std::time::Instant;

use onceward::SourceName;
use onceward::publisher::{Broker, BrokerError};
use onceward_kafka::{KafkaBroker, KafkaConfig, PublisherKind, SaslMechanism, SecurityProtocol};
use onceward_testkit::acl::Acl;
use onceward_testkit::certificates::{Authority, Request};
use onceward_testkit::secure::{self, PLAIN_USER, SecureKafka, password};

use crate::consumer::{World, trouble_of, until};
use crate::support::{Place, batch, committed, progress};

async fn kafka() -> &'static SecureKafka {
    let started = tokio::task::spawn_blocking(secure::shared).await.unwrap();
    started.unwrap()
}

/// Alice by SCRAM over TLS, her password in a file.
fn alice(kafka: &SecureKafka) -> KafkaConfig {
    let file = kafka.folder().join("password-of-alice");
    std::fs::write(&file, format!("{}\n", password("alice"))).unwrap();
    KafkaConfig {
        bootstrap_servers: kafka.sasl(),
        security_protocol: Some(SecurityProtocol::SaslSsl),
        ca_file: Some(kafka.ca_file().to_owned()),
        sasl_mechanism: Some(SaslMechanism::ScramSha512),
        username: Some("alice".to_owned()),
        password_file: Some(file),
        ..KafkaConfig::default()
    }
}

/// The user of SASL PLAIN, the password as it is.
fn plain(kafka: &SecureKafka) -> KafkaConfig {
    KafkaConfig {
        sasl_mechanism: Some(SaslMechanism::Plain),
        username: Some(PLAIN_USER.to_owned()),
        password: Some(password(PLAIN_USER).into()),
        password_file: None,
        ..alice(kafka)
    }
}

/// Carol by her certificate, its key encrypted.
fn carol(kafka: &SecureKafka, authority: &Authority, name: &str) -> KafkaConfig {
    let file = |what: &str| kafka.folder().join(name).with_extension(what);
    let (cert, key, word) = (file("pem"), file("key"), file("word"));
    let request = Request {
        name: "carol",
        ..Request::default()
    };
    let issued = authority.issue(request).unwrap();
    issued.write_certificate(&cert).unwrap();
    issued
        .write_encrypted_key(&key, &password("carol"))
        .unwrap();
    std::fs::write(&word, password("carol")).unwrap();
    KafkaConfig {
        bootstrap_servers: kafka.mutual_tls(),
        security_protocol: Some(SecurityProtocol::Ssl),
        ca_file: Some(kafka.ca_file().to_owned()),
        cert_file: Some(cert),
        key_file: Some(key),
        key_password_file: Some(word),
        ..KafkaConfig::default()
    }
}

fn allow(kafka: &SecureKafka, user: &str, line: &str) {
    let line = format!("kafka-acls.sh --add --allow-principal User:{user} {line}");
    for rule in Acl::of_command(&line).unwrap() {
        kafka.allow(&rule).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_publishes_whichever_way_it_proves_who_it_is() {
    let kafka = kafka().await;
    for (user, config) in [
        ("alice", alice(kafka)),
        (PLAIN_USER, plain(kafka)),
        ("carol", carol(kafka, kafka.authority(), "carol")),
    ] {
        let place = Place::new(&kafka.super_user(), 1).await;
        let topic = place.source.progress_topic();
        let operations = "--operation READ --operation WRITE --operation DESCRIBE_CONFIGS";
        allow(kafka, user, &format!("{operations} --topic {topic}"));
        allow(
            kafka,
            user,
            &format!("--operation WRITE --topic {}", place.topic),
        );
        let id = place.source.transactional_id();
        allow(
            kafka,
            user,
            &format!("--operation WRITE --transactional-id {id}"),
        );
        let broker = KafkaBroker::new(config).unwrap();
        broker.ensure_progress_topic(&place.source).await.unwrap();
        let mut publisher = broker.open(&place.source).await.unwrap();
        // Only librdkafka reads an encrypted key.
        let expected = match user {
            "carol" => PublisherKind::RdKafka,
            _ => PublisherKind::Native,
        };
        assert_eq!(publisher.kind(), expected, "{user}");
        use onceward::publisher::Publisher as _;
        let outcome = publisher
            .publish(&batch(vec![place.record("secret")]), &progress(1))
            .await;
        committed(outcome);
        let read = broker.read_progress(&place.source, None).await.unwrap();
        assert_eq!(read.record.unwrap().1.position, 1, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_handles_each_record_once_by_scram_over_tls_and_goes_on_once_it_is_let_in() {
    let kafka = kafka().await;
    let world = World::sqlite(&kafka.super_user(), 2).await;
    world.publish(0..50);
    let config = alice(kafka);
    let word = kafka.folder().join("password-of-the-consumer");
    std::fs::write(&word, "not-yet\n").unwrap();
    let running = world.start_by(KafkaConfig {
        password_file: Some(word.clone()),
        ..config
    });
    let refused = |part: &'static str| {
        let handle = running.handle.clone();
        until(part, async move || {
            handle.refusal().is_some_and(|told| told.contains(part))
        })
    };
    refused("refused the user name or password of \"alice\"").await;
    // The file is read again at each connect: nobody restarts the consumer.
    std::fs::write(&word, password("alice")).unwrap();
    refused("needs the ACL").await;
    allow(
        kafka,
        "alice",
        &format!("--operation READ --topic {}", world.topic),
    );
    allow(
        kafka,
        "alice",
        &format!("--operation READ --group {}", world.group),
    );
    world.all_once(0..50).await;
    world.publish(50..80);
    world.all_once(0..80).await;
    assert_eq!(running.handle.refusal(), None);
    running.stop().await;
}

/// How a connection is wrong, and what must be said.
struct Wrong {
    what: &'static str,
    config: KafkaConfig,
    says: &'static str,
}

fn all_wrong(kafka: &SecureKafka) -> Vec<Wrong> {
    let other = Authority::new("somebody-else").unwrap();
    let other_ca = other.write(kafka.folder()).unwrap();
    let wrong = |what, says, config| Wrong { what, config, says };
    vec![
        wrong(
            "wrong password",
            "refused the user name or password of \"alice\"",
            KafkaConfig {
                password: Some("no".to_owned().into()),
                password_file: None,
                ..alice(kafka)
            },
        ),
        wrong(
            "unknown CA",
            "is signed by none of the authorities in",
            KafkaConfig {
                ca_file: Some(other_ca),
                ..alice(kafka)
            },
        ),
        wrong(
            "wrong host name",
            "is not made out to localhost",
            KafkaConfig {
                bootstrap_servers: kafka.sasl_by_wrong_name(),
                ..alice(kafka)
            },
        ),
        wrong(
            "expired broker certificate",
            "has expired: renew it on the broker",
            KafkaConfig {
                bootstrap_servers: kafka.expired(),
                security_protocol: Some(SecurityProtocol::Ssl),
                ca_file: Some(kafka.ca_file().to_owned()),
                ..KafkaConfig::default()
            },
        ),
        wrong(
            "no TLS at a TLS door",
            "security_protocol (--kafka-security-protocol) must be ssl or sasl_ssl",
            KafkaConfig::plaintext(kafka.sasl()),
        ),
        wrong(
            "TLS at a plain door",
            "security_protocol (--kafka-security-protocol) must be plaintext or",
            KafkaConfig {
                bootstrap_servers: kafka.super_user(),
                ..alice(kafka)
            },
        ),
        wrong(
            "no client certificate",
            "wants a client certificate (cert_file",
            KafkaConfig {
                cert_file: None,
                key_file: None,
                key_password_file: None,
                ..carol(kafka, kafka.authority(), "carol-without")
            },
        ),
        wrong(
            "a client certificate of somebody else",
            "wants a client certificate (cert_file",
            carol(kafka, &other, "other-carol"),
        ),
        wrong(
            "wrong mechanism",
            "does not take sasl_mechanism SCRAM-SHA-256",
            KafkaConfig {
                sasl_mechanism: Some(SaslMechanism::ScramSha256),
                ..alice(kafka)
            },
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_credential_is_one_clear_error_and_nothing_hangs() {
    let kafka = kafka().await;
    let source = SourceName::new("nobody").unwrap();
    let asking = all_wrong(kafka)
        .into_iter()
        .map(|wrong| ask(wrong, &source));
    let failed: Vec<String> = futures::future::join_all(asking).await.concat();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Asks as admin, as producer and as consumer; what was not said as it should be.
async fn ask(wrong: Wrong, source: &SourceName) -> Vec<String> {
    let Wrong { what, config, says } = wrong;
    let begun = Instant::now();
    let broker = KafkaBroker::new(config.clone()).unwrap();
    let mut failed = Vec::new();
    let mut check = |who: &str, text: &str| {
        println!("{what}, {who}, {:?}: {text}", begun.elapsed());
        if !text.contains(says) {
            failed.push(format!("{what}, {who}: no {says:?} in {text}"));
        }
    };
    let asked = broker.ensure_progress_topic(source).await.unwrap_err();
    check("admin", &asked.to_string());
    let opened = broker.open(source).await.unwrap_err();
    check("producer", &opened.to_string());
    // A broker that is going down ends a handshake as well, so that is no reason for an alarm.
    if !says.starts_with("security_protocol") {
        for error in [asked, opened] {
            assert!(matches!(error, BrokerError::Configuration(_)), "{error:?}");
        }
    }
    check("consumer", &trouble_of(config).await);
    failed
}

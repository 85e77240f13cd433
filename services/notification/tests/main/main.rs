//! Mails on real databases, into a real mail server.
#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use contracts::notification::{HighPriority, LowPriority, Notice};
use contracts::{delivery, order, payment, pipeline};
use mail_sink::{Mail, Mails};
use notification::{DEFINITION, Reactions, Sender, Settings, handlers};
use onceward::consumer::Handlers;
use onceward::schema::SchemaBackend;
use onceward::secret::Secret;
use onceward::{Backend, Db, Envelope, Event, IdGen, MessageId, OpenOptions, UuidV7};
use onceward_saga::{SagaId, StepRef};
use onceward_testkit::postgres as server;
use skeleton::App;
use sqlx::{Postgres, Row, Sqlite};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

/// Defines each case for both databases: the same sentence, twice.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (shop, _folder) = crate::on_sqlite().await;
                super::$name(shop).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::on_postgres().await).await;
            })*
        }
    };
}

on_both!(
    mails_wait_for_their_server_and_high_priority_goes_first,
    a_user_gets_the_mails_that_are_wanted_where_they_are_wanted,
    what_the_server_took_and_nobody_noted_is_the_same_mail_again,
    every_event_of_the_pipeline_asks_for_one_mail_by_its_priority,
    high_priority_overtakes_many_low_ones_while_the_server_is_slow,
    an_address_that_the_server_does_not_know_holds_up_no_other_mail,
    a_server_that_lets_nobody_in_loses_no_mail,
    a_server_that_never_answers_is_none,
);

/// The service without Kafka, and a mail server that comes and goes.
struct Shop<B: Backend> {
    app: App<B>,
    handlers: Handlers<B>,
    sender: Sender<B>,
    smtp: SocketAddr,
    mails: Mails,
    server: Option<(CancellationToken, JoinHandle<()>)>,
    /// How much of the outbox has come back.
    published: AtomicI64,
}

async fn on_sqlite() -> (Shop<Sqlite>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notification.db");
    std::fs::File::create(&path).unwrap();
    let url = format!("sqlite://{}", path.display());
    let db = Db::<Sqlite>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    (Shop::new(db).await, folder)
}

async fn on_postgres() -> Shop<Postgres> {
    let url = server::shared().unwrap().create_database().unwrap();
    let db = Db::<Postgres>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    Shop::new(db).await
}

impl<B: SchemaBackend> Shop<B> {
    async fn new(db: Db<B>) -> Self {
        skeleton::migrate(&DEFINITION, db.pool()).await.unwrap();
        let app = App::new(db, DEFINITION.source().unwrap());
        // A port that is nobody's until the server starts there.
        let smtp = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let url = Secret::from(format!("smtp://{smtp}"));
        let settings = Settings {
            smtp: url.clone(),
            smtp_file: None,
            mail_from: "Shop <shop@onceward.example>".parse().unwrap(),
            mail_domain: "customers.example".into(),
        };
        Self {
            sender: Sender::new(&app, &url, &settings).unwrap(),
            handlers: handlers(Reactions::new(app.outbox().clone())),
            app,
            smtp,
            mails: Mails::default(),
            server: None,
            published: AtomicI64::new(0),
        }
    }

    /// A message comes, and what it asks for; id of the last of them, which is the mail's.
    async fn hear<E: Event>(&self, message: E) -> Uuid {
        let mut id = UuidV7.next();
        self.handle(&message, id).await;
        for (asked, topic, payload) in self.published().await {
            match topic.as_str() {
                "high_priority_notifications" => {
                    let message: HighPriority = serde_json::from_slice(&payload).unwrap();
                    self.handle(&message, asked).await;
                }
                _ => {
                    let message: LowPriority = serde_json::from_slice(&payload).unwrap();
                    self.handle(&message, asked).await;
                }
            }
            id = asked;
        }
        id
    }

    async fn handle<E: Event>(&self, message: &E, id: Uuid) {
        let envelope = Envelope::of(message, MessageId(id)).unwrap();
        let mut tx = self.app.db().pool().begin_with(B::BEGIN).await.unwrap();
        self.handlers.dispatch(&mut tx, &envelope).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Id, topic and payload of what the service has said since it was last asked.
    async fn published(&self) -> Vec<(Uuid, String, Vec<u8>)> {
        let statement =
            "select seq, message_id, topic, payload from outbox where seq > $1 order by seq";
        let rows = sqlx::query(statement)
            .bind(self.published.load(Ordering::SeqCst))
            .fetch_all(self.app.db().pool())
            .await
            .unwrap();
        let read = rows.iter().map(|row| {
            let seq = row.try_get("seq").unwrap();
            self.published.store(seq, Ordering::SeqCst);
            (
                row.try_get("message_id").unwrap(),
                row.try_get("topic").unwrap(),
                row.try_get("payload").unwrap(),
            )
        });
        read.collect()
    }

    async fn placed(&self, user_id: &str) -> Uuid {
        let order_id = UuidV7.next();
        self.hear(order::Created {
            order_id,
            user_id: user_id.into(),
            product_id: "product_1".into(),
            quantity: 1,
            amount_minor: 500,
        })
        .await;
        order_id
    }

    async fn completed(&self, order_id: Uuid) -> Uuid {
        let saga_id = SagaId(order_id);
        self.hear(order::Completed { order_id, saga_id }).await
    }

    async fn start_server(&mut self) {
        let listener = TcpListener::bind(self.smtp).await.unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(mail_sink::take(listener, self.mails.clone(), stop.clone()));
        self.server = Some((stop, serving));
    }

    /// A server that thinks about everything it is told.
    async fn start_slow_server(&mut self, thinking: Duration) {
        let near = TcpListener::bind(self.smtp).await.unwrap();
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = far.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = mail_sink::take(far, self.mails.clone(), stop.clone());
        let forwarding = async move {
            while let Ok((mut client, _)) = near.accept().await {
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(address).await.unwrap();
                    let (mut asks, mut hears) = client.split();
                    let (mut answers, mut told) = server.split();
                    let slowly = async {
                        let mut answer = [0; 1_000];
                        while let Ok(length @ 1..) = answers.read(&mut answer).await {
                            tokio::time::sleep(thinking).await;
                            hears.write_all(&answer[..length]).await?;
                        }
                        Ok(())
                    };
                    let _gone = tokio::try_join!(tokio::io::copy(&mut asks, &mut told), slowly);
                });
            }
        };
        let stopped = stop.clone();
        let serving = tokio::spawn(async move {
            tokio::select! {
                () = serving => {}
                () = forwarding => {}
                () = stopped.cancelled() => {}
            }
        });
        self.server = Some((stop, serving));
    }

    /// A server that says the same to every mail.
    async fn start_server_that_says(&mut self, answer: &'static str) {
        let listener = TcpListener::bind(self.smtp).await.unwrap();
        let stop = CancellationToken::new();
        let answering = async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut client = BufReader::new(client);
                    client.write_all(b"220 ready\r\n").await?;
                    let mut line = String::new();
                    while client.read_line(&mut line).await? > 0 {
                        let answer = match line.get(..4) {
                            Some("EHLO") => "250 hello",
                            Some("QUIT") => "221 bye",
                            _ => answer,
                        };
                        client.write_all(format!("{answer}\r\n").as_bytes()).await?;
                        line.clear();
                    }
                    std::io::Result::Ok(())
                });
            }
        };
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            tokio::select! {
                () = answering => {}
                () = stopped => {}
            }
        });
        self.server = Some((stop, serving));
    }

    async fn stop_server(&mut self) {
        let (stop, serving) = self.server.take().unwrap();
        stop.cancel();
        serving.await.unwrap();
    }

    /// Sends until nothing is due.
    async fn send_all(&self) {
        while self.sender.send_due().await.unwrap() > 0 {}
    }

    /// Waits until the server is asked again; how many mails it was asked to take.
    async fn send_when_it_is_asked_again(&self) -> usize {
        let asking = async {
            loop {
                match self.sender.send_due().await.unwrap() {
                    0 => tokio::time::sleep(Duration::from_millis(20)).await,
                    tried => return tried,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), asking)
            .await
            .unwrap()
    }

    /// What came, oldest first.
    fn came(&self) -> Vec<Mail> {
        let mut mails = self.mails.all();
        mails.reverse();
        mails
    }

    fn came_ids(&self) -> Vec<Option<String>> {
        let came = self.came().into_iter();
        came.map(|mail| mail.message_id).collect()
    }

    async fn count(&self, state: &'static str) -> i64 {
        sqlx::query_scalar("select count(*) from mail where state = $1")
            .bind(state.to_owned())
            .fetch_one(self.app.db().pool())
            .await
            .unwrap()
    }

    async fn prefer(&self, user_id: &str, body: &'static str) -> u16 {
        let service = notification::service(
            &self.app,
            &Settings {
                smtp: Secret::from("smtp://127.0.0.1:1".to_owned()),
                smtp_file: None,
                mail_from: "shop@onceward.example".parse().unwrap(),
                mail_domain: "customers.example".into(),
            },
        )
        .unwrap();
        let router = skeleton::assemble(
            &DEFINITION,
            &self.app,
            service.routes,
            skeleton::Limits::default(),
        )
        .unwrap();
        let here: SocketAddr = ([127, 0, 0, 1], 1).into();
        let request = Request::put(format!("/preferences/{user_id}")).extension(ConnectInfo(here));
        let request = request.body(Body::from(body)).unwrap();
        router.oneshot(request).await.unwrap().status().as_u16()
    }
}

fn id_of(message: Uuid) -> Option<String> {
    Some(format!("{message}@onceward.example"))
}

fn at(order_id: Uuid) -> StepRef {
    StepRef::first(SagaId(order_id), "step")
}

async fn mails_wait_for_their_server_and_high_priority_goes_first<B: SchemaBackend>(
    mut shop: Shop<B>,
) {
    let mut low = Vec::new();
    for n in 0..20 {
        let order_id = shop.placed(&format!("user_{n}")).await;
        low.push(shop.completed(order_id).await);
    }
    // Who it is for comes last: there is no order across topics.
    let order_id = UuidV7.next();
    let reason = "payment declined".to_owned();
    let saga = at(order_id);
    let high = shop
        .hear(payment::Failed {
            saga,
            order_id,
            reason,
        })
        .await;
    shop.hear(order::Created {
        order_id,
        user_id: "anna".into(),
        product_id: "product_1".into(),
        quantity: 1,
        amount_minor: 500,
    })
    .await;
    for _ in 0..3 {
        assert!(shop.sender.send_due().await.unwrap() > 0);
    }
    assert_eq!((shop.count("waiting").await, shop.came()), (21, vec![]));

    // It is back, but was asked in vain too often, and is left alone for a while.
    shop.start_server().await;
    assert_eq!(shop.sender.send_due().await.unwrap(), 0);
    assert_eq!(shop.came(), vec![]);
    assert_eq!(shop.send_when_it_is_asked_again().await, 16);
    let first = shop.came_ids();
    assert!(
        first.contains(&id_of(high)),
        "in the first batch: {first:?}"
    );
    // Away in the middle: the rest waits.
    shop.stop_server().await;
    assert_eq!(shop.sender.send_due().await.unwrap(), 5);
    assert_eq!(shop.came().len(), 16);
    shop.start_server().await;
    assert_eq!(shop.send_when_it_is_asked_again().await, 5);

    let came = shop.came();
    let mut ids: Vec<_> = came.iter().map(|mail| mail.message_id.clone()).collect();
    let mut wanted: Vec<_> = low.into_iter().chain([high]).map(id_of).collect();
    ids.sort();
    wanted.sort();
    assert_eq!(ids, wanted, "each once");
    let mail = came.iter().find(|mail| mail.message_id == id_of(high));
    let mail = mail.unwrap();
    assert_eq!(mail.to, ["anna@customers.example"]);
    assert_eq!(mail.subject.as_deref(), Some("Your payment failed"));
    let text = mail.text.as_deref().unwrap();
    assert!(text.contains("payment declined"), "{text}");
    assert!(text.contains(&order_id.to_string()), "{text}");
    assert_eq!(shop.count("sent").await, 21);
}

async fn a_user_gets_the_mails_that_are_wanted_where_they_are_wanted<B: SchemaBackend>(
    mut shop: Shop<B>,
) {
    shop.start_server().await;
    for (body, status) in [
        ("{}", 422),
        (r#"{"wants":"some"}"#, 422),
        (r#"{"wants":"all","address":"nowhere"}"#, 422),
        (r#"{"wants":"high","address":"b@home.example"}"#, 200),
    ] {
        assert_eq!(shop.prefer("bert", body).await, status, "{body}");
    }
    assert_eq!(shop.prefer("carl", r#"{"wants":"none"}"#).await, 200);
    let strange = shop.placed("no mail address\u{e4}<>").await;
    shop.completed(strange).await;
    for user in ["bert", "carl"] {
        let order_id = shop.placed(user).await;
        let saga = at(order_id);
        shop.hear(delivery::Scheduled { saga, order_id }).await;
        let saga_id = SagaId(order_id);
        let reason = "timed out".to_owned();
        shop.hear(order::Cancelled {
            order_id,
            saga_id,
            reason,
        })
        .await;
    }
    shop.send_all().await;
    let came = shop.came();
    assert_eq!(came.len(), 1, "{came:?}");
    assert_eq!(came[0].to, ["b@home.example"]);
    assert_eq!(came[0].subject.as_deref(), Some("Your order was cancelled"));
    assert_eq!(
        (shop.count("unwanted").await, shop.count("refused").await),
        (3, 1)
    );
}

async fn what_the_server_took_and_nobody_noted_is_the_same_mail_again<B: SchemaBackend>(
    mut shop: Shop<B>,
) {
    shop.start_server().await;
    let order_id = shop.placed("anna").await;
    let id = shop.completed(order_id).await;
    shop.send_all().await;
    // As if the sender had died after the server's answer, and its lease were over.
    sqlx::query("update mail set state = 'waiting', due_at = 0")
        .execute(shop.app.db().pool())
        .await
        .unwrap();
    // Two senders at once: one of them takes it.
    let (one, other) = tokio::join!(shop.sender.send_due(), shop.sender.send_due());
    assert_eq!(one.unwrap() + other.unwrap(), 1);
    let came = shop.came();
    assert_eq!(came.len(), 2);
    for mail in &came {
        assert_eq!(mail.message_id, id_of(id));
        assert_eq!(mail.text, came[0].text);
    }
}

async fn every_event_of_the_pipeline_asks_for_one_mail_by_its_priority<B: SchemaBackend>(
    mut shop: Shop<B>,
) {
    shop.start_server().await;
    let (id, why) = (UuidV7.next(), "for a reason".to_owned());
    let mut asked = Vec::new();
    macro_rules! hear {
        ($($event:ident($($more:expr),*);)*) => {$(
            asked.push(shop.hear(pipeline::$event::of(id, "anna", 1, $($more),*)).await);
        )*};
    }
    hear! {
        OrderCreated("product_1".into(), 1, 500);
        OrderTimedOut();
        OrderPaid("product_1".into(), 1, 500);
        PaymentFailed(why.clone());
        PaymentRefunded();
        InventoryReserved("product_1".into(), 1);
        InventoryFailed(why.clone());
        InventoryReleased();
        OrderShipped("product_1".into(), 1);
        ShipmentReturned();
        OrderDelivered();
        DeliveryFailed(why.clone());
        DeliveryCancelled();
    }
    // Whoever else wants a customer to be told.
    asked.push(
        shop.hear(LowPriority {
            order_id: id,
            notice: Notice::DeliveryScheduled,
            reason: None,
        })
        .await,
    );
    let (saga_id, reason) = (SagaId(id), why);
    let cancelled = order::Cancelled {
        order_id: id,
        saga_id,
        reason,
    };
    asked.push(shop.hear(cancelled).await);
    let high: Vec<String> =
        sqlx::query_scalar("select template from mail where priority = 0 order by template")
            .fetch_all(shop.app.db().pool())
            .await
            .unwrap();
    assert_eq!(
        high,
        ["order_cancelled", "order_delivered", "payment_failed"]
    );
    shop.send_all().await;
    let mut came = shop.came_ids();
    let mut wanted: Vec<_> = asked.into_iter().map(id_of).collect();
    came.sort();
    wanted.sort();
    assert_eq!(came, wanted, "each once");
}

async fn high_priority_overtakes_many_low_ones_while_the_server_is_slow<B: SchemaBackend>(
    mut shop: Shop<B>,
) {
    // Mails that are handed over side by side.
    const BATCH: usize = 16;
    let order_id = shop.placed("anna").await;
    let mut wanted = Vec::new();
    for _ in 0..6 * BATCH {
        wanted.push(id_of(shop.completed(order_id).await));
    }
    shop.start_slow_server(Duration::from_millis(5)).await;
    let sending = shop.send_all();
    let hearing = async {
        while shop.mails.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut high = Vec::new();
        for _ in 0..3 {
            let saga_id = SagaId(order_id);
            let reason = "timed out".to_owned();
            let cancelled = order::Cancelled {
                order_id,
                saga_id,
                reason,
            };
            high.push(id_of(shop.hear(cancelled).await));
        }
        (high, shop.mails.all().len())
    };
    let ((), (high, before)) = tokio::join!(sending, hearing);
    let mut came = shop.came_ids();
    let last = came.iter().rposition(|id| high.contains(id)).unwrap();
    // The batch that was under way, and the one they are in.
    assert!(last < before + 2 * BATCH, "{last}, heard after {before}");
    wanted.extend(high);
    came.sort();
    wanted.sort();
    assert_eq!(came, wanted, "each once");
}

async fn an_address_that_the_server_does_not_know_holds_up_no_other_mail<B: SchemaBackend>(
    mut shop: Shop<B>,
) {
    shop.start_server().await;
    for _ in 0..32 {
        let order_id = shop.placed("m\u{fc}ller").await;
        let saga = at(order_id);
        let reason = "payment declined".to_owned();
        shop.hear(payment::Failed {
            saga,
            order_id,
            reason,
        })
        .await;
    }
    let order_id = shop.placed("anna").await;
    let id = shop.completed(order_id).await;
    shop.send_all().await;
    assert_eq!(shop.came_ids(), [id_of(id)]);
    assert_eq!(shop.count("refused").await, 32);
}

async fn a_server_that_lets_nobody_in_loses_no_mail<B: SchemaBackend>(mut shop: Shop<B>) {
    let order_id = shop.placed("anna").await;
    shop.completed(order_id).await;
    shop.start_server_that_says("530 5.7.0 Authentication required")
        .await;
    assert_eq!(shop.sender.send_due().await.unwrap(), 1);
    assert_eq!(shop.count("waiting").await, 1);
    shop.stop_server().await;
    shop.start_server_that_says("550 5.1.1 No such user").await;
    assert_eq!(shop.send_when_it_is_asked_again().await, 1);
    assert_eq!(shop.count("refused").await, 1, "that is about the mail");
}

async fn a_server_that_never_answers_is_none<B: SchemaBackend>(mut shop: Shop<B>) {
    let order_id = shop.placed("anna").await;
    let id = shop.completed(order_id).await;
    // The system accepts for it; it never does.
    let silent = TcpListener::bind(shop.smtp).await.unwrap();
    let sending = tokio::time::timeout(Duration::from_secs(120), shop.sender.send_due());
    assert_eq!(sending.await.unwrap().unwrap(), 1);
    assert_eq!(shop.count("waiting").await, 1);
    drop(silent);
    shop.start_server().await;
    assert_eq!(shop.send_when_it_is_asked_again().await, 1);
    assert_eq!(shop.came_ids(), [id_of(id)]);
}

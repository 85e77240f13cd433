//! All participants with their own databases, and a bus in memory that reorders and repeats.

mod bus;
mod desk;
mod ledger;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use onceward::consumer::Handlers;
use onceward::{Backend, Db, Envelope, OpenOptions, Outbox, Routing};
use onceward_saga::inspect::{self, SagaFilter};
use onceward_saga::{RequestRunner, SagaBackend, SagaEvent, SagaStatus, TimerOptions, TimerRunner};
use onceward_testkit::postgres;
use rand::SeedableRng;
use rand::rngs::StdRng;
use saga_orchestrator::Settings;
use serde_json::Value;
use skeleton::App;
use sqlx::{Postgres, Row, Sqlite};
use tower::ServiceExt;
use uuid::Uuid;

pub use bus::Unkindness;
pub use ledger::Ledger;

/// Defines each case for both databases: the same sentence, twice.
macro_rules! on_both {
    ($($name:ident, $deadline_ms:literal $(, $validate:literal)?;)*) => {
        mod sqlite {
            use crate::world::World;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let settings = crate::world::settings($deadline_ms, true $(&& $validate)?);
                super::$name(World::on_sqlite(settings).await).await;
            })*
        }
        mod postgres {
            use crate::world::World;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let settings = crate::world::settings($deadline_ms, true $(&& $validate)?);
                super::$name(World::on_postgres(settings).await).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// One service: its database, what it handles, and how much of its outbox is on the bus.
struct Node<B: Backend> {
    name: &'static str,
    db: Db<B>,
    handlers: Handlers<B>,
    topics: BTreeSet<String>,
    router: Router,
    published: i64,
}

/// New orders are validated first, unless a case says otherwise.
pub fn settings(deadline_ms: u64, validate: bool) -> Settings {
    Settings {
        deadline_ms,
        validate,
    }
}

pub struct World<B: SagaBackend> {
    nodes: Vec<Node<B>>,
    timers: TimerRunner<B>,
    requests: RequestRunner<B>,
    /// Those of choreographed orders.
    deadlines: TimerRunner<B, order::Choreography>,
    routing: Routing,
    /// All that `shop topics` makes.
    topics: BTreeSet<String>,
    /// By source and topic: in order within, in any order between.
    queues: BTreeMap<(&'static str, String), VecDeque<Envelope>>,
    /// Services that are down: nothing is delivered to them.
    down: BTreeSet<&'static str>,
    /// Services whose messages stay unpublished.
    mute: BTreeSet<&'static str>,
    unkindness: Unkindness,
    rng: StdRng,
    pub delivered: usize,
    _folder: Option<tempfile::TempDir>,
}

impl World<Sqlite> {
    pub async fn on_sqlite(settings: Settings) -> Self {
        Self::routed(settings, Routing::default()).await
    }

    /// The same with other topics.
    pub async fn routed(settings: Settings, routing: Routing) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut dbs = Vec::new();
        for n in 0..7 {
            let path = folder.path().join(format!("{n}.db"));
            std::fs::File::create(&path).unwrap();
            let url = format!("sqlite://{}", path.display());
            dbs.push(
                Db::<Sqlite>::open(&url, OpenOptions::default())
                    .await
                    .unwrap(),
            );
        }
        let mut world = Self::new(dbs, &settings, routing).await;
        world._folder = Some(folder);
        world
    }
}

impl World<Postgres> {
    pub async fn on_postgres(settings: Settings) -> Self {
        let mut dbs = Vec::new();
        for _ in 0..7 {
            let url = postgres::shared().unwrap().create_database().unwrap();
            dbs.push(
                Db::<Postgres>::open(&url, OpenOptions::default())
                    .await
                    .unwrap(),
            );
        }
        Self::new(dbs, &settings, Routing::default()).await
    }
}

impl<B: SagaBackend> World<B> {
    async fn new(dbs: Vec<Db<B>>, settings: &Settings, routing: Routing) -> Self {
        let definitions = [
            saga_orchestrator::DEFINITION,
            inventory::DEFINITION,
            payment::DEFINITION,
            delivery::DEFINITION,
            order::DEFINITION,
            customer::DEFINITION,
            shipping::DEFINITION,
        ];
        let mut nodes = Vec::new();
        let (mut timers, mut requests, mut deadlines) = (None, None, None);
        for (definition, db) in definitions.iter().zip(dbs) {
            skeleton::migrate(definition, db.pool()).await.unwrap();
            let outbox = Outbox::new(definition.source().unwrap()).with_routing(routing.clone());
            // Nothing fails by chance: what fails is what the test says.
            let payments = payment::Settings {
                fail_percent: 0,
                ..Default::default()
            };
            let deliveries = delivery::Settings {
                fail_percent: 0,
                ..Default::default()
            };
            let app = App::with_outbox(db.clone(), outbox.clone());
            let (handlers, service) = match definition.name {
                "inventory" => (inventory::handlers(&outbox), inventory::service(&app)),
                "payment" => (
                    payment::handlers(&outbox, &payments),
                    payment::service(&app, &payments),
                ),
                "customer" => {
                    let settings = customer::Settings::default();
                    (
                        customer::handlers(&outbox, &settings),
                        customer::service(&app, &settings),
                    )
                }
                "delivery" => (
                    delivery::handlers(&outbox, &deliveries),
                    delivery::service(&app, &deliveries),
                ),
                "shipping" => (shipping::handlers(&outbox), shipping::service(&app)),
                "order" => {
                    let settings = order::Settings {
                        order_deadline_ms: settings.deadline_ms,
                        ..Default::default()
                    };
                    let choreography = order::choreography(&outbox, &settings);
                    let handlers = order::handlers(&outbox, &choreography);
                    let options = TimerOptions::default();
                    deadlines = Some(TimerRunner::new(db.clone(), choreography, options));
                    (handlers, order::service(&app, &settings))
                }
                _ => {
                    let (sagas, saga) = saga_orchestrator::sagas(&outbox, settings).unwrap();
                    let handlers = saga_orchestrator::handlers(&sagas, &saga);
                    requests = Some(RequestRunner::new(db.clone(), sagas.clone()));
                    timers = Some(TimerRunner::new(db.clone(), sagas, TimerOptions::default()));
                    let service = saga_orchestrator::service(&app, settings);
                    (handlers, service.unwrap())
                }
            };
            nodes.push(Node {
                name: definition.name,
                db,
                // Orders that the test itself says it has are none of the order service's.
                topics: match definition.name {
                    "order" => BTreeSet::new(),
                    _ => handlers.topics(outbox.routing()),
                },
                router: skeleton::assemble(
                    definition,
                    &app,
                    service.routes,
                    skeleton::Limits::default(),
                )
                .unwrap(),
                handlers,
                published: 0,
            });
        }
        Self {
            nodes,
            timers: timers.unwrap(),
            requests: requests.unwrap(),
            deadlines: deadlines.unwrap(),
            topics: contracts::topics(&routing),
            routing,
            queues: BTreeMap::new(),
            down: BTreeSet::new(),
            mute: BTreeSet::new(),
            unkindness: bus::KIND,
            rng: StdRng::seed_from_u64(0),
            delivered: 0,
            _folder: None,
        }
    }

    /// New orders begin by these settings; those under way go on.
    pub fn begin_by(&mut self, settings: &Settings) {
        let orchestrator = &mut self.nodes[0];
        let outbox = Outbox::new(saga_orchestrator::DEFINITION.source().unwrap());
        let (sagas, saga) = saga_orchestrator::sagas(&outbox, settings).unwrap();
        orchestrator.handlers = saga_orchestrator::handlers(&sagas, &saga);
    }

    /// A request to a service: status and JSON body.
    pub async fn ask(&self, service: &str, request: Request<Body>) -> (u16, Value) {
        let node = self.nodes.iter().find(|node| node.name == service).unwrap();
        let response = node.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1_000_000)
            .await
            .unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub async fn get(&self, service: &str, path: &str) -> (u16, Value) {
        self.ask(service, Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    /// A write by an operator on the service's own machine.
    pub async fn operate(
        &self,
        service: &str,
        method: &str,
        path: &str,
        body: &'static str,
    ) -> (u16, Value) {
        let here: std::net::SocketAddr = ([127, 0, 0, 1], 1).into();
        let request = Request::builder().method(method).uri(path);
        let request = request.extension(ConnectInfo(here));
        self.ask(service, request.body(Body::from(body)).unwrap())
            .await
    }

    pub async fn put(&self, service: &str, path: &str, body: &'static str) -> (u16, Value) {
        self.operate(service, "PUT", path, body).await
    }

    /// Writes into a saga's log that this step's compensation failed for good, as the engine does
    /// when a participant says so; no participant of the shop ever does.
    pub async fn cannot_undo(&self, saga: Uuid, step: &str) {
        let event = SagaEvent::CancelFailed {
            step: step.to_owned(),
            branch: 0,
            reason: "the shelf has burnt down".to_owned(),
        };
        let mut tx = self.nodes[0].db.pool().begin_with(B::BEGIN).await.unwrap();
        let version: i64 = sqlx::query_scalar(
            "update saga_instance set version = version + 1, status = 'stuck' \
             where saga_id = $1 returning version",
        )
        .bind(saga)
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        sqlx::query(
            "insert into saga_event (saga_id, seq, kind, step, body, occurred_at) \
             values ($1, $2, $3, $4, $5, 1)",
        )
        .bind(saga)
        .bind(version)
        .bind(event.kind().to_owned())
        .bind(step.to_owned())
        .bind(serde_json::to_string(&event).unwrap())
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }

    /// An operator's wish, as `onceward saga` writes it; its number.
    pub async fn request(&self, saga: Uuid, verb: &str, step: Option<&str>) -> i64 {
        sqlx::query_scalar(
            "insert into saga_request (saga_id, verb, step, requested_by, why, requested_at) \
             values ($1, $2, $3, 'anna', 'ticket 4711', 1) returning id",
        )
        .bind(saga)
        .bind(verb.to_owned())
        .bind(step.map(str::to_owned))
        .fetch_one(self.nodes[0].db.pool())
        .await
        .unwrap()
    }

    pub async fn carry_out_requests(&self) -> usize {
        self.requests.carry_out_all().await.unwrap()
    }

    /// What became of a wish, and the note about it.
    pub async fn request_became(&self, id: i64) -> (String, String) {
        let row = sqlx::query("select state, note from saga_request where id = $1")
            .bind(id)
            .fetch_one(self.nodes[0].db.pool())
            .await
            .unwrap();
        let note: Option<String> = row.try_get("note").unwrap();
        (row.try_get("state").unwrap(), note.unwrap_or_default())
    }

    /// Waits until every running saga's deadline has passed, and fires it.
    pub async fn deadlines_pass(&mut self) {
        let passing = async {
            while self.count_running().await > 0 {
                let pause = self.timers.fire_due().await.unwrap();
                tokio::time::sleep(pause.min(Duration::from_millis(10))).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), passing)
            .await
            .unwrap();
    }

    async fn count_running(&self) -> usize {
        let filter = SagaFilter {
            status: Some(SagaStatus::Running),
            ..SagaFilter::default()
        };
        inspect::list(self.nodes[0].db.pool(), &filter)
            .await
            .unwrap()
            .len()
    }

    /// Where the saga of an order stands, and why.
    pub async fn saga(&self, order: Uuid) -> (SagaStatus, Option<String>) {
        let filter = SagaFilter {
            subject: Some(order.to_string()),
            ..SagaFilter::default()
        };
        let found = inspect::list(self.nodes[0].db.pool(), &filter)
            .await
            .unwrap();
        assert_eq!(found.len(), 1, "one saga per order");
        (found[0].status, found[0].reason.clone())
    }

    /// The orchestrator's last words about an order, said exactly once.
    pub async fn last_word(&self, order: Uuid) -> String {
        let said: Vec<String> = sqlx::query_scalar(
            "select message_type from outbox where message_key = $1 \
             and message_type in ('order.completed.v1', 'order.cancelled.v1')",
        )
        .bind(order.to_string())
        .fetch_all(self.nodes[0].db.pool())
        .await
        .unwrap();
        assert_eq!(said.len(), 1, "said of {order}: {said:?}");
        said.into_iter().next().unwrap()
    }
}

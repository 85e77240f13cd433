//! The run loop: HTTP server, consumer and background tasks under one stop token.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use onceward::schema::{self, SchemaBackend};
use onceward::{Backend, Db, Outbox, Routing, Tx, idempotency};
use onceward_http::{Guard, Limits};
use sqlx::Pool;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    ApiError, App, Background, Definition, Routes, ServerOptions, Service, context, dead_letters,
    document, health, telemetry,
};

/// How often answers to `Idempotency-Key`s older than a day are purged, and metrics are tidied.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10);
/// Most answers purged in one unit of work.
const PURGE_ROWS: i64 = 500;

/// Creates or updates every table the service needs. May run again.
pub async fn migrate<B: SchemaBackend>(
    definition: &Definition,
    pool: &Pool<B>,
) -> anyhow::Result<()> {
    schema::migrate(pool, &definition.source()?).await?;
    for line in definition.lines {
        line.migrate(pool)
            .await
            .with_context(|| format!("migrations of {}", line.bookkeeping))?;
    }
    Ok(())
}

/// Refuses a database whose tables are not those this program knows.
async fn check<B: SchemaBackend>(definition: &Definition, pool: &Pool<B>) -> anyhow::Result<()> {
    schema::check(pool, &definition.source()?).await?;
    for line in definition.lines {
        line.check(pool).await?;
    }
    Ok(())
}

/// Everything the service answers, without a port: routes, their document, health, request context,
/// limits and panics as problem documents. What tests drive and [`run`] serves.
///
/// # Errors
/// None so far: a document can always be written.
pub fn assemble<B: Backend>(
    definition: &Definition,
    app: &App<B>,
    routes: Routes<B>,
    limits: Limits,
) -> anyhow::Result<Router> {
    let guard = Guard::new(limits);
    let routes = routes.with(dead_letters::__path_list, dead_letters::list::<B>);
    let (router, paths, components) = routes.into_parts();
    let (health, health_paths, health_components) = health::routes().into_parts();
    let document = document::document(
        definition,
        app.operators(),
        (paths, components),
        (health_paths, health_components),
    );
    let router = router
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(other_method)
        .layer(CatchPanicLayer::custom(on_panic));
    // Outside of the context: probes and readers are nobody's story.
    let beside = health
        .with_state(app.clone())
        .merge(document::router(&document)?)
        .method_not_allowed_fallback(other_method);
    Ok(guard
        .protect(router.with_state(app.clone()))
        .layer(middleware::from_fn_with_state(
            app.ids().clone(),
            context::layer,
        ))
        .merge(guard.protect(beside)))
}

async fn other_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path has other methods",
    )
}

fn on_panic(_payload: Box<dyn Any + Send + 'static>) -> Response {
    ApiError::internal(anyhow::anyhow!("a request handler panicked")).into_response()
}

/// Runs a service until SIGTERM or SIGINT: the first drains requests and tasks, the second kills.
///
/// Its messages go to topics, and come by topics, as `routing` says. `make` builds the service of its
/// parts; `extra` adds tasks that need them, such as the consumer loop, which this crate can't know.
///
/// # Errors
/// An unmigrated database, a taken port, or whatever a task failed with.
pub async fn run<B, S, X>(
    definition: &Definition,
    db: Db<B>,
    routing: Routing,
    options: &ServerOptions,
    make: S,
    extra: X,
) -> anyhow::Result<()>
where
    B: SchemaBackend,
    S: FnOnce(&App<B>) -> anyhow::Result<Service<B>>,
    X: FnOnce(&App<B>, &mut Service<B>) -> anyhow::Result<Vec<Background>>,
{
    let problems = options.limits.validate();
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
    let operators = options.operators.access()?;
    check(definition, db.pool()).await?;
    let outbox = Outbox::new(definition.source()?).with_routing(routing);
    let app = App::with_outbox(db, outbox).with_operators(operators);
    let mut service = make(&app)?;
    let mut tasks = extra(&app, &mut service)?;
    tasks.append(&mut service.background);
    tasks.push(housekeeping(app.clone()));

    let address = options
        .listen
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, definition.port)));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("{} can't listen on {address}", definition.name))?;
    let router = assemble(definition, &app, service.routes, options.limits.clone())?;

    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn({
        let (limits, stop) = (options.limits.clone(), stop.clone());
        async move {
            let served = onceward_http::serve(listener, router, &limits, stop).await;
            ("http server", served.map_err(anyhow::Error::from))
        }
    });
    running.spawn({
        let (db, stop) = (app.db().clone(), stop.clone());
        async move {
            let ended = tokio::select! {
                () = stop.cancelled() => Ok(()),
                () = db.ended() => Err(anyhow::anyhow!(
                    "its thread has died, so nothing can be written any more: start the service again"
                )),
            };
            ("database writer", ended)
        }
    });
    for task in tasks {
        let stop = stop.clone();
        running.spawn(async move { (task.name, (task.run)(stop).await) });
    }
    tracing::info!(service = definition.name, %address, "running");

    let outcome = tokio::select! {
        signal = crate::shutdown::first_signal() => signal.map(|name| {
            tracing::info!(service = definition.name, signal = name, "stopping");
        }),
        Some(ended) = running.join_next() => Err(early_end(ended)),
    };
    stop.cancel();
    let drained = drain(
        &mut running,
        Duration::from_millis(options.drain_timeout_ms),
    )
    .await;
    app.db().close().await;
    outcome.and(drained)
}

/// Waits for every task; those that do not end in time, or until a second signal, are aborted.
async fn drain(
    running: &mut JoinSet<(&'static str, anyhow::Result<()>)>,
    limit: Duration,
) -> anyhow::Result<()> {
    let all = async {
        let mut outcome = Ok(());
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((name, Err(error))) => outcome = Err(error.context(format!("{name} failed"))),
                Err(panicked) => outcome = Err(panicked.into()),
            }
        }
        outcome
    };
    tokio::select! {
        outcome = all => return outcome,
        () = tokio::time::sleep(limit) => tracing::warn!("not drained in time, aborting"),
        _ = crate::shutdown::first_signal() => tracing::warn!("second signal, aborting"),
    }
    running.shutdown().await;
    Ok(())
}

/// One bite; 0 if it failed.
async fn purge_answers<B: Backend>(app: &App<B>) -> u64 {
    let before = app.clock().now() - idempotency::KEEP_ANSWERS_MICROS;
    let purge =
        async move |tx: &mut Tx<'static, B>| idempotency::purge(tx, before, PURGE_ROWS).await;
    match app.db().write(purge).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::warn!(%error, "purge of idempotent answers failed");
            0
        }
    }
}

fn early_end(
    ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("{name} ended before it was asked to"),
        Ok((name, Err(error))) => error.context(format!("{name} failed")),
        Err(panicked) => panicked.into(),
    }
}

/// Purges old answers in small units of work and keeps the metrics tidy.
fn housekeeping<B: SchemaBackend>(app: App<B>) -> Background {
    Background::new("housekeeping", async move |stop: CancellationToken| {
        let mut ticks = interval(HOUSEKEEPING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            telemetry::metrics_upkeep();
            // Until there are no more, however many came in a day.
            while purge_answers(&app).await >= PURGE_ROWS.unsigned_abs() && !stop.is_cancelled() {}
        }
    })
}

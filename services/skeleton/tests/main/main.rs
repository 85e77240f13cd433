//! That a generic service compiles, and answers by the skeleton's rules.
#![expect(clippy::unwrap_used, clippy::panic, reason = "test code may panic")]

mod document;
mod health;
mod idempotency;
mod operators;
mod run;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use onceward::schema::SchemaBackend;
use onceward::{Db, OpenOptions, Tx};
use skeleton::{
    Answer, ApiError, App, Body, Definition, Limits, Operator, PathId, RequestIdentity, Routes,
    assemble, write_once,
};
use sqlx::Sqlite;
use tower::ServiceExt;

const DEFINITION: Definition = Definition {
    name: "things",
    about: "Keeps things.",
    consumer: "things-service-group",
    port: 1,
    lines: &[],
};

#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct NewThing {
    #[schema(max_length = 20)]
    user: String,
    amount: f64,
}

/// A handler generic over the database, as every service has them.
#[utoipa::path(
    post,
    path = "/things",
    request_body(content = NewThing),
    responses((status = 201, description = "Made."))
)]
async fn place<B: SchemaBackend>(
    State(app): State<App<B>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Answer, ApiError> {
    let mut fields = body.fields()?;
    let user = fields.text("user", 20);
    let amount = fields.money("amount");
    let (user, amount) = fields.finish(user.zip(amount))?;
    let identity = RequestIdentity {
        method: "POST",
        path: "/things",
        user_id: &user,
        body: &body.0,
    };
    write_once(
        &app,
        &headers,
        identity,
        async move |tx: &mut Tx<'static, B>| {
            sqlx::query("insert into thing (amount) values ($1)")
                .bind(amount.minor())
                .execute(&mut **tx)
                .await?;
            Ok(Answer::json(StatusCode::CREATED, &amount)
                .map_err(ApiError::internal)?
                .at("/things/1"))
        },
    )
    .await
}

/// A thing that only operators may break.
#[utoipa::path(
    delete,
    path = "/things/{id}",
    params(("id" = uuid::Uuid, Path, description = "Which.")),
    responses((status = 200, description = "Broken.", body = String)),
    security(("operator" = []))
)]
async fn smash(_operator: Operator, PathId(id): PathId) -> String {
    format!("{id} is broken")
}

async fn world(dir: &tempfile::TempDir) -> App<Sqlite> {
    let path = dir.path().join("things.db");
    std::fs::File::create(&path).unwrap();
    let url = format!("sqlite://{}", path.display());
    let db = Db::<Sqlite>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    let name = onceward::SourceName::new("things").unwrap();
    onceward::schema::migrate(db.pool(), &name).await.unwrap();
    sqlx::query("create table thing (amount bigint not null)")
        .execute(db.pool())
        .await
        .unwrap();
    App::new(db, name)
}

fn router(app: &App<Sqlite>) -> Router {
    let routes = Routes::new()
        .with(__path_place, place::<Sqlite>)
        .with(__path_smash, smash);
    assemble(&DEFINITION, app, routes, Limits::default()).unwrap()
}

/// Status, headers and text of an answer.
async fn ask(router: &Router, request: Request<AxumBody>) -> (StatusCode, HeaderMap, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 24).await.unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    (parts.status, parts.headers, text)
}

async fn get(router: &Router, path: &str) -> (StatusCode, HeaderMap, String) {
    let request = Request::get(path).body(AxumBody::empty()).unwrap();
    ask(router, request).await
}

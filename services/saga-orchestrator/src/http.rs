//! `GET /sagas`, `GET /sagas/{id}`, `POST /sagas/{id}/operate`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use onceward::Tx;
use onceward_saga::inspect::{self, SagaDetail, SagaFilter, SagaSummary};
use onceward_saga::{Operation, SagaBackend, SagaError, SagaId, SagaStatus, Sagas, Verb};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skeleton::{
    ApiError, App, Body, Operator, Page, PageQuery, PathId, Routes, iso_time, text_fault, write,
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Most sagas of a page.
const MAX_LIMIT: u32 = 500;
/// Longest order id or operator's name, in characters.
const MAX_TEXT_CHARS: usize = 100;
/// Longest "why" of an operator.
const MAX_WHY_CHARS: usize = 500;

/// `?status=stuck&order_id=…&limit=50&before=<next of the page before>`
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only sagas that stand there.
    #[param(
        value_type = String,
        required = false,
        pattern = "^(running|compensating|completed|compensated|stuck)$",
        example = "completed"
    )]
    status: Option<String>,
    /// Only the saga of this order.
    #[param(
        value_type = String,
        required = false,
        min_length = 1,
        max_length = 100,
        example = "0194227a-0000-7000-8000-000000000001"
    )]
    order_id: Option<String>,
    /// Sagas wanted, 1 to 500.
    #[param(value_type = u32, required = false, minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// Only sagas listed after this one: `next` of the page before.
    #[param(value_type = Uuid, required = false)]
    before: Option<String>,
}

/// The saga of one order.
#[derive(Debug, Serialize, ToSchema)]
struct Saga {
    /// Its id.
    #[schema(value_type = Uuid)]
    saga_id: SagaId,
    /// What it does.
    #[schema(example = "place_order")]
    definition: String,
    /// Version of that.
    #[schema(minimum = 1, example = 1)]
    version: i32,
    /// The order.
    order_id: String,
    /// Where it stands.
    #[schema(
        example = "completed",
        pattern = "^(running|compensating|completed|compensated|stuck)$"
    )]
    status: &'static str,
    /// Why it is or was being undone.
    #[schema(required)]
    reason: Option<String>,
    /// The story its messages belong to.
    correlation_id: Uuid,
    /// When it started.
    #[schema(format = DateTime)]
    started_at: String,
    /// When it ended.
    #[schema(required, format = DateTime)]
    ended_at: Option<String>,
}

/// A line of a saga's log.
#[derive(Debug, Serialize, ToSchema)]
struct Event {
    /// 1, 2, 3 …
    #[schema(minimum = 1)]
    seq: i64,
    /// What happened.
    #[schema(example = "step_commanded")]
    kind: String,
    /// To which step.
    #[schema(required, example = "payment")]
    step: Option<String>,
    /// Which try of it.
    attempt: i32,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// All of it.
    #[schema(value_type = Value)]
    body: Value,
}

/// What happens when somebody does not answer.
#[derive(Debug, Serialize, ToSchema)]
struct Timer {
    /// Kind, step, branch and try.
    #[schema(example = "deadline/payment/0/1")]
    name: String,
    /// `armed`, then `fired` or `disarmed`.
    #[schema(example = "disarmed", pattern = "^(armed|fired|disarmed)$")]
    state: String,
    /// When it fires.
    #[schema(format = DateTime)]
    fire_at: String,
    /// When it fired or was disarmed.
    #[schema(required, format = DateTime)]
    finished_at: Option<String>,
}

/// A saga with its log and timers.
#[derive(Debug, Serialize, ToSchema)]
struct Detail {
    #[serde(flatten)]
    saga: Saga,
    /// Its log, in order.
    events: Vec<Event>,
    /// Its timers, in the order they were armed.
    timers: Vec<Timer>,
}

/// What an operator wants.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct OperationBody {
    /// What is to be done.
    #[schema(
        pattern = "^(retry|skip|force-complete|force-compensate)$",
        example = "retry"
    )]
    verb: String,
    /// To which step; for `skip` where several are waited for, and to `retry` only one.
    #[schema(min_length = 1, max_length = 100, example = "payment")]
    step: Option<String>,
    /// Who.
    #[schema(min_length = 1, max_length = 100, example = "anna")]
    by: String,
    /// Why, for those who come after.
    #[schema(min_length = 1, max_length = 500, example = "ticket 4711")]
    why: String,
}

pub(crate) fn routes<B: SagaBackend>(sagas: Sagas) -> Routes<B> {
    let operate = async move |operator: Operator, app: State<App<B>>, id: PathId, body: Body| {
        operate(operator, app, id, sagas.clone(), body).await
    };
    Routes::new()
        .with(__path_list, list::<B>)
        .with(__path_show, show::<B>)
        .with(__path_operate, operate)
}

/// List sagas
///
/// Newest first, all of them or those of one status or order.
#[utoipa::path(
    get,
    path = "/sagas",
    operation_id = "list_sagas",
    tag = "sagas",
    params(ListQuery),
    responses((
        status = 200,
        description = "A page of sagas.",
        body = Page<Saga>,
        links(
            ("show the newest" = (
                operation_id = "show_saga",
                parameters(("id" = "$response.body#/items/0/saga_id"))
            )),
            ("step in at the newest" = (
                operation_id = "operate_saga",
                parameters(("id" = "$response.body#/items/0/saga_id"))
            )),
        )
    ))
)]
async fn list<B: SagaBackend>(
    State(app): State<App<B>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<Saga>>, ApiError> {
    let bad = |field: &'static str, detail: String| {
        ApiError::field(StatusCode::BAD_REQUEST, field, detail)
    };
    let Query(query) = query.map_err(|refusal| bad("query", refusal.body_text()))?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(bad("limit", format!("must be from 1 to {MAX_LIMIT}")));
    }
    if let Some(fault) = query
        .order_id
        .as_deref()
        .and_then(|id| text_fault(id, MAX_TEXT_CHARS))
    {
        return Err(bad("order_id", fault));
    }
    let status = query.status.as_deref().map(str::parse).transpose();
    let before: Option<Uuid> = query
        .before
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| bad("before", "must be an id".to_owned()))?;
    let filter = SagaFilter {
        status: status
            .map_err(|error: onceward_saga::UnknownStatus| bad("status", error.to_string()))?,
        subject: query.order_id,
        before: before.map(SagaId),
        limit: limit + 1,
        ..SagaFilter::default()
    };
    let rows = inspect::list(app.db().pool(), &filter)
        .await
        .map_err(failed)?;
    let page = PageQuery {
        limit: limit.into(),
        before,
    };
    let sagas = rows.into_iter().map(saga).collect();
    Ok(Json(Page::of(sagas, page, |saga: &Saga| saga.saga_id.0)))
}

/// Show a saga
///
/// With its whole log and its timers.
#[utoipa::path(
    get,
    path = "/sagas/{id}",
    operation_id = "show_saga",
    tag = "sagas",
    params(("id" = Uuid, Path, description = "`saga_id` of the saga.")),
    responses(
        (status = 200, description = "The saga.", body = Detail),
        (
            status = 404,
            description = "There is no such saga.",
            body = skeleton::Problem,
            content_type = "application/problem+json"
        ),
    )
)]
async fn show<B: SagaBackend>(
    State(app): State<App<B>>,
    PathId(id): PathId,
) -> Result<Json<Detail>, ApiError> {
    let detail = inspect::show(app.db().pool(), SagaId(id))
        .await
        .map_err(failed)?;
    detail
        .map(|found| Json(view(found)))
        .ok_or_else(|| ApiError::not_found(format!("saga {id}")))
}

/// Step in
///
/// For a saga that does not go on by itself: `retry` sends again what was not answered, `skip` takes
/// a step's answer as given, `force-complete` and `force-compensate` end it. Who and why are written to
/// its log.
#[utoipa::path(
    post,
    path = "/sagas/{id}/operate",
    operation_id = "operate_saga",
    tag = "sagas",
    params(("id" = Uuid, Path, description = "`saga_id` of the saga.")),
    request_body(
        content = OperationBody,
        example = json!({"verb": "retry", "by": "anna", "why": "ticket 4711"})
    ),
    responses(
        (status = 200, description = "Done: the saga, as it is now.", body = Detail),
        (
            status = 404,
            description = "There is no such saga.",
            body = skeleton::Problem,
            content_type = "application/problem+json"
        ),
        (
            status = 409,
            description = "It makes no sense where the saga stands; nothing was changed.",
            body = skeleton::Problem,
            content_type = "application/problem+json"
        ),
    ),
    security(("operator" = []))
)]
async fn operate<B: SagaBackend>(
    _operator: Operator,
    State(app): State<App<B>>,
    PathId(id): PathId,
    sagas: Sagas,
    body: Body,
) -> Result<Json<Detail>, ApiError> {
    let mut fields = body.fields()?;
    let verb = fields.text("verb", MAX_TEXT_CHARS);
    let verb = verb.and_then(|verb| match verb.parse::<Verb>() {
        Ok(verb) => Some(verb),
        Err(unknown) => {
            fields.refuse("verb", unknown.to_string());
            None
        }
    });
    let step = fields.optional_text("step", MAX_TEXT_CHARS);
    let by = fields.text("by", MAX_TEXT_CHARS);
    let why = fields.text("why", MAX_WHY_CHARS);
    let taken = verb.zip(by).zip(why);
    let operation = taken.map(|((verb, by), why)| Operation {
        verb,
        step,
        by,
        why,
    });
    let operation = fields.finish(operation)?;
    // CRASH: before the commit = nothing was done; after it = done, and asking again acts on the saga
    // as it is then.
    write(&app, async move |tx: &mut Tx<'static, B>| {
        match sagas.operate(tx, SagaId(id), operation.clone()).await {
            Ok(_) => Ok(()),
            Err(SagaError::UnknownSaga(_)) => Err(ApiError::not_found(format!("saga {id}"))),
            Err(error @ SagaError::Illegal { .. }) => {
                Err(ApiError::new(StatusCode::CONFLICT, error.told()))
            }
            Err(SagaError::Storage(error)) => Err(error.into()),
            Err(error) => Err(failed(error)),
        }
    })
    .await?;
    show(State(app), PathId(id)).await
}

fn failed(error: SagaError) -> ApiError {
    ApiError::internal(error)
}

fn saga(row: SagaSummary) -> Saga {
    Saga {
        saga_id: row.saga_id,
        definition: row.definition,
        version: row.definition_version,
        order_id: row.subject,
        status: SagaStatus::as_str(row.status),
        reason: row.reason,
        correlation_id: row.correlation_id,
        started_at: iso_time(row.started_at),
        ended_at: row.ended_at.map(iso_time),
    }
}

fn view(found: SagaDetail) -> Detail {
    let event = |event: inspect::LoggedEvent| Event {
        seq: event.seq,
        kind: event.kind,
        step: event.step,
        attempt: event.attempt,
        at: iso_time(event.occurred_at),
        body: event.body,
    };
    let timer = |timer: inspect::TimerRow| Timer {
        name: timer.name,
        state: timer.state,
        fire_at: iso_time(timer.fire_at),
        finished_at: timer.finished_at.map(iso_time),
    };
    Detail {
        saga: saga(found.summary),
        events: found.events.into_iter().map(event).collect(),
        timers: found.timers.into_iter().map(timer).collect(),
    }
}

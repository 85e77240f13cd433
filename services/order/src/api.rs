//! Routes.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use onceward::{Backend, Tx};
use onceward_saga::{SagaBackend, SagaError};
use serde::Serialize;
use skeleton::{
    Answer, ApiError, App, Body, IdempotencyKey, Page, PageQuery, PathId, RequestContext,
    RequestIdentity, Routes, write_once,
};
use utoipa::{IntoParams, IntoResponses, ToSchema};
use uuid::Uuid;

use crate::choreography::Choreography;
use crate::domain::{Choreographed, NewOrder, Order, OrderEvents, OrderStatus, SagaStyle};
use crate::{metrics, sql};

/// What new orders need to know.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    /// How the services of an order work together that does not say.
    pub(crate) style: SagaStyle,
    /// Who reacts to whom in one without a coordinator that does not say.
    pub(crate) flow: Choreographed,
    pub(crate) choreography: Choreography,
}

pub(crate) fn routes<B: SagaBackend>(desk: Desk) -> Routes<B> {
    let place =
        async move |app: State<App<B>>, context: RequestContext, headers: HeaderMap, body: Body| {
            place(app, context, headers, body, desk.clone()).await
        };
    Routes::new()
        .with(__path_place, place)
        .with(__path_list, list::<B>)
        .with(__path_show, show::<B>)
        .with(__path_events, events::<B>)
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what `PathId` reads")]
struct OrderPath {
    /// `order_id` of the order.
    id: Uuid,
}

#[derive(IntoResponses)]
#[response(
    status = 404,
    description = "There is no such order.",
    content_type = "application/problem+json"
)]
#[expect(dead_code, reason = "describes what `ApiError::not_found` answers")]
struct NoSuchOrder(skeleton::Problem);

/// An order that was taken.
#[derive(Serialize, ToSchema)]
struct Placed {
    /// Its id, UUID v7.
    order_id: Uuid,
    /// `pending`: the steps are under way.
    status: OrderStatus,
}

/// Place an order
///
/// Writes the order and its message `order.created` in one transaction: 201 means that both are
/// durable. Stock, payment and delivery follow by messages; ask for the order to see how far it is.
///
/// With `"saga": "choreography"` no coordinator commands anybody, and payment comes before stock. In
/// `"choreography": "payment-first"` the message is `order-created`, and nothing is delivered; in `"pipeline"` it
/// is `order_created`, and the order is shipped and delivered.
///
/// Send an `Idempotency-Key` (any text of your choice, new for each order) to be able to repeat the
/// request when no answer came: the order is taken once, and the first answer is given again.
#[utoipa::path(
    post,
    path = "/orders",
    operation_id = "place_order",
    tag = "orders",
    params(IdempotencyKey),
    request_body(
        content = NewOrder,
        description = "Every field but `saga` and `choreography` is needed, and no other is allowed.",
        examples(
            ("completes" = (
                summary = "An order that completes (four times in five)",
                value = json!({"user_id": "user_123", "product_id": "product_1", "quantity": 2, "amount": 199.99})
            )),
            ("without a coordinator" = (
                summary = "The same, each service in reaction to the others",
                value = json!({"user_id": "user_123", "product_id": "product_1", "quantity": 2, "amount": 199.99, "saga": "choreography"})
            )),
            ("without a coordinator, delivered" = (
                summary = "The same with shipping and delivery",
                value = json!({"user_id": "user_123", "product_id": "product_1", "quantity": 2, "amount": 199.99, "choreography": "pipeline"})
            )),
            ("too many" = (
                summary = "Ends failed: insufficient inventory",
                value = json!({"user_id": "user_123", "product_id": "product_3", "quantity": 100, "amount": 10})
            )),
            ("declined" = (
                summary = "Ends failed: payment declined, stock released",
                value = json!({"user_id": "user_declined", "product_id": "product_1", "quantity": 1, "amount": 5.50})
            )),
            ("undeliverable" = (
                summary = "Ends failed: payment refunded, stock released",
                value = json!({"user_id": "user_undeliverable", "product_id": "product_1", "quantity": 1, "amount": 5.50})
            )),
        )
    ),
    responses((
        status = 201,
        description = "The order is taken.",
        body = Placed,
        headers(("Location" = String, description = "Path of the order: `/orders/{id}`.")),
        links(("show the order" = (
            operation_id = "show_order",
            parameters(("id" = "$response.body#/order_id")),
            description = "How far it is."
        )), ("show its events" = (
            operation_id = "show_order_events",
            parameters(("id" = "$response.body#/order_id"))
        ))),
        example = json!({"order_id": "0194227a-0000-7000-8000-000000000001", "status": "pending"})
    ))
)]
async fn place<B: SagaBackend>(
    State(app): State<App<B>>,
    RequestContext(context): RequestContext,
    headers: HeaderMap,
    body: Body,
    desk: Desk,
) -> Result<Answer, ApiError> {
    let asked = NewOrder::read(&body)?;
    let identity = RequestIdentity {
        method: "POST",
        path: "/orders",
        user_id: &asked.user_id.clone(),
        body: &body.0,
    };
    // From outside the unit of work, so that a rerun writes the same order.
    let (order_id, now) = (app.ids().next(), app.clock().now());
    let way = asked.way(desk.style, desk.flow);
    let order = asked.taken(order_id, way, context.correlation_id, now);
    let outbox = app.outbox().clone();
    let work = async move |tx: &mut Tx<'static, B>| {
        if !sql::is_product(tx, &order.product_id).await? {
            return Err(ApiError::field(
                StatusCode::UNPROCESSABLE_ENTITY,
                "product_id",
                "is not a product of this shop",
            ));
        }
        let created = order.created().map_err(ApiError::internal)?;
        let message_id = outbox.append_raw::<B>(tx, &context, created).await?;
        sql::insert(tx, &order, &context, message_id).await?;
        if order.choreography.is_some() {
            match desk.choreography.begin(tx, order_id).await {
                Err(SagaError::Storage(error)) => return Err(error.into()),
                begun => begun.map_err(ApiError::internal)?,
            }
        }
        let placed = Placed {
            order_id,
            status: order.status,
        };
        Ok(Answer::json(StatusCode::CREATED, &placed)
            .map_err(ApiError::internal)?
            .at(format!("/orders/{order_id}")))
    };
    let answer = write_once(&app, &headers, identity, work).await?;
    // The stored answer to a repeated request names the order of the first.
    if answer.location == Some(format!("/orders/{order_id}")) {
        ::metrics::counter!(metrics::PLACED).increment(1);
    }
    Ok(answer)
}

/// Show an order
///
/// Its status, why it failed if it did, and every step with its time. There is no order across
/// topics, so two steps may be listed the other way round than they happened in their services.
#[utoipa::path(
    get,
    path = "/orders/{id}",
    operation_id = "show_order",
    tag = "orders",
    params(OrderPath),
    responses(
        (
            status = 200,
            description = "The order.",
            body = Order,
            example = json!({
                "order_id": "0194227a-0000-7000-8000-000000000001",
                "status": "failed",
                "reason": "payment declined",
                "saga": "orchestration",
                "choreography": null,
                "user_id": "user_declined",
                "product_id": "product_1",
                "quantity": 1,
                "amount": 5.50,
                "correlation_id": "0194227a-0000-7000-8000-000000000064",
                "created_at": "2026-01-02T03:04:05.000000Z",
                "updated_at": "2026-01-02T03:04:05.120000Z",
                "steps": [
                    {"step": "order.created", "at": "2026-01-02T03:04:05.000000Z"},
                    {"step": "inventory.reserve", "at": "2026-01-02T03:04:05.020000Z"}
                ]
            })
        ),
        NoSuchOrder,
    )
)]
async fn show<B: Backend>(
    State(app): State<App<B>>,
    PathId(id): PathId,
) -> Result<Json<Order>, ApiError> {
    let order = sql::find(app.db().pool(), app.outbox().routing(), id).await?;
    order
        .map(Json)
        .ok_or_else(|| ApiError::not_found(format!("order {id}")))
}

/// Show an order's events
///
/// Every message about it that this service wrote or heard, oldest first, with what it said. They are
/// kept as long as the order is, whatever became of them in Kafka. There is no order across topics, so two
/// may be listed the other way round than they happened in their services. Of a message that was sent
/// again (a command that was not answered in time) only the first is listed.
///
/// The same story as the operator sees it, over all databases: `onceward message trace ID`.
#[utoipa::path(
    get,
    path = "/orders/{id}/events",
    operation_id = "show_order_events",
    tag = "orders",
    params(OrderPath),
    responses(
        (
            status = 200,
            description = "Its events.",
            body = OrderEvents,
            example = json!({"items": [
                {
                    "message_id": "0194227a-0000-7000-8000-000000000065",
                    "type": "order.created.v1",
                    "topic": "order.created",
                    "source": "order",
                    "at": "2026-01-02T03:04:05.000000Z",
                    "payload": {
                        "order_id": "0194227a-0000-7000-8000-000000000001",
                        "user_id": "user_declined",
                        "product_id": "product_1",
                        "quantity": 1,
                        "amount_minor": 550
                    }
                },
                {
                    "message_id": "0194227a-0000-7000-8000-000000000066",
                    "type": "payment.failed.v1",
                    "topic": "payment.failed",
                    "source": "payment",
                    "at": "2026-01-02T03:04:05.080000Z",
                    "payload": {
                        "order_id": "0194227a-0000-7000-8000-000000000001",
                        "reason": "payment declined"
                    }
                }
            ]})
        ),
        NoSuchOrder,
    )
)]
async fn events<B: Backend>(
    State(app): State<App<B>>,
    PathId(id): PathId,
) -> Result<Json<OrderEvents>, ApiError> {
    let events = sql::events(app.db().pool(), app.outbox(), id).await?;
    events
        .map(|items| Json(OrderEvents { items }))
        .ok_or_else(|| ApiError::not_found(format!("order {id}")))
}

/// List orders
///
/// Newest first, without their steps.
#[utoipa::path(
    get,
    path = "/orders",
    operation_id = "list_orders",
    tag = "orders",
    params(PageQuery),
    responses((
        status = 200,
        description = "A page of orders.",
        body = Page<Order>,
        links(("show the newest" = (
            operation_id = "show_order",
            parameters(("id" = "$response.body#/items/0/order_id"))
        )))
    ))
)]
async fn list<B: Backend>(
    State(app): State<App<B>>,
    page: PageQuery,
) -> Result<Json<Page<Order>>, ApiError> {
    let orders = sql::list(app.db().pool(), page).await?;
    Ok(Json(Page::of(orders, page, |order| order.order_id)))
}

//! Routes.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use contracts::order::Created;
use onceward::{Backend, Tx};
use serde::Serialize;
use skeleton::{
    Answer, ApiError, App, Body, Page, PageQuery, RequestContext, RequestIdentity, write_once,
};
use uuid::Uuid;

use crate::domain::{NewOrder, Order, OrderStatus};
use crate::{metrics, sql};

pub(crate) fn router<B: Backend>(app: App<B>) -> Router {
    Router::new()
        .route("/orders", get(list::<B>).post(place::<B>))
        .route("/orders/{id}", get(show::<B>))
        .with_state(app)
}

#[derive(Serialize)]
struct Placed {
    order_id: Uuid,
    status: OrderStatus,
}

/// `POST /orders`: the order and its `order.created`, both or neither.
async fn place<B: Backend>(
    State(app): State<App<B>>,
    RequestContext(context): RequestContext,
    headers: HeaderMap,
    body: Body,
) -> Result<Answer, ApiError> {
    let order = NewOrder::read(&body)?;
    let identity = RequestIdentity {
        method: "POST",
        path: "/orders",
        user_id: &order.user_id.clone(),
        body: &body.0,
    };
    // From outside the unit of work, so that a rerun writes the same order.
    let (order_id, now) = (app.ids().next(), app.clock().now());
    let outbox = app.outbox().clone();
    let work = async move |tx: &mut Tx<'static, B>| {
        if !sql::is_product(tx, &order.product_id).await? {
            return Err(ApiError::field(
                StatusCode::UNPROCESSABLE_ENTITY,
                "product_id",
                "is not a product of this shop",
            ));
        }
        sql::insert(tx, order_id, &order, context.correlation_id, now).await?;
        let created = Created {
            order_id,
            user_id: order.user_id.clone(),
            product_id: order.product_id.clone(),
            quantity: order.quantity,
            amount_minor: order.amount.minor(),
        };
        outbox.append::<B, _>(tx, &context, &created).await?;
        let placed = Placed {
            order_id,
            status: OrderStatus::Pending,
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

/// `GET /orders/{id}`.
async fn show<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
) -> Result<Json<Order>, ApiError> {
    let id: Uuid = id
        .parse()
        .map_err(|_| ApiError::field(StatusCode::BAD_REQUEST, "id", "must be a UUID"))?;
    let order = sql::find(app.db().pool(), id).await?;
    order
        .map(Json)
        .ok_or_else(|| ApiError::not_found(format!("order {id}")))
}

/// `GET /orders`: newest first.
async fn list<B: Backend>(
    State(app): State<App<B>>,
    page: PageQuery,
) -> Result<Json<Page<Order>>, ApiError> {
    let orders = sql::list(app.db().pool(), page).await?;
    Ok(Json(Page::of(orders, page, |order| order.order_id)))
}

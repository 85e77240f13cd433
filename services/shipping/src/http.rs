//! `GET /shipments`.

use axum::Json;
use axum::extract::State;
use onceward::Backend;
use serde::Serialize;
use skeleton::{ApiError, App, Page, PageQuery, Routes, iso_time};
use sqlx::Row;
use utoipa::ToSchema;
use uuid::Uuid;

/// The shipment of an order.
#[derive(Debug, Serialize, ToSchema)]
struct Shipment {
    /// The order.
    order_id: Uuid,
    /// To whom.
    #[schema(example = "user_123")]
    user_id: String,
    /// What.
    #[schema(example = "product_1")]
    product_id: String,
    /// How many.
    #[schema(minimum = 1, example = 2)]
    quantity: i64,
    /// `shipped`, then perhaps `returned`.
    #[schema(example = "shipped", pattern = "^(shipped|returned)$")]
    status: String,
    /// When it was sent.
    #[schema(format = DateTime)]
    created_at: String,
    /// When its status last changed.
    #[schema(format = DateTime)]
    updated_at: String,
}

pub(crate) fn routes<B: Backend>() -> Routes<B> {
    Routes::new().with(__path_list, list::<B>)
}

/// List shipments
///
/// Newest order first.
#[utoipa::path(
    get,
    path = "/shipments",
    operation_id = "list_shipments",
    tag = "shipments",
    params(PageQuery),
    responses((
        status = 200,
        description = "A page of shipments.",
        body = Page<Shipment>
    ))
)]
async fn list<B: Backend>(
    State(app): State<App<B>>,
    query: PageQuery,
) -> Result<Json<Page<Shipment>>, ApiError> {
    let page = Page::read(
        app.db().pool(),
        "select * from shipment where order_id < $1 order by order_id desc limit $2",
        query,
        shipment::<B>,
        |row| row.order_id,
    );
    Ok(Json(page.await?))
}

fn shipment<B: Backend>(row: &B::Row) -> Result<Shipment, sqlx::Error> {
    Ok(Shipment {
        order_id: row.try_get("order_id")?,
        user_id: row.try_get("user_id")?,
        product_id: row.try_get("product_id")?,
        quantity: row.try_get("quantity")?,
        status: row.try_get("status")?,
        created_at: iso_time(row.try_get("created_at")?),
        updated_at: iso_time(row.try_get("updated_at")?),
    })
}

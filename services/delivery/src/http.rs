//! `GET /deliveries`.

use axum::extract::State;
use axum::{Json, Router, routing};
use onceward::Backend;
use serde::Serialize;
use skeleton::{ApiError, App, Page, PageQuery, iso_time};
use sqlx::Row;
use uuid::Uuid;

#[derive(Debug, Serialize)]
struct Delivery {
    order_id: Uuid,
    user_id: String,
    product_id: String,
    quantity: i64,
    status: String,
    reason: Option<String>,
    created_at: String,
    updated_at: String,
}

pub(crate) fn router<B: Backend>(app: App<B>) -> Router {
    Router::new()
        .route("/deliveries", routing::get(list::<B>))
        .with_state(app)
}

async fn list<B: Backend>(
    State(app): State<App<B>>,
    query: PageQuery,
) -> Result<Json<Page<Delivery>>, ApiError> {
    let rows =
        sqlx::query("select * from delivery where order_id < $1 order by order_id desc limit $2")
            .bind(query.before.unwrap_or(Uuid::max()))
            .bind(query.limit + 1)
            .fetch_all(app.db().pool())
            .await?
            .iter()
            .map(delivery::<B>)
            .collect::<Result<_, _>>()?;
    Ok(Json(Page::of(rows, query, |row: &Delivery| row.order_id)))
}

fn delivery<B: Backend>(row: &B::Row) -> Result<Delivery, sqlx::Error> {
    Ok(Delivery {
        order_id: row.try_get("order_id")?,
        user_id: row.try_get("user_id")?,
        product_id: row.try_get("product_id")?,
        quantity: row.try_get("quantity")?,
        status: row.try_get("status")?,
        reason: row.try_get("reason")?,
        created_at: iso_time(row.try_get("created_at")?),
        updated_at: iso_time(row.try_get("updated_at")?),
    })
}

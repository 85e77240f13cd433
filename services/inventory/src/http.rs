//! `GET /inventory`, `PUT /inventory/{product_id}`.

use axum::extract::{Path, State};
use axum::{Json, Router, routing};
use onceward::{Backend, Micros, Tx};
use serde::Serialize;
use skeleton::{ApiError, App, Body, Page, PageQuery, iso_time, write};
use sqlx::Row;
use uuid::Uuid;

/// Most of a product there can be.
const MAX_STOCK: i64 = 1_000_000_000;

#[derive(Debug, Serialize)]
struct Product {
    product_id: String,
    /// Free to be reserved.
    stock: i64,
    reserved: i64,
    sold: i64,
}

#[derive(Debug, Serialize)]
struct Reservation {
    order_id: Uuid,
    product_id: String,
    quantity: i64,
    state: String,
    reserved_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize)]
struct Inventory {
    products: Vec<Product>,
    /// Of every state, newest order first.
    reservations: Page<Reservation>,
}

pub(crate) fn router<B: Backend>(app: App<B>) -> Router {
    Router::new()
        .route("/inventory", routing::get(list::<B>))
        .route("/inventory/{product_id}", routing::put(set_stock::<B>))
        .with_state(app)
}

async fn list<B: Backend>(
    State(app): State<App<B>>,
    query: PageQuery,
) -> Result<Json<Inventory>, ApiError> {
    let pool = app.db().pool();
    let products = sqlx::query("select * from product order by product_id")
        .fetch_all(pool)
        .await?
        .iter()
        .map(product::<B>)
        .collect::<Result<_, _>>()?;
    let reservations = sqlx::query(
        "select * from reservation where order_id < $1 order by order_id desc limit $2",
    )
    .bind(query.before.unwrap_or(Uuid::max()))
    .bind(query.limit + 1)
    .fetch_all(pool)
    .await?
    .iter()
    .map(reservation::<B>)
    .collect::<Result<_, _>>()?;
    Ok(Json(Inventory {
        products,
        reservations: Page::of(reservations, query, |row: &Reservation| row.order_id),
    }))
}

/// Sets what is free to be reserved; what is reserved or sold stays so.
async fn set_stock<B: Backend>(
    State(app): State<App<B>>,
    Path(product_id): Path<String>,
    body: Body,
) -> Result<Json<Product>, ApiError> {
    let mut fields = body.fields()?;
    let stock = fields.integer("stock", 0..=MAX_STOCK);
    let stock = fields.finish(stock)?;
    let now = app.clock().now();
    let id = product_id.clone();
    let product = write(&app, async move |tx: &mut Tx<'static, B>| {
        // CRASH: before the commit = nothing was set; after it = set, and setting it again changes
        // nothing.
        let row = sqlx::query(
            "update product set supplied = supplied - stock + $2, stock = $2, updated_at = $3 \
             where product_id = $1 returning *",
        )
        .bind(id.clone())
        .bind(stock)
        .bind(now)
        .fetch_optional(&mut **tx)
        .await?;
        row.map(|row| product::<B>(&row))
            .transpose()
            .map_err(ApiError::from)
    })
    .await?;
    product
        .map(Json)
        .ok_or_else(|| ApiError::not_found("this product"))
}

fn product<B: Backend>(row: &B::Row) -> Result<Product, sqlx::Error> {
    Ok(Product {
        product_id: row.try_get("product_id")?,
        stock: row.try_get("stock")?,
        reserved: row.try_get("reserved")?,
        sold: row.try_get("sold")?,
    })
}

fn reservation<B: Backend>(row: &B::Row) -> Result<Reservation, sqlx::Error> {
    let time = |column: &str| -> Result<String, sqlx::Error> {
        Ok(iso_time(row.try_get::<Micros, _>(column)?))
    };
    Ok(Reservation {
        order_id: row.try_get("order_id")?,
        product_id: row.try_get("product_id")?,
        quantity: row.try_get("quantity")?,
        state: row.try_get("state")?,
        reserved_at: time("created_at")?,
        updated_at: time("updated_at")?,
    })
}

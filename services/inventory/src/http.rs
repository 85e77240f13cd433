//! `GET /inventory`, `PUT /inventory/{product_id}`.

use axum::Json;
use axum::extract::State;
use onceward::{Backend, Tx};
use serde::Serialize;
use skeleton::{ApiError, App, Body, Operator, Page, PageQuery, PathText, Routes, iso_time, write};
use sqlx::Row;
use utoipa::ToSchema;
use uuid::Uuid;

/// Most of a product there can be.
const MAX_STOCK: i64 = 1_000_000_000;

/// How many pieces of a product there are, by where they are.
#[derive(Debug, Serialize, ToSchema)]
struct Product {
    /// `product_1` to `product_5`.
    #[schema(example = "product_1")]
    product_id: String,
    /// Free to be reserved.
    #[schema(minimum = 0, example = 999_998)]
    stock: i64,
    /// Set aside for orders under way.
    #[schema(minimum = 0, example = 0)]
    reserved: i64,
    /// Gone with completed orders.
    #[schema(minimum = 0, example = 2)]
    sold: i64,
}

/// The pieces of one order.
#[derive(Debug, Serialize, ToSchema)]
struct Reservation {
    /// The order.
    order_id: Uuid,
    /// What.
    #[schema(example = "product_1")]
    product_id: String,
    /// How many.
    #[schema(minimum = 1, example = 2)]
    quantity: i64,
    /// `reserved`, then `sold` or `released`.
    #[schema(example = "reserved", pattern = "^(reserved|sold|released)$")]
    state: String,
    /// When they were set aside.
    #[schema(format = DateTime)]
    reserved_at: String,
    /// When the state last changed.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// Stock as an operator sets it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct NewStock {
    /// Pieces free to be reserved from now on.
    #[schema(minimum = 0, maximum = 1_000_000_000, example = 500)]
    stock: i64,
}

/// Everything in the house.
#[derive(Debug, Serialize, ToSchema)]
struct Inventory {
    /// All products, by name.
    products: Vec<Product>,
    /// Of every state, newest order first.
    reservations: Page<Reservation>,
}

pub(crate) fn routes<B: Backend>() -> Routes<B> {
    Routes::new()
        .with(__path_list, list::<B>)
        .with(__path_set_stock, set_stock::<B>)
}

/// Show products and reservations
///
/// All products; reservations of every state in pages, newest order first.
#[utoipa::path(
    get,
    path = "/inventory",
    operation_id = "list_inventory",
    tag = "inventory",
    params(PageQuery),
    responses((
        status = 200,
        description = "All products, and a page of reservations.",
        body = Inventory,
        links(("set the stock of a product" = (
            operation_id = "set_stock",
            parameters(("product_id" = "$response.body#/products/0/product_id"))
        )))
    ))
)]
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
    let reservations = Page::read(
        pool,
        "select * from reservation where order_id < $1 order by order_id desc limit $2",
        query,
        reservation::<B>,
        |row| row.order_id,
    )
    .await?;
    Ok(Json(Inventory {
        products,
        reservations,
    }))
}

/// Set the stock of a product
///
/// Sets how many pieces are free to be reserved; what is reserved or sold stays so. Setting it again
/// changes nothing, so it needs no `Idempotency-Key`.
#[utoipa::path(
    put,
    path = "/inventory/{product_id}",
    operation_id = "set_stock",
    tag = "inventory",
    params((
        "product_id" = String, Path,
        description = "`product_1` to `product_5`.",
        min_length = 1, max_length = 100, example = "product_3"
    )),
    request_body(content = NewStock, example = json!({"stock": 500})),
    responses(
        (status = 200, description = "The product, as it is now.", body = Product),
        (
            status = 404,
            description = "There is no such product.",
            body = skeleton::Problem,
            content_type = "application/problem+json"
        ),
    ),
    security(("operator" = []))
)]
async fn set_stock<B: Backend>(
    _operator: Operator,
    State(app): State<App<B>>,
    PathText(product_id): PathText,
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
        .ok_or_else(|| ApiError::not_found(format!("product {product_id}")))
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
    Ok(Reservation {
        order_id: row.try_get("order_id")?,
        product_id: row.try_get("product_id")?,
        quantity: row.try_get("quantity")?,
        state: row.try_get("state")?,
        reserved_at: iso_time(row.try_get("created_at")?),
        updated_at: iso_time(row.try_get("updated_at")?),
    })
}

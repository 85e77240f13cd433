//! `POST /customers`, `GET /customers`, `GET /customers/{user_id}`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use onceward::{Backend, Tx};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use skeleton::{
    Answer, ApiError, App, Body, IdempotencyKey, Money, Operator, Page, PageQuery, PathText,
    RequestIdentity, Routes, iso_time, write_once,
};
use sqlx::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::credit::make_customer;

/// Longest user id and name, in characters.
const MAX_CHARS: usize = 100;

/// A customer and the credit.
#[derive(Debug, Serialize, ToSchema)]
struct Customer {
    /// UUID v7; of a customer whom an order made, that order's.
    customer_id: Uuid,
    /// As orders name the customer.
    #[schema(example = "user_123")]
    user_id: String,
    /// The user id, unless an operator made the customer.
    #[schema(example = "Ada")]
    name: String,
    /// What the orders under way may come to at most.
    credit_limit: Money,
    /// What the orders under way come to.
    reserved: Money,
    /// What all completed orders came to, in cents.
    #[schema(minimum = 0, example = 19_999)]
    spent_minor: i64,
    /// When it was made.
    #[schema(format = DateTime)]
    created_at: String,
    /// When credit or name last changed.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// A customer as an operator makes it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct NewCustomer {
    /// As orders will name the customer; not blank.
    #[schema(min_length = 1, max_length = 100, example = "user_900")]
    user_id: String,
    /// For people; not blank.
    #[schema(min_length = 1, max_length = 100, example = "Ada")]
    name: String,
    /// What the orders under way may come to at most: at most two decimals, no exponent.
    #[schema(value_type = f64, format = "decimal", minimum = 0.01, maximum = 1_000_000_000.0, example = 500.00)]
    credit_limit: Money,
}

pub(crate) fn routes<B: Backend>() -> Routes<B> {
    Routes::new()
        .with(__path_create, create::<B>)
        .with(__path_list, list::<B>)
        .with(__path_show, show::<B>)
}

/// Make a customer
///
/// A customer that an order has made is there already: 409.
#[utoipa::path(
    post,
    path = "/customers",
    operation_id = "create_customer",
    tag = "customers",
    params(IdempotencyKey),
    request_body(
        content = NewCustomer,
        example = json!({"user_id": "user_900", "name": "Ada", "credit_limit": 500.00})
    ),
    responses(
        (
            status = 201,
            description = "The customer.",
            body = Customer,
            headers(("Location" = String, description = "Path of the customer: `/customers/{user_id}`.")),
            links(("show the customer" = (
                operation_id = "show_customer",
                parameters(("user_id" = "$response.body#/user_id"))
            )))
        ),
        (
            status = 409,
            description = "There is a customer of this user id.",
            body = skeleton::Problem,
            content_type = "application/problem+json"
        ),
    ),
    security(("operator" = []))
)]
async fn create<B: Backend>(
    _operator: Operator,
    State(app): State<App<B>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Answer, ApiError> {
    let mut fields = body.fields()?;
    let user_id = fields.text("user_id", MAX_CHARS);
    let name = fields.text("name", MAX_CHARS);
    let limit = fields.money("credit_limit");
    let (user_id, (name, limit)) = fields.finish(user_id.zip(name.zip(limit)))?;
    let identity = RequestIdentity {
        method: "POST",
        path: "/customers",
        user_id: &user_id.clone(),
        body: &body.0,
    };
    // From outside the unit of work, so that a rerun writes the same customer.
    let (customer_id, now) = (app.ids().next(), app.clock().now());
    let work = async move |tx: &mut Tx<'static, B>| {
        // CRASH: before the commit = no customer; after it = one, and the same request again gets the
        // same answer if it has a key, else 409.
        let Some(row) = make_customer(tx, customer_id, &user_id, &name, limit, now).await? else {
            let there = format!("customer {user_id} is there already");
            return Err(ApiError::new(StatusCode::CONFLICT, there));
        };
        Ok(Answer::json(StatusCode::CREATED, &customer::<B>(&row)?)
            .map_err(ApiError::internal)?
            .at(format!(
                "/customers/{}",
                utf8_percent_encode(&user_id, NON_ALPHANUMERIC)
            )))
    };
    write_once(&app, &headers, identity, work).await
}

/// List customers
///
/// The latest first.
#[utoipa::path(
    get,
    path = "/customers",
    operation_id = "list_customers",
    tag = "customers",
    params(PageQuery),
    responses((
        status = 200,
        description = "A page of customers.",
        body = Page<Customer>,
        links(("show the customer" = (
            operation_id = "show_customer",
            parameters(("user_id" = "$response.body#/items/0/user_id"))
        )))
    ))
)]
async fn list<B: Backend>(
    State(app): State<App<B>>,
    query: PageQuery,
) -> Result<Json<Page<Customer>>, ApiError> {
    let page = Page::read(
        app.db().pool(),
        "select * from customer where customer_id < $1 order by customer_id desc limit $2",
        query,
        customer::<B>,
        |row| row.customer_id,
    );
    Ok(Json(page.await?))
}

/// Show a customer
///
/// With the credit, and what the orders came to.
#[utoipa::path(
    get,
    path = "/customers/{user_id}",
    operation_id = "show_customer",
    tag = "customers",
    params((
        "user_id" = String, Path,
        description = "As orders name the customer.",
        min_length = 1, max_length = 100, example = "user_123"
    )),
    responses(
        (status = 200, description = "The customer.", body = Customer),
        (
            status = 404,
            description = "There is no such customer.",
            body = skeleton::Problem,
            content_type = "application/problem+json"
        ),
    )
)]
async fn show<B: Backend>(
    State(app): State<App<B>>,
    PathText(user_id): PathText,
) -> Result<Json<Customer>, ApiError> {
    let row = sqlx::query("select * from customer where user_id = $1")
        .bind(user_id.clone())
        .fetch_optional(app.db().pool())
        .await?;
    match row {
        Some(row) => Ok(Json(customer::<B>(&row)?)),
        None => Err(ApiError::not_found(format!("customer {user_id}"))),
    }
}

fn customer<B: Backend>(row: &B::Row) -> Result<Customer, sqlx::Error> {
    let money = |column: &'static str| -> Result<Money, sqlx::Error> {
        let minor: i64 = row.try_get(column)?;
        Money::from_minor(minor).ok_or_else(|| sqlx::Error::Decode(column.into()))
    };
    Ok(Customer {
        customer_id: row.try_get("customer_id")?,
        user_id: row.try_get("user_id")?,
        name: row.try_get("name")?,
        credit_limit: money("limit_minor")?,
        reserved: money("reserved_minor")?,
        spent_minor: row.try_get("spent_minor")?,
        created_at: iso_time(row.try_get("created_at")?),
        updated_at: iso_time(row.try_get("updated_at")?),
    })
}

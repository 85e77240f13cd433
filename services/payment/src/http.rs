//! `GET /payments`.

use axum::extract::State;
use axum::{Json, Router, routing};
use onceward::Backend;
use serde::Serialize;
use skeleton::{ApiError, App, Money, Page, PageQuery, iso_time};
use sqlx::Row;
use uuid::Uuid;

#[derive(Debug, Serialize)]
struct Payment {
    order_id: Uuid,
    user_id: String,
    amount: Option<Money>,
    status: String,
    reason: Option<String>,
    created_at: String,
    updated_at: String,
}

/// All payments of one status, so that money can be added up.
#[derive(Debug, Serialize)]
struct Total {
    status: String,
    count: i64,
    amount_minor: i64,
}

#[derive(Debug, Serialize)]
struct Payments {
    #[serde(flatten)]
    page: Page<Payment>,
    totals: Vec<Total>,
}

pub(crate) fn router<B: Backend>(app: App<B>) -> Router {
    Router::new()
        .route("/payments", routing::get(list::<B>))
        .with_state(app)
}

async fn list<B: Backend>(
    State(app): State<App<B>>,
    query: PageQuery,
) -> Result<Json<Payments>, ApiError> {
    let pool = app.db().pool();
    let rows =
        sqlx::query("select * from payment where order_id < $1 order by order_id desc limit $2")
            .bind(query.before.unwrap_or(Uuid::max()))
            .bind(query.limit + 1)
            .fetch_all(pool)
            .await?
            .iter()
            .map(payment::<B>)
            .collect::<Result<_, _>>()?;
    let totals = sqlx::query(
        "select status, count(*) as payments, cast(sum(amount_minor) as bigint) as amount_minor \
         from payment group by status order by status",
    )
    .fetch_all(pool)
    .await?
    .iter()
    .map(|row| {
        Ok(Total {
            status: row.try_get("status")?,
            count: row.try_get("payments")?,
            amount_minor: row.try_get("amount_minor")?,
        })
    })
    .collect::<Result<_, sqlx::Error>>()?;
    Ok(Json(Payments {
        page: Page::of(rows, query, |row: &Payment| row.order_id),
        totals,
    }))
}

fn payment<B: Backend>(row: &B::Row) -> Result<Payment, sqlx::Error> {
    Ok(Payment {
        order_id: row.try_get("order_id")?,
        user_id: row.try_get("user_id")?,
        amount: Money::from_minor(row.try_get("amount_minor")?),
        status: row.try_get("status")?,
        reason: row.try_get("reason")?,
        created_at: iso_time(row.try_get("created_at")?),
        updated_at: iso_time(row.try_get("updated_at")?),
    })
}

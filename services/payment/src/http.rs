//! `GET /payments`.

use axum::Json;
use axum::extract::State;
use onceward::Backend;
use serde::Serialize;
use skeleton::{ApiError, App, Money, Page, PageQuery, Routes, iso_time};
use sqlx::Row;
use utoipa::ToSchema;
use uuid::Uuid;

/// The payment of an order.
#[derive(Debug, Serialize, ToSchema)]
struct Payment {
    /// The order.
    order_id: Uuid,
    /// Who pays.
    #[schema(example = "user_123")]
    user_id: String,
    /// How much.
    #[schema(required)]
    amount: Option<Money>,
    /// `completed`, then perhaps `refunded`; or `failed`.
    #[schema(example = "completed", pattern = "^(completed|failed|refunded)$")]
    status: String,
    /// Why it failed.
    #[schema(required)]
    reason: Option<String>,
    /// When it was tried.
    #[schema(format = DateTime)]
    created_at: String,
    /// When its status last changed.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// All payments of one status, so that money can be added up.
#[derive(Debug, Serialize, ToSchema)]
struct Total {
    /// The status.
    #[schema(example = "completed")]
    status: String,
    /// How many payments have it.
    #[schema(minimum = 1, example = 1)]
    count: i64,
    /// Their amounts together, in cents.
    #[schema(minimum = 0, example = 19_999)]
    amount_minor: i64,
}

/// A page of payments, and all of them added up.
#[derive(Debug, Serialize, ToSchema)]
struct Payments {
    #[serde(flatten)]
    page: Page<Payment>,
    /// One entry per status, over all pages.
    totals: Vec<Total>,
}

pub(crate) fn routes<B: Backend>() -> Routes<B> {
    Routes::new().with(__path_list, list::<B>)
}

/// List payments
///
/// Newest order first, with totals per status over all pages: `completed` minus nothing is what the
/// shop has earned, because a refunded payment is no longer `completed`.
#[utoipa::path(
    get,
    path = "/payments",
    operation_id = "list_payments",
    tag = "payments",
    params(PageQuery),
    responses((
        status = 200,
        description = "A page of payments.",
        body = Payments
    ))
)]
async fn list<B: Backend>(
    State(app): State<App<B>>,
    query: PageQuery,
) -> Result<Json<Payments>, ApiError> {
    let pool = app.db().pool();
    let page = Page::read(
        pool,
        "select * from payment where order_id < $1 order by order_id desc limit $2",
        query,
        payment::<B>,
        |row| row.order_id,
    )
    .await?;
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
    Ok(Json(Payments { page, totals }))
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

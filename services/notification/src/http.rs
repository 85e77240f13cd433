//! `GET /notifications`, `GET` and `PUT /preferences/{user_id}`.

use axum::Json;
use axum::extract::State;
use lettre::Address;
use onceward::{Backend, Tx};
use serde::Serialize;
use skeleton::{ApiError, App, Body, Operator, Page, PageQuery, PathText, Routes, iso_time, write};
use sqlx::Row;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Longest mail address, in characters.
const MAX_ADDRESS_CHARS: usize = 254;

/// A mail.
#[derive(Debug, Serialize, ToSchema)]
struct Notification {
    /// Id of the message that asked for it; its `Message-ID` begins so.
    mail_id: Uuid,
    /// The order it is about.
    order_id: Uuid,
    /// What it says.
    #[schema(example = "order_completed", pattern = r"^[a-z_]+$")]
    template: String,
    /// `high` goes before `low`.
    #[schema(example = "low", pattern = "^(high|low)$")]
    priority: &'static str,
    /// `waiting`, then `sent`, `refused` by the mail server, or `unwanted` by the user.
    #[schema(example = "sent", pattern = "^(waiting|sent|refused|unwanted)$")]
    state: String,
    /// How often it was handed to the mail server.
    #[schema(minimum = 0, example = 1)]
    attempts: i64,
    /// What went wrong the last time.
    #[schema(required)]
    error: Option<String>,
    /// When it was written.
    #[schema(format = DateTime)]
    created_at: String,
    /// When the mail server took it.
    #[schema(required, format = DateTime)]
    sent_at: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what `PathText` reads")]
struct UserPath {
    /// The user.
    #[param(min_length = 1, max_length = 100, example = "user_123")]
    user_id: String,
}

/// What a user wants.
#[derive(Debug, Serialize, ToSchema)]
struct Preference {
    /// Who.
    #[schema(example = "user_123")]
    user_id: String,
    /// Where to; null for the usual address.
    #[schema(required, example = "anna@example.com")]
    address: Option<String>,
    /// `all` mails, only those of `high` priority, or `none`.
    #[schema(example = "high", pattern = "^(all|high|none)$")]
    wants: String,
}

/// What a user wants.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what `Fields` reads")]
struct PreferenceBody {
    /// Where to; without it the usual address.
    #[schema(format = Email, min_length = 3, max_length = 254, example = "anna@example.com")]
    address: Option<String>,
    /// `all` mails, only those of `high` priority, or `none`.
    #[schema(pattern = "^(all|high|none)$", example = "high")]
    wants: String,
}

pub(crate) fn routes<B: Backend>() -> Routes<B> {
    Routes::new()
        .with(__path_list, list::<B>)
        .with(__path_preference, preference::<B>)
        .with(__path_prefer, prefer::<B>)
}

/// List mails
///
/// Newest message first.
#[utoipa::path(
    get,
    path = "/notifications",
    operation_id = "list_notifications",
    tag = "notifications",
    params(PageQuery),
    responses((status = 200, description = "A page of mails.", body = Page<Notification>))
)]
async fn list<B: Backend>(
    State(app): State<App<B>>,
    query: PageQuery,
) -> Result<Json<Page<Notification>>, ApiError> {
    let page = Page::read(
        app.db().pool(),
        "select * from mail where mail_id < $1 order by mail_id desc limit $2",
        query,
        notification::<B>,
        |row| row.mail_id,
    );
    Ok(Json(page.await?))
}

fn notification<B: Backend>(row: &B::Row) -> Result<Notification, sqlx::Error> {
    let priority: i64 = row.try_get("priority")?;
    let sent_at: Option<i64> = row.try_get("sent_at")?;
    Ok(Notification {
        mail_id: row.try_get("mail_id")?,
        order_id: row.try_get("order_id")?,
        template: row.try_get("template")?,
        priority: if priority == 0 { "high" } else { "low" },
        state: row.try_get("state")?,
        attempts: row.try_get("attempts")?,
        error: row.try_get("error")?,
        created_at: iso_time(row.try_get("created_at")?),
        sent_at: sent_at.map(iso_time),
    })
}

/// Show what a user wants
///
/// A user who never said so wants all mails at the usual address.
#[utoipa::path(
    get,
    path = "/preferences/{user_id}",
    operation_id = "show_preference",
    tag = "preferences",
    params(UserPath),
    responses((status = 200, description = "What the user wants.", body = Preference))
)]
async fn preference<B: Backend>(
    State(app): State<App<B>>,
    PathText(user_id): PathText,
) -> Result<Json<Preference>, ApiError> {
    let row = sqlx::query("select address, wants from preference where user_id = $1")
        .bind(user_id.clone())
        .fetch_optional(app.db().pool())
        .await?;
    let (address, wants) = match row {
        Some(row) => (row.try_get("address")?, row.try_get("wants")?),
        None => (None, "all".to_owned()),
    };
    Ok(Json(Preference {
        user_id,
        address,
        wants,
    }))
}

/// Set what a user wants
///
/// Counts for every mail that has not been sent yet.
#[utoipa::path(
    put,
    path = "/preferences/{user_id}",
    operation_id = "set_preference",
    tag = "preferences",
    params(UserPath),
    request_body(content = PreferenceBody, example = json!({"wants": "high"})),
    responses((status = 200, description = "What the user wants now.", body = Preference)),
    security(("operator" = []))
)]
async fn prefer<B: Backend>(
    _operator: Operator,
    State(app): State<App<B>>,
    PathText(user_id): PathText,
    body: Body,
) -> Result<Json<Preference>, ApiError> {
    let mut fields = body.fields()?;
    let address = fields.optional_text("address", MAX_ADDRESS_CHARS);
    if address
        .as_ref()
        .is_some_and(|a| a.parse::<Address>().is_err())
    {
        fields.refuse("address", "must be a mail address");
    }
    let wants = fields.text("wants", 10);
    if wants
        .as_deref()
        .is_some_and(|wants| !["all", "high", "none"].contains(&wants))
    {
        fields.refuse("wants", "must be all, high or none");
    }
    let wants = fields.finish(wants)?;
    let now = app.clock().now();
    let preference = Preference {
        user_id,
        address,
        wants,
    };
    let (user_id, address, wants) = (
        preference.user_id.clone(),
        preference.address.clone(),
        preference.wants.clone(),
    );
    write(&app, async move |tx: &mut Tx<'static, B>| {
        sqlx::query(
            "insert into preference (user_id, address, wants, updated_at) \
             values ($1, $2, $3, $4) on conflict (user_id) do update \
             set address = excluded.address, wants = excluded.wants, \
             updated_at = excluded.updated_at",
        )
        .bind(user_id.clone())
        .bind(address.clone())
        .bind(wants.clone())
        .bind(now)
        .execute(&mut **tx)
        .await?;
        Ok::<_, ApiError>(())
    })
    .await?;
    Ok(Json(preference))
}

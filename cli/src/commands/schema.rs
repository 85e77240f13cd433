//! `onceward schema migrate` and `check`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use auditor::Connection;
use onceward::schema::SchemaBackend;
use onceward::source::DatabaseKind;
use onceward::{DatabaseUrl, SourceName, sqlite_options};
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Postgres, Sqlite};

use crate::database::{has_table, look_into, on};
use crate::outcome::{Exit, Outcome, refused, usage};

/// Which migrations ran, as the library's bookkeeping says.
async fn applied(connection: &mut Connection) -> Result<Vec<i64>> {
    const SQL: &str = "select version from _onceward_migrations where success order by version";
    if !has_table(connection, "_onceward_migrations").await? {
        return Ok(vec![]);
    }
    let versions = on!(connection, c => sqlx::query_scalar(SQL).fetch_all(&mut *c).await)?;
    Ok(versions)
}

/// The migrations this build knows: number and name.
fn known(migrator: &'static Migrator) -> Vec<(i64, String)> {
    migrator
        .iter()
        .map(|m| (m.version, m.description.to_string()))
        .collect()
}

async fn look(url: &DatabaseUrl) -> Result<Vec<i64>> {
    if url.check()? == DatabaseKind::Sqlite {
        let options: SqliteConnectOptions = url.reveal().parse().context(url.to_string())?;
        if !options.get_filename().exists() {
            return Ok(vec![]);
        }
    }
    let mut connection = look_into(url).await?;
    applied(&mut connection).await
}

/// `schema migrate`.
pub(crate) async fn migrate(url: &DatabaseUrl, source: &str) -> Result<Outcome> {
    let name = SourceName::new(source).map_err(|e| usage(e.to_string()))?;
    let kind = url.check().map_err(|e| usage(e.to_string()))?;
    let before = look(url).await?;
    let refuse = |e: onceward::Error| match e {
        onceward::Error::OtherSource { .. } => refused(e.to_string()),
        other => other.into(),
    };
    let all = match kind {
        DatabaseKind::Sqlite => {
            let options = sqlite_options(url.reveal())?
                .create_if_missing(true)
                .busy_timeout(Duration::from_secs(30));
            let pool = SqlitePoolOptions::new()
                .max_connections(1)
                .connect_with(options)
                .await?;
            onceward::schema::migrate::<Sqlite>(&pool, &name)
                .await
                .map_err(refuse)?;
            pool.close().await;
            known(Sqlite::outbox_migrations())
        }
        DatabaseKind::Postgres => {
            let options: PgConnectOptions = url.reveal().parse()?;
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(Duration::from_secs(10))
                .connect_with(options.application_name("onceward-migrate"))
                .await?;
            onceward::schema::migrate::<Postgres>(&pool, &name)
                .await
                .map_err(refuse)?;
            pool.close().await;
            known(Postgres::outbox_migrations())
        }
    };
    let fresh: Vec<_> = all.iter().filter(|(v, _)| !before.contains(v)).collect();
    let mut text = format!("source {name}\n");
    for (version, what) in &fresh {
        text.push_str(&format!("applied {version:04} {what}\n"));
    }
    if fresh.is_empty() {
        text.push_str("nothing to apply\n");
    }
    let data =
        json!({ "source": source, "applied": fresh.iter().map(|(v, _)| v).collect::<Vec<_>>() });
    Outcome::new(text, &data)
}

/// `schema check`.
pub(crate) async fn check(url: &DatabaseUrl) -> Result<Outcome> {
    let all = match url.check().map_err(|e| usage(e.to_string()))? {
        DatabaseKind::Sqlite => known(Sqlite::outbox_migrations()),
        DatabaseKind::Postgres => known(Postgres::outbox_migrations()),
    };
    let found = look(url).await?;
    let mut text = String::new();
    for (version, what) in &all {
        let state = if found.contains(version) {
            "applied"
        } else {
            "missing"
        };
        text.push_str(&format!("{version:04} {what}: {state}\n"));
    }
    let newer: Vec<i64> = found
        .iter()
        .filter(|v| !all.iter().any(|(known, _)| known == *v))
        .copied()
        .collect();
    for version in &newer {
        text.push_str(&format!("{version:04}: newer than this onceward knows\n"));
    }
    let missing: Vec<i64> = all
        .iter()
        .map(|(v, _)| *v)
        .filter(|v| !found.contains(v))
        .collect();
    let fine = missing.is_empty() && newer.is_empty();
    let data = json!({ "applied": found, "missing": missing, "newer": newer, "current": fine });
    let mut notes = vec![];
    if !missing.is_empty() {
        notes.push("run `onceward schema migrate URL --source NAME`".to_owned());
    }
    let exit = if fine { Exit::Done } else { Exit::Broken };
    Ok(Outcome::new(text, &data)?.with_notes(notes).ending(exit))
}

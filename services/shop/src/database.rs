//! The database's URL decides once which backend a process runs on.

use anyhow::Context;
use onceward::source::DatabaseKind;
use onceward::{DatabaseUrl, Db, OpenOptions, sqlite_options};
use sqlx::{ConnectOptions, Connection, Postgres, Sqlite};

/// A database of either kind.
pub(crate) enum Database {
    Sqlite(Db<Sqlite>),
    Postgres(Db<Postgres>),
}

impl Database {
    /// Connects; a SQLite file must exist.
    pub(crate) async fn open(url: &DatabaseUrl) -> anyhow::Result<Self> {
        let options = OpenOptions::default();
        let opened = match url.check()? {
            DatabaseKind::Sqlite => {
                let file = sqlite_options(url.reveal())?.get_filename().to_owned();
                anyhow::ensure!(
                    file.exists(),
                    "{} does not exist; make it with `shop migrate SERVICE --database URL`",
                    file.display()
                );
                let opened = Db::<Sqlite>::open(url.reveal(), options).await;
                opened.map(Self::Sqlite)
            }
            DatabaseKind::Postgres => {
                let opened = Db::<Postgres>::open(url.reveal(), options).await;
                opened.map(Self::Postgres)
            }
        };
        opened.with_context(|| format!("database {url}"))
    }

    /// [`Self::open`], but a missing SQLite file is made.
    pub(crate) async fn create(url: &DatabaseUrl) -> anyhow::Result<Self> {
        if url.check()? == DatabaseKind::Sqlite {
            let options = sqlite_options(url.reveal())?.create_if_missing(true);
            let made = options.connect().await;
            let conn = made.with_context(|| format!("database {url}"))?;
            conn.close().await?;
        }
        Self::open(url).await
    }
}

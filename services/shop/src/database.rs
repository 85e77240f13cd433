//! The database's URL decides once which backend a process runs on.

use anyhow::Context;
use onceward::{Db, Error, OpenOptions, sqlite_options};
use sqlx::{ConnectOptions, Connection, Postgres, Sqlite};

/// A database of either kind.
pub(crate) enum Database {
    Sqlite(Db<Sqlite>),
    Postgres(Db<Postgres>),
}

impl Database {
    /// Connects; a SQLite file must exist.
    pub(crate) async fn open(url: &str) -> anyhow::Result<Self> {
        if scheme(url) == "sqlite" {
            let file = sqlite_options(url)?.get_filename().to_owned();
            anyhow::ensure!(
                file.exists(),
                "{} does not exist; make it with `shop migrate SERVICE --database URL`",
                file.display()
            );
        }
        let options = OpenOptions::default();
        let opened = match scheme(url) {
            "sqlite" => Db::<Sqlite>::open(url, options).await.map(Self::Sqlite),
            "postgres" | "postgresql" => {
                Db::<Postgres>::open(url, options).await.map(Self::Postgres)
            }
            other => Err(Error::UnknownUrl {
                scheme: other.to_owned(),
            }),
        };
        opened.with_context(|| format!("database {}", without_password(url)))
    }

    /// [`Self::open`], but a missing SQLite file is made.
    pub(crate) async fn create(url: &str) -> anyhow::Result<Self> {
        if scheme(url) == "sqlite" {
            let made = sqlite_options(url)?.create_if_missing(true).connect().await;
            let conn = made.with_context(|| format!("database {}", without_password(url)))?;
            conn.close().await?;
        }
        Self::open(url).await
    }
}

fn scheme(url: &str) -> &str {
    url.split(':').next().unwrap_or_default()
}

/// For messages: `postgres://user:…@host/db`.
fn without_password(url: &str) -> String {
    let Some((before, host)) = url.rsplit_once('@') else {
        return url.to_owned();
    };
    match before.find("://").map(|at| at + 3) {
        Some(user_at) => match before[user_at..].find(':') {
            Some(colon) => format!("{}:…@{host}", &before[..user_at + colon]),
            None => url.to_owned(),
        },
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("postgres://u:p@h:1/d", "postgres://u:…@h:1/d"),
            ("postgres://u:p@ss:w@h:1/d", "postgres://u:…@h:1/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}

//! A Postgres that speaks TLS and asks who you are: by password (SCRAM) or by certificate.

use std::path::{Path, PathBuf};

use anyhow::Context;
use sqlx::{Connection, PgConnection};

use crate::Result;
use crate::certificates::{Authority, Request};
use crate::postgres::{Postgres, PostgresOptions, blocking};
use crate::secure::password;

/// Who comes in how. Nobody else than `postgres` without TLS.
const DOORS: &str = "\
host    all postgres 127.0.0.1/32 trust
hostssl all carol    127.0.0.1/32 cert
hostssl all all      127.0.0.1/32 scram-sha-256
";

/// The certificate that the server shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Signed by our authority, made out to 127.0.0.1 (not to `localhost`).
    Valid,
    /// The same, ended yesterday.
    Expired,
}

/// A server on 127.0.0.1 with `ssl = on`. Its users have the password [`password`]`(user)`, but `carol`,
/// who has a certificate, and `postgres`, who may do all without either.
#[derive(Debug)]
pub struct SecurePostgres {
    postgres: Postgres,
    authority: Authority,
    ca_file: PathBuf,
}

impl SecurePostgres {
    /// Starts a server that knows nobody yet.
    pub fn start() -> Result<Self> {
        let mut postgres = Postgres::prepare(PostgresOptions::default())?;
        let folder = postgres.folder().to_owned();
        let authority = Authority::new("postgres-authority")?;
        let ca_file = authority.write(&folder)?;
        postgres.hand_over(&ca_file)?;
        let data = folder.join("data");
        std::fs::write(data.join("pg_hba.conf"), DOORS)?;
        let settings = data.join("postgresql.conf");
        let mut text = std::fs::read_to_string(&settings)?;
        for (name, file) in [
            ("ssl_cert_file", folder.join("server.pem")),
            ("ssl_key_file", folder.join("server.key")),
            ("ssl_ca_file", ca_file.clone()),
        ] {
            text.push_str(&format!("{name} = '{}'\n", file.display()));
        }
        text.push_str("ssl = on\npassword_encryption = 'scram-sha-256'\n");
        std::fs::write(&settings, text)?;
        issue(&postgres, &authority, Shown::Valid)?;
        postgres.start_again()?;
        Ok(Self {
            postgres,
            authority,
            ca_file,
        })
    }

    /// Makes a user who may log in, and a database of the same name that is his.
    pub fn add_user(&self, user: &str) -> Result<()> {
        let password = password(user);
        self.run(&format!(
            "create role \"{user}\" login password '{password}'"
        ))?;
        self.run(&format!("create database \"{user}\" owner \"{user}\""))
    }

    /// Runs a statement as `postgres`.
    pub fn run(&self, statement: &str) -> Result<()> {
        let (url, statement) = (self.postgres.url("postgres"), statement.to_owned());
        blocking(async move {
            let mut connection = PgConnection::connect(&url).await?;
            let outcome = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone()))
                .execute(&mut connection)
                .await;
            connection.close().await?;
            outcome.map(drop).context(statement)
        })
    }

    /// Shows this certificate to whoever connects from now on.
    pub fn show(&self, shown: Shown) -> Result<()> {
        issue(&self.postgres, &self.authority, shown)?;
        self.run("select pg_reload_conf()")
    }

    /// Speaks TLS with those who connect from now on, or does not.
    pub fn speak_tls(&self, on: bool) -> Result<()> {
        let ssl = if on { "on" } else { "off" };
        self.run(&format!("alter system set ssl = {ssl}"))?;
        self.run("select pg_reload_conf()")
    }

    /// Ends every session of users other than `postgres`.
    pub fn end_sessions(&self) -> Result<()> {
        self.run(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename <> 'postgres'",
        )
    }

    /// A user's own database, by TLS that trusts nobody but this server's authority.
    pub fn url(&self, user: &str) -> String {
        self.url_of(user, &password(user), "127.0.0.1", user)
    }

    /// The same with another password, host or database.
    pub fn url_of(&self, user: &str, password: &str, host: &str, database: &str) -> String {
        let (port, ca) = (self.postgres.port(), self.ca_file.display());
        format!(
            "postgres://{user}:{password}@{host}:{port}/{database}?sslmode=verify-full&sslrootcert={ca}"
        )
    }

    /// The server itself.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The certificate of the authority that signs the server's, and that it asks of clients.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Who signs what this server trusts.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

fn issue(postgres: &Postgres, authority: &Authority, shown: Shown) -> Result<()> {
    let request = Request {
        name: "postgres",
        addresses: &["127.0.0.1"],
        expired: shown == Shown::Expired,
        ..Request::default()
    };
    let issued = authority.issue(request)?;
    let file = |name: &str| postgres.folder().join(name);
    issued.write_certificate(&file("server.pem"))?;
    issued.write_key(&file("server.key"))?;
    postgres.hand_over(&file("server.pem"))?;
    postgres.hand_over(&file("server.key"))
}

//! A mail server for trying things out: takes every mail by SMTP, delivers none, and shows them by
//! HTTP: a page at `/`, JSON at `/messages`. In memory, the newest of them.
#![deny(missing_docs)]

mod http;
mod smtp;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Mails that are kept unless said otherwise.
const KEPT: usize = 1_000;

/// Where it listens, and how much it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Options {
    /// Takes mails here, by SMTP.
    #[arg(long, default_value = "127.0.0.1:1025", value_name = "ADDRESS")]
    pub smtp: SocketAddr,
    /// Shows them here, by HTTP.
    #[arg(long, default_value = "127.0.0.1:8025", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// How many mails it keeps, the newest.
    #[arg(long, default_value_t = KEPT, value_name = "MAILS")]
    pub keep: usize,
}

/// A mail that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mail {
    /// 1, 2, 3 … in the order of coming.
    pub number: u64,
    /// Its `Message-ID`, without brackets.
    pub message_id: Option<String>,
    /// Who it says it is from.
    pub from: String,
    /// Whom it was handed over for.
    pub to: Vec<String>,
    /// What it is about.
    pub subject: Option<String>,
    /// Its text.
    pub text: Option<String>,
}

/// The mails that were taken, newest first. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct Mails {
    kept: Arc<Mutex<(u64, VecDeque<Mail>)>>,
    most: usize,
}

impl Default for Mails {
    fn default() -> Self {
        Self::at_most(KEPT)
    }
}

impl Mails {
    /// None yet; so many are kept.
    pub fn at_most(most: usize) -> Self {
        Self {
            kept: Arc::default(),
            most,
        }
    }

    /// All that are kept, newest first.
    pub fn all(&self) -> Vec<Mail> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.1.iter().cloned().collect()
    }

    fn add(&self, mut mail: Mail) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 += 1;
        mail.number = kept.0;
        kept.1.push_front(mail);
        kept.1.truncate(self.most);
    }
}

/// Takes mails on `listener` until stopped.
pub async fn take(listener: TcpListener, mails: Mails, stop: CancellationToken) {
    smtp::serve(listener, mails, stop).await;
}

/// Runs both servers until stopped.
///
/// # Errors
/// A port that is taken.
pub async fn run(options: &Options, stop: CancellationToken) -> anyhow::Result<()> {
    let listen = async |address: SocketAddr| {
        let listener = TcpListener::bind(address).await;
        listener.with_context(|| format!("can't listen on {address}"))
    };
    let (smtp, http) = (listen(options.smtp).await?, listen(options.listen).await?);
    let mails = Mails::at_most(options.keep);
    let taking = take(smtp, mails.clone(), stop.clone());
    let showing = axum::serve(http, http::router(mails))
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tracing::info!(service = "mail-sink", address = %options.smtp, http = %options.listen, "running");
    let ((), shown) = tokio::join!(taking, showing.into_future());
    Ok(shown?)
}

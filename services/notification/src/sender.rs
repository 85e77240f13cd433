//! Hands mails to the mail server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use contracts::notification::Notice;
use futures::future::join_all;
use lettre::message::{Mailbox, header};
use lettre::transport::smtp::Error as SmtpError;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use onceward::secret::Secret;
use onceward::{Backend, Clock, Db, Micros, QueryResult, Tx, WriteError};
use recloser::{AsyncRecloser, Recloser};
use skeleton::App;
use sqlx::Row;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Settings, metrics, templates};

/// Mails handed over side by side; high priority goes before low from one batch to the next.
const BATCH: i64 = 16;
/// How long nobody else touches a mail that is being handed over. Whoever died with one is waited for
/// that long.
const LEASE: Micros = 30_000_000;
/// How often it looks for mails when there were none, or no server.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest conversation about one mail; well below [`LEASE`].
const ANSWER_AT_MOST: Duration = Duration::from_secs(10);
/// Longest delay of a mail that the server wants later, in seconds.
const MAX_DELAY_SECONDS: u32 = 300;

/// So many batches in a row must find no server until it is left alone.
const BATCHES_IN_VAIN: usize = 2;
/// How long it is left alone then; doubled each time it still is not there.
const LEFT_ALONE: Duration = Duration::from_secs(1);
/// Longest time it is left alone.
const LEFT_ALONE_AT_MOST: Duration = Duration::from_secs(15);

/// Hands mails to a mail server, several at a time. Several may run on one database.
#[derive(Debug)]
pub struct Sender<B: Backend> {
    db: Db<B>,
    clock: Arc<dyn Clock>,
    smtp: AsyncSmtpTransport<Tokio1Executor>,
    /// Open while the server is left alone. One call is a batch, so that mails keep their order.
    circuit: AsyncRecloser,
    from: Mailbox,
    domain: String,
}

/// A mail that this sender has taken.
struct Taken {
    mail_id: Uuid,
    order_id: Uuid,
    template: String,
    reason: Option<String>,
    user_id: String,
    address: Option<String>,
    wants: Option<String>,
    priority: i64,
    attempts: i64,
    created_at: Micros,
}

/// What became of an attempt.
enum Became {
    Sent,
    Unwanted,
    /// For good, and why.
    Refused(String),
    /// Not now, and why.
    Later(String),
    /// There is no server, and why.
    NoServer(String),
}

impl<B: Backend> Sender<B> {
    /// A sender to the mail server at `url`.
    ///
    /// # Errors
    /// A URL that is none; it is not quoted.
    pub fn new(app: &App<B>, url: &Secret, settings: &Settings) -> anyhow::Result<Self> {
        let smtp = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.reveal())
            .map_err(|_| anyhow::anyhow!("no URL of a mail server, such as smtp://host:25"))?
            .build();
        Ok(Self {
            db: app.db().clone(),
            clock: app.clock().clone(),
            smtp,
            circuit: circuit(),
            from: settings.mail_from.clone(),
            domain: settings.mail_domain.clone(),
        })
    }

    /// Sends until stopped; what was begun is finished. A server that is not there is asked less and less
    /// often. An error is logged and the work goes on: a mail is a row.
    pub async fn run(self, stop: CancellationToken) {
        let mut away = false;
        while !stop.is_cancelled() {
            match self.send_batch().await {
                Ok(Batch::Tried(tried)) => {
                    if away && tried > 0 {
                        away = false;
                        tracing::info!("the mail server is back");
                    }
                    if tried > 0 {
                        continue;
                    }
                }
                Ok(Batch::NoServer { error, .. }) => {
                    if !away {
                        away = true;
                        tracing::warn!(error, "no mail server; mails wait");
                    }
                }
                Ok(Batch::NotAsked) => {}
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    tracing::warn!(error, "mails could not be read or written");
                }
            }
            let _stopped = timeout(PAUSE, stop.cancelled()).await;
        }
    }

    /// Hands over the most urgent mails that are due; says how many it tried: none while the server is left
    /// alone.
    ///
    /// # Errors
    /// When the rows can't be read or written. Mails that were handed over and could not be noted
    /// are sent again, with the same `Message-ID`.
    pub async fn send_due(&self) -> Result<usize, WriteError<onceward::Error>> {
        Ok(match self.send_batch().await? {
            Batch::Tried(tried) | Batch::NoServer { tried, .. } => tried,
            Batch::NotAsked => 0,
        })
    }

    /// Through the circuit: a batch that finds no server counts against it.
    async fn send_batch(&self) -> Result<Batch, WriteError<onceward::Error>> {
        let batch = async {
            match self.hand_over().await {
                Ok(Batch::NoServer { tried, error }) => Err(Ok(Batch::NoServer { tried, error })),
                Ok(batch) => Ok(batch),
                Err(error) => Err(Err(error)),
            }
        };
        // The database's faults are not the server's.
        let in_vain = |fault: &Result<Batch, _>| fault.is_ok();
        match self.circuit.call_with(in_vain, batch).await {
            Ok(batch) => Ok(batch),
            Err(recloser::Error::Inner(fault)) => fault,
            Err(recloser::Error::Rejected) => Ok(Batch::NotAsked),
        }
    }

    async fn hand_over(&self) -> Result<Batch, WriteError<onceward::Error>> {
        let taken = self.take().await?;
        let tried = taken.len();
        let attempts = taken.iter().map(|mail| self.attempt(mail));
        let became = join_all(attempts).await;
        let no_server = became.iter().find_map(|became| match became {
            Became::NoServer(error) => Some(error.clone()),
            _ => None,
        });
        let ended: Vec<_> = taken
            .into_iter()
            .zip(became)
            .map(|(mail, became)| (mail.mail_id, mail.attempts, Arc::new(became)))
            .collect();
        if !ended.is_empty() {
            let now = self.clock.now();
            self.db
                .write(async move |tx| note(tx, &ended, now).await)
                .await?;
        }
        Ok(match no_server {
            Some(error) => Batch::NoServer { tried, error },
            None => Batch::Tried(tried),
        })
    }

    /// Takes mails: nobody else does, until the lease is over.
    ///
    /// CRASH: died after this commit = the mails wait until the lease is over, and are sent then;
    /// perhaps a second time, if the server had taken them.
    async fn take(&self) -> Result<Vec<Taken>, WriteError<onceward::Error>> {
        let now = self.clock.now();
        self.db.write(async move |tx| take(tx, now).await).await
    }

    async fn attempt(&self, mail: &Taken) -> Became {
        let unwanted = match mail.wants.as_deref() {
            Some("none") => true,
            Some("high") => mail.priority > 0,
            _ => false,
        };
        if unwanted {
            return Became::Unwanted;
        }
        let message = match self.message(mail) {
            Ok(message) => message,
            Err(error) => return Became::Refused(format!("{error:#}")),
        };
        // lettre limits the connect alone. Given up, the connection is closed with what waits for it: none
        // is kept for another mail.
        match timeout(ANSWER_AT_MOST, self.smtp.send(message)).await {
            Ok(Ok(_)) => Became::Sent,
            Ok(Err(error)) => became(&error),
            Err(_elapsed) => {
                let limit = ANSWER_AT_MOST.as_secs();
                Became::NoServer(format!("the server did not take it within {limit} s"))
            }
        }
    }

    fn message(&self, mail: &Taken) -> anyhow::Result<Message> {
        let notice = Notice::parse(&mail.template).context("no such template")?;
        let (subject, text) = templates::write(notice, mail.order_id, mail.reason.as_deref());
        let address = match &mail.address {
            Some(address) => address.parse::<Address>(),
            None => Address::new(&mail.user_id, &self.domain),
        };
        let address = address.context("the user has no mail address")?;
        // Of the row, so that a repetition is the same mail to the last byte.
        let written = u64::try_from(mail.created_at).unwrap_or_default();
        let written = std::time::UNIX_EPOCH + Duration::from_micros(written);
        let id = format!("<{}@{}>", mail.mail_id, self.from.email.domain());
        Message::builder()
            .message_id(Some(id))
            .date(written)
            .from(self.from.clone())
            .to(Mailbox::new(None, address))
            .subject(subject)
            .header(header::ContentType::TEXT_PLAIN)
            .body(text)
            .context("no mail can be made of it")
    }
}

/// What came of a batch.
enum Batch {
    /// So many were tried, none if none was due.
    Tried(usize),
    /// So many were tried, and there is no server.
    NoServer { tried: usize, error: String },
    /// The server is left alone.
    NotAsked,
}

fn circuit() -> AsyncRecloser {
    let longer = |times: u32, wait: Duration| {
        wait.saturating_mul(2_u32.saturating_pow(times))
            .min(LEFT_ALONE_AT_MOST)
    };
    AsyncRecloser::from(
        Recloser::custom()
            .error_rate(1.0)
            .closed_len(BATCHES_IN_VAIN)
            .half_open_len(1)
            .open_wait(LEFT_ALONE)
            .open_wait_strategy(longer)
            .build(),
    )
}

/// What a server answers that lets the sender not in, whatever the mail (RFC 4954 §6): authentication is
/// required, too weak, refused, or wants encryption.
const NOT_LET_IN: [u16; 4] = [530, 534, 535, 538];

/// Whether the server has refused it, wants it later, or is not there.
fn became(error: &SmtpError) -> Became {
    let told = format!("{:#}", anyhow::anyhow!("{error}"));
    let code = error.status().map(u16::from);
    if code.is_some_and(|code| NOT_LET_IN.contains(&code)) {
        Became::NoServer(told)
    } else if error.is_permanent() || (error.is_client() && told.contains("SMTPUTF8")) {
        // The latter is said by lettre: the server does not know such addresses (RFC 6531). What else it
        // says by itself is about the server, which can't encrypt or does not know our way to log in.
        Became::Refused(told)
    } else if error.is_transient() {
        Became::Later(told)
    } else {
        Became::NoServer(told)
    }
}

async fn take<B: Backend>(tx: &mut Tx<'static, B>, now: Micros) -> onceward::Result<Vec<Taken>> {
    // By mail_due.
    let rows = sqlx::query(
        "select m.mail_id, m.order_id, m.template, m.reason, m.priority, m.attempts, m.due_at, \
         m.created_at, c.user_id, p.address, p.wants from mail m \
         join contact c on c.order_id = m.order_id \
         left join preference p on p.user_id = c.user_id \
         where m.state = 'waiting' and m.due_at <= $1 \
         order by m.priority, m.due_at, m.mail_id limit $2",
    )
    .bind(now)
    .bind(BATCH)
    .fetch_all(&mut **tx)
    .await
    .map_err(onceward::Error::database("mails"))?;
    let mut taken = Vec::with_capacity(rows.len());
    for row in &rows {
        let mail = read::<B>(row).map_err(onceward::Error::database("mail row"))?;
        let due_at: Micros = row
            .try_get("due_at")
            .map_err(onceward::Error::database("mail row"))?;
        let won = sqlx::query(
            "update mail set due_at = $3, attempts = attempts + 1 \
             where mail_id = $1 and state = 'waiting' and due_at = $2",
        )
        .bind(mail.mail_id)
        .bind(due_at)
        .bind(now.saturating_add(LEASE))
        .execute(&mut **tx)
        .await
        .map_err(onceward::Error::database("mail lease"))?;
        // Else another sender was faster.
        if won.rows_affected() == 1 {
            taken.push(mail);
        }
    }
    Ok(taken)
}

fn read<B: Backend>(row: &B::Row) -> Result<Taken, sqlx::Error> {
    Ok(Taken {
        mail_id: row.try_get("mail_id")?,
        order_id: row.try_get("order_id")?,
        template: row.try_get("template")?,
        reason: row.try_get("reason")?,
        user_id: row.try_get("user_id")?,
        address: row.try_get("address")?,
        wants: row.try_get("wants")?,
        priority: row.try_get("priority")?,
        attempts: row.try_get("attempts")?,
        created_at: row.try_get("created_at")?,
    })
}

async fn note<B: Backend>(
    tx: &mut Tx<'static, B>,
    ended: &[(Uuid, i64, Arc<Became>)],
    now: Micros,
) -> onceward::Result<()> {
    for (mail_id, attempts, became) in ended {
        let (state, outcome, error, due_at, sent_at) = match &**became {
            Became::Sent => ("sent", "sent", None, now, Some(now)),
            Became::Unwanted => ("unwanted", "unwanted", None, now, None),
            Became::Refused(error) => ("refused", "refused", Some(error), now, None),
            Became::Later(error) => {
                let seconds = 2_u32
                    .saturating_pow(u32::try_from(*attempts).unwrap_or(u32::MAX))
                    .min(MAX_DELAY_SECONDS);
                let due_at = now.saturating_add(i64::from(seconds) * 1_000_000);
                ("waiting", "deferred", Some(error), due_at, None)
            }
            // Nobody's fault: due at once, so that their order stays.
            Became::NoServer(error) => ("waiting", "deferred", Some(error), now, None),
        };
        sqlx::query(
            "update mail set state = $2, error = $3, due_at = $4, sent_at = $5 \
             where mail_id = $1 and state = 'waiting'",
        )
        .bind(*mail_id)
        .bind(state.to_owned())
        .bind(error.cloned())
        .bind(due_at)
        .bind(sent_at)
        .execute(&mut **tx)
        .await
        .map_err(onceward::Error::database("mail state"))?;
        ::metrics::counter!(metrics::MAILS, "outcome" => outcome).increment(1);
    }
    Ok(())
}

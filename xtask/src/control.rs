//! Orders to a running supervisor, over a unix socket in the data folder: one JSON line each way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::Result;
use crate::layout::Data;
use crate::supervisor::Handle;

/// An order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub enum Order {
    /// Answer when everything is ready, or with why it is not.
    Ready,
    /// Start one process and answer when it is ready.
    Start {
        /// Which.
        name: String,
    },
    /// Stop one process and answer when it is gone.
    Stop {
        /// Which.
        name: String,
    },
    /// Stop everything and answer when all is gone.
    Down,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    ok: bool,
    text: String,
}

/// Whether orders are still being answered. Without waiting for it, the process would end between
/// "all is stopped" and telling so.
pub struct Answering {
    listener: tokio::task::JoinHandle<()>,
    // Every order under way holds a sender; nothing is ever sent.
    under_way: tokio::sync::mpsc::Receiver<std::convert::Infallible>,
}

impl Answering {
    /// Takes no more orders and waits until those under way are answered, at most a second.
    pub async fn finish(mut self) {
        self.listener.abort();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.under_way.recv()).await;
    }
}

/// Listens for orders; `started` resolves when the start of everything has ended, well or not.
pub fn listen(data: &Data, handle: Handle, started: Started) -> Result<Answering> {
    let path = data.socket();
    let _ = std::fs::remove_file(&path); // a killed supervisor's; the lock says that none runs
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    let (sender, under_way) = tokio::sync::mpsc::channel(1);
    let listener = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (handle, started, sender) = (handle.clone(), started.clone(), sender.clone());
            tokio::spawn(async move {
                // A client that went away needs no answer.
                let _ = serve(stream, handle, started).await;
                drop(sender);
            });
        }
    });
    Ok(Answering {
        listener,
        under_way,
    })
}

/// How the start of everything went, once it is known.
pub type Started = tokio::sync::watch::Receiver<Option<std::result::Result<String, String>>>;

async fn serve(stream: tokio::net::UnixStream, handle: Handle, started: Started) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader)
        .read_line(&mut line)
        .await?;
    let outcome = match serde_json::from_str::<Order>(&line)? {
        Order::Ready => ready(started).await,
        Order::Start { name } => {
            let started = handle.start(&name).await;
            started.map(|line| format!("{line} is ready"))
        }
        Order::Stop { name } => handle.stop(&name).await,
        Order::Down => handle.shutdown().await,
    };
    let answer = match outcome {
        Ok(text) => Answer { ok: true, text },
        Err(error) => Answer {
            ok: false,
            text: format!("{error:#}"),
        },
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await?;
    Ok(())
}

async fn ready(mut started: Started) -> Result<String> {
    let outcome = started.wait_for(Option::is_some).await?.clone();
    match outcome {
        Some(Ok(text)) => Ok(text),
        Some(Err(text)) => bail!(text),
        None => bail!("the start has no outcome"),
    }
}

/// Sends an order to the supervisor that runs on `data` and gives its answer.
pub fn send(data: &Data, order: &Order) -> Result<String> {
    if running(data)?.is_none() {
        bail!("nothing runs here: start it with ./dev up");
    }
    let mut stream =
        UnixStream::connect(data.socket()).context("the supervisor does not take orders (yet)")?;
    let mut line = serde_json::to_string(order)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text)?;
    if text.is_empty() {
        bail!("the supervisor ended before it answered");
    }
    let answer: Answer = serde_json::from_str(&text)?;
    match answer.ok {
        true => Ok(answer.text),
        false => bail!(answer.text),
    }
}

/// The supervisor's right to a data folder; held while the value lives.
#[derive(Debug)]
pub struct Lock {
    _file: std::fs::File,
}

impl Lock {
    /// Takes the data folder, or says who has it.
    pub fn take(data: &Data) -> Result<Self> {
        let path = data.lock();
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        if file.try_lock().is_err() {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "it runs already (pid {}): see ./dev ps, or ./dev down",
                pid.trim()
            );
        }
        file.set_len(0)?;
        file.write_all(std::process::id().to_string().as_bytes())?;
        Ok(Self { _file: file })
    }
}

/// The pid of the supervisor that runs on `data`, if one does.
pub fn running(data: &Data) -> Result<Option<u32>> {
    let path = data.lock();
    let Ok(file) = std::fs::File::open(&path) else {
        return Ok(None);
    };
    if file.try_lock_shared().is_ok() {
        return Ok(None);
    }
    Ok(std::fs::read_to_string(&path)?.trim().parse().ok())
}

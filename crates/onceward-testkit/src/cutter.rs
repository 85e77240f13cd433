//! A TCP proxy before Postgres that cuts a connection exactly at COMMIT, or falls silent at another statement.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::Result;

/// What becomes of a statement. Its sender gets no answer either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server never sees it.
    Before,
    /// The server carries it out.
    After,
    /// The server never sees it, and nobody is told: the connection stays, as beyond a network that is gone.
    Silent,
}

/// The proxy. Ends with the test's process; its thread holds nothing but sockets.
#[derive(Debug, Clone)]
pub struct Cutter {
    port: u16,
    server: Arc<Mutex<String>>,
    next: Arc<Mutex<Option<(&'static str, Cut)>>>,
}

impl Cutter {
    /// Before the server of this URL.
    pub fn start(url: &str) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("binding the proxy")?;
        listener.set_nonblocking(true)?;
        let cutter = Self {
            port: listener.local_addr()?.port(),
            server: Arc::new(Mutex::new(host(url).to_owned())),
            next: Arc::default(),
        };
        let (server, next) = (Arc::clone(&cutter.server), Arc::clone(&cutter.next));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else {
                    return;
                };
                while let Ok((client, _)) = listener.accept().await {
                    let (server, next) = (locked(&server).clone(), Arc::clone(&next));
                    tokio::spawn(async move {
                        // An end of one side ends the other.
                        let _ended = carry(client, &server, &next).await;
                    });
                }
            });
        });
        Ok(cutter)
    }

    /// The URL through this proxy.
    pub fn url(&self, url: &str) -> String {
        let through = url.replace(host(url), &format!("127.0.0.1:{}", self.port));
        format!("{through}?sslmode=disable")
    }

    /// From now on connections go to the server of this URL, as when an address moves to a standby.
    pub fn point_at(&self, url: &str) {
        *locked(&self.server) = host(url).to_owned();
    }

    /// Cuts at the next COMMIT.
    pub fn cut_next(&self, cut: Cut) {
        self.cut_at("COMMIT", cut);
    }

    /// Cuts at the next statement without parameters that begins like this.
    pub fn cut_at(&self, statement: &'static str, cut: Cut) {
        *locked(&self.next) = Some((statement, cut));
    }

    /// Whether the cut that was asked for has been made.
    pub fn has_cut(&self) -> bool {
        locked(&self.next).is_none()
    }
}

/// `host:port` of `postgres://user@host:port/name`.
fn host(url: &str) -> &str {
    let behind_user = url.rsplit('@').next().unwrap_or(url);
    behind_user.split('/').next().unwrap_or(behind_user)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until either side ends, or the connection is cut.
async fn carry(
    client: TcpStream,
    server: &str,
    next: &Mutex<Option<(&'static str, Cut)>>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (cutting, answered) = (AtomicBool::new(false), Notify::new());
    let requests = async {
        // The first message has no type.
        let mut startup = vec![0; 4];
        from_client.read_exact(&mut startup).await?;
        let length = u32::from_be_bytes([startup[0], startup[1], startup[2], startup[3]]);
        startup.resize(length as usize, 0);
        from_client.read_exact(&mut startup[4..]).await?;
        to_server.write_all(&startup).await?;
        loop {
            let mut message = vec![0; 5];
            from_client.read_exact(&mut message).await?;
            let length = u32::from_be_bytes([message[1], message[2], message[3], message[4]]);
            message.resize(length as usize + 1, 0);
            from_client.read_exact(&mut message[5..]).await?;
            let cut = locked(next).take_if(|(statement, _)| {
                message[0] == b'Q' && message[5..].starts_with(statement.as_bytes())
            });
            match cut.map(|(_, cut)| cut) {
                None => {}
                Some(Cut::Silent) => std::future::pending().await,
                Some(Cut::Before) => return Ok::<(), std::io::Error>(()),
                Some(Cut::After) => cutting.store(true, Ordering::SeqCst),
            }
            to_server.write_all(&message).await?;
            if cutting.load(Ordering::SeqCst) {
                answered.notified().await;
                return Ok(());
            }
        }
    };
    let answers = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = from_server.read(&mut bytes).await?;
            if count == 0 {
                return Ok(());
            }
            if cutting.load(Ordering::SeqCst) {
                answered.notify_one();
                std::future::pending::<()>().await;
            }
            to_client.write_all(&bytes[..count]).await?;
        }
    };
    tokio::select! {
        ended = requests => ended,
        ended = answers => ended,
    }
}

//! Asking a process whether it is ready.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How a process shows that it is ready.
#[derive(Debug, Clone)]
pub enum Ready {
    /// `GET /readyz` on this port of 127.0.0.1 answers 200.
    Http(u16),
    /// A Kafka broker answers here (`host:port`).
    Kafka(String),
    /// A PostgreSQL server accepts a connection to this URL.
    Postgres(String),
    /// As soon as it runs.
    Running,
}

impl Ready {
    /// Comes back once the process is ready, however long that takes; drop it to stop asking.
    pub async fn wait(&self) {
        while !self.check().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks once; takes two seconds at most.
    pub async fn check(&self) -> bool {
        match self {
            Self::Running => true,
            Self::Http(port) => http_ok(*port).await,
            Self::Kafka(address) => {
                let address = address.clone();
                blocking(move || onceward_testkit::kafka::answers(&address)).await
            }
            Self::Postgres(url) => {
                let url = url.clone();
                blocking(move || onceward_testkit::postgres::answers(&url)).await
            }
        }
    }
}

async fn blocking(ask: impl FnOnce() -> bool + Send + 'static) -> bool {
    tokio::task::spawn_blocking(ask).await.unwrap_or(false)
}

async fn http_ok(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /readyz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            .await?;
        let mut answer = [0_u8; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    // "HTTP/1.x 200"
    matches!(
        tokio::time::timeout(Duration::from_secs(2), ask).await,
        Ok(Ok(answer)) if answer.ends_with(b" 200")
    )
}

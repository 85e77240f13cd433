//! A small HTTP client: one connection, kept alive. Its CPU time is taken from the service it measures,
//! so it is no more than hyper's connection.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Client {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: address.to_owned(),
        })
    }

    /// Sends a request, reads the answer to its end, gives its status.
    pub(crate) async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<u16> {
        Ok(self.ask(method, path, body).await?.0)
    }

    /// Sends a request, gives the answer's status and body.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await;
        Ok((status, body.context("reading a body")?.to_bytes()))
    }
}

/// One GET on a connection of its own.
pub(crate) async fn get(address: &str, path: &str) -> Result<u16> {
    let mut client = Client::connect(address).await?;
    client.send(Method::GET, path, Bytes::new()).await
}

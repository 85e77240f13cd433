//! Each bound, shown on a real socket.
#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use onceward_http::{Guard, Limits, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A server whose `/wait` answers when it is told to.
struct World {
    address: SocketAddr,
    /// A handler of `/wait` has begun.
    begun: Arc<Notify>,
    go: Arc<Notify>,
    stop: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
}

/// Bytes of the answer of `/large`: more than sockets hold.
const LARGE: usize = 64 * 1024 * 1024;

impl World {
    async fn new(limits: Limits) -> Self {
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let waiting = (Arc::clone(&begun), Arc::clone(&go));
        let wait = async move || {
            waiting.0.notify_one();
            waiting.1.notified().await;
            "done"
        };
        let router = Router::new()
            .route("/healthz", get(async || "alive"))
            .route("/echo", post(async |body: Bytes| body))
            .route("/large", get(async || vec![b'x'; LARGE]))
            .route("/wait", get(wait));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Guard::new(limits.clone()).protect(router);
        let until = stop.clone();
        let served = tokio::spawn(async move { serve(listener, router, &limits, until).await });
        Self {
            address,
            begun,
            go,
            stop,
            served,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends this on a connection of its own and gives all that comes back until it is closed.
    async fn say(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        // The server may have answered and closed before all is sent.
        let _sent = stream.write_all(request.as_bytes()).await;
        hear(stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.say(&format!("GET {path} HTTP/1.1\r\nconnection: close\r\n\r\n"))
            .await
    }
}

/// All that comes until the end, however the connection ends.
async fn hear(mut stream: TcpStream) -> String {
    let mut heard = Vec::new();
    let reading = async { while stream.read_buf(&mut heard).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(Duration::from_secs(120), reading)
        .await
        .unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}

/// A problem document of this status that says this.
#[track_caller]
fn assert_problem(answer: &str, status: u16, says: &str) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{answer}"
    );
    assert!(
        answer.contains("content-type: application/problem+json"),
        "{answer}"
    );
    assert!(answer.contains(&format!("\"status\":{status}")), "{answer}");
    assert!(answer.contains(says), "{answer}");
}

#[track_caller]
fn assert_try_again(answer: &str, says: &str) {
    assert_problem(answer, 503, says);
    assert!(answer.contains("retry-after: 1"), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_is_sent() {
    let limits = Limits {
        max_body_bytes: 10,
        ..Limits::default()
    };
    let world = World::new(limits).await;
    let post = |head: &str, body: &str| {
        format!("POST /echo HTTP/1.1\r\nconnection: close\r\n{head}\r\n\r\n{body}")
    };
    let just = world.say(&post("content-length: 10", "0123456789")).await;
    assert!(
        just.starts_with("HTTP/1.1 200 ") && just.ends_with("0123456789"),
        "{just}"
    );
    let over = world.say(&post("content-length: 11", "0123456789a")).await;
    assert_problem(&over, 413, "must not be larger than 10 bytes");
    let chunked = post(
        "transfer-encoding: chunked",
        "6\r\n012345\r\n5\r\n6789a\r\n0\r\n\r\n",
    );
    assert_problem(&world.say(&chunked).await, 413, "larger than 10 bytes");
    // Refused before it is sent: no client has to send what will be thrown away.
    let asks = post("content-length: 11\r\nexpect: 100-continue", "");
    assert_problem(&world.say(&asks).await, 413, "larger than 10 bytes");
    let huge = post("content-length: 99999999999999", "0");
    assert_problem(&world.say(&huge).await, 413, "larger than 10 bytes");
}

#[tokio::test]
async fn a_head_over_the_limits_is_refused() {
    let limits = Limits {
        max_uri_bytes: 256,
        max_header_bytes: 256,
        ..Limits::default()
    };
    let world = World::new(limits).await;
    let long = format!("/healthz?{}", "q".repeat(256));
    assert_problem(&world.get(&long).await, 414, "longer than 256 bytes");
    let with_fields =
        |fields: &str| format!("GET /healthz HTTP/1.1\r\nconnection: close\r\n{fields}\r\n");
    let large = with_fields(&format!("a: {}\r\n", "v".repeat(256)));
    assert_problem(&world.say(&large).await, 431, "larger than 256 bytes");
    // Far too large: cut off while it comes, without a document.
    let flood = with_fields(&format!("a: {}\r\n", "v".repeat(1 << 20)));
    let answer = world.say(&flood).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    let many = with_fields(&"a: 1\r\n".repeat(200));
    let answer = world.say(&many).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_told_to_try_again() {
    let limits = Limits {
        request_timeout_ms: 50,
        ..Limits::default()
    };
    let world = World::new(limits).await;
    assert_try_again(&world.get("/wait").await, "took longer than 50ms");
}

#[tokio::test]
async fn slow_clients_are_cut_off_while_others_are_served() {
    let limits = Limits {
        request_timeout_ms: 100,
        header_timeout_ms: 100,
        ..Limits::default()
    };
    let world = World::new(limits).await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for start in [
        "",
        "GET /hea",
        "GET /healthz HTTP/1.1\r\nhost: a\r\nx-slow: 1\r\n",
    ] {
        for _ in 0..20 {
            let mut stream = world.connect().await;
            stream.write_all(start.as_bytes()).await.unwrap();
            silent.push(stream);
        }
    }
    assert!(world.get("/healthz").await.contains("alive"));
    for stream in silent {
        let heard = hear(stream).await;
        assert!(!heard.contains(" 200 "), "{heard}");
    }
    // An idle connection that has been served once is closed as well.
    let mut stream = world.connect().await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    assert!(hear(stream).await.ends_with("alive"));
    let slow_body = "POST /echo HTTP/1.1\r\ncontent-length: 5\r\n\r\nabc";
    assert_problem(
        &world.say(slow_body).await,
        408,
        "did not arrive within 100ms",
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn requests_over_the_limit_are_told_to_come_back_while_health_is_answered() {
    let limits = Limits {
        max_requests: 2,
        ..Limits::default()
    };
    let world = World::new(limits).await;
    let ask = "GET /wait HTTP/1.1\r\nconnection: close\r\n\r\n";
    let mut under_way = Vec::new();
    for _ in 0..2 {
        let mut stream = world.connect().await;
        stream.write_all(ask.as_bytes()).await.unwrap();
        world.begun.notified().await;
        under_way.push(stream);
    }
    assert_try_again(&world.get("/wait").await, "too many requests");
    assert!(world.get("/healthz").await.contains("alive"));
    for stream in under_way {
        world.go.notify_one();
        assert!(hear(stream).await.ends_with("done"));
    }
    world.go.notify_one();
    assert!(world.get("/wait").await.ends_with("done"));
}

#[tokio::test]
async fn connections_over_the_limit_are_told_to_come_back_and_closed() {
    let limits = Limits {
        max_connections: 2,
        ..Limits::default()
    };
    let world = World::new(limits).await;
    let mut places = Vec::new();
    for _ in 0..2 {
        let mut stream = world.connect().await;
        stream
            .write_all(b"GET /wait HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        world.begun.notified().await;
        places.push(stream);
    }
    let told = world.say("GET /healthz HTTP/1.1\r\n\r\n").await;
    assert_try_again(&told, "too many connections");
    drop(places);
    // A place is free again as soon as the server has seen the end of one of them.
    let served = async { while !world.get("/healthz").await.contains("alive") {} };
    tokio::time::timeout(Duration::from_secs(60), served)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let limits = Limits {
        max_connections: 1,
        send_timeout_ms: 100,
        ..Limits::default()
    };
    let world = World::new(limits).await;
    let mut greedy = world.connect().await;
    greedy
        .write_all(b"GET /large HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    greedy.readable().await.unwrap();
    // It holds the only place, until it is cut off for not reading on.
    let served = async { while !world.get("/healthz").await.contains("alive") {} };
    tokio::time::timeout(Duration::from_secs(60), served)
        .await
        .unwrap();
    assert!(hear(greedy).await.len() < LARGE);
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way_and_takes_nothing_more() {
    let world = World::new(Limits::default()).await;
    let mut idle = world.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    let mut under_way = world.connect().await;
    under_way
        .write_all(b"GET /wait HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    world.begun.notified().await;
    world.stop.cancel();
    hear(idle).await;
    assert!(!world.served.is_finished());
    world.go.notify_one();
    assert!(hear(under_way).await.ends_with("done"));
    world.served.await.unwrap().unwrap();
    assert!(TcpStream::connect(world.address).await.is_err());
}

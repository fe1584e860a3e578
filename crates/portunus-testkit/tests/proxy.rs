//! The fault proxy does to a connection what it says, and nothing else.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::io::ErrorKind;
use std::time::Duration;

use portunus_testkit::proxy::{Direction, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn passes_both_ways_and_the_end_of_a_stream() {
    let (proxy, _server) = proxy_to_echo().await;
    let mut client = connect(&proxy).await;
    client.write_all(b"one").await.unwrap();
    client.shutdown().await.unwrap();
    let mut echo = Vec::new();
    soon(client.read_to_end(&mut echo)).await.unwrap();
    assert_eq!(echo, b"one");
}

#[tokio::test]
async fn held_requests_reach_the_server_only_after_pass() {
    let (proxy, mut server) = proxy_to_echo().await;
    let mut client = connect(&proxy).await;
    echo(&mut client, b"before").await;
    assert_eq!(server.recv().await.unwrap(), b"before");

    proxy.hold_requests();
    client.write_all(b"late").await.unwrap();
    soon(proxy.wait_held(Direction::Requests)).await;
    assert!(server.try_recv().is_err());

    proxy.pass();
    assert_eq!(read(&mut client, 4).await, b"late");
    assert_eq!(server.recv().await.unwrap(), b"late");
}

#[tokio::test]
async fn a_cut_loses_the_reply_of_an_applied_request() {
    let (proxy, mut server) = proxy_to_echo().await;
    let mut client = connect(&proxy).await;
    proxy.hold_replies();
    client.write_all(b"applied").await.unwrap();
    assert_eq!(soon(server.recv()).await.unwrap(), b"applied");
    soon(proxy.wait_held(Direction::Replies)).await;

    proxy.cut();
    let error = soon(client.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    proxy.pass();
    echo(&mut connect(&proxy).await, b"again").await;
}

#[tokio::test]
async fn a_black_hole_keeps_old_and_new_connections_open() {
    let (proxy, mut server) = proxy_to_echo().await;
    let mut old = connect(&proxy).await;
    echo(&mut old, b"old").await;
    assert_eq!(server.recv().await.unwrap(), b"old");

    proxy.black_hole();
    let mut new = connect(&proxy).await;
    new.write_all(b"new").await.unwrap();
    soon(proxy.wait_held(Direction::Requests)).await;
    assert!(server.try_recv().is_err());
    assert_eq!(proxy.connections(), 2);

    proxy.pass();
    assert_eq!(read(&mut new, 3).await, b"new");
    echo(&mut old, b"still").await;
}

#[tokio::test]
async fn what_was_forgotten_never_flows_again_and_new_connections_do() {
    let (proxy, _seen) = proxy_to_echo().await;
    let mut old = connect(&proxy).await;
    echo(&mut old, b"before").await;
    proxy.forget();
    old.write_all(b"lost").await.unwrap();
    soon(proxy.wait_held(Direction::Requests)).await;
    proxy.pass();
    let mut new = connect(&proxy).await;
    echo(&mut new, b"after").await;
    soon(proxy.wait_held(Direction::Requests)).await;
}

#[tokio::test(start_paused = true)]
async fn a_delay_keeps_one_way_late_until_pass() {
    const LATE: Duration = Duration::from_secs(60);
    let (proxy, mut server) = proxy_to_echo().await;
    let mut client = connect(&proxy).await;
    proxy.delay(Direction::Replies, LATE);
    let asked = Instant::now();
    client.write_all(b"slow").await.unwrap();
    assert_eq!(server.recv().await.unwrap(), b"slow");
    assert!(asked.elapsed() < LATE);
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 4);
    assert!(asked.elapsed() >= LATE);

    proxy.pass();
    let asked = Instant::now();
    echo(&mut client, b"fast").await;
    assert!(asked.elapsed() < LATE);
}

#[tokio::test]
async fn a_refusal_resets_new_connections_only() {
    let (proxy, _server) = proxy_to_echo().await;
    let mut old = connect(&proxy).await;
    echo(&mut old, b"old").await;

    proxy.refuse();
    let refused = soon(connect(&proxy).await.read(&mut [0; 8])).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionReset);
    echo(&mut old, b"still").await;
}

#[tokio::test]
async fn a_server_that_is_down_resets_its_clients() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start(gone.to_string()).await.unwrap();
    let refused = soon(connect(&proxy).await.read(&mut [0; 8])).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dropped_proxy_closes_its_connections() {
    let (proxy, _server) = proxy_to_echo().await;
    let mut client = connect(&proxy).await;
    echo(&mut client, b"up").await;
    drop(proxy);
    assert!(matches!(soon(client.read(&mut [0; 8])).await, Ok(0) | Err(_)));
}

/// A proxy in front of a server that sends back, and tells the test, what it receives.
async fn proxy_to_echo() -> (Proxy, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let (seen, server) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    // A test that does not look has dropped the other end.
                    seen.send(buffer[..length].to_vec()).ok();
                    stream.write_all(&buffer[..length]).await.ok();
                }
            });
        }
    });
    (Proxy::start(upstream).await.unwrap(), server)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    soon(TcpStream::connect(proxy.address())).await.unwrap()
}

async fn echo(client: &mut TcpStream, text: &[u8]) {
    client.write_all(text).await.unwrap();
    assert_eq!(read(client, text.len()).await, text);
}

async fn read(client: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    soon(client.read_exact(&mut buffer)).await.unwrap();
    buffer
}

/// Bounds a wait, so that a mistake fails the test in place of hanging it.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), event).await.expect("did not happen in 10 s")
}

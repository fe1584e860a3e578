//! The end of a session from outside, as an operator's tool brings it about: whoever knows a
//! session's password may continue it, and then end it.

use portunus_core::backend::Session;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Ends a session; returns once the server has said so, or that it is gone.
pub async fn end(host: &str, session: &Session) {
    end_id(host, id(session), session.granted).await;
}

/// The same, of a session known by its number.
pub async fn end_id(host: &str, id: i64, ttl: Duration) {
    if let Some(mut stream) = take_over_id(host, id, ttl).await {
        let close = [1_i32.to_be_bytes(), (-11_i32).to_be_bytes()].concat();
        exchange(&mut stream, &close).await.expect("the server ends the session");
    }
}

/// Takes the session away from its client, whose connection to this server, if it is here, the
/// server closes; `None` when the session is gone.
pub async fn take_over(host: &str, session: &Session) -> Option<TcpStream> {
    take_over_id(host, id(session), session.granted).await
}

/// The same, of a session known by its number.
pub async fn take_over_id(host: &str, id: i64, ttl: Duration) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let mut connect = Vec::new();
    connect.extend(0_i32.to_be_bytes());
    connect.extend(0_i64.to_be_bytes());
    // It would be the new time to live.
    let ttl = i32::try_from(ttl.as_millis()).unwrap();
    connect.extend(ttl.to_be_bytes());
    connect.extend(id.to_be_bytes());
    connect.extend(16_i32.to_be_bytes());
    connect.extend(password(id));
    connect.push(0);
    let answer = exchange(&mut stream, &connect).await.unwrap();
    (answer[8..16] != [0; 8]).then_some(stream)
}

fn id(session: &Session) -> i64 {
    u64::try_from(session.id.0).unwrap().cast_signed()
}

/// Sends one request and reads one answer.
pub async fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_u32(u32::try_from(request.len()).unwrap()).await?;
    stream.write_all(request).await?;
    let mut answer = vec![0; usize::try_from(stream.read_u32().await?).unwrap()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The request that enters: it creates a sequential ephemeral node where `checked` has `version`.
pub fn checked_create(checked: &str, version: i32, path: &str) -> Vec<u8> {
    let mut request = Vec::new();
    let text = |request: &mut Vec<u8>, text: &str| {
        request.extend(i32::try_from(text.len()).unwrap().to_be_bytes());
        request.extend(text.as_bytes());
    };
    // Each step of a transaction is an operation, whether it is the end, and no error.
    let step = |request: &mut Vec<u8>, operation: i32, end: u8| {
        request.extend(operation.to_be_bytes());
        request.push(end);
        request.extend((-1_i32).to_be_bytes());
    };
    request.extend(1_i32.to_be_bytes());
    request.extend(14_i32.to_be_bytes());
    step(&mut request, 13, 0);
    text(&mut request, checked);
    request.extend(version.to_be_bytes());
    step(&mut request, 1, 0);
    text(&mut request, path);
    text(&mut request, "");
    // One rule: all permissions for everybody.
    request.extend(1_i32.to_be_bytes());
    request.extend(31_i32.to_be_bytes());
    text(&mut request, "world");
    text(&mut request, "anyone");
    request.extend(3_i32.to_be_bytes());
    step(&mut request, -1, 1);
    request
}

/// `ZooKeeperServer.generatePasswd`: bytes of `java.util.Random`, seeded with the id and a constant.
fn password(id: i64) -> [u8; 16] {
    const SECRET: i64 = 0xb341_5c00;
    const MULTIPLIER: u64 = 0x5_deec_e66d;
    const MASK: u64 = (1 << 48) - 1;
    let mut seed = ((id ^ SECRET).cast_unsigned() ^ MULTIPLIER) & MASK;
    let mut password = [0; 16];
    for word in password.chunks_exact_mut(4) {
        seed = seed.wrapping_mul(MULTIPLIER).wrapping_add(0xb) & MASK;
        let bits = u32::try_from(seed >> 16).unwrap();
        word.copy_from_slice(&bits.to_le_bytes());
    }
    password
}

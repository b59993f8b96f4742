//! The proxy that the tests make the network fail with.

mod support;

use std::{net::Ipv4Addr, time::Duration};
use support::{proxy::Proxy, wait::wait_until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const SOON: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_millis(200);

/// A server that sends back what it gets. Returns its port.
async fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    port
}

/// A server that takes one connection and says, when that ends, how much it got and whether it ended in order.
async fn count() -> (u16, tokio::task::JoinHandle<(usize, bool)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let counted = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let mut all = Vec::new();
        let ended = stream.read_to_end(&mut all).await;
        (all.len(), ended.is_ok())
    });
    (port, counted)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port))
        .await
        .unwrap()
}

async fn receive(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut received = vec![0; length];
    timeout(SOON, stream.read_exact(&mut received))
        .await
        .expect("no reply")
        .unwrap();
    received
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(A_WHILE, stream.read_u8()).await.is_err()
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .expect("it is still open");
    ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Whether a new connection is reset. That may come before the connect has returned, or after.
async fn is_turned_away(proxy: &Proxy) -> bool {
    match TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).await {
        Ok(mut stream) => is_reset(&mut stream).await,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(receive(stream, 5).await, b"hello");
}

#[tokio::test]
async fn bytes_pass_both_ways_to_the_end() {
    let proxy = Proxy::start(echo().await);
    let mut stream = connect(&proxy).await;
    let sent: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut from, mut to) = stream.split();
    let mut received = Vec::new();
    let sending = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let ((), ended) = tokio::join!(sending, from.read_to_end(&mut received));
    ended.unwrap();
    assert!(received == sent);
    wait_until(SOON, "the connection's end", async || proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_lets_in_what_comes_later() {
    let proxy = Proxy::start(echo().await);
    let (mut one, mut two) = (connect(&proxy).await, connect(&proxy).await);
    echoes(&mut one).await;
    echoes(&mut two).await;
    assert_eq!(proxy.connections(), 2);
    // This one is perhaps known to the kernel only.
    let mut three = connect(&proxy).await;
    proxy.cut();
    assert_eq!(proxy.connections(), 0);
    for stream in [&mut one, &mut two, &mut three] {
        assert!(is_reset(stream).await);
    }
    echoes(&mut connect(&proxy).await).await;
    assert_eq!(proxy.attempts(), 4);
}

#[tokio::test]
async fn the_server_sees_a_reset_too() {
    let (port, counted) = count().await;
    let proxy = Proxy::start(port);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"hello").await.unwrap();
    wait_until(SOON, "the connection", async || proxy.connections() == 1).await;
    tokio::time::sleep(A_WHILE).await;
    proxy.cut();
    let (_, in_order) = timeout(SOON, counted).await.unwrap().unwrap();
    assert!(!in_order);
}

#[tokio::test]
async fn an_end_in_order_stays_in_order() {
    let (port, counted) = count().await;
    let proxy = Proxy::start(port);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"hello").await.unwrap();
    drop(stream);
    assert_eq!(timeout(SOON, counted).await.unwrap().unwrap(), (5, true));
}

#[tokio::test]
async fn refused_until_accepted_again() {
    let proxy = Proxy::start(echo().await);
    let mut stream = connect(&proxy).await;
    echoes(&mut stream).await;
    proxy.refuse();
    assert!(is_reset(&mut stream).await);
    assert!(is_turned_away(&proxy).await);
    assert_eq!(proxy.connections(), 0);
    proxy.accept();
    echoes(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn held_replies_come_in_order_when_released() {
    let proxy = Proxy::start(echo().await);
    let mut stream = connect(&proxy).await;
    echoes(&mut stream).await;
    proxy.hold_replies();
    stream.write_all(b"one").await.unwrap();
    assert!(is_silent(&mut stream).await);
    stream.write_all(b"two").await.unwrap();
    assert!(is_silent(&mut stream).await);
    proxy.release_replies();
    assert_eq!(receive(&mut stream, 6).await, b"onetwo");
}

#[tokio::test]
async fn requests_reach_the_server_while_replies_are_held() {
    let (port, counted) = count().await;
    let proxy = Proxy::start(port);
    proxy.hold_replies();
    let mut stream = connect(&proxy).await;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(SOON, counted).await.unwrap().unwrap(), (5, true));
    // The server's end is a reply as well.
    assert!(is_silent(&mut stream).await);
}

#[tokio::test]
async fn held_requests_go_out_when_released() {
    let (port, counted) = count().await;
    let proxy = Proxy::start(port);
    proxy.hold_requests();
    let mut stream = connect(&proxy).await;
    stream.write_all(b"hello").await.unwrap();
    drop(stream);
    tokio::time::sleep(A_WHILE).await;
    assert!(!counted.is_finished());
    proxy.release_requests();
    assert_eq!(timeout(SOON, counted).await.unwrap().unwrap(), (5, true));
}

#[tokio::test]
async fn only_what_was_open_is_frozen() {
    let proxy = Proxy::start(echo().await);
    let mut old = connect(&proxy).await;
    echoes(&mut old).await;
    proxy.freeze_open();
    old.write_all(b"one").await.unwrap();
    echoes(&mut connect(&proxy).await).await;
    assert!(is_silent(&mut old).await);
}

#[tokio::test]
async fn a_cut_comes_before_more_than_so_many_bytes() {
    let (port, counted) = count().await;
    let proxy = Proxy::start(port);
    proxy.cut_after(1_000_000);
    let mut stream = connect(&proxy).await;
    stream.write_all(&vec![7; 900_000]).await.unwrap();
    wait_until(SOON, "the connection", async || proxy.connections() == 1).await;
    assert!(proxy.cut_is_due());
    let _ = stream.write_all(&vec![7; 900_000]).await;
    let (got, in_order) = timeout(SOON, counted).await.unwrap().unwrap();
    assert!(got <= 1_000_000 && !in_order, "{got} bytes, in order: {in_order}");
    assert!(!proxy.cut_is_due());
}

#[tokio::test]
async fn everything_ends_when_it_is_dropped() {
    let proxy = Proxy::start(echo().await);
    let port = proxy.port;
    let mut stream = connect(&proxy).await;
    echoes(&mut stream).await;
    drop(proxy);
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .expect("it is still open");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err());
}

#[tokio::test]
async fn a_target_that_is_not_there_ends_the_connection() {
    let port = support::ports::free_port();
    let proxy = Proxy::start(port);
    assert!(is_turned_away(&proxy).await);
}

//! A TCP proxy between a client and a server, to make the network fail. It knows nothing of the protocol.

use socket2::SockRef;
use std::{
    io::{Error, ErrorKind, Result},
    net::{Ipv4Addr, Shutdown},
    sync::{Arc, mpsc as blocking},
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

const CHUNK: usize = 64 * 1024;
/// How much is kept of one direction before its sender has to wait, as it would for a slow network.
const KEPT: usize = 64 * 1024 * 1024;

/// Its connections end when it is dropped.
///
/// It runs on a thread of its own, so that a busy test does not slow it down. Every method returns when its effect
/// is there: after `hold_replies` no reply passes any more, and after `cut` every connection is closed.
pub struct Proxy {
    pub port: u16,
    state: Arc<watch::Sender<State>>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

type Change = Box<dyn FnOnce(&mut State) + Send>;

struct Order {
    change: Change,
    done: blocking::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Where new connections go.
    target: u16,
    refuse: bool,
    hold_requests: bool,
    hold_replies: bool,
    /// A connection ends when this is no longer what it was when the connection came.
    cuts: u64,
    /// How many bytes of requests may still pass before everything is cut.
    cut_after: Option<usize>,
    open: usize,
    attempts: usize,
    /// Connections up to this one, counted from 1, pass nothing any more.
    frozen: usize,
}

/// What was so when a connection came.
#[derive(Clone, Copy)]
struct Begun {
    target: u16,
    cuts: u64,
    number: usize,
}

impl Begun {
    const fn of(state: &State) -> Self {
        Self {
            target: state.target,
            cuts: state.cuts,
            number: state.attempts,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Requests,
    Replies,
}

impl Proxy {
    /// Starts on a free port of 127.0.0.1. The target need not be there yet.
    pub fn start(target_port: u16) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            target: target_port,
            ..State::default()
        };
        let state = Arc::new(watch::Sender::new(state));
        let (orders, received) = mpsc::unbounded_channel();
        let shared = state.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, shared, received));
        });
        Self {
            port,
            state,
            orders: Some(orders),
            thread: Some(thread),
        }
    }

    /// Closes all connections with a reset. Later ones are accepted.
    pub fn cut(&self) {
        self.order(|state| state.cuts += 1);
    }

    /// Closes all connections, and every new one at once, until `accept`.
    pub fn refuse(&self) {
        self.order(|state| {
            state.refuse = true;
            state.cuts += 1;
        });
    }

    /// From now on connections go to another server: those that are open are closed with a reset.
    pub fn retarget(&self, port: u16) {
        self.order(move |state| {
            state.target = port;
            state.cuts += 1;
        });
    }

    pub fn accept(&self) {
        self.order(|state| state.refuse = false);
    }

    /// Keeps what the server sends, its end of the connection too, until `release_replies`.
    pub fn hold_replies(&self) {
        self.order(|state| state.hold_replies = true);
    }

    pub fn release_replies(&self) {
        self.order(|state| state.hold_replies = false);
    }

    /// Keeps what clients send, their end of the connection too, until `release_requests`.
    pub fn hold_requests(&self) {
        self.order(|state| state.hold_requests = true);
    }

    pub fn release_requests(&self) {
        self.order(|state| state.hold_requests = false);
    }

    /// Keeps all that is said on the connections that are open now, either way, their ends too. Later ones pass.
    pub fn freeze_open(&self) {
        self.order(|state| state.frozen = state.attempts);
    }

    /// Lets so many bytes more pass to the server, on all connections together, and then cuts all of them, once.
    pub fn cut_after(&self, bytes: usize) {
        self.order(move |state| state.cut_after = Some(bytes));
    }

    /// Whether what `cut_after` asked for has still to happen.
    pub fn cut_is_due(&self) -> bool {
        self.state.borrow().cut_after.is_some()
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.state.borrow().open
    }

    /// How many connections there have been so far, the refused ones too.
    pub fn attempts(&self) -> usize {
        self.state.borrow().attempts
    }

    fn order(&self, change: impl FnOnce(&mut State) + Send + 'static) {
        let (done, wait) = blocking::channel();
        let order = Order {
            change: Box::new(change),
            done,
        };
        let sent = self
            .orders
            .as_ref()
            .is_some_and(|orders| orders.send(order).is_ok());
        assert!(sent && wait.recv().is_ok(), "the proxy has ended");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    state: Arc<watch::Sender<State>>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => {
                let Some(order) = order else { return };
                accept_waiting(&listener, &state, &mut open);
                obey(order.change, &state, &mut open).await;
                let _ = order.done.send(());
            }
            Some(_) = open.join_next() => {}
            Ok((client, _)) = listener.accept() => begin(client, &state, &mut open),
        }
    }
}

/// Clients whose connection only the kernel knows of are connected as well, so an order is for them too.
fn accept_waiting(listener: &TcpListener, state: &Arc<watch::Sender<State>>, open: &mut JoinSet<()>) {
    while let Ok((socket, _)) = SockRef::from(listener).accept() {
        socket.set_nonblocking(true).unwrap();
        begin(TcpStream::from_std(socket.into()).unwrap(), state, open);
    }
}

async fn obey(change: Change, state: &watch::Sender<State>, open: &mut JoinSet<()>) {
    let before = state.borrow().cuts;
    state.send_modify(change);
    if state.borrow().cuts != before {
        while open.join_next().await.is_some() {}
    }
}

fn begin(client: TcpStream, state: &Arc<watch::Sender<State>>, open: &mut JoinSet<()>) {
    quietly(state, |state| state.attempts += 1);
    if state.borrow().refuse {
        return reset(&client);
    }
    quietly(state, |state| state.open += 1);
    open.spawn(connection(client, Begun::of(&state.borrow()), state.clone()));
}

/// A change that nobody waits for.
fn quietly(state: &watch::Sender<State>, change: impl FnOnce(&mut State)) {
    state.send_if_modified(|state| {
        change(state);
        false
    });
}

async fn connection(client: TcpStream, begun: Begun, state: Arc<watch::Sender<State>>) {
    let mut changes = state.subscribe();
    let mut server = None;
    let ended = tokio::select! {
        biased;
        _ = changes.wait_for(|state| state.cuts != begun.cuts) => Err(ErrorKind::ConnectionReset.into()),
        ended = forward(&client, begun, &mut server, &state) => ended,
    };
    quietly(&state, |state| state.open -= 1);
    if ended.is_err() {
        reset(&client);
        server.iter().for_each(reset);
    }
}

async fn forward(
    client: &TcpStream,
    begun: Begun,
    server: &mut Option<TcpStream>,
    state: &watch::Sender<State>,
) -> Result<()> {
    let server = &*server.insert(TcpStream::connect((Ipv4Addr::LOCALHOST, begun.target)).await?);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let requests = pump(client, server, state, begun.number, Direction::Requests);
    let replies = pump(server, client, state, begun.number, Direction::Replies);
    tokio::try_join!(requests, replies)?;
    Ok(())
}

/// With no time to linger, the close that follows sends a reset.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Moves bytes until `from` ends, and then ends `to`.
async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    state: &watch::Sender<State>,
    number: usize,
    direction: Direction,
) -> Result<()> {
    let mut changes = state.subscribe();
    let mut chunk = vec![0; CHUNK];
    let mut kept = bytes::BytesMut::new();
    let mut ended = false;
    loop {
        let held = is_held(&changes.borrow_and_update(), number, direction);
        if ended && kept.is_empty() && !held {
            return SockRef::from(to).shutdown(Shutdown::Write);
        }
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            ready = to.writable(), if !held && !kept.is_empty() => {
                ready?;
                let written = write(to, &kept, state, direction)?;
                let _ = kept.split_to(written);
            }
            ready = from.readable(), if !ended && kept.len() < KEPT => {
                ready?;
                if let Some(read) = unless_blocked(from.try_read(&mut chunk))? {
                    ended = read == 0;
                    kept.extend_from_slice(&chunk[..read]);
                }
            }
        }
    }
}

fn is_held(state: &State, number: usize, direction: Direction) -> bool {
    let all = match direction {
        Direction::Requests => state.hold_requests,
        Direction::Replies => state.hold_replies,
    };
    all || number <= state.frozen
}

/// Writes what may be written now, and cuts everything with the last byte that may pass.
fn write(to: &TcpStream, kept: &[u8], state: &watch::Sender<State>, direction: Direction) -> Result<usize> {
    let limit = state
        .borrow()
        .cut_after
        .filter(|_| direction == Direction::Requests);
    let some = &kept[..limit.map_or(kept.len(), |limit| limit.min(kept.len()))];
    let written = if some.is_empty() {
        0
    } else {
        unless_blocked(to.try_write(some))?.unwrap_or(0)
    };
    match limit {
        Some(limit) if limit == written => {
            state.send_modify(|state| {
                state.cut_after = None;
                state.cuts += 1;
            });
            Err(Error::from(ErrorKind::ConnectionReset))
        }
        Some(limit) => {
            quietly(state, |state| state.cut_after = Some(limit - written));
            Ok(written)
        }
        None => Ok(written),
    }
}

fn unless_blocked(result: Result<usize>) -> Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}

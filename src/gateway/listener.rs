//! A listener with limits: so many connections, each closed once nothing moves on it.
//!
//! Without them a client that opens connections and says nothing would take every file descriptor
//! of the process, and the workers behind it would look dead.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at the same time; further ones wait in the kernel's backlog.
pub(super) const CONNECTIONS_MAX: usize = 1_024;
/// A connection on which no byte moves for this long is closed. Longer than a beat, so that an
/// agent's connection lives from one to the next.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(75);

/// A TCP listener that hands out limited connections.
pub(super) struct Limited {
    inner: TcpListener,
    free: Arc<Semaphore>,
    idle_limit: Duration,
}

impl Limited {
    pub(super) fn new(inner: TcpListener) -> Limited {
        Limited::with_limits(inner, CONNECTIONS_MAX, IDLE_LIMIT)
    }

    fn with_limits(inner: TcpListener, connections: usize, idle_limit: Duration) -> Limited {
        Limited { inner, free: Arc::new(Semaphore::new(connections)), idle_limit }
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.inner).await;
        // Answers are small and one at a time: waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let idle = Box::pin(tokio::time::sleep(self.idle_limit));
        (Connection { stream, idle, idle_limit: self.idle_limit, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that ends when idle and gives its place back when dropped.
pub(super) struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    idle_limit: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn moved(&mut self) {
        let until = Instant::now() + self.idle_limit;
        self.idle.as_mut().reset(until);
    }

    /// Ready with an error once the idle limit is over. The timer is rearmed only when bytes move,
    /// so a reader and a writer that both wait are both woken by it.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.idle.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "idle connection"))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            this.moved();
            return Poll::Ready(result);
        }
        this.poll_idle(cx).map(Err)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_write(cx, bytes) {
            this.moved();
            return Poll::Ready(result);
        }
        this.poll_idle(cx).map(Err)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_silent_connection_is_closed_and_its_place_is_given_back() {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inner.local_addr().unwrap();
        let mut listener = Limited::with_limits(inner, 1, Duration::from_millis(20));
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut talks = TcpStream::connect(address).await.unwrap();
        talks.write_all(b"x").await.unwrap();
        let (mut first, _) = listener.accept().await;
        let error = tokio::time::timeout(LIMIT, first.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(listener.free.available_permits(), 0);
        drop(first);
        let (mut second, _) = tokio::time::timeout(LIMIT, listener.accept()).await.unwrap();
        assert_eq!(second.read_u8().await.unwrap(), b'x');
    }
}

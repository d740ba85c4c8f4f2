//! A wire to a server that can be slow, cut, deaf at the worst moment, or a black hole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// See the module.
pub(crate) struct Proxy {
    port: u16,
    faults: Arc<Faults>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Default)]
struct Faults {
    /// Each piece waits so long, milliseconds.
    delay: AtomicU64,
    /// So many answers to a commit are still to be swallowed, each with its connection.
    swallow: AtomicU32,
    swallowed: AtomicU32,
    /// Which wires carry nothing, see [`Hole`].
    hole: AtomicU8,
}

/// Wires that stay open and carry nothing, until there is no hole any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hole {
    None = 0,
    /// Those that log rows are written over.
    Exports = 1,
    All = 2,
}

/// Period at which a wire in a hole looks whether it is over.
const HOLE_LOOK: Duration = Duration::from_millis(20);
/// What is on the wire where log rows are written, by INSERT or by COPY.
const EXPORTS: [&[u8]; 2] = [b"insert into public.system_logs", b"copy public.system_logs"];

impl Proxy {
    pub(crate) fn to(server: u16) -> Proxy {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let faults = Arc::new(Faults::default());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::clone(&faults);
        runtime.spawn(async move {
            let mut wires = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                wires.spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                        wire(client, server, &shared).await;
                    }
                });
            }
        });
        Proxy { port, faults, _runtime: runtime }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Every piece of either direction is held back so long.
    pub(crate) fn delay(&self, time: Duration) {
        self.faults.delay.store(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// The next commits happen, and nobody hears of it.
    pub(crate) fn swallow_answers(&self, commits: u32) {
        self.faults.swallow.store(commits, Ordering::SeqCst);
    }

    /// From now on these wires, and new ones of their kind, are black holes.
    pub(crate) fn set_hole(&self, hole: Hole) {
        self.faults.hole.store(hole as u8, Ordering::SeqCst);
    }

    pub(crate) fn swallowed(&self) -> u32 {
        self.faults.swallowed.load(Ordering::SeqCst)
    }
}

/// Carries bytes until one side ends, or the fault comes.
async fn wire(mut client: TcpStream, mut server: TcpStream, faults: &Faults) {
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut exports = false;
    loop {
        let is_up;
        let length = tokio::select! {
            read = client.read(&mut up) => { is_up = true; read }
            read = server.read(&mut down) => { is_up = false; read }
        };
        let Ok(length @ 1..) = length else { return };
        let delay = Duration::from_millis(faults.delay.load(Ordering::SeqCst));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let piece = if is_up { &up[..length] } else { &down[..length] };
        exports |= is_up && EXPORTS.iter().any(|words| piece.windows(words.len()).any(|text| text == *words));
        while faults.hole.load(Ordering::SeqCst) >= if exports { Hole::Exports } else { Hole::All } as u8 {
            tokio::time::sleep(HOLE_LOOK).await;
        }
        let to = if is_up { &mut server } else { &mut client };
        if to.write_all(piece).await.is_err() {
            return;
        }
        let is_commit = is_up && piece.windows(6).any(|text| text == b"commit");
        let take = |left: u32| left.checked_sub(1);
        if is_commit && faults.swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            // The server has done it when it answers; the answer ends here.
            let _ = server.read(&mut down).await;
            faults.swallowed.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}

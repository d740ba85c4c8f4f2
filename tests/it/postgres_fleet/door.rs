//! One address for agents, before whichever gateways there are.

use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};

/// Hands each connection to the first gateway that takes it.
pub(super) struct Door {
    port: u16,
    gateways: Arc<Mutex<Vec<u16>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Door {
    pub(super) fn open() -> Door {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let gateways = Arc::new(Mutex::new(Vec::new()));
        let known = Arc::clone(&gateways);
        runtime.spawn(async move {
            let mut wires = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                wires.spawn(pass_on(client, known.lock().unwrap().clone()));
            }
        });
        Door { port, gateways, _runtime: runtime }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn leads_to(&self, gateway: u16) {
        self.gateways.lock().unwrap().push(gateway);
    }

    pub(super) fn leads_no_more_to(&self, gateway: u16) {
        self.gateways.lock().unwrap().retain(|port| *port != gateway);
    }
}

async fn pass_on(mut client: TcpStream, gateways: Vec<u16>) {
    for port in gateways {
        if let Ok(mut gateway) = TcpStream::connect(("127.0.0.1", port)).await {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
            return;
        }
    }
}

//! Private certificate authorities, made by the openssl program, and TLS in front of a plain server.
//!
//! A server's certificate is for localhost and 127.0.0.1, and valid for a day.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Names that a certificate of the rig is for.
const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

/// An authority that nobody else trusts.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    /// A new one; its certificate says `name`.
    pub(crate) fn new(name: &str) -> Authority {
        let folder = tempfile::Builder::new().prefix("dogwatch-authority-").tempdir().unwrap();
        openssl(
            folder.path(),
            &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"],
            &["-keyout", "ca.key", "-out", "ca.pem", "-subj", &format!("/CN={name}")],
        );
        Authority { folder }
    }

    /// Its own certificate, PEM: what trusts it is given this file.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's certificate and key, PEM, for `names` as openssl writes them.
    fn issue_for(&self, names: &str) -> (PathBuf, PathBuf) {
        let path = |name: &str| self.folder.path().join(name);
        fs::write(path("names"), names).unwrap();
        openssl(
            self.folder.path(),
            &["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
            &["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server"],
        );
        openssl(
            self.folder.path(),
            &["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"],
            &["-days", "1", "-extfile", "names", "-out", "server.pem"],
        );
        (path("server.pem"), path("server.key"))
    }

    /// A server's certificate and key, PEM.
    pub(crate) fn issue(&self) -> (PathBuf, PathBuf) {
        self.issue_for(NAMES)
    }

    /// TLS in front of the plain server on `port` of this machine; the port of it. It ends with the
    /// process.
    pub(crate) fn serve(&self, port: u16) -> u16 {
        self.serve_as(port, NAMES)
    }

    /// The same with a certificate that is for somebody else.
    pub(crate) fn serve_as_another(&self, port: u16) -> u16 {
        self.serve_as(port, "subjectAltName=DNS:elsewhere.example")
    }

    fn serve_as(&self, port: u16, names: &str) -> u16 {
        let (certificate, key) = self.issue_for(names);
        let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (ready, started) = std::sync::mpsc::channel();
        #[expect(clippy::disallowed_methods, reason = "a server of the test's own, gone with the process")]
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(acceptor, port, ready));
        });
        started.recv().unwrap()
    }
}

async fn accept(acceptor: TlsAcceptor, port: u16, ready: std::sync::mpsc::Sender<u16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _ = ready.send(listener.local_addr().unwrap().port());
    let mut wires = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        wires.spawn(async move {
            // A client that does not trust us ends here.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

fn openssl(folder: &Path, what: &[&str], how: &[&str]) {
    let said = Command::new("openssl").current_dir(folder).args(what).args(how).output();
    let said = said.expect("openssl is not on this machine: install it (Debian: openssl; scripts/test.sh does it)");
    assert!(said.status.success(), "openssl {what:?}: {}", String::from_utf8_lossy(&said.stderr));
}

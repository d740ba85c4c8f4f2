//! A real HTTP server on loopback that answers what it is told, and remembers what it was asked.
//!
//! One file for the tests beside the code and the tests of the whole, which include it by its path.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;

/// A request as it came.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) number: usize,
    pub(crate) path: String,
    /// Header lines, names in lower case.
    pub(crate) head: String,
    /// Unpacked.
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn logs(&self) -> ExportLogsServiceRequest {
        ExportLogsServiceRequest::decode(self.body.as_slice()).unwrap()
    }

    pub(crate) fn traces(&self) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest::decode(self.body.as_slice()).unwrap()
    }
}

/// What it does with a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Answers.
    Http { status: u16, headers: String, body: Vec<u8> },
    /// Says nothing and keeps the connection.
    Hang,
    /// Closes without a word.
    Close,
    /// Sends these bytes and closes.
    Raw(&'static [u8]),
    /// Sends these bytes, keeps the connection and says no more.
    HalfOpen(&'static [u8]),
}

impl Reply {
    pub(crate) fn status(status: u16) -> Reply {
        Reply::Http { status, headers: String::new(), body: Vec::new() }
    }

    pub(crate) fn text(status: u16, headers: &str, body: &str) -> Reply {
        Reply::Http { status, headers: headers.into(), body: body.into() }
    }

    pub(crate) fn json(body: &str) -> Reply {
        Reply::text(200, "Content-Type: application/json\r\n", body)
    }

    pub(crate) fn protobuf(status: u16, body: Vec<u8>) -> Reply {
        Reply::Http { status, headers: "Content-Type: application/x-protobuf\r\n".into(), body }
    }

    pub(crate) fn taken() -> Reply {
        Reply::protobuf(200, ExportLogsServiceResponse::default().encode_to_vec())
    }

    pub(crate) fn partial(rejected: i64, message: &str) -> Reply {
        let partial =
            ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: message.to_owned() };
        Reply::protobuf(200, ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec())
    }
}

/// The running server; it ends with the process.
pub(crate) struct Receiver {
    pub(crate) base: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    pub(crate) fn start(mut answer: impl FnMut(&Request) -> Reply + Send + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        #[expect(clippy::disallowed_methods, reason = "a server of the test's own, gone with the process")]
        thread::spawn(move || {
            let mut kept = Vec::new();
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                // A client that gives up before it has sent anything is no request.
                let Some(request) = read(&stream, number) else { continue };
                let reply = answer(&request);
                requests.lock().unwrap().push(request);
                // The other side may have given up by now.
                let _ = match reply {
                    Reply::Http { status, headers, body } => {
                        let length = body.len();
                        let head = format!(
                            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
                        );
                        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body))
                    }
                    Reply::Hang => {
                        kept.push(stream);
                        Ok(())
                    }
                    Reply::Close => stream.shutdown(Shutdown::Both),
                    Reply::Raw(bytes) => stream.write_all(bytes),
                    Reply::HalfOpen(bytes) => {
                        let written = stream.write_all(bytes);
                        kept.push(stream);
                        written
                    }
                };
            }
        });
        Receiver { base, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream, number: usize) -> Option<Request> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let lines = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let lines: Vec<String> = lines.collect();
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let head: Vec<String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| format!("{}:{value}", name.to_ascii_lowercase()))
        .collect();
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    if head.iter().any(|line| line == "content-encoding: gzip") {
        let mut plain = Vec::new();
        GzDecoder::new(body.as_slice()).read_to_end(&mut plain).unwrap();
        body = plain;
    }
    Some(Request { number, path, head: head.join("\n"), body })
}

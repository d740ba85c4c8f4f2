//! An OTLP/HTTP receiver that counts log records and throws them away, as a process of its own.
//!
//! It unpacks what is packed, and reads lengths only, so that it is never the slowest of the chain.

use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::GzDecoder;

/// The argument that makes the bench this receiver.
pub(crate) const WORD: &str = "discard-otlp";

static RECORDS: AtomicU64 = AtomicU64::new(0);

/// A running receiver; it ends when this is dropped.
pub(crate) struct Receiver {
    child: Child,
    pub(crate) url: String,
}

impl Receiver {
    pub(crate) fn start() -> Result<Receiver, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg(WORD).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut url = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut url)?;
        Ok(Receiver { child, url: url.trim().to_owned() })
    }

    /// Log records that have come so far.
    pub(crate) fn records(&self) -> Result<u64, Box<dyn Error>> {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://"))?;
        stream.write_all(b"GET /count HTTP/1.1\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.rsplit("\r\n").next().unwrap_or_default().parse()?)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The receiver's own main.
pub(crate) fn serve() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut out = io::stdout();
    writeln!(out, "http://{}", listener.local_addr()?)?;
    out.flush()?;
    #[expect(clippy::disallowed_methods, reason = "a receiver of the bench's own, killed at its end")]
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            let _ = connection(stream);
        });
    }
    Ok(())
}

fn connection(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1 << 18, stream.try_clone()?);
    let (mut body, mut plain) = (Vec::new(), Vec::new());
    loop {
        let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
        let (mut chunked, mut is_gzip) = (false, false);
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        while reader.read_line(&mut line)? > 2 {
            let lower = line.to_ascii_lowercase();
            if let Some(text) = lower.strip_prefix("content-length:") {
                length = text.trim().parse().unwrap_or(0);
            }
            chunked |= lower.starts_with("transfer-encoding:") && lower.contains("chunked");
            is_gzip |= lower.starts_with("content-encoding:") && lower.contains("gzip");
            line.clear();
        }
        if first.starts_with("GET /count") {
            let count = RECORDS.load(Ordering::Relaxed).to_string();
            return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{count}", count.len());
        }
        body.clear();
        if chunked {
            read_chunks(&mut reader, &mut body)?;
        } else {
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
        }
        plain.clear();
        if is_gzip {
            GzDecoder::new(body.as_slice()).read_to_end(&mut plain)?;
        }
        RECORDS.fetch_add(count(if is_gzip { &plain } else { &body }, 1), Ordering::Relaxed);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")?;
    }
}

fn read_chunks(reader: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let at = body.len();
        body.resize(at + length, 0);
        reader.read_exact(&mut body[at..])?;
        reader.read_line(&mut line)?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Records in a request: ExportLogsServiceRequest.resource_logs (1) -> ResourceLogs.scope_logs (2)
/// -> ScopeLogs.log_records (2).
fn count(mut bytes: &[u8], depth: u8) -> u64 {
    let mut records = 0;
    while let Some((field, content, rest)) = next_field(bytes) {
        records += match (depth, field) {
            (1, 1) => count(content, 2),
            (2, 2) => count(content, 3),
            (3, 2) => 1,
            _ => 0,
        };
        bytes = rest;
    }
    records
}

/// The next field, where it has a length: number, content, what follows.
fn next_field(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (key, bytes) = varint(bytes)?;
    let (length, bytes) = if key & 7 == 2 { varint(bytes)? } else { return None };
    let (content, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    Some((key >> 3, content, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let value = bytes[..=end].iter().rev().fold(0_u64, |value, byte| (value << 7) | u64::from(byte & 0x7f));
    Some((value, &bytes[end + 1..]))
}

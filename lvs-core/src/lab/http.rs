//! HTTP/1.0 as far as the Lab needs it: one request, one answer of known bytes, one connection.
//!
//! Both sides are machines over a byte stream; they know no addresses and no packets.

use core::time::Duration;
use std::sync::Arc;

use smoltcp::socket::tcp;

use crate::{Endpoint, Instant};

/// The longest answer that a server gives, in bytes.
pub const MAX_BODY: u64 = 1 << 30;

/// The longest request or answer header that is read, in bytes.
const MAX_HEAD: usize = 1024;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// An exchange to be made: one connection, one GET, an answer of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Whom to ask.
    pub target: Endpoint,
    /// How long the answer's body shall be, in bytes.
    pub body: u64,
    /// How long the exchange may take.
    pub timeout: Duration,
}

impl Request {
    /// Asks for `body` bytes within a minute.
    pub const fn new(target: Endpoint, body: u64) -> Self {
        Self { target, body, timeout: Duration::from_secs(60) }
    }
}

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The SYN was answered with a RST.
    #[error("refused")]
    Refused,
    /// The SYN was answered with an ICMP error.
    #[error("unreachable")]
    Unreachable,
    /// An open connection was reset.
    #[error("reset")]
    Reset,
    /// The peer closed before the answer was complete.
    #[error("closed early")]
    ClosedEarly,
    /// The answer is not what was asked for.
    #[error("wrong bytes")]
    WrongBytes,
    /// It took longer than it may.
    #[error("timed out")]
    TimedOut,
    /// The client had no port left, or no address of the target's family.
    #[error("no local port")]
    NoPort,
    /// The client itself was killed.
    #[error("client killed")]
    Killed,
}

/// An exchange that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Number in the order of asking, from 0.
    pub id: u64,
    /// The client's end of the connection.
    pub local: Endpoint,
    /// What was asked for.
    pub request: Request,
    /// Who answered, as far as the answer came.
    pub server: Option<Arc<str>>,
    /// When the SYN was sent.
    pub started: Instant,
    /// When the answer was complete, or the failure noticed.
    pub ended: Instant,
    /// Bytes of the body that came, all of them right.
    pub received: u64,
    /// Whether the answer was complete and right.
    pub outcome: Result<(), Failure>,
}

/// An exchange under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenExchange {
    /// Number in the order of asking, from 0.
    pub id: u64,
    /// The client's end of the connection.
    pub local: Endpoint,
    /// What was asked for.
    pub request: Request,
    /// Whether the connection is established.
    pub connected: bool,
}

/// Byte `index` of every body.
const fn body_byte(index: u64) -> u8 {
    // 251 is prime: shifted or repeated segments do not pass for one another.
    (index % 251) as u8
}

/// The server's side of one connection.
#[derive(Debug, Default)]
pub(super) struct Serving {
    head: Vec<u8>,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Answer {
    head: Vec<u8>,
    head_sent: usize,
    body: u64,
    body_sent: u64,
}

impl Serving {
    /// Reads and writes what the socket lets it.
    pub(super) fn drive(&mut self, socket: &mut tcp::Socket<'_>, name: &str, default_body: u64) {
        if self.answer.is_none() {
            while socket.can_recv() {
                let read = socket.recv(|bytes| {
                    self.head.extend_from_slice(bytes);
                    (bytes.len(), ())
                });
                if read.is_err() || self.head.len() > MAX_HEAD {
                    socket.abort();
                    return;
                }
            }
            if self.head.windows(END_OF_HEAD.len()).any(|window| window == END_OF_HEAD) {
                self.answer = Some(answer_to(&self.head, name, default_body));
            } else if !socket.may_recv() && socket.may_send() {
                socket.close(); // the client went away before it asked
            }
        }
        let Some(answer) = &mut self.answer else { return };
        while socket.can_send() && !answer.is_sent() {
            if socket.send(|space| (answer.fill(space), ())).is_err() {
                return;
            }
        }
        if answer.is_sent() {
            socket.close();
        }
    }
}

impl Answer {
    fn is_sent(&self) -> bool {
        self.head_sent == self.head.len() && self.body_sent == self.body
    }

    /// Writes the next bytes; returns how many.
    fn fill(&mut self, space: &mut [u8]) -> usize {
        let head = &self.head[self.head_sent..];
        let head_len = head.len().min(space.len());
        space[..head_len].copy_from_slice(&head[..head_len]);
        self.head_sent += head_len;
        let mut len = head_len;
        for byte in &mut space[head_len..] {
            if self.body_sent == self.body {
                break;
            }
            *byte = body_byte(self.body_sent);
            self.body_sent += 1;
            len += 1;
        }
        len
    }
}

fn answer_to(head: &[u8], name: &str, default_body: u64) -> Answer {
    let path = core::str::from_utf8(head).ok().and_then(|text| text.strip_prefix("GET /")?.split(' ').next());
    let (status, body) = match path {
        Some("") => ("200 OK", default_body),
        Some(number) => match number.parse() {
            Ok(body) if body <= MAX_BODY => ("200 OK", body),
            _ => ("404 Not Found", 0),
        },
        None => ("400 Bad Request", 0),
    };
    let head = format!("HTTP/1.0 {status}\r\nServer: {name}\r\nContent-Length: {body}\r\n\r\n");
    Answer { head: head.into_bytes(), head_sent: 0, body, body_sent: 0 }
}

/// The client's side of one connection.
#[derive(Debug)]
pub(super) struct Fetching {
    pub(super) id: u64,
    pub(super) request: Request,
    pub(super) started: Instant,
    sent: bool,
    head: Vec<u8>,
    in_body: bool,
    pub(super) server: Option<Arc<str>>,
    pub(super) received: u64,
    pub(super) connected: bool,
}

impl Fetching {
    pub(super) fn new(id: u64, request: Request, started: Instant) -> Self {
        Self {
            id,
            request,
            started,
            sent: false,
            head: Vec::new(),
            in_body: false,
            server: None,
            received: 0,
            connected: false,
        }
    }

    /// Reads and writes what the socket lets it; the outcome, when there is one.
    pub(super) fn drive(&mut self, socket: &mut tcp::Socket<'_>) -> Option<Result<(), Failure>> {
        match socket.state() {
            tcp::State::SynSent => return None,
            tcp::State::Closed => {
                return Some(Err(if self.connected { Failure::Reset } else { Failure::Refused }));
            }
            _ => self.connected = true,
        }
        if !self.sent && socket.can_send() {
            let text =
                format!("GET /{} HTTP/1.0\r\nHost: {}\r\n\r\n", self.request.body, self.request.target);
            // The send buffer is empty and larger than any request.
            self.sent = socket.send_slice(text.as_bytes()) == Ok(text.len());
        }
        while socket.can_recv() {
            let read = socket.recv(|bytes| (bytes.len(), self.read(bytes)));
            if read != Ok(Ok(())) {
                return Some(Err(Failure::WrongBytes));
            }
        }
        if self.in_body && self.received == self.request.body {
            return Some(Ok(()));
        }
        (!socket.may_recv()).then_some(Err(Failure::ClosedEarly))
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if !self.in_body {
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD)
            else {
                return if self.head.len() > MAX_HEAD { Err(Failure::WrongBytes) } else { Ok(()) };
            };
            let body = self.head.split_off(end + END_OF_HEAD.len());
            self.read_head()?;
            self.in_body = true;
            return self.read_body(&body);
        }
        self.read_body(bytes)
    }

    fn read_body(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for byte in bytes {
            if self.received == self.request.body || *byte != body_byte(self.received) {
                return Err(Failure::WrongBytes);
            }
            self.received += 1;
        }
        Ok(())
    }

    fn read_head(&mut self) -> Result<(), Failure> {
        let text = core::str::from_utf8(&self.head).map_err(|_| Failure::WrongBytes)?;
        let mut lines = text.split("\r\n");
        let length = format!("Content-Length: {}", self.request.body);
        let right = lines.next() == Some("HTTP/1.0 200 OK") && lines.clone().any(|line| line == length);
        self.server = lines.find_map(|line| line.strip_prefix("Server: ")).map(Arc::from);
        if right { Ok(()) } else { Err(Failure::WrongBytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetching(body: u64) -> Fetching {
        Fetching::new(0, Request::new("10.0.0.1:80".parse().unwrap(), body), Instant::ZERO)
    }

    fn whole_answer(request: &str) -> Vec<u8> {
        let mut answer = answer_to(request.as_bytes(), "web", 7);
        let mut space = vec![0; 4096];
        let len = answer.fill(&mut space);
        assert!(answer.is_sent());
        space.truncate(len);
        space
    }

    #[test]
    fn the_client_understands_the_server_in_any_pieces() {
        let answer = whole_answer("GET /300 HTTP/1.0\r\n\r\n");
        for size in [1, 7, 64, 4096] {
            let mut client = fetching(300);
            for piece in answer.chunks(size) {
                assert_eq!(client.read(piece), Ok(()), "pieces of {size}");
            }
            assert_eq!((client.received, client.server.as_deref()), (300, Some("web")));
        }
    }

    #[test]
    fn wrong_bytes_are_noticed() {
        let mut answer = whole_answer("GET /300 HTTP/1.0\r\n\r\n");
        *answer.last_mut().unwrap() ^= 1;
        assert_eq!(fetching(300).read(&answer), Err(Failure::WrongBytes));
        assert_eq!(fetching(299).read(&whole_answer("GET /300 HTTP/1.0\r\n\r\n")), Err(Failure::WrongBytes));
        assert_eq!(fetching(0).read(&whole_answer("GET /what HTTP/1.0\r\n\r\n")), Err(Failure::WrongBytes));
        assert_eq!(fetching(0).read(&[b'x'; 2000]), Err(Failure::WrongBytes));
    }

    #[test]
    fn the_path_says_how_long_the_body_is() {
        assert!(
            whole_answer("GET / HTTP/1.0\r\n\r\n")
                .ends_with(b"Content-Length: 7\r\n\r\n\0\x01\x02\x03\x04\x05\x06")
        );
        assert!(whole_answer("GET /2 HTTP/1.0\r\n\r\n").ends_with(b"Content-Length: 2\r\n\r\n\0\x01"));
        assert!(whole_answer("GET /99999999999 HTTP/1.0\r\n\r\n").starts_with(b"HTTP/1.0 404"));
        assert!(whole_answer("BREW / HTCPCP/1.0\r\n\r\n").starts_with(b"HTTP/1.0 400"));
    }
}

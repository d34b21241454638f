//! A few pages over HTTP, for whoever may connect: bytes of strangers, connections that say nothing and
//! such that take nothing cost a bounded time of one of a few threads, and no more. One request for each
//! connection; scrapers come every some seconds.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Connections that are answered at once. More wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// A request is no longer.
const REQUEST_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// So long a request may take to arrive.
const REQUEST_MAX: Duration = Duration::from_secs(2);
/// And a page to leave.
const REPLY_MAX: Duration = Duration::from_secs(30);
/// And the other end to close, once it has its page.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// What is still taken in then.
const CLOSE_BYTES_MAX: usize = 64 << 10;
/// Between two attempts to take connections, when there are no descriptors left for them.
const PAUSE: Duration = Duration::from_secs(1);

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Such as 200.
    pub status: u16,
    /// Its media type.
    pub content_type: &'static str,
    /// What it says.
    pub text: String,
}

impl Page {
    /// A line of plain text.
    #[must_use]
    pub fn line(status: u16, line: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            text: format!("{line}\n"),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The page's path, without what is behind a question mark.
    pub path: &'a str,
    /// Only what is said of the page is wanted.
    pub is_head: bool,
}

/// Reads what has arrived so far. None while there is more to come.
///
/// # Errors
/// What is answered to something else than a request for a page.
pub fn request(bytes: &[u8]) -> Result<Option<Request<'_>>, Page> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => {
            let line = format!("the request has more than {REQUEST_BYTES_MAX} bytes");
            return Err(Page::line(400, &line));
        }
        Err(error) => return Err(Page::line(400, &format!("no HTTP request: {error}"))),
    }
    let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
    if !matches!(method, "GET" | "HEAD") {
        return Err(Page::line(405, "only GET and HEAD are answered"));
    }
    Ok(Some(Request {
        path: target.split('?').next().unwrap_or(target),
        is_head: method == "HEAD",
    }))
}

/// Answers requests with what `page` says of their paths, for as long as the process lives. What keeps
/// connections from being taken is told to `say`.
///
/// # Errors
/// There is no thread to be had.
pub fn serve(
    listener: &TcpListener,
    page: &(dyn Fn(&str) -> Page + Sync),
    say: &(dyn Fn(&str) + Sync),
) -> io::Result<()> {
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            let connections = || {
                loop {
                    match listener.accept() {
                        // Whoever goes away before the end is not missed.
                        Ok((stream, _)) => drop(connection(&stream, page)),
                        Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                        Err(error) => {
                            say(&format!("no connection can be taken: {error}"));
                            thread::sleep(PAUSE);
                        }
                    }
                }
            };
            thread::Builder::new().spawn_scoped(scope, connections)?;
        }
        Ok(())
    })
}

/// From its request to its end.
fn connection(stream: &TcpStream, page: &dyn Fn(&str) -> Page) -> io::Result<()> {
    let end = Instant::now() + REQUEST_MAX;
    let mut bytes = Vec::new();
    let (page, is_head) = loop {
        match request(&bytes) {
            Ok(Some(request)) => break (page(request.path), request.is_head),
            Ok(None) => {
                let room = REQUEST_BYTES_MAX - bytes.len();
                if !read(stream, &mut bytes, room, end)? {
                    return Ok(());
                }
            }
            Err(page) => break (page, false),
        }
    };
    let end = Instant::now() + REPLY_MAX;
    write(stream, head(&page).as_bytes(), end)?;
    if !is_head {
        write(stream, page.text.as_bytes(), end)?;
    }
    // Closed with something unread, the connection would be reset, and the page might be lost.
    stream.shutdown(Shutdown::Write)?;
    let end = Instant::now() + CLOSE_MAX;
    bytes.clear();
    while bytes.len() < CLOSE_BYTES_MAX {
        let room = CLOSE_BYTES_MAX - bytes.len();
        if !read(stream, &mut bytes, room, end)? {
            break;
        }
    }
    Ok(())
}

fn head(page: &Page) -> String {
    let reason = match page.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed\r\nAllow: GET, HEAD",
        _ => "Internal Server Error",
    };
    format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.status,
        page.content_type,
        page.text.len()
    )
}

/// What is left until then.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// Takes in something more, of this length at most. False at the end.
fn read(mut stream: &TcpStream, to: &mut Vec<u8>, room: usize, end: Instant) -> io::Result<bool> {
    let mut bytes = [0; 1024];
    let room = room.min(bytes.len());
    stream.set_read_timeout(Some(left(end)?))?;
    let count = stream.read(&mut bytes[..room])?;
    to.extend_from_slice(&bytes[..count]);
    Ok(count > 0)
}

fn write(mut stream: &TcpStream, mut bytes: &[u8], end: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(end)?))?;
        match stream.write(bytes)? {
            0 => return Err(ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(bytes: &[u8]) -> u16 {
        request(bytes).expect_err("refused").status
    }

    #[test]
    fn a_request_for_a_page_is_read_once_it_is_whole() {
        let whole = b"GET /metrics?x=1 HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(request(&whole[..end]), Ok(None), "{end}");
        }
        let expected = |is_head| {
            Ok(Some(Request {
                path: "/metrics",
                is_head,
            }))
        };
        assert_eq!(request(whole), expected(false));
        assert_eq!(request(b"HEAD /metrics HTTP/1.0\r\n\r\n"), expected(true));
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n{}"), 405);
        assert_eq!(status(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400);
        assert_eq!(status(b"\x16\x03\x01\x02\x00\x01"), 400, "TLS");
        assert_eq!(status(b"GET /\xff HTTP/1.1\r\n\r\n"), 400);
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(
            status(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()),
            400
        );
        let long = format!("GET /{}", "x".repeat(REQUEST_BYTES_MAX));
        assert_eq!(status(long.as_bytes()), 400);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_refused_or_the_beginning_of_one(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            line in "(GET|HEAD|PUT|[A-Z]{0,5}) [/a-z?%]{0,9} ?HTTP/[0-2].[0-2]\r?\n(\r\n)?",
        ) {
            for bytes in [&bytes[..], line.as_bytes(), &[line.as_bytes(), &bytes].concat()] {
                match request(bytes) {
                    Ok(Some(request)) => prop_assert!(!request.path.contains('?')),
                    Ok(None) => prop_assert!(bytes.len() < REQUEST_BYTES_MAX),
                    Err(page) => prop_assert!(matches!(page.status, 400 | 405)),
                }
            }
        }
    }
}

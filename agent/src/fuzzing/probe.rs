//! What answers at a readiness port, which may be anything that runs in a pod: the first two bytes
//! say in what pieces the rest comes and what follows it.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use http_body_util::Empty;
use hyper::{Request, StatusCode, body::Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::request;

/// The most that is read of one answer's head: hyper's own limit of 408 KiB (`DEFAULT_MAX_BUFFER_SIZE`
/// in its proto/h1/io.rs) and one read more.
const MAX_HEAD: usize = 1 << 20;

pub(super) fn run(data: &[u8]) {
    let [pieces, then, answer @ ..] = data else { return };
    let peer = Peer {
        answer: answer.to_vec(),
        piece: usize::from(*pieces).max(1),
        then: match then % 3 {
            0 => Then::End,
            1 => Then::Silence,
            _ => Then::Again,
        },
        sent: 0,
    };
    let is_informational = |status: &StatusCode| status.is_informational();
    let Some(told) = ask(peer) else { return };
    assert!(!told.as_ref().is_some_and(is_informational), "{told:?} is not the last word");
    let Some(status) = told else { return };
    // Nobody is called ready who has not said so.
    let said = format!(" {}", status.as_str());
    let text = String::from_utf8_lossy(answer);
    let heads = text.matches("HTTP/1.").count();
    // What is sent again may give the head only where its end and its beginning meet.
    let twice = [answer, answer].concat();
    let twice = String::from_utf8_lossy(&twice);
    let has_said = twice.contains(&said) && (heads > 0 || twice.contains("HTTP/1."));
    assert!(has_said, "{status} was never said");
}

/// The status; `None` within if the answer is none. `None` if nothing comes any more, or no end.
fn ask(peer: Peer) -> Option<Option<StatusCode>> {
    let request = Request::get("/healthz/ready").body(Empty::<Bytes>::new()).expect("it is one");
    let mut status = pin!(request::status(peer, request));
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    while woken.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(status) = status.as_mut().poll(&mut context) {
            return Some(status.ok());
        }
    }
    None
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What it does when it has said everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    End,
    Silence,
    Again,
}

/// The other end of a connection.
struct Peer {
    answer: Vec<u8>,
    piece: usize,
    then: Then,
    sent: usize,
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { answer, piece, then, sent } = &mut *self;
        let at = match then {
            _ if *sent < answer.len() => *sent,
            Then::End => return Poll::Ready(Ok(())),
            // The asker's time is up, which is no part of this.
            Then::Again if !answer.is_empty() && *sent < 2 * MAX_HEAD => *sent % answer.len(),
            Then::Silence | Then::Again => return Poll::Pending,
        };
        let rest = &answer[at..];
        let rest = &rest[..rest.len().min(*piece).min(buffer.remaining())];
        buffer.put_slice(rest);
        *sent += rest.len();
        // Only answers that are not the last one may go on for longer than a head.
        let is_long = *sent > MAX_HEAD + rest.len();
        let goes_on = || answer.windows(7).any(|part| part.starts_with(b"HTTP/1."));
        assert!(!is_long || goes_on(), "a head without an end is read on");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 503 Service Unavailable\r\n\r\nnot yet",
        "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffff\r\nx",
        "HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: ",
        "HTTP/2.0 200 OK\r\n\r\n",
        "",
    ];
    let ways = [(1, 0), (255, 1), (255, 2)];
    let seeds = answers.iter().flat_map(|answer| ways.map(|way| (way, answer)));
    seeds.map(|((piece, then), answer)| [&[piece, then], answer.as_bytes()].concat()).collect()
}

//! GETs over sockets that are already in the right network namespace.

use std::{io, net::SocketAddr, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use http_body_util::Empty;
use hyper::{Request, StatusCode, body::Bytes, header};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::TcpSocket,
    time::{Instant, timeout_at},
};

use crate::{core::PodUid, request};

/// All questions of a round: Istio's own request timeout (`pilot-agent wait --requestTimeoutMillis`).
pub(super) const TIMEOUT: Duration = Duration::from_millis(500);

/// A GET that is about to be made.
pub(super) struct Question {
    /// Whose check it is, for the log.
    uid: PodUid,
    /// Which of the pod's checks it belongs to.
    pub(super) check: usize,
    /// Whom to ask.
    pub(super) address: SocketAddr,
    /// Path with its query.
    pub(super) path: String,
    /// Of the namespace in which to ask.
    pub(super) socket: Socket,
}

// === impl Question ===

impl Question {
    /// Must be called inside the namespace in which to ask.
    pub(super) fn new(
        uid: &PodUid,
        check: usize,
        address: SocketAddr,
        path: &str,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(Self { uid: uid.clone(), check, address, path: path.to_owned(), socket })
    }

    async fn ask(self) -> Result<StatusCode, Failure> {
        let Self { uid, check: _, address, path, socket } = self;
        let request = Request::get(&path)
            .header(header::HOST, address.to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::Answer(error.to_string()))?;
        let stream = TcpSocket::from_std_stream(socket.into())
            .connect(address)
            .await
            .map_err(Failure::Connect)?;
        let status = request::status(stream, request)
            .await
            .map_err(|error| Failure::Answer(error.to_string()))?;
        tracing::trace!(pod_uid = %uid, %address, path, %status, "asked");
        Ok(status)
    }
}

/// Why a question has no answer.
enum Failure {
    Connect(io::Error),
    Answer(String),
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The connection was refused.
    Refused,
    /// None came in time.
    Silent,
    /// None that is one.
    Failed(String),
    /// 200 or another 2xx (Dapr's is 204) means ready; any other status does not.
    Status(u16),
}

impl Answer {
    /// The higher, the more it tells of the proxy.
    const fn rank(&self) -> u8 {
        match self {
            Self::Refused => 0,
            Self::Silent => 1,
            Self::Failed(_) => 2,
            Self::Status(_) => 3,
        }
    }
}

/// What asking all came to: a check, by its index, and what it said.
pub(super) type Asked = (usize, Answer);

/// Asks all at once, until one is answered with 2xx.
///
/// # Errors
///
/// If none is: what tells most of the answers, of the first check that gave it; `None` if nobody
/// was asked.
pub(super) async fn first_ready(questions: Vec<Question>) -> Result<usize, Option<Asked>> {
    let mut asked: Vec<Asked> =
        questions.iter().map(|question| (question.check, Answer::Silent)).collect();
    let mut answers: FuturesUnordered<_> = questions
        .into_iter()
        .enumerate()
        .map(|(index, question)| async move { (index, question.ask().await) })
        .collect();
    let until = Instant::now() + TIMEOUT;
    while let Ok(Some((index, answer))) = timeout_at(until, answers.next()).await {
        let (check, told) = &mut asked[index];
        *told = match answer {
            Ok(status) if status.is_success() => return Ok(*check),
            Ok(status) => Answer::Status(status.as_u16()),
            Err(Failure::Connect(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Answer::Refused
            }
            Err(Failure::Connect(error)) => Answer::Failed(error.to_string()),
            Err(Failure::Answer(error)) => Answer::Failed(error),
        };
    }
    // Of equal ones the last is taken.
    Err(asked.into_iter().rev().max_by_key(|(_, answer)| answer.rank()))
}

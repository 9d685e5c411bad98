//! GETs over sockets that are already in the right network namespace.

use std::{io, net::SocketAddr, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use http_body_util::Empty;
use hyper::{Request, body::Bytes, header};
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpSocket, time::timeout};

use crate::{core::PodUid, request};

/// All questions of a round: Istio's own request timeout (`pilot-agent wait --requestTimeoutMillis`).
const TIMEOUT: Duration = Duration::from_millis(500);

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

    /// Whether the answer is 200 or another 2xx (Dapr's is 204). Any other answer, and none, mean
    /// not ready.
    async fn ask(self) -> Option<usize> {
        let Self { uid, check, address, path, socket } = self;
        let request = Request::get(&path)
            .header(header::HOST, address.to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new());
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(pod_uid = %uid, path, %error, "no path of a GET");
                return None;
            }
        };
        let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await.ok()?;
        let status = request::status(stream, request).await.ok()?;
        tracing::trace!(pod_uid = %uid, %address, path, %status, "asked");
        status.is_success().then_some(check)
    }
}

/// Asks all at once; the check that is the first to be answered with 2xx.
pub(super) async fn first_ready(questions: Vec<Question>) -> Option<usize> {
    let mut answers: FuturesUnordered<_> = questions.into_iter().map(Question::ask).collect();
    let first = async {
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    };
    timeout(TIMEOUT, first).await.ok().flatten()
}

//! The commands' side of the socket. Whatever goes wrong is one line that says what to do.

use std::{
    io::{self, ErrorKind},
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};

use super::protocol::Problem;

/// How long an answer may take that does not last: somewhat longer than the agent takes at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);

/// Of the words of a failed request.
const MAX_PROBLEM_BYTES: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent answers at {} ({}): run this in the container of the agent on the pod's node, which \
         kubectl -n holdfast get pods -o wide --field-selector spec.nodeName=NODE names: \
         kubectl -n holdfast exec AGENT -- holdfast status", .path.display(), in_words(.why)
    )]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Why; in full in the message.
        why: io::Error,
    },
    /// The socket is for somebody else.
    #[error("the agent's socket {} is not for this user: run this as root", .path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The connection has ended before the answer has.
    #[error("the agent at {} has gone away: {why}", .path.display())]
    Gone {
        /// The socket.
        path: PathBuf,
        /// How it is known.
        why: String,
    },
    /// The agent says no.
    #[error("{why}")]
    Refused {
        /// By which status.
        status: StatusCode,
        /// In its words.
        why: String,
    },
    /// The answer is none.
    #[error("the agent at {} answers something else ({source}): is it of another version?", .path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The runtime cannot be made.
    #[error("failed to ask the agent: {0}")]
    Runtime(#[source] io::Error),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<B> {
    /// There is no more.
    Complete,
    /// The user has interrupted it.
    Interrupted,
    /// Whoever took it wanted no more.
    Broken(B),
}

/// Asks the agent.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

// === impl Client ===

impl Client {
    /// Of the agent that answers at `path`.
    ///
    /// # Errors
    ///
    /// If the system lacks what asking needs.
    pub fn new(path: &Path) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { path: path.to_owned(), runtime: runtime.map_err(ClientError::Runtime)? })
    }

    /// `GET`, and the answer.
    ///
    /// # Errors
    ///
    /// If nobody answers, or with a refusal.
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, target, Full::default())
    }

    /// `GET`, and the answer as it comes.
    ///
    /// # Errors
    ///
    /// If nobody answers, or with a refusal.
    pub fn get_raw(&self, target: &str) -> Result<Bytes, ClientError> {
        let exchange = async {
            let answer = self.request(Method::GET, target, Full::default()).await?;
            let body = answer.into_body().collect().await.map_err(|error| self.gone(&error))?;
            Ok(body.to_bytes())
        };
        self.runtime.block_on(self.within(exchange))
    }

    /// Another method with a body, and the answer.
    ///
    /// # Errors
    ///
    /// If nobody answers, or with a refusal.
    pub fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|source| self.no_answer(source))?;
        self.exchange(method, target, Full::from(body))
    }

    /// `GET`, and each piece of the answer as it comes, until it ends, `piece` breaks it off or the
    /// user interrupts it.
    ///
    /// # Errors
    ///
    /// If nobody answers, or with a refusal, or the agent goes before its answer is complete.
    pub fn stream<B>(
        &self,
        target: &str,
        mut piece: impl FnMut(&[u8]) -> ControlFlow<B>,
    ) -> Result<End<B>, ClientError> {
        let stream = async {
            let answer = self.within(self.request(Method::GET, target, Full::default())).await?;
            let mut body = answer.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.gone(&error))?;
                if let ControlFlow::Break(last) =
                    frame.data_ref().map_or(ControlFlow::Continue(()), |data| piece(data))
                {
                    return Ok(End::Broken(last));
                }
            }
            Ok(End::Complete)
        };
        self.runtime.block_on(async {
            tokio::select! {
                result = stream => result,
                // Without a handler for it the signal ends the process, which does as well.
                Ok(()) = tokio::signal::ctrl_c() => Ok(End::Interrupted),
            }
        })
    }

    /// That the agent has ended although it was to go on.
    #[must_use]
    pub fn ended(&self) -> ClientError {
        ClientError::Gone { path: self.path.clone(), why: "it has ended".to_owned() }
    }

    fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Full<Bytes>,
    ) -> Result<T, ClientError> {
        let exchange = async {
            let answer = self.request(method, target, body).await?;
            let body = answer.into_body().collect().await.map_err(|error| self.gone(&error))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|source| self.no_answer(source))
        };
        self.runtime.block_on(self.within(exchange))
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        timeout(ANSWER_WITHIN, work).await.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
            Err(ClientError::Gone { path: self.path.clone(), why })
        })
    }

    async fn request(
        &self,
        method: Method,
        target: &str,
        body: Full<Bytes>,
    ) -> Result<Response<Incoming>, ClientError> {
        let path = || self.path.clone();
        let stream = UnixStream::connect(&self.path).await.map_err(|why| match why.kind() {
            ErrorKind::PermissionDenied => ClientError::Denied { path: path() },
            _ => ClientError::NoAgent { path: path(), why },
        })?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.gone(&error))?;
        // What goes wrong with it, who waits for the answer is told.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "holdfast")
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .expect("targets are made here, of parts that have been looked at");
        let answer = sender.send_request(request).await.map_err(|error| self.gone(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let words = Limited::new(answer.into_body(), MAX_PROBLEM_BYTES).collect().await;
        let words = words.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let why = match serde_json::from_slice::<Problem>(&words) {
            Ok(Problem { error }) => error,
            Err(_) => {
                let words = String::from_utf8_lossy(&words);
                words.lines().next().map_or_else(|| status.to_string(), str::to_owned)
            }
        };
        Err(ClientError::Refused { status, why })
    }

    fn gone(&self, error: &hyper::Error) -> ClientError {
        ClientError::Gone { path: self.path.clone(), why: error.to_string() }
    }

    fn no_answer(&self, source: serde_json::Error) -> ClientError {
        ClientError::Answer { path: self.path.clone(), source }
    }
}

/// A system's error without its number.
fn in_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => Errno::from_raw(errno).desc().to_owned(),
        None => error.to_string(),
    }
}

//! Asking again: a connection that breaks is no reason to give up minutes of waiting.
//!
//! The client itself repeats what the server puts off (429, 503 and 504), longer and longer; here is the
//! end of that, too.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// Between two tries.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// For an answer that is not part of waiting for something.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Asks for something that has to be there soon.
pub(super) async fn briefly<T>(
    ask: impl AsyncFnMut() -> Result<T, kube::Error>,
) -> Result<T, kube::Error> {
    patiently(Instant::now() + ANSWER_WITHIN, ask).await
}

/// Asks until there is an answer, or an error that is not going to pass, or the deadline is over.
pub(super) async fn patiently<T>(
    deadline: Instant,
    mut ask: impl AsyncFnMut() -> Result<T, kube::Error>,
) -> Result<T, kube::Error> {
    loop {
        // Each has its chance, also one that begins when the time is just over.
        let end = deadline.max(Instant::now() + ANSWER_WITHIN);
        let answer = timeout_at(end, ask()).await;
        match answer.unwrap_or_else(|_| Err(kube::Error::Service("no answer".into()))) {
            Err(error) if is_passing(&error) && Instant::now() < deadline => {}
            answer => return answer,
        }
        sleep(AGAIN_AFTER).await;
    }
}

/// Whether the same request may well be answered a moment later.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Service(_) | kube::Error::HyperError(_) => true,
        kube::Error::Api(status) => matches!(status.code, 429 | 500..),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(Status { code, ..Status::failure("no", "No") }))
    }

    async fn tries(error: impl Fn() -> kube::Error, within: Duration) -> (usize, bool) {
        let mut count = 0;
        let answer = patiently(Instant::now() + within, async || {
            count += 1;
            if count < 3 { Err(error()) } else { Ok(()) }
        })
        .await;
        (count, answer.is_ok())
    }

    #[tokio::test]
    async fn what_passes_is_asked_for_again_and_a_refusal_is_not() {
        const MINUTE: Duration = Duration::from_secs(60);
        for code in [429, 503] {
            assert_eq!(tries(|| refused(code), MINUTE).await, (3, true), "{code}");
        }
        let reset = || kube::Error::Service("connection reset by peer".into());
        assert_eq!(tries(reset, MINUTE).await, (3, true));
        for code in [403, 404, 409] {
            assert_eq!(tries(|| refused(code), MINUTE).await, (1, false), "{code}");
        }
        assert_eq!(tries(reset, Duration::ZERO).await, (1, false));
    }
}

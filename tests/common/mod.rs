//! What several test programs need.

use std::time::{Duration, Instant};

use thalweg::session::{HANDLE_BYTES, Listener, RecvConnection, SendConnection, Session};

/// What has not happened by then never will.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::yield_now();
    }
}

/// Connects two sessions of this process, whose calls take turns.
pub fn connect(
    from: &Session,
    listener: &Listener,
    handle: &[u8; HANDLE_BYTES],
) -> (SendConnection, RecvConnection) {
    let mut handle = *handle;
    let (mut send, mut recv) = (None, None);
    until("a connection", || {
        if send.is_none() {
            send = from.connect(0, &mut handle).unwrap();
        }
        if recv.is_none() {
            recv = listener.accept().unwrap();
        }
        (send.is_some() && recv.is_some()).then_some(())
    });
    (send.unwrap(), recv.unwrap())
}

//! What tests of the sending engine have in common.

use super::{TxAction, TxEngine};
use crate::clock::Timestamp;
use crate::control::{AnyController, Fixed};
use crate::engine::EngineConfig;
use crate::engine::wire::{self, Ack, Frame, PathCount};
use crate::path::select::AnySelector;
use crate::units::Bytes;

/// When tests begin.
pub const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

/// Its connection.
pub const CONN: u32 = 1;

/// One with a connection, a window of so many bytes, and all its paths up, each in its first epoch.
pub fn engine(config: EngineConfig, selector: AnySelector, window: u64) -> TxEngine {
    let paths = config.paths_max;
    let controller = AnyController::Fixed(Fixed::new(Bytes(window)));
    let mut engine = TxEngine::new(config, controller, selector, NOW);
    assert_eq!(engine.open(1), CONN);
    for _ in 0..paths {
        engine.handle_timeout(NOW);
        for (path, epoch) in dials(&mut engine) {
            engine.handle_path_up(path, epoch, None, NOW);
        }
    }
    engine
}

/// What is dialled now: path and epoch.
pub fn dials(engine: &mut TxEngine) -> Vec<(u8, u16)> {
    std::iter::from_fn(|| engine.poll_action())
        .filter_map(|action| match action {
            TxAction::Dial { path, epoch, .. } => Some((path, epoch)),
            TxAction::Close { .. } => None,
        })
        .collect()
}

/// The peer says over the first path how far another has come.
pub fn acknowledge(engine: &mut TxEngine, path: u8, epoch: u16, count: u32) {
    let entry = PathCount { path, epoch, count };
    let ack = Ack { eager_consumed: 0 };
    let header = wire::encode_ack(ack, std::iter::once(entry));
    let heard = engine.handle_frame(0, Frame::Ack(ack), header.as_bytes(), NOW);
    heard.unwrap();
}

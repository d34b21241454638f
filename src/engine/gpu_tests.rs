//! Memory of a GPU at either end: nothing of a small message passes through a processor's hands there.

use super::wire::{Credit, Eager, Frame, Keys};
use super::{
    EngineConfig, MemRange, RecvError, RxAction, RxEngine, RxTransmit, Sink, Submitted, TxEngine,
};
use crate::clock::Timestamp;
use crate::control::{AnyController, Fixed};
use crate::path::select::{AnySelector, RoundRobin};
use crate::units::Bytes;

const NOW: Timestamp = Timestamp::from_nanos(1);

fn keys(is_gpu: bool) -> Keys {
    let keys = Keys::new(&[1]).unwrap();
    if is_gpu { keys.of_gpu() } else { keys }
}

fn range(addr: u64, len: u64) -> MemRange {
    MemRange { addr, len }
}

/// A receiving end with a connection and a path.
fn receiver() -> RxEngine {
    let mut rx = RxEngine::new(EngineConfig::default(), NOW);
    rx.handle_path_up(0, 1, None);
    let open = Frame::Open {
        conn: 7,
        listener: 1,
    };
    rx.handle_frame(0, open, 0).unwrap();
    assert!(matches!(rx.poll_action(), Some(RxAction::Opened { .. })));
    rx.answer_open(7, true);
    rx
}

/// A small message comes; says where its bytes went.
fn comes(rx: &mut RxEngine, ordinal: u32, bytes: &[u8]) -> MemRange {
    let eager = Eager {
        conn: 7,
        tag: 0,
        ordinal,
        payload: u32::try_from(bytes.len()).unwrap(),
    };
    let sink = rx.handle_frame(0, Frame::Eager(eager), 0).unwrap();
    let Some(Sink::Place(place)) = sink else {
        panic!("{sink:?}")
    };
    rx.handle_payload_done(0);
    place
}

fn credits(rx: &mut RxEngine) -> Vec<Credit> {
    let mut credits = Vec::new();
    while let Some(RxTransmit { header, .. }) = rx.poll_transmit() {
        if let Ok(Frame::Credit(credit)) = Frame::decode(header.as_bytes()) {
            credits.push(credit);
        }
    }
    credits
}

#[test]
fn a_receive_in_a_gpu_has_a_credit_at_once_whatever_its_size() {
    let mut rx = receiver();
    rx.post(7, 1, 0, range(0x100, 64), keys(false));
    assert!(credits(&mut rx).is_empty());
    rx.post(7, 2, 0, range(0x200, 64), keys(true));
    let [credit] = credits(&mut rx)[..] else {
        panic!("no credit")
    };
    assert!(credit.rkeys.is_gpu() && credit.addr == 0x200);
    // Also while messages come eagerly.
    rx.post(7, 3, 0, range(0x300, 1 << 20), keys(false));
    credits(&mut rx);
    comes(&mut rx, 0, &[0; 8]);
    comes(&mut rx, 2, &[0; 8]);
    rx.post(7, 4, 0, range(0x400, 1 << 20), keys(false));
    assert!(credits(&mut rx).is_empty(), "they come eagerly");
    rx.post(7, 5, 0, range(0x500, 1 << 20), keys(true));
    assert_eq!(credits(&mut rx).len(), 1);
}

#[test]
fn a_small_message_for_a_gpu_is_kept_until_an_adapter_brings_it() {
    for posted_first in [true, false] {
        let mut rx = receiver();
        let post = |rx: &mut RxEngine| rx.post(7, 5, 0, range(0x1000, 64), keys(true));
        if posted_first {
            post(&mut rx);
        }
        let place = comes(&mut rx, 0, &[1; 20]);
        assert!(!(0x1000..0x2000).contains(&place.addr), "{place:?}");
        if !posted_first {
            assert!(rx.poll_landing().is_none());
            post(&mut rx);
        }
        let landing = rx.poll_landing().unwrap();
        assert_eq!((landing.token, landing.data.len()), (5, 20));
        assert_eq!(landing.target, range(0x1000, 20));
        assert_eq!(landing.keys, keys(true));
        assert!(rx.poll_copy().is_none(), "no processor copies it");
        assert!(rx.poll_completion().is_none(), "it is not there yet");
        assert_eq!(rx.receives_pending(), 0);
        // Its credit is void: what says it now says nothing.
        rx.post(7, 6, 0, range(0x3000, 64), keys(true));
        comes(&mut rx, 1, &[1; 20]);
        assert_eq!(rx.poll_landing().unwrap().token, 6);
    }
}

#[test]
fn what_needs_no_adapter_needs_none() {
    let mut rx = receiver();
    rx.post(7, 1, 0, range(0x1000, 64), keys(true));
    comes(&mut rx, 0, &[]);
    assert_eq!(rx.poll_completion().unwrap().result, Ok(0));
    rx.post(7, 2, 0, range(0x1000, 8), keys(true));
    comes(&mut rx, 1, &[1; 20]);
    let too_long = RecvError::TooLong {
        size: 20,
        capacity: 8,
    };
    assert_eq!(rx.poll_completion().unwrap().result, Err(too_long));
    assert!(rx.poll_landing().is_none());
}

fn sender() -> (TxEngine, u32) {
    let controller = AnyController::Fixed(Fixed::new(Bytes(1 << 20)));
    let selector = AnySelector::RoundRobin(RoundRobin::default());
    let mut tx = TxEngine::new(EngineConfig::default(), controller, selector, NOW);
    let conn = tx.open(1);
    (tx, conn)
}

fn submit(tx: &mut TxEngine, conn: u32, len: u64, is_gpu: bool) -> bool {
    let submitted = tx.submit(conn, 1, 0, range(0x9000, len), keys(is_gpu));
    matches!(submitted, Submitted::Copy(_))
}

#[test]
fn a_small_message_in_a_gpu_is_never_copied() {
    let (mut tx, conn) = sender();
    assert!(!submit(&mut tx, conn, 100, true));
    assert!(submit(&mut tx, conn, 100, false));
    assert!(submit(&mut tx, conn, 0, true), "it has no bytes");
}

#[test]
fn a_small_message_to_a_gpu_waits_for_its_credit_once_that_is_known() {
    let (mut tx, conn) = sender();
    let credit = |tx: &mut TxEngine, ordinal, is_gpu| {
        let credit = Frame::Credit(Credit {
            conn,
            tag: 0,
            ordinal,
            slot: 0,
            generation: ordinal,
            capacity: 100,
            addr: 1,
            rkeys: keys(is_gpu),
        });
        let header = credit.encode();
        tx.handle_frame(0, credit, header.as_bytes(), NOW).unwrap();
    };
    assert!(submit(&mut tx, conn, 100, false), "nobody has said so");
    credit(&mut tx, 1, true);
    assert!(!submit(&mut tx, conn, 100, false));
    assert!(submit(&mut tx, conn, 0, false));
    // The next one may be the host's again.
    credit(&mut tx, 5, false);
    assert!(submit(&mut tx, conn, 100, false));
}

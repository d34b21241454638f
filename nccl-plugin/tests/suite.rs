//! What NCCL relies on, asked of the tables of all versions: each test runs once per version.

#![allow(unsafe_code, reason = "the interface is C")]

mod common;

use common::{
    Net, Pair, STALE, Slot, Table, accepted, check, far, first_of_8, logged, near, over_rdma,
    pattern, wait_for,
};
use nccl_net_thalweg::abi::{
    MAX_REQUESTS, OPTIONAL_RECV_COMPLETION, PTR_CUDA, PTR_HOST, ResultCode,
};
use std::ffi::{CStr, c_int, c_void};
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

macro_rules! for_each_version {
    ($($version:ident = $number:literal)+; $tests:tt) => {$(
        for_each_version! { one $version = $number; $tests }
    )+};
    (one $version:ident = $number:literal; [$($(#[$attribute:meta])* $test:ident)+]) => {
        mod $version {$(
            #[test]
            $(#[$attribute])*
            fn $test() {
                super::$test($number);
            }
        )+}
    };
}

for_each_version! {
    v6 = 6 v7 = 7 v8 = 8 v9 = 9 v10 = 10 v11 = 11 v12 = 12;
    [
        properties_are_what_nccl_accepts
        bytes_go_over_the_transport_that_was_asked_for
        a_device_is_made_of_several
        messages_of_all_sizes_arrive
        an_empty_message_completes
        messages_match_in_posting_order
        a_group_fills_its_slots_by_tag
        the_next_group_waits_for_the_first
        a_request_is_always_written
        the_33rd_receive_is_not_accepted
        a_sender_accepts_32_messages_and_ends_somewhere
        optional_completion_is_a_receive_like_any_other
        sizes_may_be_null
        a_message_larger_than_its_buffer_is_an_error
        a_connection_closes_with_requests_in_flight
        a_listen_comm_serves_several_peers
        a_listen_comm_nobody_connects_to_closes
        connect_may_come_long_before_accept
        memory_is_registered_while_data_flows
        memory_must_be_registered
        memory_deregistered_in_flight_is_left_alone
        null_and_nonsense_are_refused
        #[ignore = "moves 1 GiB, needs 2 GiB of memory"]
        a_message_of_a_gibibyte_arrives
    ]
}

fn properties_are_what_nccl_accepts(version: u32) {
    let net = Net::open(version);
    let count = net.devices().expect("devices");
    assert!(count >= 1, "the loopback interface is a device");
    let props = net.properties(0).expect("getProperties");
    // SAFETY: the plugin's strings are never freed.
    let name = unsafe { CStr::from_ptr(props.name) };
    assert!(!name.is_empty());
    assert_eq!(props.ptr_support, PTR_HOST);
    assert!(props.speed > 0);
    assert!(props.latency.abs() < f32::EPSILON, "0 lets NCCL choose");
    assert_eq!(props.max_recvs, 8);
    assert!(props.max_comms >= 1024);
    assert_eq!((props.net_device_type, props.net_device_version), (0, 0));
    assert_eq!(props.vdevice, (1, first_of_8(&[0])));
    assert!((1..=1 << 40).contains(&props.max_p2p_bytes));
    assert!((1..=1 << 40).contains(&props.max_coll_bytes));
    assert_eq!(props.max_multi_request_size, 1);
    assert_eq!((props.rail_id, props.plane_id), (-1, -1));
    // NCCL asks again and again, from several threads, and compares and keeps the pointers.
    let addresses = (props.name.addr(), props.pci_path.addr());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let again = net.properties(0).expect("getProperties");
                    assert_eq!((again.name.addr(), again.pci_path.addr()), addresses);
                }
            });
        }
    });
    for device in [-1, count, c_int::MAX, c_int::MIN] {
        assert_eq!(net.properties(device), Err(ResultCode::INVALID_ARGUMENT));
    }
    assert_eq!(net.listen(count).err(), Some(ResultCode::INVALID_ARGUMENT));
    net.finalize().expect("finalize");
}

/// A device's name, as NCCL gets it.
fn name_of(net: &Net, device: c_int) -> String {
    let props = net.properties(device).expect("getProperties");
    // SAFETY: the plugin's strings are never freed.
    let name = unsafe { CStr::from_ptr(props.name) };
    name.to_str().expect("a name").to_owned()
}

/// Packets that a device of soft-RoCE has sent.
fn packets_sent(device: &str) -> usize {
    let file = format!("/sys/class/infiniband/{device}/ports/1/hw_counters/sent_pkts");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    text.trim().parse().expect("a number")
}

fn bytes_go_over_the_transport_that_was_asked_for(version: u32) {
    const LEN: usize = 1 << 20;
    let pair = Pair::open(version);
    let name = name_of(&pair.net, near());
    let before = if over_rdma() { packets_sent(&name) } else { 0 };
    let mut message = pattern(LEN, 1);
    let mut buffer = vec![0; LEN];
    assert_eq!(pair.transfer(&mut message, &mut buffer), LEN);
    assert!(buffer == message);
    if over_rdma() {
        // Half of it at least, where the other half took the other wire. No packet holds more.
        let sent = packets_sent(&name) - before;
        assert!(sent >= LEN / 4096 / 2, "{sent} packets");
        assert!(!logged(&format!("RDMA ports: {name}:1 (RoCE")).is_empty());
    } else {
        assert!(!logged(&format!("TCP over {name} ")).is_empty());
    }
    pair.close();
}

fn a_device_is_made_of_several(version: u32) {
    let net = Net::open(version);
    let count = net.devices().expect("devices");
    let Some(made) = net.make_v_device(2, &[0, 1]) else {
        assert!(version < 9);
        return;
    };
    let refused = Some(Err(ResultCode::INVALID_ARGUMENT));
    let most = if version < 12 { 4 } else { 8 };
    for wrong in [0, -1, most + 1, c_int::MIN, c_int::MAX] {
        assert_eq!(net.make_v_device(wrong, &[0, 1]), refused);
    }
    if !over_rdma() {
        assert_eq!(made, Err(ResultCode::INVALID_USAGE));
        let alone = net.make_v_device(1, &[0]);
        assert_eq!(alone, Some(Err(ResultCode::INVALID_USAGE)));
        assert_eq!(net.devices(), Ok(count));
        return;
    }
    let made = made.expect("makeVDevice");
    assert_eq!(made, count);
    // Not twice the same, not one that is there not or not a port, and nothing comes of it.
    for wrong in [[0, 0], [0, made], [0, -1], [0, 77]] {
        assert_eq!(net.make_v_device(2, &wrong), refused);
    }
    assert_eq!(net.devices(), Ok(count + 1));
    let (first, second) = (net.properties(0), net.properties(1));
    let (first, second) = (first.expect("properties"), second.expect("properties"));
    let props = net.properties(made).expect("properties");
    assert_eq!(props.speed, first.speed + second.speed);
    assert_eq!(props.vdevice, (2, first_of_8(&[0, 1])));
    assert_eq!((props.guid, props.port), (first.guid, first.port));
    assert_eq!(props.pci_path, first.pci_path);
    let names = [near(), near() + 1].map(|device| name_of(&net, device));
    assert_eq!(name_of(&net, made), names.join("+"));

    // Messages go over its ports, to a device of the peer's that was made or to one that was not.
    let peer = net.make_v_device(2, &[far(), far() + 1]);
    let peer = peer.expect("makeVDevice").expect("makeVDevice");
    assert_eq!(peer, made + 1);
    let sent = || names.each_ref().map(|name| packets_sent(name));
    for (from, to) in [(made, peer), (made, far()), (near(), peer)] {
        let before = sent();
        let pair = Pair::between(net, from, to);
        let mut message = pattern(1 << 20, 5);
        // Its first message may find paths at one port only. To bring up paths takes fewer packets.
        wait_for("messages over both ports", || {
            let mut buffer = vec![0; 1 << 20];
            assert_eq!(pair.transfer(&mut message, &mut buffer), message.len());
            assert!(buffer == message);
            sent()
                .iter()
                .zip(before)
                .all(|(&now, before)| now > before + 200)
        });
        pair.close();
    }
    // One port is one port, whatever `THALWEG_PORTS` says.
    let alone = net.make_v_device(1, &[1]).expect("makeVDevice");
    let pair = Pair::between(net, alone.expect("makeVDevice"), peer);
    let before = sent();
    let mut buffer = vec![0; 1 << 20];
    assert_eq!(
        pair.transfer(&mut pattern(1 << 20, 6), &mut buffer),
        1 << 20
    );
    let after = sent();
    assert!(after[1] > before[1] + 200, "{before:?}, {after:?}");
    assert!(after[0] < before[0] + 100, "{before:?}, {after:?}");
    pair.close();
}

fn messages_of_all_sizes_arrive(version: u32) {
    let pair = Pair::open(version);
    for (seed, len) in [1, 127, 128, 4096, 8192, 8193, 65_536, 1_000_003, 4 << 20]
        .into_iter()
        .enumerate()
    {
        let mut message = pattern(len, seed);
        // The receiver always offers more than it gets.
        let mut buffer = vec![0xee; len + 64];
        assert_eq!(pair.transfer(&mut message, &mut buffer), len);
        assert!(buffer[..len] == message, "{len} bytes differ");
        assert!(
            buffer[len..].iter().all(|&byte| byte == 0xee),
            "{len}: behind the message"
        );
    }
    pair.close();
}

fn an_empty_message_completes(version: u32) {
    let pair = Pair::open(version);
    let mut buffer = [0xee; 64];
    assert_eq!(pair.transfer(&mut [], &mut buffer), 0);
    assert_eq!(pair.transfer(&mut [1, 2, 3], &mut buffer), 3);
    assert_eq!(pair.transfer(&mut [], &mut []), 0);
    assert_eq!(buffer[..4], [1, 2, 3, 0xee]);
    pair.close();
}

fn messages_match_in_posting_order(version: u32) {
    const COUNT: usize = 16;
    let Pair { net, send, recv } = Pair::open(version);
    // Large and small by turns: the small ones must not overtake.
    let len = |i: usize| if i.is_multiple_of(2) { 300_000 + i } else { i };
    let mut messages: Vec<_> = (0..COUNT).map(|i| pattern(len(i), i)).collect();
    let mut buffers = vec![vec![0; 400_000]; COUNT];
    let mut requests = Vec::new();
    for (i, buffer) in buffers.iter_mut().enumerate() {
        let handle = net
            .reg_mr(recv, buffer.as_mut_ptr(), buffer.len())
            .expect("regMr");
        let slot = Slot {
            data: buffer.as_mut_ptr(),
            len: buffer.len(),
            tag: 3,
            handle,
        };
        requests.push(accepted("irecv", || net.irecv(recv, &[slot], STALE)));
        let message = &mut messages[i];
        let handle = net
            .reg_mr(send, message.as_mut_ptr(), message.len())
            .expect("regMr");
        requests.push(accepted("isend", || {
            net.isend(send, message.as_mut_ptr(), message.len(), 3, handle)
        }));
    }
    let sizes = net.finish(&requests);
    for i in 0..COUNT {
        assert_eq!(usize::try_from(sizes[2 * i][0]), Ok(len(i)));
        assert!(buffers[i][..len(i)] == messages[i], "message {i}");
    }
    Pair { net, send, recv }.close();
}

/// Posts a group with these tags, and as many sends with those; says which send each slot got.
fn match_group(pair: &Pair, slots: &[c_int], sends: &[c_int]) -> Vec<usize> {
    const LEN: usize = 20_000;
    let Pair { net, send, recv } = *pair;
    let mut buffers = vec![vec![0_u8; LEN]; slots.len()];
    let group: Vec<Slot> = buffers
        .iter_mut()
        .zip(slots)
        .map(|(buffer, &tag)| pair.slot(buffer, tag))
        .collect();
    let mut messages: Vec<_> = (0..sends.len()).map(|i| pattern(LEN - i, i)).collect();
    let request = accepted("irecv", || net.irecv(recv, &group, STALE));
    let mut requests = Vec::new();
    for (message, &tag) in messages.iter_mut().zip(sends) {
        let (data, len) = (message.as_mut_ptr(), message.len());
        let handle = net.reg_mr(send, data, len).expect("regMr");
        requests.push(accepted("isend", || {
            net.isend(send, data, len, tag, handle)
        }));
    }
    // NCCL adds up an array that is longer than the group.
    let mut sizes = [-7; 64];
    let mut done = false;
    let mut sent = vec![false; sends.len()];
    wait_for("a group", || {
        done = done || net.test(request, sizes.as_mut_ptr()).expect("test");
        for (sent, &request) in sent.iter_mut().zip(&requests) {
            *sent = *sent || net.test(request, null_mut()).expect("test");
        }
        done && sent.iter().all(|&sent| sent)
    });
    assert!(
        sizes[slots.len()..].iter().all(|&size| size == -7),
        "{sizes:?}"
    );
    let got = |slot: usize| {
        let len = usize::try_from(sizes[slot]).expect("a size");
        let which = LEN - len;
        assert!(
            buffers[slot][..len] == messages[which],
            "slot {slot}, message {which}"
        );
        which
    };
    (0..slots.len()).map(got).collect()
}

fn a_group_fills_its_slots_by_tag(version: u32) {
    let pair = Pair::open(version);
    assert_eq!(match_group(&pair, &[4, 5, 6], &[6, 4, 5]), [1, 2, 0]);
    // Equal tags: the earliest slot that is free.
    assert_eq!(
        match_group(&pair, &[7; 8], &[7; 8]),
        [0, 1, 2, 3, 4, 5, 6, 7]
    );
    assert_eq!(
        match_group(&pair, &[1, 2, 1, 2, 1, 3, 2, 1], &[3, 2, 1, 1, 2, 2, 1, 1]),
        [2, 1, 3, 4, 6, 0, 5, 7]
    );
    pair.close();
}

fn the_next_group_waits_for_the_first(version: u32) {
    let pair = Pair::open(version);
    let Pair { net, send, recv } = pair;
    let mut buffers = [[0_u8; 16]; 4];
    let slots = buffers.each_mut().map(|buffer| pair.slot(buffer, 0));
    let [a, b, c, d] = slots;
    let tagged = |slot: Slot, tag| Slot { tag, ..slot };
    // Both groups have a slot for tag 1; a message goes to the first group that isn't complete.
    let first = accepted("irecv", || {
        net.irecv(recv, &[tagged(a, 1), tagged(b, 2)], STALE)
    });
    let second = accepted("irecv", || {
        net.irecv(recv, &[tagged(c, 1), tagged(d, 2)], STALE)
    });
    let mut messages = *b"abcd";
    let handle = net.reg_mr(send, messages.as_mut_ptr(), 4).expect("regMr");
    let mut requests = vec![first, second];
    for (i, tag) in [2, 1, 1, 2].into_iter().enumerate() {
        let data = messages.as_mut_ptr().wrapping_add(i);
        requests.push(accepted("isend", || net.isend(send, data, 1, tag, handle)));
    }
    net.finish(&requests);
    assert_eq!(buffers.map(|buffer| buffer[0]), *b"bacd");
    pair.close();
}

/// Posts small sends until one isn't accepted, or `max`.
fn send_until_full(
    pair: &Pair,
    data: *mut u8,
    handle: *mut c_void,
    max: usize,
) -> Vec<*mut c_void> {
    let mut requests = Vec::new();
    while requests.len() < max {
        let request = pair
            .net
            .isend(pair.send, data, 8192, 0, handle)
            .expect("isend");
        assert_ne!(request, STALE, "isend left the request as it was");
        if request.is_null() {
            break;
        }
        requests.push(request);
    }
    requests
}

fn a_request_is_always_written(version: u32) {
    // `Net::isend` and `Net::irecv` preset the request to what an earlier step may have left.
    let pair = Pair::open(version);
    let mut buffer = [0_u8; 8192];
    let slot = pair.slot(&mut buffer, 0);
    for _ in 0..2 * MAX_REQUESTS {
        let request = pair.net.irecv(pair.recv, &[slot], STALE).expect("irecv");
        assert_ne!(request, STALE);
    }
    let handle = pair
        .net
        .reg_mr(pair.send, buffer.as_mut_ptr(), 8192)
        .expect("regMr");
    let requests = send_until_full(&pair, buffer.as_mut_ptr(), handle, 2000);
    assert!(
        requests.len() < 2000,
        "a sender accepts any number of messages"
    );
    pair.close();
}

fn the_33rd_receive_is_not_accepted(version: u32) {
    let pair = Pair::open(version);
    let Pair { net, send, recv } = pair;
    let mut buffers = vec![[0_u8; 64]; MAX_REQUESTS];
    let slots: Vec<_> = buffers
        .iter_mut()
        .map(|buffer| pair.slot(buffer, 9))
        .collect();
    let requests: Vec<_> = slots
        .iter()
        .map(|&slot| accepted("irecv", || net.irecv(recv, &[slot], STALE)))
        .collect();
    let mut all = requests.clone();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), MAX_REQUESTS, "two requests are the same");
    for preset in [
        STALE,
        null_mut(),
        without_provenance_mut(OPTIONAL_RECV_COMPLETION),
    ] {
        assert_eq!(net.irecv(recv, &slots[..1], preset), Ok(null_mut()));
    }
    let mut message = *b"again";
    let handle = net.reg_mr(send, message.as_mut_ptr(), 5).expect("regMr");
    let sends: Vec<_> = (0..MAX_REQUESTS)
        .map(|_| {
            accepted("isend", || {
                net.isend(send, message.as_mut_ptr(), 5, 9, handle)
            })
        })
        .collect();
    net.finish(&[requests, sends].concat());
    assert!(buffers.iter().all(|buffer| buffer.starts_with(b"again")));
    // And there is room again.
    for &slot in &slots {
        accepted("irecv", || net.irecv(recv, &[slot], STALE));
    }
    pair.close();
}

fn a_sender_accepts_32_messages_and_ends_somewhere(version: u32) {
    let pair = Pair::open(version);
    let mut message = pattern(8192, 1);
    let handle = pair
        .net
        .reg_mr(pair.send, message.as_mut_ptr(), 8192)
        .expect("regMr");
    let sends = send_until_full(&pair, message.as_mut_ptr(), handle, 2000);
    assert!(
        (MAX_REQUESTS..2000).contains(&sends.len()),
        "{}",
        sends.len()
    );
    // All of them arrive.
    let mut buffer = vec![0; 8192];
    let slot = pair.slot(&mut buffer, 0);
    let mut sent = vec![false; sends.len()];
    let mut received = 0;
    let mut receive: *mut c_void = null_mut();
    wait_for("all messages", || {
        if receive.is_null() && received < sends.len() {
            receive = pair.net.irecv(pair.recv, &[slot], STALE).expect("irecv");
        }
        if !receive.is_null() && pair.net.test(receive, null_mut()).expect("test") {
            receive = null_mut();
            received += 1;
        }
        for (sent, &request) in sent.iter_mut().zip(&sends) {
            *sent = *sent || pair.net.test(request, null_mut()).expect("test");
        }
        received == sends.len() && sent.iter().all(|&sent| sent)
    });
    assert!(buffer == message);
    pair.close();
}

fn optional_completion_is_a_receive_like_any_other(version: u32) {
    let pair = Pair::open(version);
    let Pair { net, send, recv } = pair;
    let preset = without_provenance_mut(OPTIONAL_RECV_COMPLETION);
    for (round, len) in [100, 200_000].into_iter().enumerate() {
        let mut buffer = vec![0; len];
        let slot = pair.slot(&mut buffer, 0);
        let receive = accepted("irecv", || net.irecv(recv, &[slot], preset));
        // Nothing was sent, so it can't be done.
        for _ in 0..100 {
            assert_eq!(net.test(receive, null_mut()), Ok(false));
        }
        let mut message = pattern(len, round);
        let handle = net.reg_mr(send, message.as_mut_ptr(), len).expect("regMr");
        let sending = accepted("isend", || {
            net.isend(send, message.as_mut_ptr(), len, 0, handle)
        });
        let sizes = net.finish(&[receive, sending]);
        assert_eq!(usize::try_from(sizes[0][0]), Ok(len));
        assert!(buffer == message);
    }
    pair.close();
}

fn sizes_may_be_null(version: u32) {
    let pair = Pair::open(version);
    let Pair { net, send, recv } = pair;
    let mut buffer = [0_u8; 8];
    let slot = pair.slot(&mut buffer, 0);
    let receive = accepted("irecv", || net.irecv(recv, &[slot], STALE));
    let mut message = *b"12345678";
    let handle = net.reg_mr(send, message.as_mut_ptr(), 8).expect("regMr");
    let sending = accepted("isend", || {
        net.isend(send, message.as_mut_ptr(), 8, 0, handle)
    });
    let mut done = [false; 2];
    wait_for("two requests", || {
        for (done, request) in done.iter_mut().zip([receive, sending]) {
            *done = *done || net.test(request, null_mut()).expect("test");
        }
        done == [true; 2]
    });
    assert_eq!(buffer, message);
    pair.close();
}

fn a_message_larger_than_its_buffer_is_an_error(version: u32) {
    for len in [200, 100_000] {
        let pair = Pair::open(version);
        let Pair { net, send, recv } = pair;
        let mut buffer = [0xee_u8; 100];
        let slot = Slot {
            len: 60,
            ..pair.slot(&mut buffer, 0)
        };
        let receive = accepted("irecv", || net.irecv(recv, &[slot], STALE));
        let mut message = pattern(len, 0);
        let handle = net.reg_mr(send, message.as_mut_ptr(), len).expect("regMr");
        let sending = accepted("isend", || {
            net.isend(send, message.as_mut_ptr(), len, 0, handle)
        });
        let mut code = None;
        wait_for("the receiver's error", || {
            // The sender may learn of it or not; it must be asked, for that moves the data.
            if code.is_none() {
                code = net.test(receive, null_mut()).err();
                let _ = net.test(sending, null_mut());
            }
            code.is_some()
        });
        assert_eq!(code, Some(ResultCode::INVALID_USAGE));
        assert!(
            buffer[60..].iter().all(|&byte| byte == 0xee),
            "written behind the buffer"
        );
        pair.close();
    }
}

fn a_connection_closes_with_requests_in_flight(version: u32) {
    for round in 0..8 {
        let pair = Pair::open(version);
        let Pair { net, send, recv } = pair;
        let len = if round < 4 { 100 } else { 1 << 20 };
        let mut buffers = vec![vec![0_u8; len]; 4];
        let slots: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| pair.slot(buffer, 0))
            .collect();
        if round % 4 != 3 {
            for &slot in &slots {
                accepted("irecv", || net.irecv(recv, &[slot], STALE));
            }
        }
        let mut message = pattern(len, round);
        let handle = net.reg_mr(send, message.as_mut_ptr(), len).expect("regMr");
        let request = accepted("isend", || {
            net.isend(send, message.as_mut_ptr(), len, 0, handle)
        });
        if round % 4 == 2 {
            let _ = net.test(request, null_mut());
        }
        if round % 2 == 0 {
            net.close_send(send);
            net.close_recv(recv);
        } else {
            net.close_recv(recv);
            net.close_send(send);
        }
        // Nobody reads or writes there any more.
        let before = buffers.clone();
        drop(message);
        std::thread::sleep(Duration::from_millis(20));
        assert!(buffers == before, "written after closeRecv");
    }
    // The link and the session have not suffered.
    let pair = Pair::open(version);
    let mut buffer = [0; 3];
    assert_eq!(pair.transfer(&mut [1, 2, 3], &mut buffer), 3);
    assert_eq!(buffer, [1, 2, 3]);
    pair.close();
}

fn a_listen_comm_serves_several_peers(version: u32) {
    let net = Net::open(version);
    let (listen, handle) = net.listen(far()).expect("listen");
    let pairs: Vec<Pair> = (0..5)
        .map(|_| Pair::through(net, listen, &mut handle.clone()))
        .collect();
    net.close_listen(listen);
    for (i, pair) in pairs.into_iter().enumerate() {
        let mut message = pattern(50_000, i);
        let mut buffer = vec![0; 50_000];
        assert_eq!(pair.transfer(&mut message, &mut buffer), 50_000);
        assert!(buffer == message);
        pair.close();
    }
}

fn a_listen_comm_nobody_connects_to_closes(version: u32) {
    let net = Net::open(version);
    let listeners: Vec<_> = (0..64)
        .map(|_| net.listen(far()).expect("listen"))
        .collect();
    for (i, (listen, _)) in listeners.iter().enumerate() {
        if i % 2 == 0 {
            assert_eq!(net.accept(*listen), Ok(null_mut()));
        }
    }
    for (listen, _) in listeners {
        net.close_listen(listen);
    }
    Pair::on(net).close();
}

fn connect_may_come_long_before_accept(version: u32) {
    let net = Net::open(version);
    let (listen, mut handle) = net.listen(far()).expect("listen");
    let mut send: *mut c_void = null_mut();
    for _ in 0..50 {
        if send.is_null() {
            // Must return at once, although nobody accepts.
            send = net.connect(near(), &mut handle).expect("connect");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut recv: *mut c_void = null_mut();
    wait_for("a connection", || {
        if recv.is_null() {
            recv = net.accept(listen).expect("accept");
        }
        if send.is_null() {
            send = net.connect(near(), &mut handle).expect("connect");
        }
        !recv.is_null() && !send.is_null()
    });
    net.close_listen(listen);
    Pair { net, send, recv }.close();
}

fn memory_is_registered_while_data_flows(version: u32) {
    let pair = Pair::open(version);
    let Pair { net, send, recv } = pair;
    let stop = AtomicBool::new(false);
    let (send_addr, recv_addr) = (send.expose_provenance(), recv.expose_provenance());
    let registered = std::thread::scope(|scope| {
        // NCCL's service thread.
        let service = scope.spawn(|| {
            let comms = [send_addr, recv_addr].map(std::ptr::with_exposed_provenance_mut);
            let mut memory = vec![0_u8; 4096];
            let mut count = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                for comm in comms {
                    let handles = [0, 1, 2].map(|i| {
                        let data = memory.as_mut_ptr().wrapping_add(i * 1024);
                        net.reg_mr(comm, data, 1024).expect("regMr")
                    });
                    for handle in handles {
                        net.dereg_mr(comm, handle).expect("deregMr");
                    }
                }
                count += 1;
            }
            count
        });
        let mut buffer = vec![0; 64 << 10];
        for round in 0..300 {
            let mut message = pattern(64 << 10, round);
            assert_eq!(pair.transfer(&mut message, &mut buffer), message.len());
            assert!(buffer == message, "round {round}");
        }
        stop.store(true, Ordering::Relaxed);
        service.join().expect("the service thread")
    });
    assert!(
        registered > 10,
        "the service thread came to register {registered} times only"
    );
    pair.close();
}

fn memory_must_be_registered(version: u32) {
    let pair = Pair::open(version);
    let Pair { net, send, recv } = pair;
    let mut memory = vec![0_u8; 256];
    let data = memory.as_mut_ptr();
    let handle = net.reg_mr(send, data, 128).expect("regMr");
    let refused = Err(ResultCode::INVALID_ARGUMENT);
    // Beyond its end, in front of it, with another's handle or none.
    assert_eq!(net.isend(send, data, 129, 0, handle), refused);
    assert_eq!(
        net.isend(send, data.wrapping_add(64), 65, 0, handle),
        refused
    );
    assert_eq!(net.isend(send, data.wrapping_sub(1), 1, 0, handle), refused);
    assert_eq!(net.isend(send, data, 1, 0, null_mut()), refused);
    assert_eq!(net.isend(send, data, 1, 0, STALE), refused);
    let slot = |handle| Slot {
        data,
        len: 8,
        tag: 0,
        handle,
    };
    assert_eq!(net.irecv(recv, &[slot(null_mut())], STALE), refused);
    assert_eq!(net.irecv(recv, &[slot(STALE)], STALE), refused);
    // Twice.
    net.dereg_mr(send, handle).expect("deregMr");
    assert_eq!(
        net.dereg_mr(send, handle),
        Err(ResultCode::INVALID_ARGUMENT)
    );
    assert_eq!(net.isend(send, data, 1, 0, handle), refused);
    // None of that has hurt the connection; parts of a region may be used.
    let whole = net.reg_mr(send, data, 128).expect("regMr");
    let to = net.reg_mr(recv, data, 256).expect("regMr");
    memory[..128].copy_from_slice(&pattern(128, 5));
    let slot = Slot {
        data: data.wrapping_add(200),
        len: 50,
        tag: 0,
        handle: to,
    };
    let receive = accepted("irecv", || net.irecv(recv, &[slot], STALE));
    let sending = accepted("isend", || {
        net.isend(send, data.wrapping_add(78), 50, 0, whole)
    });
    net.finish(&[receive, sending]);
    assert_eq!(memory[200..250], memory[78..128]);
    pair.close();
}

fn memory_deregistered_in_flight_is_left_alone(version: u32) {
    let pair = Pair::open(version);
    let Pair { net, send, recv } = pair;
    // A size of its own, to find the line in the log.
    let len = 100_000 + version as usize;
    let mut buffer = vec![0xee_u8; len];
    let slot = pair.slot(&mut buffer, 0);
    let receive = accepted("irecv", || net.irecv(recv, &[slot], STALE));
    assert_eq!(net.dereg_mr(recv, slot.handle), Ok(()));
    assert_eq!(net.fails(receive), ResultCode::INVALID_USAGE);
    let line = format!("{len} bytes at");
    let lines: Vec<_> = logged(&line)
        .into_iter()
        .filter(|(_, line)| line.contains("deregMr:"))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].0, 2, "a warning");
    let mut message = pattern(len, 0);
    let handle = net.reg_mr(send, message.as_mut_ptr(), len).expect("regMr");
    for _ in 0..50 {
        let _ = net.isend(send, message.as_mut_ptr(), len, 0, handle);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(
        buffer.iter().all(|&byte| byte == 0xee),
        "written after deregMr"
    );
    pair.close();
}

fn null_and_nonsense_are_refused(version: u32) {
    let pair = Pair::open(version);
    let Pair { net, send, recv } = pair;
    let refused = ResultCode::INVALID_ARGUMENT;
    let mut memory = [0_u8; 64];
    let data = memory.as_mut_ptr();
    let handle = net.reg_mr(send, data, 64).expect("regMr");
    let slot = pair.slot(&mut memory, 0);

    assert_eq!(net.accept(null_mut()).err(), Some(refused));
    assert_eq!(net.reg_mr(null_mut(), data, 1).err(), Some(refused));
    assert_eq!(net.reg_mr(send, null_mut(), 1).err(), Some(refused));
    assert_eq!(net.dereg_mr(null_mut(), handle).err(), Some(refused));
    assert_eq!(net.dereg_mr(send, null_mut()).err(), Some(refused));
    assert_eq!(
        net.isend(null_mut(), data, 1, 0, handle).err(),
        Some(refused)
    );
    assert_eq!(
        net.isend(send, null_mut(), 1, 0, handle).err(),
        Some(refused)
    );
    assert_eq!(
        net.isend(recv, data, 1, 0, slot.handle).err(),
        Some(refused),
        "a recv comm"
    );
    assert_eq!(net.irecv(null_mut(), &[slot], STALE).err(), Some(refused));
    assert_eq!(
        net.irecv(send, &[slot], STALE).err(),
        Some(refused),
        "a send comm"
    );
    assert_eq!(net.irecv(recv, &[], STALE).err(), Some(refused));
    assert_eq!(net.irecv(recv, &[slot; 9], STALE).err(), Some(refused));
    assert_eq!(net.test(null_mut(), null_mut()).err(), Some(refused));
    assert_eq!(net.iflush(null_mut(), &[slot]).err(), Some(refused));
    assert_eq!(
        net.iflush(send, &[slot]).err(),
        Some(refused),
        "a send comm"
    );
    assert_eq!(net.iflush(recv, &[]).err(), Some(refused));
    // The host's memory needs no flush, and nothing that is empty does.
    assert_eq!(net.iflush(recv, &[slot]), Ok(null_mut()));
    let empty = Slot {
        len: 0,
        handle: null_mut(),
        ..slot
    };
    assert_eq!(net.iflush(recv, &[empty]), Ok(null_mut()));
    let mut unknown = slot;
    unknown.handle = null_mut();
    assert_eq!(net.iflush(recv, &[unknown]).err(), Some(refused));
    // Over TCP there is no way to a GPU, and soft-RoCE takes no DMABUF; the handle says so, too.
    let code = if over_rdma() {
        refused
    } else {
        ResultCode::INVALID_USAGE
    };
    let no_dmabuf = (code, null_mut());
    assert_eq!(net.reg_mr_dma_buf(recv, data, 64, PTR_CUDA), Err(no_dmabuf));
    let of_host = (refused, null_mut());
    assert_eq!(net.reg_mr_dma_buf(recv, data, 64, PTR_HOST), Err(of_host));
    net.close_send(null_mut());
    net.close_recv(null_mut());
    net.close_listen(null_mut());

    // A request that was reported done is none any more, as long as its comm is there.
    let receive = accepted("irecv", || net.irecv(recv, &[slot], STALE));
    let sending = accepted("isend", || net.isend(send, data, 1, 0, handle));
    net.finish(&[receive, sending]);
    assert_eq!(net.test(receive, null_mut()).err(), Some(refused));

    if over_rdma() && version >= 8 {
        // An adapter pins what is registered, so all of it has to be there.
        assert_eq!(net.reg_mr(send, data, 1 << 32).err(), Some(refused));
    } else if version >= 9 {
        // `test` could not report its size.
        let huge = net.reg_mr(send, data, 1 << 32).expect("regMr");
        let sent = net.isend(send, data, 1 << 31, 0, huge);
        assert_eq!(sent, Err(ResultCode::INVALID_USAGE));
    }
    if let Table::V6(table) = net.table {
        let mut request = STALE;
        // SAFETY: the comms are open, and sizes below zero are what is tested.
        unsafe {
            let isend = table.isend.expect("isend");
            let code = isend(send, data.cast(), -1, 0, handle, &raw mut request);
            assert_eq!(check(code), Err(refused));
            assert!(request.is_null());
            let reg_mr = table.reg_mr.expect("regMr");
            let code = reg_mr(send, data.cast(), -1, PTR_HOST, &raw mut request);
            assert_eq!(check(code), Err(refused));
            let code = reg_mr(send, data.cast(), 1, 4, &raw mut request);
            assert_eq!(check(code), Err(refused), "a DMABUF without its descriptor");
            if !over_rdma() {
                let code = reg_mr(send, data.cast(), 1, PTR_CUDA, &raw mut request);
                let usage = Err(ResultCode::INVALID_USAGE);
                assert_eq!(check(code), usage, "memory of a GPU over TCP");
            }
            let code = isend(send, data.cast(), 1, 0, handle, null_mut());
            assert_eq!(check(code), Err(refused));
        }
    }
    pair.close();
}

fn a_message_of_a_gibibyte_arrives(version: u32) {
    let pair = Pair::open(version);
    let len = 1 << 30;
    let mut message = pattern(len, 1);
    let mut buffer = vec![0; len];
    assert_eq!(pair.transfer(&mut message, &mut buffer), len);
    assert!(buffer == message);
    pair.close();
}

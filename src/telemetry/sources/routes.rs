//! Routes that several ways lead along: whether a host spreads its own traffic over more than one uplink
//! depends on them. Asked of the kernel by rtnetlink; no rights are needed.

use std::io;

use super::netlink::{self, Socket, u16_at};

// linux/rtnetlink.h
const NEW_ROUTE: u16 = 24; // RTM_NEWROUTE
const GET_ROUTE: u16 = 26; // RTM_GETROUTE
const ROUTE_BYTES: usize = 12; // struct rtmsg
const NEXT_HOPS: u16 = 9; // RTA_MULTIPATH
const NEXT_HOP_BYTES: usize = 8; // struct rtnexthop

/// How many IPv4 routes of this network namespace have several next hops. Those of IPv6 spread connections by
/// their flow labels, whatever is set.
///
/// # Errors
/// The kernel does not answer.
pub fn multipath_routes() -> io::Result<usize> {
    let mut body = [0; ROUTE_BYTES];
    body[0] = u8::try_from(libc::AF_INET).unwrap_or_default();
    let mut count = 0;
    Socket::open(libc::NETLINK_ROUTE)?.ask_all(GET_ROUTE, &body, |message| {
        if message.kind == NEW_ROUTE {
            count += usize::from(next_hops(message.body) > 1);
        }
    })?;
    Ok(count)
}

/// The number of next hops in the body of a route, 0 where it names none apart.
#[must_use]
pub fn next_hops(body: &[u8]) -> usize {
    let hops = body.get(ROUTE_BYTES..);
    let Some(mut hops) = hops.and_then(|body| netlink::find(body, NEXT_HOPS)) else {
        return 0;
    };
    let mut count = 0;
    while let Some(length) = u16_at(hops, 0).map(usize::from) {
        if length < NEXT_HOP_BYTES || length > hops.len() {
            break;
        }
        count += 1;
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::netlink::attribute;
    use super::*;

    fn route(hops: usize) -> Vec<u8> {
        // A hop to an interface, with the address of its router.
        let mut hop = 16_u16.to_ne_bytes().to_vec();
        hop.extend([0, 0, 2, 0, 0, 0]);
        hop.extend(attribute(5, &[10, 0, 0, 1]));
        let mut body = vec![0; ROUTE_BYTES];
        body.extend(attribute(1, &[10, 9, 0, 0]));
        body.extend(attribute(NEXT_HOPS, &hop.repeat(hops)));
        body
    }

    #[test]
    fn next_hops_are_counted() {
        assert_eq!(next_hops(&route(0)), 0);
        assert_eq!(next_hops(&route(1)), 1);
        assert_eq!(next_hops(&route(4)), 4);
        let mut plain = vec![0; ROUTE_BYTES];
        plain.extend(attribute(5, &[10, 0, 0, 1]));
        assert_eq!(next_hops(&plain), 0);
        // Cut in the middle of the attribute, which then is not there.
        let cut = route(4);
        assert_eq!(next_hops(&cut[..cut.len() - 1]), 0);
    }

    #[test]
    fn this_kernel_tells_its_routes() {
        assert!(multipath_routes().is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(next_hops(&bytes) <= bytes.len() / NEXT_HOP_BYTES);
        }
    }
}

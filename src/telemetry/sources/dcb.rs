//! How an interface treats the eight priorities of Ethernet: which are lossless (PFC), which traffic
//! class each belongs to (ETS), and which priority a packet's DSCP leads to. Asked of the kernel
//! through its DCB interface (IEEE 802.1Qaz), as `dcb` does; no rights are needed.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use super::netlink::{Socket, attribute, attributes, find};

// linux/rtnetlink.h
const GET_DCB: u16 = 78; // RTM_GETDCB
// linux/dcbnl.h
const IEEE_GET: u8 = 21; // DCB_CMD_IEEE_GET
const INTERFACE: u16 = 1; // DCB_ATTR_IFNAME
const IEEE: u16 = 13; // DCB_ATTR_IEEE
const IEEE_ETS: u16 = 1; // DCB_ATTR_IEEE_ETS
const IEEE_PFC: u16 = 2; // DCB_ATTR_IEEE_PFC
const IEEE_APPS: u16 = 3; // DCB_ATTR_IEEE_APP_TABLE
const IEEE_APP: u16 = 1; // DCB_ATTR_IEEE_APP
const SELECTOR_DSCP: u8 = 5; // IEEE_8021QAZ_APP_SEL_DSCP
/// `struct dcbmsg`.
const HEADER_BYTES: usize = 4;
/// Where `struct ieee_ets` has the traffic class of each priority (`prio_tc`).
const ETS_CLASSES_AT: usize = 27;
/// Where `struct ieee_pfc` has the bits of the lossless priorities (`pfc_en`).
const PFC_ENABLED_AT: usize = 1;

/// The priorities of Ethernet (`IEEE_8021Q_MAX_PRIORITIES`).
pub const PRIORITIES: u8 = 8;

/// What an interface says. What it does not say is none, or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dcb {
    /// A bit for each priority on which it sends and obeys pauses.
    pub pfc: Option<u8>,
    /// The traffic class, which is a queue, of each priority.
    pub classes: Option<[u8; PRIORITIES as usize]>,
    /// The priority of each DSCP in its table. A table that is not empty says that the interface goes
    /// by DSCP; an empty one, that it goes by the VLAN tag.
    pub dscp: BTreeMap<u8, u8>,
}

impl Dcb {
    /// The lossless priorities.
    pub fn lossless(&self) -> impl Iterator<Item = u8> {
        let bits = self.pfc.unwrap_or(0);
        (0..PRIORITIES).filter(move |priority| bits >> priority & 1 == 1)
    }

    /// Where packets with this traffic class (the byte of the IP header) go; none if the interface
    /// goes by VLAN tags, which the byte says nothing of. A DSCP that the table lacks has priority 0.
    #[must_use]
    pub fn priority(&self, traffic_class: u8) -> Option<u8> {
        let in_table = || self.dscp.get(&(traffic_class >> 2)).copied().unwrap_or(0);
        (!self.dscp.is_empty()).then(in_table)
    }
}

/// Asks the kernel about an interface of this network namespace.
///
/// # Errors
/// There is no such interface, or its driver has no DCB (`EOPNOTSUPP`).
pub fn read(interface: &str) -> io::Result<Dcb> {
    if interface.len() >= libc::IFNAMSIZ {
        return Err(ErrorKind::InvalidInput.into());
    }
    let name = [interface.as_bytes(), b"\0"].concat();
    let body = [vec![0, IEEE_GET, 0, 0], attribute(INTERFACE, &name)].concat();
    let answer = Socket::open(libc::NETLINK_ROUTE)?.ask(GET_DCB, &body)?;
    parse(&answer).ok_or_else(|| ErrorKind::Unsupported.into())
}

/// What the body of an answer says; none if there is nothing of IEEE 802.1Qaz in it.
#[must_use]
pub fn parse(body: &[u8]) -> Option<Dcb> {
    let ieee = find(body.get(HEADER_BYTES..)?, IEEE)?;
    let mut dcb = Dcb::default();
    for (kind, value) in attributes(ieee) {
        match kind {
            IEEE_ETS => {
                let classes = value.get(ETS_CLASSES_AT..);
                dcb.classes = classes.and_then(|classes| classes.first_chunk()).copied();
            }
            IEEE_PFC => dcb.pfc = value.get(PFC_ENABLED_AT).copied(),
            IEEE_APPS => dcb.dscp.extend(attributes(value).filter_map(by_dscp)),
            _ => {}
        }
    }
    Some(dcb)
}

/// A DSCP and its priority from `struct dcb_app`.
fn by_dscp((kind, app): (u16, &[u8])) -> Option<(u8, u8)> {
    let &[selector, priority, low, high] = app.first_chunk()?;
    let dscp = u8::try_from(u16::from_ne_bytes([low, high])).ok()?;
    (kind == IEEE_APP && selector == SELECTOR_DSCP && dscp < 64 && priority < PRIORITIES)
        .then_some((dscp, priority))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::netlink::NESTED;
    use super::*;

    /// An answer as a driver gives it.
    fn answer(pfc: u8, classes: [u8; 8], apps: &[[u8; 4]]) -> Vec<u8> {
        let mut ets = vec![0; 59];
        ets[ETS_CLASSES_AT..][..8].copy_from_slice(&classes);
        let mut lossless = vec![0; 136];
        lossless[..2].copy_from_slice(&[8, pfc]);
        let apps: Vec<u8> = apps
            .iter()
            .flat_map(|app| attribute(IEEE_APP, app))
            .collect();
        let ieee = [
            attribute(IEEE_ETS, &ets),
            attribute(IEEE_PFC, &lossless),
            attribute(IEEE_APPS, &apps),
        ];
        let mut body = vec![0, IEEE_GET, 0, 0];
        body.extend(attribute(INTERFACE, b"eth2\0"));
        // The kernel marks what has attributes inside.
        body.extend(attribute(IEEE | NESTED, &ieee.concat()));
        body
    }

    fn app(selector: u8, priority: u8, protocol: u16) -> [u8; 4] {
        let [low, high] = protocol.to_ne_bytes();
        [selector, priority, low, high]
    }

    #[test]
    fn an_answer_is_understood() {
        // An ethertype's entry, and some that cannot be, are none of ours.
        let apps = [
            app(1, 3, 0x8915),
            app(SELECTOR_DSCP, 3, 26),
            app(SELECTOR_DSCP, 6, 48),
            app(SELECTOR_DSCP, 8, 1),
            app(SELECTOR_DSCP, 1, 64),
        ];
        let classes = [1, 0, 2, 3, 4, 5, 6, 7];
        let dcb = parse(&answer(0b1000, classes, &apps)).unwrap();
        assert_eq!(dcb.lossless().collect::<Vec<_>>(), [3]);
        assert_eq!(dcb.classes, Some(classes));
        assert_eq!(dcb.dscp, BTreeMap::from([(26, 3), (48, 6)]));
        // 106 is DSCP 26 and 2 for ECN.
        assert_eq!(dcb.priority(106), Some(3));
        assert_eq!(dcb.priority(0), Some(0));
        let by_tag = parse(&answer(0, classes, &[])).unwrap();
        assert_eq!(by_tag.priority(106), None);
        assert_eq!(by_tag.lossless().count(), 0);
    }

    #[test]
    fn what_is_not_said_is_not_known() {
        let mut body = vec![0, IEEE_GET, 0, 0];
        body.extend(attribute(INTERFACE, b"eth2\0"));
        assert_eq!(parse(&body), None);
        body.extend(attribute(IEEE, &attribute(IEEE_PFC, &[8])));
        assert_eq!(parse(&body), Some(Dcb::default()));
    }

    #[test]
    fn loopback_has_no_priorities() {
        let error = |interface: &str| read(interface).unwrap_err();
        assert_eq!(error("lo").raw_os_error(), Some(libc::EOPNOTSUPP));
        // A kernel without DCB does not look for the interface.
        let none = error("thalweg-none").raw_os_error();
        assert!(
            matches!(none, Some(libc::ENODEV | libc::EOPNOTSUPP)),
            "{none:?}"
        );
        assert_eq!(error("a-name-of-16-byte").kind(), ErrorKind::InvalidInput);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        /// A change of an answer's bytes never gives a priority that there is not.
        #[test]
        fn a_damaged_answer_is_harmless(at in 0_usize..280, byte in any::<u8>(), length in 0_usize..300) {
            let mut body = answer(0xff, [7; 8], &[app(SELECTOR_DSCP, 7, 63)]);
            let at = at % body.len();
            body[at] = byte;
            body.truncate(length);
            if let Some(dcb) = parse(&body) {
                prop_assert!(dcb.dscp.iter().all(|(dscp, priority)| *dscp < 64 && *priority < PRIORITIES));
            }
        }
    }
}

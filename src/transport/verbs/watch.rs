//! What becomes of the ports while they are used: links that go down and come up, addresses that
//! change, devices that fail or are taken out. The adapter says so at once; without it, paths would
//! have to fall silent first.

use super::device::{Gid, Port};
use super::sys::DeviceEvent;
use super::{News, Notice, Part, PortEvent, Weight};

/// The ports of a process, as they are now.
#[derive(Debug)]
pub(super) struct Watch {
    states: Vec<State>,
}

#[derive(Debug, Clone)]
struct State {
    is_up: bool,
    gid: Option<Gid>,
    /// Its device has failed: it does not come back.
    is_gone: bool,
}

impl State {
    fn is_usable(&self) -> bool {
        self.is_up && self.gid.is_some() && !self.is_gone
    }
}

impl Watch {
    /// All of them can be used.
    pub(super) fn new(ports: &[Port]) -> Self {
        let state = |port: &Port| State {
            is_up: true,
            gid: Some(port.gid.clone()),
            is_gone: false,
        };
        Self {
            states: ports.iter().map(state).collect(),
        }
    }

    /// The address that new paths of this port use.
    ///
    /// # Errors
    /// Why there can be none.
    pub(super) fn gid(&self, port: usize) -> Result<Gid, &'static str> {
        let state = &self.states[port];
        if state.is_gone {
            return Err("its device has failed or been taken out");
        }
        let missing = "its interface has no address that can be routed";
        state.gid.clone().ok_or(missing)
    }

    /// Whether the port's device has failed.
    pub(super) fn is_gone(&self, port: usize) -> bool {
        self.states[port].is_gone
    }

    /// Takes in what a device has told; `gid` finds the address of a port that had this one before.
    pub(super) fn handle(
        &mut self,
        ports: &[Port],
        device: &str,
        event: DeviceEvent,
        gid: impl Fn(&Port, Option<&Gid>) -> Option<Gid>,
        news: &mut News,
    ) {
        let of_device = || (0..ports.len()).filter(|&at| ports[at].device == device);
        let numbered = |number: i32| of_device().find(|&at| i32::from(ports[at].number) == number);
        let mut say = |weight, text| news.notices.push(Notice { weight, text });
        match event {
            DeviceEvent::PortDown(number) => {
                let Some(at) = numbered(number) else { return };
                if std::mem::replace(&mut self.states[at].is_up, false) {
                    let text = format!(
                        "{}: its link is down: its paths are fenced, and what they carried goes by \
                         other ports",
                        ports[at].name()
                    );
                    say(Weight::Bad, text);
                }
                news.events.push((at, PortEvent::Down));
            }
            DeviceEvent::PortUp(number) => {
                let Some(at) = numbered(number) else { return };
                let state = &mut self.states[at];
                if !std::mem::replace(&mut state.is_up, true) {
                    let text = format!(
                        "{}: its link is up again: its paths are dialled",
                        ports[at].name()
                    );
                    say(Weight::Good, text);
                }
                if state.is_usable() {
                    news.events.push((at, PortEvent::Up));
                }
            }
            DeviceEvent::AddressesChanged(number) => {
                let Some(at) = numbered(number) else { return };
                let state = &mut self.states[at];
                let before = state.gid.take();
                state.gid = gid(&ports[at], before.as_ref());
                let name = ports[at].name();
                let (weight, text) = match (&before, &state.gid) {
                    (Some(before), Some(now)) if before == now => (
                        Weight::Detail,
                        format!("{name}: its addresses have changed; GID {now} stays"),
                    ),
                    (Some(before), Some(now)) => (
                        Weight::Good,
                        format!(
                            "{name}: its address, GID {before}, is gone: its paths are made anew with \
                             GID {now}"
                        ),
                    ),
                    (Some(before), None) => (
                        Weight::Bad,
                        format!(
                            "{name}: its address, GID {before}, is gone, and there is no other that \
                             can be routed: its paths are fenced until its interface has one"
                        ),
                    ),
                    (None, Some(now)) => (
                        Weight::Good,
                        format!(
                            "{name}: it has an address again, GID {now}: its paths are dialled"
                        ),
                    ),
                    (None, None) => (
                        Weight::Detail,
                        format!("{name}: its addresses have changed; none can be routed"),
                    ),
                };
                say(weight, text);
                if before != state.gid {
                    if before.is_some() {
                        news.events.push((at, PortEvent::Down));
                    }
                    if state.is_usable() {
                        news.events.push((at, PortEvent::Up));
                    }
                }
            }
            DeviceEvent::QueuePairFailed(number) => {
                say(
                    Weight::Good,
                    format!("{device}: queue pair {number} has failed"),
                );
                let part = PortEvent::Failed(Part::QueuePair(number));
                news.events.extend(of_device().map(|at| (at, part)));
            }
            DeviceEvent::CompletionsLost(number) => {
                say(
                    Weight::Good,
                    format!("{device}: completion queue {number} has failed"),
                );
                let part = PortEvent::Failed(Part::CompletionQueue(number));
                news.events.extend(of_device().map(|at| (at, part)));
            }
            DeviceEvent::DeviceFailed => {
                news.is_over = true;
                let text = format!(
                    "{device}: the device has failed or been taken out: its paths are fenced, and what \
                     they carried goes by other devices; programs that start once it is back use it again"
                );
                say(Weight::Bad, text);
                for at in of_device() {
                    self.states[at].is_gone = true;
                    news.events.push((at, PortEvent::Down));
                }
            }
            DeviceEvent::Other(kind) => {
                say(Weight::Detail, format!("{device}: event {kind}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::super::device::LinkLayer;
    use super::*;

    fn gid(index: u8) -> Gid {
        Gid {
            index,
            addr: Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0x0a57, index.into()]),
            interface: Some("eth7".into()),
        }
    }

    fn port(device: &str, number: u8) -> Port {
        Port {
            device: device.into(),
            number,
            link_layer: LinkLayer::Ethernet,
            gid: gid(3),
            speed_mbps: 100_000,
            guid: 0,
            pci_path: None,
            numa_node: None,
            spreads: None,
        }
    }

    /// Two ports of one device, and one of another.
    struct Host {
        ports: Vec<Port>,
        watch: Watch,
        table: Option<Gid>,
    }

    impl Host {
        fn new() -> Self {
            let ports = vec![port("mlx5_0", 1), port("mlx5_0", 2), port("mlx5_1", 1)];
            Self {
                watch: Watch::new(&ports),
                ports,
                table: Some(gid(3)),
            }
        }

        /// What is to be done, and what the log says, if it is more than a detail.
        fn after(&mut self, device: &str, event: DeviceEvent) -> (Vec<(usize, PortEvent)>, String) {
            let mut news = News::default();
            let table = self.table.clone();
            let find = |_: &Port, _: Option<&Gid>| table.clone();
            self.watch
                .handle(&self.ports, device, event, find, &mut news);
            assert_eq!(news.is_over, event == DeviceEvent::DeviceFailed);
            assert!(news.notices.len() <= 1, "{news:?}");
            let loud = news.notices.into_iter();
            let loud = loud.filter(|notice| notice.weight != Weight::Detail);
            (news.events, loud.map(|notice| notice.text).collect())
        }
    }

    #[test]
    fn a_link_goes_down_and_comes_up() {
        let mut host = Host::new();
        let (events, line) = host.after("mlx5_0", DeviceEvent::PortDown(2));
        assert_eq!(events, [(1, PortEvent::Down)]);
        assert!(line.starts_with("mlx5_0:2: its link is down"), "{line}");
        // Said again, it is done again, and the log has it once.
        let again = host.after("mlx5_0", DeviceEvent::PortDown(2));
        assert_eq!(again, (events, String::new()));
        let (events, line) = host.after("mlx5_0", DeviceEvent::PortUp(2));
        assert_eq!(events, [(1, PortEvent::Up)]);
        assert!(line.starts_with("mlx5_0:2: its link is up"), "{line}");
        // Not one of ours.
        assert_eq!(host.after("mlx5_1", DeviceEvent::PortDown(2)).0, []);
    }

    #[test]
    fn paths_follow_an_address_and_wait_for_one() {
        let mut host = Host::new();
        let changed = DeviceEvent::AddressesChanged(1);
        assert_eq!(host.after("mlx5_1", changed), (vec![], String::new()));
        host.table = Some(gid(5));
        let (events, line) = host.after("mlx5_1", changed);
        assert_eq!(events, [(2, PortEvent::Down), (2, PortEvent::Up)]);
        assert!(
            line.contains("GID 3 = 10.87.0.3 of eth7, is gone")
                && line.contains("GID 5 = 10.87.0.5"),
            "{line}"
        );
        assert_eq!(host.watch.gid(2), Ok(gid(5)));
        assert_eq!(host.watch.gid(0), Ok(gid(3)));
        host.table = None;
        let (events, line) = host.after("mlx5_1", changed);
        assert_eq!(events, [(2, PortEvent::Down)]);
        assert!(line.contains("no other that can be routed"), "{line}");
        assert!(host.watch.gid(2).is_err());
        // A link that comes up without an address is of no use.
        host.after("mlx5_1", DeviceEvent::PortDown(1));
        assert_eq!(host.after("mlx5_1", DeviceEvent::PortUp(1)).0, []);
        host.table = Some(gid(3));
        let (events, line) = host.after("mlx5_1", changed);
        assert_eq!(events, [(2, PortEvent::Up)]);
        assert!(line.contains("an address again, GID 3"), "{line}");
        // An address without a link as well.
        host.after("mlx5_1", DeviceEvent::PortDown(1));
        host.table = Some(gid(4));
        assert_eq!(host.after("mlx5_1", changed).0, [(2, PortEvent::Down)]);
    }

    #[test]
    fn a_device_goes_with_all_its_ports_and_for_good() {
        let mut host = Host::new();
        let (events, line) = host.after("mlx5_0", DeviceEvent::DeviceFailed);
        assert_eq!(events, [(0, PortEvent::Down), (1, PortEvent::Down)]);
        assert!(line.starts_with("mlx5_0: the device has failed"), "{line}");
        assert_eq!(
            [0, 1, 2].map(|port| host.watch.is_gone(port)),
            [true, true, false]
        );
        assert!(host.watch.gid(1).is_err());
        assert_eq!(host.after("mlx5_0", DeviceEvent::PortUp(1)).0, []);
        assert_eq!(host.watch.gid(2), Ok(gid(3)));
    }

    #[test]
    fn what_fails_alone_is_looked_for_at_every_port_of_its_device() {
        let mut host = Host::new();
        for (event, part) in [
            (DeviceEvent::QueuePairFailed(77), Part::QueuePair(77)),
            (DeviceEvent::CompletionsLost(5), Part::CompletionQueue(5)),
        ] {
            let (events, line) = host.after("mlx5_0", event);
            let failed = PortEvent::Failed(part);
            assert_eq!(events, [(0, failed), (1, failed)]);
            assert!(line.contains("has failed"), "{line}");
        }
        let other = host.after("mlx5_0", DeviceEvent::Other(14));
        assert_eq!(other, (vec![], String::new()));
    }
}

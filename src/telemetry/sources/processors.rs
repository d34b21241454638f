//! What the host's processors do: their time by kind (`/proc/stat`), and the soft interrupts that carry
//! packets (`/proc/softirqs`, `/proc/net/softnet_stat`). Time that the hypervisor gave to others, or that
//! soft interrupts took, is time in which nothing of ours ran.

use std::path::Path;

use super::HostReading;
use super::files::{bytes, lines};
use crate::telemetry::schema::{HostCounter, HostGauge};

/// The kernel tells time in hundredths of a second, whatever its own clock (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// Time of all processors, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// In programs, those of a low priority included.
    pub user: Option<u64>,
    /// In the kernel.
    pub system: Option<u64>,
    /// Without work.
    pub idle: Option<u64>,
    /// Without work, while some waited for disks.
    pub io_wait: Option<u64>,
    /// In interrupts.
    pub irq: Option<u64>,
    /// In soft interrupts.
    pub softirq: Option<u64>,
    /// Of the hypervisor's other guests.
    pub steal: Option<u64>,
    /// How many processors there are.
    pub processors: Option<u64>,
}

/// `/proc/stat` (`proc_stat(5)`).
#[must_use]
pub fn parse_times(text: &[u8]) -> Times {
    let mut times = Times::default();
    let mut processors = 0;
    for line in lines(text) {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("cpu") => {
                let mut ticks = words.map(|word| word.parse::<u64>().ok()?.checked_mul(TICK_NS));
                let mut next = || ticks.next().flatten();
                let (user, nice) = (next(), next());
                times.user = user
                    .zip(nice)
                    .and_then(|(user, nice)| user.checked_add(nice));
                times.system = next();
                times.idle = next();
                times.io_wait = next();
                times.irq = next();
                times.softirq = next();
                times.steal = next();
            }
            Some(word) if word.starts_with("cpu") => processors += 1,
            _ => {}
        }
    }
    times.processors = (processors > 0).then_some(processors);
    times
}

/// `/proc/softirqs`: how often those for packets ran, received and sent, on all processors.
#[must_use]
pub fn parse_softirqs(text: &[u8]) -> (Option<u64>, Option<u64>) {
    let (mut receive, mut send) = (None, None);
    for line in lines(text) {
        let mut words = line.split_ascii_whitespace();
        let kind = match words.next() {
            Some("NET_RX:") => &mut receive,
            Some("NET_TX:") => &mut send,
            _ => continue,
        };
        let counts: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
        *kind = counts
            .filter(|counts| !counts.is_empty())
            .and_then(|counts| counts.iter().try_fold(0u64, |sum, n| sum.checked_add(*n)));
    }
    (receive, send)
}

/// Packets of all processors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Softnet {
    /// Taken in.
    pub packets: u64,
    /// Dropped because a queue was full.
    pub drops: u64,
    /// Times that some were left for later.
    pub squeezes: u64,
}

/// `/proc/net/softnet_stat`: a line for each processor, in words of eight hexadecimal digits, of which the
/// first three are these (Linux, `softnet_seq_show`). None if there is no such line.
#[must_use]
pub fn parse_softnet(text: &[u8]) -> Option<Softnet> {
    let mut all = None;
    for line in lines(text) {
        let mut words = line.split_ascii_whitespace();
        let mut next = || u32::from_str_radix(words.next()?, 16).ok().map(u64::from);
        if let (Some(packets), Some(drops), Some(squeezes)) = (next(), next(), next()) {
            let all = all.get_or_insert_with(Softnet::default);
            all.packets += packets;
            all.drops += drops;
            all.squeezes += squeezes;
        }
    }
    all
}

/// After how many bits a counter begins again at zero.
#[must_use]
pub fn bits(counter: HostCounter) -> u32 {
    match counter {
        HostCounter::SoftnetPackets
        | HostCounter::SoftnetDrops
        | HostCounter::SoftnetSqueezes
        | HostCounter::SoftirqsReceive
        | HostCounter::SoftirqsSend => 32,
        _ => 64,
    }
}

/// Reads all of it; `proc` is `/proc` but in tests.
pub(super) fn read(proc: &Path, host: &mut HostReading) {
    let text = |name| bytes(&proc.join(name)).unwrap_or_default();
    let times = parse_times(&text("stat"));
    let (receive, send) = parse_softirqs(&text("softirqs"));
    let softnet = parse_softnet(&text("net/softnet_stat"));
    for (counter, value) in [
        (HostCounter::CpuUser, times.user),
        (HostCounter::CpuSystem, times.system),
        (HostCounter::CpuIdle, times.idle),
        (HostCounter::CpuIoWait, times.io_wait),
        (HostCounter::CpuIrq, times.irq),
        (HostCounter::CpuSoftirq, times.softirq),
        (HostCounter::CpuSteal, times.steal),
        (HostCounter::SoftirqsReceive, receive),
        (HostCounter::SoftirqsSend, send),
        (HostCounter::SoftnetPackets, softnet.map(|all| all.packets)),
        (HostCounter::SoftnetDrops, softnet.map(|all| all.drops)),
        (
            HostCounter::SoftnetSqueezes,
            softnet.map(|all| all.squeezes),
        ),
    ] {
        host.counters[counter] = value;
    }
    host.gauges[HostGauge::Processors] = times.processors;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_of_all_processors() {
        let text = b"cpu  30 4 5 60 7 0 8 9 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\ncpu1 2\nintr 5 5\n";
        let times = parse_times(text);
        assert_eq!(times.user, Some(34 * TICK_NS));
        assert_eq!(times.idle, Some(60 * TICK_NS));
        assert_eq!(times.softirq, Some(8 * TICK_NS));
        assert_eq!(times.steal, Some(9 * TICK_NS));
        assert_eq!(times.processors, Some(2));
        // An old kernel tells less.
        let times = parse_times(b"cpu 1 2 3 4\n");
        assert_eq!((times.idle, times.steal), (Some(4 * TICK_NS), None));
        assert_eq!(parse_times(b"cpu x 2 3 4\n").user, None);
        assert_eq!(parse_times(b""), Times::default());
    }

    #[test]
    fn softirqs_are_added_over_processors() {
        let text =
            b"                    CPU0       CPU1\n  NET_TX:  3  4\n  NET_RX:  10 20\n  RCU: 1 1\n";
        assert_eq!(parse_softirqs(text), (Some(30), Some(7)));
        assert_eq!(parse_softirqs(b"NET_RX: 1 x\nNET_TX:\n"), (None, None));
    }

    #[test]
    fn softnet_is_hexadecimal() {
        let text = b"0000000a 00000001 00000002 00000000\n000000ff 00000000 00000003\nwhat\n";
        let expected = Softnet {
            packets: 10 + 255,
            drops: 1,
            squeezes: 5,
        };
        assert_eq!(parse_softnet(text), Some(expected));
        assert_eq!(parse_softnet(b"00000001 00000001\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_will_do(text: Vec<u8>) {
            let _ = parse_times(&text);
            let _ = parse_softirqs(&text);
            let _ = parse_softnet(&text);
        }

        #[test]
        fn any_numbers_will_do(text in "((cpu|NET_RX:|NET_TX:|f)( [0-9a-f]{0,22}){0,12}\n){0,4}") {
            let _ = parse_times(text.as_bytes());
            let _ = parse_softirqs(text.as_bytes());
            let _ = parse_softnet(text.as_bytes());
        }
    }
}

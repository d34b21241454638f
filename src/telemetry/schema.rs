//! The one table of everything that is measured: name, unit, meaning and kind. The recorder's places, JSON
//! fields, Prometheus names and `docs/metrics.md` all come from it.

use std::fmt::{self, Write as _};

use super::event::Event;

/// What a metric is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, while what it counts for is there.
    Counter,
    /// It is as it is now.
    Gauge,
    /// How often there were values of which size.
    Histogram,
}

/// What a metric is told for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A link: all that goes one way between two processes.
    Link,
    /// One of its paths.
    Path,
    /// One of its connections.
    Connection,
    /// A device, as NCCL sees it, in one process: all that has gone one way over connections at it.
    Device,
    /// A class of connections: all of it that has gone one way in one process.
    Class,
    /// A port of this host: an RDMA port with its network interface, or an interface alone.
    Port,
    /// One of a port's priorities.
    Priority,
    /// One of the lanes of a port's transceiver.
    Lane,
    /// This host.
    Host,
}

/// In what a metric is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// Nanoseconds; Prometheus is told seconds.
    Nanoseconds,
    /// How many, of what the name says.
    Number,
    /// Millionths; Prometheus is told a ratio.
    PartsPerMillion,
    /// Thousandths of a degree. What is below zero is not told.
    Millicelsius,
    /// Millionths of a volt.
    Microvolts,
    /// Millionths of an ampere.
    Microamperes,
    /// Billionths of a watt.
    Nanowatts,
    /// Transfers a second of a PCIe lane: 16 GT/s are 16 000 000 000.
    TransfersPerSecond,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// What it is told for.
    pub scope: Scope,
    /// What it is.
    pub kind: Kind,
    /// Its name, without scope and unit.
    pub name: &'static str,
    /// In what it is recorded.
    pub unit: Unit,
    /// What it means.
    pub help: &'static str,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "link",
            Self::Path => "path",
            Self::Connection => "connection",
            Self::Device => "device",
            Self::Class => "class",
            Self::Port => "port",
            Self::Priority => "port_priority",
            Self::Lane => "port_lane",
            Self::Host => "host",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

impl Unit {
    /// How many of it make one of the unit that Prometheus is told.
    #[must_use]
    pub const fn per_base(self) -> u64 {
        match self {
            Self::Bytes | Self::BytesPerSecond | Self::Number | Self::TransfersPerSecond => 1,
            Self::Millicelsius => 1000,
            Self::PartsPerMillion | Self::Microvolts | Self::Microamperes => 1_000_000,
            Self::Nanoseconds | Self::Nanowatts => 1_000_000_000,
        }
    }
}

impl Metric {
    /// The same of another scope.
    #[must_use]
    pub const fn of(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// Its field in JSON: name and unit.
    #[must_use]
    pub fn field(&self) -> String {
        let unit = match self.unit {
            Unit::Bytes => "_bytes",
            Unit::BytesPerSecond => "_bytes_per_s",
            Unit::Nanoseconds => "_ns",
            Unit::Number => "",
            Unit::PartsPerMillion => "_ppm",
            Unit::Millicelsius => "_millicelsius",
            Unit::Microvolts => "_uv",
            Unit::Microamperes => "_ua",
            Unit::Nanowatts => "_nw",
            Unit::TransfersPerSecond => "_transfers_per_s",
        };
        format!("{}{unit}", self.name)
    }

    /// Its name for Prometheus, by that project's rules: base units, `_total` for counters.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let unit = match self.unit {
            Unit::Bytes => "_bytes",
            Unit::BytesPerSecond => "_bytes_per_second",
            Unit::Nanoseconds => "_seconds",
            Unit::Number => "",
            Unit::PartsPerMillion => "_ratio",
            Unit::Millicelsius => "_celsius",
            Unit::Microvolts => "_volts",
            Unit::Microamperes => "_amperes",
            Unit::Nanowatts => "_watts",
            Unit::TransfersPerSecond => "_transfers_per_second",
        };
        let total = if self.kind == Kind::Counter {
            "_total"
        } else {
            ""
        };
        format!("thalweg_{}_{}{unit}{total}", self.scope, self.name)
    }
}

/// The metrics of one kind and scope.
pub trait Table: Copy + 'static {
    /// All of them, in the order of their places.
    const ALL: &'static [Self];
    /// Its place among them.
    fn place(self) -> usize;
    /// Its entry in the table.
    fn metric(self) -> Metric;
}

macro_rules! table {
    ($(
        $(#[$about:meta])*
        $table:ident: $kind:ident of $scope:ident {
            $( #[doc = $help:literal] $metric:ident = $name:literal in $unit:ident, )*
        }
    )*) => {
        $(
            $(#[$about])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum $table {
                $( #[doc = $help] $metric, )*
            }

            impl $table {
                /// All of them, in the order of their places.
                pub const ALL: &'static [Self] = &[ $( Self::$metric, )* ];
                /// How many there are.
                pub const COUNT: usize = Self::ALL.len();

            }

            impl Table for $table {
                const ALL: &'static [Self] = Self::ALL;

                fn place(self) -> usize {
                    self as usize
                }

                fn metric(self) -> Metric {
                    match self {
                        $( Self::$metric => Metric {
                            scope: Scope::$scope,
                            kind: Kind::$kind,
                            name: $name,
                            unit: Unit::$unit,
                            help: $help.trim_ascii(),
                        }, )*
                    }
                }
            }
        )*

        /// The table. What is told of messages is there for each of its scopes.
        pub fn metrics() -> impl Iterator<Item = Metric> {
            let all = std::iter::empty();
            $( let all = all.chain($table::ALL.iter().map(|metric| metric.metric())); )*
            all.flat_map(|metric| {
                let others: &[Scope] = match metric.scope {
                    Scope::Connection => &[Scope::Device, Scope::Class],
                    _ => &[],
                };
                let others = others.iter().map(move |&scope| metric.of(scope));
                std::iter::once(metric).chain(others)
            })
        }
    };
}

table! {
    /// What a link counts.
    LinkCounter: Counter of Link {
        /// Messages that have ended well: at the sender acknowledged, at the receiver whole in their place.
        Messages = "messages" in Number,
        /// Payload of messages that have ended well.
        MessageBytes = "message" in Bytes,
        /// Messages that ended with an error.
        Failures = "failures" in Number,
        /// Chunks that a receiver got twice, for they were sent again over another path.
        Duplicates = "duplicates" in Number,
        /// Time in which the user of the link had nothing under way on it.
        IdleTime = "idle" in Nanoseconds,
        /// Time in which messages waited for receives that had not been posted.
        CreditTime = "credit_wait" in Nanoseconds,
        /// Time in which the receiver held back what was announced to it.
        GrantTime = "grant_wait" in Nanoseconds,
        /// Time in which all that was under way had reached the receiver's host, and its program took none of it.
        ReceiverTime = "receiver_wait" in Nanoseconds,
        /// At a receiver, time in which receives were posted and their messages not begun.
        SenderTime = "sender_wait" in Nanoseconds,
        /// Time in which the window or the paths were full, or no path was up; at a receiver, in which a part of a message was there.
        NetworkTime = "network_wait" in Nanoseconds,
        /// Time in which all was sent, and not all of it acknowledged.
        AckTime = "ack_wait" in Nanoseconds,
        /// Time in which something could be sent: what this host itself needed.
        HostTime = "host" in Nanoseconds,
    }

    /// What a link is like now.
    LinkGauge: Gauge of Link {
        /// The controller's answer: how much may be in flight.
        Window = "window" in Bytes,
        /// How much is in flight: given to paths and not acknowledged.
        InFlight = "in_flight" in Bytes,
        /// Paths that carry data.
        ActivePaths = "active_paths" in Number,
    }

    /// What a path counts.
    PathCounter: Counter of Path {
        /// Payload that was given to it, what was sent again included.
        SentBytes = "sent" in Bytes,
        /// Payload that came over it and was not there yet.
        ReceivedBytes = "received" in Bytes,
        /// Over TCP: segments that the peer's kernel has acknowledged, where both kernels agreed on ECN.
        Delivered = "delivered_segments" in Number,
        /// Over TCP: of these, segments acknowledged with a congestion mark (ECN).
        Marks = "marked_segments" in Number,
        /// Over TCP: segments that the kernel sent again.
        Retransmits = "retransmitted_segments" in Number,
        /// Times that it was given up and made silent.
        Fences = "fences" in Number,
        /// Frames that were outstanding when it was given up, and were given to others.
        Replays = "replays" in Number,
    }

    /// What a path is like now.
    PathGauge: Gauge of Path {
        /// 0 vacant, 1 dialing, 2 standby: up and not used, 3 active: used, 4 fenced: not yet known how far it came.
        State = "state" in Number,
        /// Payload that was given to it and is not acknowledged.
        Outstanding = "outstanding" in Bytes,
        /// What it delivered while it had something to deliver.
        Rate = "rate" in BytesPerSecond,
        /// Round trip, smoothed.
        RoundTrip = "round_trip" in Nanoseconds,
        /// The least that a round trip has taken: over RDMA of all paths of the link.
        RoundTripMin = "round_trip_min" in Nanoseconds,
        /// The channel's number: how often it has been dialled.
        Epoch = "epoch" in Number,
    }

    /// What a path's values were.
    PathHistogram: Histogram of Path {
        /// From a chunk's departure to the word that it has arrived: over TCP the receiver's own, with the time that both hosts needed.
        Delay = "delay" in Nanoseconds,
        /// What round trips took beyond the least: their time in the network's queues.
        Queue = "queue" in Nanoseconds,
    }

    /// What is counted of messages, for each connection, and for all at a device and of a class.
    MessageCounter: Counter of Connection {
        /// Messages that were asked for: sends and receives that the link has taken up.
        Requested = "requested_messages" in Number,
        /// Messages that have ended well: at the sender acknowledged or, small ones, copied; at the receiver whole in their place.
        Messages = "messages" in Number,
        /// Payload of messages that have ended well.
        Bytes = "message" in Bytes,
        /// Messages that ended with an error.
        Failures = "failures" in Number,
    }

    /// What messages were like.
    MessageHistogram: Histogram of Connection {
        /// From the time that the link takes up a request to its end: a receiver's includes its wait for the sender, a sender's that for the receive.
        Time = "message_time" in Nanoseconds,
        /// Payload of a message.
        Size = "message_size" in Bytes,
    }

    /// What a port of this host counts, for all processes together: first what its RDMA device counts, then what its Ethernet
    /// driver does, from [`Self::PausesReceived`] on, then its network interface, from [`Self::SentBytes`] on. None of them is
    /// there for every adapter.
    PortCounter: Counter of Port {
        /// RDMA packets that left.
        RdmaSentPackets = "rdma_sent_packets" in Number,
        /// RDMA packets that came.
        RdmaReceivedPackets = "rdma_received_packets" in Number,
        /// Bytes of RDMA packets that left.
        RdmaSentBytes = "rdma_sent" in Bytes,
        /// Bytes of RDMA packets that came.
        RdmaReceivedBytes = "rdma_received" in Bytes,
        /// Congestion notifications (CNP) that came, those that slowed a queue pair down where the others are counted apart; of a bond of mlx5 those of all its ports.
        CnpsHandled = "cnps_handled" in Number,
        /// Congestion notifications that came and changed nothing.
        CnpsIgnored = "cnps_ignored" in Number,
        /// Congestion notifications sent to others, whose packets came here with a mark.
        CnpsSent = "cnps_sent" in Number,
        /// RDMA packets that came with a congestion mark (ECN).
        EcnMarkedPackets = "ecn_marked_packets" in Number,
        /// Packets that came before one that they should have followed; no loss where packets of a queue pair take several ways, as long as nobody has to send again.
        OutOfSequencePackets = "out_of_sequence_packets" in Number,
        /// Others' word that a packet of ours is missing, said or implied by an answer to a later one.
        SequenceNaks = "sequence_naks" in Number,
        /// Times that no acknowledgement came in time.
        AckTimeouts = "ack_timeouts" in Number,
        /// Requests given up after the last try without an acknowledgement.
        RetriesExceeded = "retries_exceeded" in Number,
        /// What was sent again, in the unit of the driver: packets of ionic, rounds of the others.
        Retransmitted = "retransmitted" in Number,
        /// Bytes that were sent again.
        RetransmittedBytes = "retransmitted" in Bytes,
        /// Times that a queue pair began again slowly after a loss (mlx5).
        SlowRestarts = "slow_restarts" in Number,
        /// Others' word that no receive was posted for a message of ours.
        RnrNaksReceived = "rnr_naks_received" in Number,
        /// Our word that no receive was posted for a message of theirs.
        RnrNaksSent = "rnr_naks_sent" in Number,
        /// Requests given up because no receive was ever posted for them.
        RnrRetriesExceeded = "rnr_retries_exceeded" in Number,
        /// Messages that came when no receive was posted.
        NoReceiveBuffer = "no_receive_buffer" in Number,
        /// Requests that came a second time.
        DuplicateRequests = "duplicate_requests" in Number,
        /// Requests of ours that ended with an error.
        RequesterErrors = "requester_errors" in Number,
        /// Receives and answers of ours that ended with an error.
        ResponderErrors = "responder_errors" in Number,
        /// Requests and receives flushed because their queue pair had failed.
        Flushed = "flushed" in Number,
        /// RDMA packets whose checksum was wrong.
        IcrcErrors = "icrc_errors" in Number,
        /// RDMA packets that came and were discarded.
        RdmaDiscards = "rdma_discards" in Number,
        /// Ticks of the adapter during which the port had something to send and no credit for it (InfiniBand).
        XmitWaitTicks = "xmit_wait_ticks" in Number,
        /// Packets discarded on their way out, because the port was down or congested (InfiniBand).
        XmitDiscards = "xmit_discards" in Number,
        /// Packets that came with an error (InfiniBand, bnxt).
        RdmaReceiveErrors = "rdma_receive_errors" in Number,
        /// Symbol errors of the link (InfiniBand).
        RdmaSymbolErrors = "rdma_symbol_errors" in Number,
        /// Times that the RDMA port's link went down.
        RdmaLinkDowns = "rdma_link_downs" in Number,
        /// Times that the RDMA port's link recovered from errors (InfiniBand).
        RdmaLinkRecoveries = "rdma_link_recoveries" in Number,
        /// Times that errors of the link passed the limit that is set for it (InfiniBand).
        RdmaLinkIntegrityErrors = "rdma_link_integrity_errors" in Number,
        /// Times that the port's buffers ran over, again and again (InfiniBand).
        RdmaBufferOverruns = "rdma_buffer_overruns" in Number,
        /// Frames that told this port to pause, of all priorities and of the whole link: the network is congested.
        PausesReceived = "pauses_received" in Number,
        /// Frames by which this port told the switch to pause: this host is too slow.
        PausesSent = "pauses_sent" in Number,
        /// Time during which this port was told to pause, added up over priorities.
        Paused = "paused" in Nanoseconds,
        /// Time during which this port told the switch to pause, added up over priorities.
        Pausing = "pausing" in Nanoseconds,
        /// Times that this port began to be paused.
        PauseTransitions = "pause_transitions" in Number,
        /// Times that this port has told the switch to pause for long.
        PauseStormWarnings = "pause_storm_warnings" in Number,
        /// Times that this port has told the switch to pause for so long that it stopped doing so, and drops instead.
        PauseStormErrors = "pause_storm_errors" in Number,
        /// Frames discarded on arrival for lack of room in the adapter.
        ReceiveDiscards = "receive_discards" in Number,
        /// Frames discarded on their way out.
        TransmitDiscards = "transmit_discards" in Number,
        /// Frames discarded on arrival because the host had given the interface no buffer.
        ReceiveOutOfBuffer = "receive_out_of_buffer" in Number,
        /// Times that a queue of the adapter's own had no buffer.
        DeviceOutOfBuffer = "device_out_of_buffer" in Number,
        /// Frames that found the adapter's buffer more than 85 % full.
        BufferPassedThreshold = "buffer_passed_threshold" in Number,
        /// Frames discarded on arrival for lack of a buffer of this host's share.
        HostBufferDiscards = "host_buffer_discards" in Number,
        /// Frames discarded on arrival because this host is congested.
        HostCongestionDiscards = "host_congestion_discards" in Number,
        /// Frames that the adapter itself marked (ECN) because this host is congested.
        HostCongestionMarks = "host_congestion_marks" in Number,
        /// Frames of the interface's own traffic that came with a congestion mark (ECN).
        EcnMarkedFrames = "ecn_marked_frames" in Number,
        /// Frames whose checksum was wrong.
        CrcErrors = "crc_errors" in Number,
        /// Frames shorter than any may be, with a right checksum.
        UndersizeFrames = "undersize_frames" in Number,
        /// Frames longer than the port takes, with a right checksum: the other end has a larger MTU.
        OversizeFrames = "oversize_frames" in Number,
        /// Frames shorter than any may be, with a wrong checksum: what is left of a collision or of a bad signal.
        Fragments = "fragments" in Number,
        /// Frames longer than the port takes, with a wrong checksum.
        Jabbers = "jabbers" in Number,
        /// Frames dropped for a symbol error.
        SymbolErrors = "symbol_errors" in Number,
        /// Symbol errors that error correction did not mend.
        PcsSymbolErrors = "pcs_symbol_errors" in Number,
        /// Bits that error correction (FEC) mended.
        FecCorrectedBits = "fec_bit_corrections" in Number,
        /// Blocks that error correction mended.
        FecCorrectedBlocks = "fec_corrected_blocks" in Number,
        /// Blocks that error correction could not mend.
        FecUncorrectableBlocks = "fec_uncorrectable_blocks" in Number,
        /// Errors of the physical lanes before correction, added up.
        LaneErrors = "lane_errors" in Number,
        /// Times that the Ethernet link went down.
        LinkDowns = "link_downs" in Number,
        /// Times that the transceiver was taken out.
        ModuleUnplugs = "module_unplugs" in Number,
        /// Times that the transceiver did not answer, or had a short circuit.
        ModuleFaults = "module_faults" in Number,
        /// Times that the transceiver was too hot.
        ModuleHighTemperatures = "module_high_temperatures" in Number,
        /// Seconds in which reads of the adapter waited for PCIe more than 30 % of the time.
        PcieReadStalls = "pcie_read_stalls" in Number,
        /// Seconds in which writes of the adapter waited for PCIe more than 30 % of the time.
        PcieWriteStalls = "pcie_write_stalls" in Number,
        /// Frames dropped because PCIe did not take them.
        PcieOverflows = "pcie_overflows" in Number,
        /// Times that PCIe had to recover its signal.
        PcieSignalErrors = "pcie_signal_errors" in Number,
        /// Bytes that the network interface sent; what RDMA sends is not always among them.
        SentBytes = "sent" in Bytes,
        /// Bytes that the network interface received.
        ReceivedBytes = "received" in Bytes,
        /// Packets that the network interface sent.
        SentPackets = "sent_packets" in Number,
        /// Packets that the network interface received.
        ReceivedPackets = "received_packets" in Number,
        /// Packets that the network interface could not send.
        SendErrors = "send_errors" in Number,
        /// Packets that came to the network interface with an error.
        ReceiveErrors = "receive_errors" in Number,
        /// Packets dropped before they were sent.
        SendDrops = "send_drops" in Number,
        /// Packets dropped after they came.
        ReceiveDrops = "receive_drops" in Number,
        /// Packets that came and that the host did not take in time.
        ReceiveMisses = "receive_misses" in Number,
        /// Times that the network interface lost its carrier.
        CarrierDowns = "carrier_downs" in Number,
    }

    /// What a port is like now: first its network interface, then its RDMA device, from [`Self::RdmaState`] on, its Ethernet
    /// driver, from [`Self::PcieReadStalled`] on, its transceiver, from [`Self::ModuleTemperature`] on, and its place on PCIe,
    /// from [`Self::PcieSpeed`] on.
    PortGauge: Gauge of Port {
        /// 1 while the network interface has a carrier, 0 while it has none.
        LinkUp = "link_up" in Number,
        /// Speed of the network interface.
        Speed = "speed" in BytesPerSecond,
        /// The largest packet of the network interface.
        Mtu = "mtu" in Bytes,
        /// Temperature of the adapter, the hottest place that it tells; absent below zero.
        Temperature = "temperature" in Millicelsius,
        /// State of the RDMA port: 1 down, 2 initializing, 3 armed, 4 active, 5 active and deferred.
        RdmaState = "rdma_state" in Number,
        /// Speed of the RDMA port.
        RdmaSpeed = "rdma_speed" in BytesPerSecond,
        /// Share of the last second during which reads of the adapter waited for PCIe.
        PcieReadStalled = "pcie_read_stalled" in PartsPerMillion,
        /// Share of the last second during which writes of the adapter waited for PCIe.
        PcieWriteStalled = "pcie_write_stalled" in PartsPerMillion,
        /// Quality of the signal, in steps of the driver up to its maximum.
        SignalQuality = "signal_quality" in Number,
        /// The best quality that a signal can have.
        SignalQualityMax = "signal_quality_max" in Number,
        /// Why the link is down, where the driver says (`enum ethtool_link_ext_state` of Linux).
        DownReason = "down_reason" in Number,
        /// Physical lanes of the link.
        Lanes = "lanes" in Number,
        /// 1 where the link obeys pauses of the whole link, 0 where not; priorities have their own switches.
        PauseReceiveEnabled = "pause_receive_enabled" in Number,
        /// 1 where the port may pause the whole link, 0 where not.
        PauseSendEnabled = "pause_send_enabled" in Number,
        /// Temperature of the transceiver; absent below zero.
        ModuleTemperature = "module_temperature" in Millicelsius,
        /// Voltage of the transceiver.
        ModuleVoltage = "module_voltage" in Microvolts,
        /// Alarms that the transceiver has raised since it was last asked, its lanes' included.
        ModuleAlarms = "module_alarms" in Number,
        /// Warnings that the transceiver has raised since it was last asked, its lanes' included.
        ModuleWarnings = "module_warnings" in Number,
        /// Speed of a PCIe lane.
        PcieSpeed = "pcie_speed" in TransfersPerSecond,
        /// The highest speed that both ends of the adapter's link can have.
        PcieSpeedMax = "pcie_speed_max" in TransfersPerSecond,
        /// PCIe lanes in use.
        PcieWidth = "pcie_width" in Number,
        /// The most that both ends can use.
        PcieWidthMax = "pcie_width_max" in Number,
    }

    /// What a port counts for each of its eight priorities.
    PriorityCounter: Counter of Priority {
        /// Bytes sent with it.
        SentBytes = "sent" in Bytes,
        /// Bytes received with it.
        ReceivedBytes = "received" in Bytes,
        /// Frames that told this port to pause it.
        PausesReceived = "pauses_received" in Number,
        /// Frames by which this port told the switch to pause it.
        PausesSent = "pauses_sent" in Number,
        /// Time during which this port was told to pause it.
        Paused = "paused" in Nanoseconds,
        /// Time during which this port told the switch to pause it.
        Pausing = "pausing" in Nanoseconds,
        /// Frames discarded on arrival for lack of room.
        Discards = "discards" in Number,
        /// Frames that the adapter marked (ECN) because this host is congested.
        Marks = "marks" in Number,
    }

    /// What a lane of a port's transceiver is like now.
    LaneGauge: Gauge of Lane {
        /// Light that comes in.
        ReceivePower = "receive_power" in Nanowatts,
        /// Light that goes out.
        SendPower = "send_power" in Nanowatts,
        /// Current of the laser.
        Bias = "bias" in Microamperes,
    }

    /// What a host counts: the time that work waited for something (pressure), and what its processors did.
    HostCounter: Counter of Host {
        /// Time during which some work waited for a processor.
        CpuPressureSome = "cpu_pressure_some" in Nanoseconds,
        /// Time during which all work waited for a processor, within a limit of its control group.
        CpuPressureFull = "cpu_pressure_full" in Nanoseconds,
        /// Time during which some work waited for memory.
        MemoryPressureSome = "memory_pressure_some" in Nanoseconds,
        /// Time during which all work waited for memory.
        MemoryPressureFull = "memory_pressure_full" in Nanoseconds,
        /// Time during which some work waited for disks.
        IoPressureSome = "io_pressure_some" in Nanoseconds,
        /// Time during which all work waited for disks.
        IoPressureFull = "io_pressure_full" in Nanoseconds,
        /// Time during which all work waited for interrupts to be served.
        IrqPressureFull = "irq_pressure_full" in Nanoseconds,
        /// Time of all processors in programs.
        CpuUser = "cpu_user" in Nanoseconds,
        /// Time of all processors in the kernel.
        CpuSystem = "cpu_system" in Nanoseconds,
        /// Time of all processors without work.
        CpuIdle = "cpu_idle" in Nanoseconds,
        /// Time of all processors without work while some waits for disks.
        CpuIoWait = "cpu_io_wait" in Nanoseconds,
        /// Time of all processors in interrupts.
        CpuIrq = "cpu_irq" in Nanoseconds,
        /// Time of all processors in soft interrupts: packets that come and go, among others.
        CpuSoftirq = "cpu_softirq" in Nanoseconds,
        /// Time of all processors that the hypervisor gave to others.
        CpuSteal = "cpu_steal" in Nanoseconds,
        /// Soft interrupts for packets that came.
        SoftirqsReceive = "softirqs_receive" in Number,
        /// Soft interrupts for packets that were sent.
        SoftirqsSend = "softirqs_send" in Number,
        /// Packets that soft interrupts took in.
        SoftnetPackets = "softnet_packets" in Number,
        /// Packets dropped because a processor's queue was full.
        SoftnetDrops = "softnet_drops" in Number,
        /// Times that a soft interrupt left packets for later because its time was up.
        SoftnetSqueezes = "softnet_squeezes" in Number,
    }

    /// What a host is like now. Pressure is the mean over ten seconds.
    HostGauge: Gauge of Host {
        /// Share of time during which some work waited for a processor.
        CpuPressureSome = "cpu_pressure_some" in PartsPerMillion,
        /// Share of time during which all work waited for a processor.
        CpuPressureFull = "cpu_pressure_full" in PartsPerMillion,
        /// Share of time during which some work waited for memory.
        MemoryPressureSome = "memory_pressure_some" in PartsPerMillion,
        /// Share of time during which all work waited for memory.
        MemoryPressureFull = "memory_pressure_full" in PartsPerMillion,
        /// Share of time during which some work waited for disks.
        IoPressureSome = "io_pressure_some" in PartsPerMillion,
        /// Share of time during which all work waited for disks.
        IoPressureFull = "io_pressure_full" in PartsPerMillion,
        /// Share of time during which all work waited for interrupts to be served.
        IrqPressureFull = "irq_pressure_full" in PartsPerMillion,
        /// Processors in use.
        Processors = "processors" in Number,
    }
}

/// A gauge that Prometheus is told beside the table, of processes, of ports, of switches or of the
/// exporter itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// Whether a process runs.
pub const PROCESS_UP: Exported = Exported {
    name: "thalweg_process_up",
    help: "1: the process runs; 0: it ended without closing, which is told for an hour, or until another of its user begins.",
};
/// When it last recorded.
pub const PROCESS_AGE: Exported = Exported {
    name: "thalweg_process_age_seconds",
    help: "How long ago it last recorded: some seconds at most, unless it has ended or is stopped.",
};
/// When it began.
pub const PROCESS_START: Exported = Exported {
    name: "thalweg_process_start_time_seconds",
    help: "When it began to record, in seconds since 1970.",
};
/// Which ends a path has.
pub const PATH_INFO: Exported = Exported {
    name: "thalweg_path_info",
    help: "1; the labels local and remote are the ends of the path, as long as it has these.",
};
/// How old what a port says is.
pub const PORT_AGE: Exported = Exported {
    name: "thalweg_port_age_seconds",
    help: "How old the figures of a port are, for each source that has told some: they are read at different paces.",
};
/// What a switch has sent.
pub const SWITCH_VALUE: Exported = Exported {
    name: "thalweg_switch_value",
    help: "The latest of a series that a switch has sent (--otlp), in the switch's own words and unit: counters and gauges alike.",
};
/// How old that is.
pub const SWITCH_AGE: Exported = Exported {
    name: "thalweg_switch_age_seconds",
    help: "How long ago the latest of a switch's series came; after five minutes it is not told any more.",
};
/// Which release the exporter is.
pub const BUILD_INFO: Exported = Exported {
    name: "thalweg_build_info",
    help: "1; the label is the release of the exporter.",
};
/// What the exporter could not read.
pub const UNREADABLE_SEGMENTS: Exported = Exported {
    name: "thalweg_export_unreadable_segments",
    help: "Files that may not be read or that another release has written: their processes are missing here.",
};

/// All gauges beside the table.
pub const EXPORTED: [Exported; 9] = [
    PROCESS_UP,
    PROCESS_AGE,
    PROCESS_START,
    PATH_INFO,
    PORT_AGE,
    SWITCH_VALUE,
    SWITCH_AGE,
    BUILD_INFO,
    UNREADABLE_SEGMENTS,
];

/// What the time of a link goes into, in a word or two: all of it is counted for one of these.
pub const LINK_TIMES: [(LinkCounter, &str); 8] = [
    (LinkCounter::IdleTime, "idle"),
    (LinkCounter::CreditTime, "no receive"),
    (LinkCounter::GrantTime, "held back"),
    (LinkCounter::ReceiverTime, "not taken in"),
    (LinkCounter::SenderTime, "sender late"),
    (LinkCounter::NetworkTime, "network"),
    (LinkCounter::AckTime, "last acks"),
    (LinkCounter::HostTime, "this host"),
];

/// The states of a path, by [`PathGauge::State`].
pub const PATH_STATES: [&str; 5] = ["vacant", "dialing", "standby", "active", "fenced"];

/// A number that differs between tables that differ, for whoever reads what another release has recorded.
#[must_use]
pub fn fingerprint() -> u64 {
    // FNV-1a: the same on every machine and in every release.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |text: &str| {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    // What belongs to the host is not in segments.
    let is_recorded =
        |metric: &Metric| matches!(metric.scope, Scope::Link | Scope::Path | Scope::Connection);
    let recorded = metrics().filter(is_recorded);
    for metric in recorded {
        add(&metric.prometheus());
        add(&metric.kind.to_string());
    }
    add(Event::TABLE);
    hash
}

/// `docs/metrics.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics and events\n\nMade from the tables in `src/telemetry/schema.rs` and `event.rs`; a test says if they differ.\n\n\
         | Prometheus | JSON | kind | meaning |\n|---|---|---|---|\n",
    );
    for metric in metrics() {
        let _ = writeln!(
            text,
            "| `{}` | {} `{}` | {} | {} |",
            metric.prometheus(),
            metric.scope,
            metric.field(),
            metric.kind,
            metric.help
        );
    }
    text += "\nPrometheus is told these gauges besides (`docs/operations.md` has the labels):\n\n\
             | Prometheus | meaning |\n|---|---|\n";
    for metric in EXPORTED {
        let _ = writeln!(text, "| `{}` | {} |", metric.name, metric.help);
    }
    text += "\n## Events\n\n| name | says | meaning |\n|---|---|---|\n";
    for (name, verdict, help) in Event::all() {
        let verdict = format!("{verdict:?}").to_lowercase();
        let _ = writeln!(text, "| `{name}` | {verdict} | {help} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn names_are_told_apart_and_well_formed() {
        let mut seen = BTreeSet::new();
        for metric in metrics() {
            let name = metric.prometheus();
            let is_allowed = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(is_allowed), "{name}");
            assert!(seen.insert(name.clone()), "{name} is there twice");
            assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
        }
    }

    #[test]
    fn prometheus_is_told_base_units() {
        assert_eq!(
            PathCounter::SentBytes.metric().prometheus(),
            "thalweg_path_sent_bytes_total"
        );
        assert_eq!(
            PathHistogram::Delay.metric().prometheus(),
            "thalweg_path_delay_seconds"
        );
        assert_eq!(PathHistogram::Delay.metric().field(), "delay_ns");
        assert_eq!(
            LaneGauge::ReceivePower.metric().prometheus(),
            "thalweg_port_lane_receive_power_watts"
        );
        assert_eq!(
            HostCounter::CpuSteal.metric().prometheus(),
            "thalweg_host_cpu_steal_seconds_total"
        );
        assert_eq!(Unit::Nanowatts.per_base(), 1_000_000_000);
    }

    /// `THALWEG_BLESS=1` writes it.
    #[test]
    fn the_documentation_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("THALWEG_BLESS").is_some() {
            fs::write(path, document()).unwrap();
        }
        assert!(
            fs::read_to_string(path).is_ok_and(|text| text == document()),
            "run THALWEG_BLESS=1 cargo test --lib telemetry"
        );
    }
}

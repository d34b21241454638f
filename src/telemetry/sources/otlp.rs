//! What switches say of themselves: metrics that are sent here by OTLP over gRPC, as by SONiC's high-frequency
//! telemetry, Cumulus Linux, gnmic, or an OpenTelemetry collector in between. The latest value of each
//! series is kept, with its age.
//!
//! Anybody who reaches the port may send. So it is on loopback unless told otherwise, how much is kept is
//! bounded, and what comes beyond that is refused and counted, never kept in place of what is there.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    DataPointFlags, NumberDataPoint, metric, number_data_point,
};
use prost::Message as _;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::switches::SwitchValue;
pub use super::switches::Value;
use crate::clock::Timestamp;
use crate::units::Nanos;

/// Where senders look for a receiver (OTLP specification, "OTLP/gRPC Default Port").
pub const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4317));

/// A switch of 64 ports with some 50 counters of each of 8 queues has half as many.
const SERIES_MAX: usize = 1 << 16;
/// Names, units and attributes of all series together.
const TEXT_BYTES_MAX: usize = 32 << 20;
const ATTRIBUTES_MAX: usize = 64;
/// Taken apart, a message may take many times as much.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Requests of one connection that are served at once.
const REQUESTS_MAX: u32 = 4;
/// More is not told at once: a scrape or a snapshot with so many series has some megabytes.
const TOLD_MAX: usize = 10_000;
/// What has not been renewed for so long is not told, and makes room where there is none.
const FORGOTTEN_AFTER: Nanos = Nanos::from_secs(300);
/// So often it is looked for what has been forgotten.
const SWEEP_EVERY: Nanos = Nanos::from_secs(1);
/// A request that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which series: its metric and its attributes, those of the sender included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Of the metric, as the sender calls it.
    pub metric: String,
    /// In the order of their keys.
    pub attributes: BTreeMap<String, String>,
}

/// The latest of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Latest {
    /// The value.
    pub value: Value,
    /// As the sender has it.
    pub unit: String,
    /// It only grows, until it is reset.
    pub is_counter: bool,
    /// When it came.
    pub received_at: Timestamp,
    /// When it was so, by the sender's wall clock, in ns; 0 if it does not say.
    pub observed_wall_ns: u64,
}

/// What has been received.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Received {
    /// The latest of each series.
    pub series: BTreeMap<Name, Latest>,
    /// Values that were refused: there was no room, or they are histograms or of an odd kind.
    pub refused: u64,
    text_bytes: usize,
    swept: Timestamp,
}

/// Receives, until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    received: Arc<Mutex<Received>>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Listens there; port 0 is any. On another address than loopback's whoever reaches it may send.
    ///
    /// # Errors
    /// The address cannot be listened at, or there is no thread.
    pub fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let received = Arc::<Mutex<Received>>::default();
        let service = MetricsServiceServer::new(Service(Arc::clone(&received)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Server::builder()
                .timeout(PATIENCE)
                .max_concurrent_streams(REQUESTS_MAX)
                .http2_keepalive_interval(Some(PATIENCE))
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .map_err(io::Error::other)
        };
        let thread = thread::Builder::new()
            .name("thalweg-otlp".into())
            .spawn(move || {
                // One that cannot listen any more tells nothing new, which the ages of its series show.
                runtime.spawn(serve);
                // Nothing is ever sent: with its sender it ends, and with the runtime all connections.
                let _ = runtime.block_on(stopped);
            })?;
        Ok(Self {
            received,
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come so far.
    #[must_use]
    pub fn read(&self) -> Received {
        lock(&self.received).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Service(Arc<Mutex<Received>>);

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let refused = lock(&self.0).take(request.into_inner(), Timestamp::now());
        let partial_success = (refused > 0).then(|| ExportMetricsPartialSuccess {
            rejected_data_points: i64::try_from(refused).unwrap_or(i64::MAX),
            error_message: "no room, or neither gauges nor sums with plain attributes".into(),
        });
        Ok(Response::new(ExportMetricsServiceResponse {
            partial_success,
        }))
    }
}

impl Received {
    /// The latest of each series, in the order of their names, with what is to be said about it. What is no
    /// number, or has not been renewed for five minutes, is left out.
    #[must_use]
    pub fn told(&self, now: Timestamp) -> (Vec<SwitchValue>, Vec<String>) {
        let is_told = |(_, latest): &(&Name, &Latest)| {
            let is_number = match latest.value {
                Value::Integer(_) => true,
                Value::Float(value) => value.is_finite(),
            };
            is_number && now.since(latest.received_at) < FORGOTTEN_AFTER
        };
        let told = |(name, latest): (&Name, &Latest)| SwitchValue {
            metric: name.metric.clone(),
            attributes: name.attributes.clone(),
            unit: latest.unit.clone(),
            is_counter: latest.is_counter,
            value: latest.value,
            age_ns: now.since(latest.received_at).0,
            observed_wall_ns: latest.observed_wall_ns,
        };
        let mut series = self.series.iter().filter(is_told);
        let values = series.by_ref().take(TOLD_MAX).map(told).collect();
        // These stay the same while they hold, so that each is said once.
        let mut lines = Vec::new();
        if series.next().is_some() {
            lines.push(format!(
                "switches: more than {TOLD_MAX} series: those after, by name, are left out; let them send fewer"
            ));
        }
        if self.refused > 0 {
            lines.push(format!(
                "switches: some values were refused: there are {SERIES_MAX} series already, or these are neither \
                 gauges nor sums with plain attributes"
            ));
        }
        (values, lines)
    }

    /// Takes in a message as it is on the wire; says how many values it refuses.
    ///
    /// # Errors
    /// It is none.
    pub fn take_bytes(
        &mut self,
        message: &[u8],
        now: Timestamp,
    ) -> Result<u64, prost::DecodeError> {
        ExportMetricsServiceRequest::decode(message).map(|request| self.take(request, now))
    }

    fn take(&mut self, request: ExportMetricsServiceRequest, now: Timestamp) -> u64 {
        let before = self.refused;
        for resource in request.resource_metrics {
            let sender = resource.resource.map_or_else(Vec::new, |r| r.attributes);
            for metric in resource.scope_metrics.into_iter().flat_map(|s| s.metrics) {
                let (points, is_counter) = match metric.data {
                    Some(metric::Data::Gauge(gauge)) => (gauge.data_points, false),
                    Some(metric::Data::Sum(sum)) => (sum.data_points, sum.is_monotonic),
                    Some(metric::Data::Histogram(other)) => {
                        self.refuse(other.data_points.len());
                        continue;
                    }
                    Some(metric::Data::ExponentialHistogram(other)) => {
                        self.refuse(other.data_points.len());
                        continue;
                    }
                    Some(metric::Data::Summary(other)) => {
                        self.refuse(other.data_points.len());
                        continue;
                    }
                    None => continue,
                };
                for point in points {
                    if !has_value(&point) {
                        continue;
                    }
                    let latest = latest(&point, &metric.unit, is_counter, now);
                    let attributes = attributes(&sender, &point.attributes);
                    let is_kept = latest.zip(attributes).is_some_and(|(latest, attributes)| {
                        let metric = metric.name.clone();
                        self.keep(Name { metric, attributes }, latest, now)
                    });
                    self.refuse(usize::from(!is_kept));
                }
            }
        }
        self.refused - before
    }

    fn refuse(&mut self, values: usize) {
        self.refused = self.refused.saturating_add(values as u64);
    }

    fn keep(&mut self, name: Name, latest: Latest, now: Timestamp) -> bool {
        let bytes = text_bytes(&name, &latest);
        let before = self.series.get(&name).map_or(0, |l| text_bytes(&name, l));
        if !self.has_room(before, bytes) && now.since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.forget(now);
        }
        // It may itself have been forgotten.
        let before = self.series.get(&name).map_or(0, |l| text_bytes(&name, l));
        if !self.has_room(before, bytes) {
            return false;
        }
        self.text_bytes = self.text_bytes - before + bytes;
        self.series.insert(name, latest);
        true
    }

    /// For one of so many bytes in place of one of so many; none is no series.
    fn has_room(&self, before: usize, bytes: usize) -> bool {
        let series = self.series.len() + usize::from(before == 0);
        series <= SERIES_MAX && self.text_bytes - before + bytes <= TEXT_BYTES_MAX
    }

    fn forget(&mut self, now: Timestamp) {
        self.series
            .retain(|_, latest| now.since(latest.received_at) < FORGOTTEN_AFTER);
        let bytes = self.series.iter().map(|(name, l)| text_bytes(name, l));
        self.text_bytes = bytes.sum();
    }
}

/// What a series costs beside its fixed size. Never 0.
fn text_bytes(name: &Name, latest: &Latest) -> usize {
    // What the allocator and the map add for each text.
    const EACH: usize = 32;
    let attributes = name.attributes.iter();
    let attributes = attributes.map(|(key, value)| key.len() + value.len() + 2 * EACH);
    name.metric.len() + latest.unit.len() + 2 * EACH + attributes.sum::<usize>()
}

/// Senders say so where there is none.
fn has_value(point: &NumberDataPoint) -> bool {
    point.flags & DataPointFlags::NoRecordedValueMask as u32 == 0
}

fn latest(point: &NumberDataPoint, unit: &str, is_counter: bool, now: Timestamp) -> Option<Latest> {
    let value = match point.value? {
        number_data_point::Value::AsInt(value) => Value::Integer(value),
        number_data_point::Value::AsDouble(value) => Value::Float(value),
    };
    Some(Latest {
        value,
        unit: unit.to_owned(),
        is_counter,
        received_at: now,
        observed_wall_ns: point.time_unix_nano,
    })
}

/// Those of a value take the place of its sender's. None if there are too many, or some are no text or number:
/// without them series would be taken for each other.
fn attributes(sender: &[KeyValue], point: &[KeyValue]) -> Option<BTreeMap<String, String>> {
    if sender.len() + point.len() > ATTRIBUTES_MAX {
        return None;
    }
    let all = sender.iter().chain(point);
    let text = |attribute: &KeyValue| {
        let value = match attribute.value.as_ref()?.value.as_ref()? {
            any_value::Value::StringValue(text) => text.clone(),
            any_value::Value::BoolValue(value) => value.to_string(),
            any_value::Value::IntValue(value) => value.to_string(),
            any_value::Value::DoubleValue(value) => value.to_string(),
            _ => return None,
        };
        Some((attribute.key.clone(), value))
    };
    all.map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpStream;

    use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue};
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Histogram, HistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics, Sum,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use proptest::prelude::*;

    use super::*;

    fn text(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: Some(AnyValue {
                value: Some(any_value::Value::StringValue(value.into())),
            }),
            ..KeyValue::default()
        }
    }

    fn point(port: &str, value: i64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: vec![text("port", port)],
            value: Some(number_data_point::Value::AsInt(value)),
            time_unix_nano: 5,
            ..NumberDataPoint::default()
        }
    }

    fn metric(name: &str, data: metric::Data) -> Metric {
        Metric {
            name: name.into(),
            unit: "By".into(),
            data: Some(data),
            ..Metric::default()
        }
    }

    fn sum(points: Vec<NumberDataPoint>) -> metric::Data {
        metric::Data::Sum(Sum {
            data_points: points,
            is_monotonic: true,
            ..Sum::default()
        })
    }

    fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(Resource {
                    attributes: vec![text("host", "leaf1")],
                    ..Resource::default()
                }),
                scope_metrics: vec![ScopeMetrics {
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        }
    }

    fn name(metric: &str, port: &str) -> Name {
        let attributes = [("host", "leaf1"), ("port", port)];
        let owned = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Name {
            metric: metric.into(),
            attributes: owned.into(),
        }
    }

    fn at(s: u64) -> Timestamp {
        Timestamp::ZERO + Nanos::from_secs(s)
    }

    #[test]
    fn the_latest_of_each_series_is_kept() {
        let mut received = Received::default();
        let first = request(vec![metric(
            "octets",
            sum(vec![point("1", 10), point("2", 20)]),
        )]);
        assert_eq!(received.take(first, at(1)), 0);
        let depth = metric::Data::Gauge(Gauge {
            data_points: vec![NumberDataPoint {
                value: Some(number_data_point::Value::AsDouble(0.5)),
                ..point("1", 0)
            }],
        });
        let later = request(vec![
            metric("octets", sum(vec![point("1", 11)])),
            metric("depth", depth),
        ]);
        assert_eq!(received.take_bytes(&later.encode_to_vec(), at(2)), Ok(0));
        assert_eq!(received.series.len(), 3);
        let octets = &received.series[&name("octets", "1")];
        assert_eq!(octets.value, Value::Integer(11));
        assert_eq!((octets.received_at, octets.observed_wall_ns), (at(2), 5));
        assert!(octets.is_counter && octets.unit == "By");
        assert_eq!(received.series[&name("octets", "2")].received_at, at(1));
        let depth = &received.series[&name("depth", "1")];
        assert_eq!(depth.value, Value::Float(0.5));
        assert!(!depth.is_counter);
    }

    #[test]
    fn what_is_no_plain_number_is_refused_and_hides_nothing() {
        let mut received = Received::default();
        let mut odd = point("1", 1);
        odd.attributes[0].value = Some(AnyValue {
            value: Some(any_value::Value::ArrayValue(ArrayValue::default())),
        });
        let many = NumberDataPoint {
            attributes: (0..64).map(|n| text(&n.to_string(), "")).collect(),
            ..point("1", 1)
        };
        let empty = NumberDataPoint {
            value: None,
            ..point("1", 1)
        };
        let absent = NumberDataPoint {
            flags: 1,
            ..point("1", 1)
        };
        let histogram = metric::Data::Histogram(Histogram {
            data_points: vec![HistogramDataPoint::default(); 2],
            ..Histogram::default()
        });
        let metrics = vec![
            metric("times", histogram),
            metric("octets", sum(vec![odd, many, empty, absent, point("2", 7)])),
        ];
        assert_eq!(received.take(request(metrics), at(1)), 2 + 3);
        let names: Vec<_> = received.series.keys().collect();
        assert_eq!(names, [&name("octets", "2")]);
    }

    #[test]
    fn strangers_do_not_fill_memory() {
        let mut received = Received::default();
        let fill = |from: usize, count: usize, size: usize| {
            let pad = "x".repeat(size);
            let points = (from..from + count).map(|n| point(&format!("{n}{pad}"), 1));
            request(vec![metric("m", sum(points.collect()))])
        };
        assert_eq!(received.take(fill(0, SERIES_MAX, 0), at(1)), 0);
        // Known series go on, and new ones have no room until old ones are forgotten.
        assert_eq!(received.take(fill(0, 10, 0), at(2)), 0);
        assert_eq!(received.take(fill(SERIES_MAX, 7, 0), at(2)), 7);
        assert_eq!(received.series.len(), SERIES_MAX);
        assert_eq!(received.take(fill(SERIES_MAX, 7, 0), at(301)), 0);
        assert_eq!(received.series.len(), 10 + 7);
        // Few, but long.
        let refused = received.take(fill(0, 40, 1 << 20), at(302));
        assert!(refused >= 8, "{refused}");
        assert!(received.text_bytes <= TEXT_BYTES_MAX);
        assert_eq!(received.refused, 7 + refused);
    }

    #[test]
    fn what_is_told_is_fresh_and_bounded() {
        let mut received = Received::default();
        let old = request(vec![metric("octets", sum(vec![point("1", 10)]))]);
        assert_eq!(received.take(old, at(1)), 0);
        let not_a_number = metric::Data::Gauge(Gauge {
            data_points: vec![NumberDataPoint {
                value: Some(number_data_point::Value::AsDouble(f64::NAN)),
                ..point("1", 0)
            }],
        });
        let later = request(vec![
            metric("depth", not_a_number),
            metric("octets", sum(vec![point("2", 20)])),
        ]);
        assert_eq!(received.take(later, at(2)), 0);
        let (values, lines) = received.told(at(301));
        let [octets] = &values[..] else {
            panic!("{values:?}")
        };
        assert_eq!(lines, [""; 0]);
        assert_eq!(octets.attributes, name("octets", "2").attributes);
        assert_eq!(
            (octets.value, octets.unit.as_str()),
            (Value::Integer(20), "By")
        );
        assert_eq!(octets.age_ns, 299_000_000_000);
        let text = serde_json::to_string(octets).unwrap();
        assert_eq!(octets, &serde_json::from_str(&text).unwrap());
        let whole = serde_json::to_string(&Value::Float(2.0)).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&whole).unwrap(),
            Value::Float(2.0)
        );
        let many = (0..=TOLD_MAX).map(|n| point(&n.to_string(), 1)).collect();
        received.take(request(vec![metric("m", sum(many))]), at(3));
        received.refused = 1;
        let (values, lines) = received.told(at(3));
        assert_eq!((values.len(), lines.len()), (TOLD_MAX, 2));
    }

    #[test]
    fn a_sender_is_served_whatever_others_send() {
        let receiver = Receiver::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = receiver.address();
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _silent = TcpStream::connect(address).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let refused = runtime.block_on(async {
            let mut client = MetricsServiceClient::connect(format!("http://{address}"))
                .await
                .unwrap();
            let metrics = vec![metric("octets", sum(vec![point("1", 10)]))];
            let answer = client.export(request(metrics)).await.unwrap();
            assert_eq!(answer.into_inner().partial_success, None);
            // More than a message may have.
            let large = metric(&"x".repeat(MESSAGE_BYTES_MAX), sum(vec![point("1", 1)]));
            client.export(request(vec![large])).await.unwrap_err()
        });
        assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
        let now = receiver.read();
        assert_eq!(now.series[&name("octets", "1")].value, Value::Integer(10));
        assert_eq!(now.series.len(), 1);
        // With it ends the port, whoever is still connected.
        drop(receiver);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let first = Receiver::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let error = Receiver::listen(first.address()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes: Vec<u8>) {
            let _ = Received::default().take_bytes(&bytes, at(1));
        }
    }
}

//! What switches say of themselves: metrics that are sent here by OTLP over gRPC, as by SONiC's high-frequency
//! telemetry, Cumulus Linux, gnmic, or an OpenTelemetry collector in between. The latest value of each
//! series is kept, with its age; of a distribution how many values it had, their sum, and the largest.
//!
//! Anybody who reaches the port may send. So it is on loopback unless told otherwise, how much is taken in at a
//! time and how much is kept is bounded, and what comes beyond that is refused and counted, never kept in
//! place of what is there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, NumberDataPoint, metric, number_data_point,
};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{self, Sleep};
use tonic::codec::CompressionEncoding;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};
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
/// The name of one, its unit and its attributes, those of the sender included: a few hundred bytes is usual.
const NAME_BYTES_MAX: usize = 4 << 10;
/// What senders of gRPC may count on: SONiC sends 10 000 values at once, a collector 8192, which is 2 MiB or so.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Messages of all senders that are taken in at once. Taken apart, one that is made for it has some hundred times
/// its bytes: of empty parts, which are of two bytes on the wire.
const MESSAGES_MAX: usize = 4;
/// Of senders; further ones wait for one to end. Each takes a descriptor.
const CONNECTIONS_MAX: usize = 256;
/// How long nothing is accepted where that fails, as without descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// What HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
/// More is not told at once: a scrape or a snapshot with so many series has some megabytes.
const TOLD_MAX: usize = 10_000;
/// The same of their texts, of which JSON makes up to six times as much: a snapshot is a line, and what reads these
/// takes 64 MiB for one.
const TOLD_BYTES_MAX: usize = 8 << 20;
/// What has not been renewed for so long is not told, and makes room where there is none.
const FORGOTTEN_AFTER: Nanos = Nanos::from_secs(300);
/// So often it is looked for what has been forgotten.
const SWEEP_EVERY: Nanos = Nanos::from_secs(1);
/// A request that takes longer is given up, and so is a connection that has not begun by then, or does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the sender's address is called where it does not say who it is, as SONiC: its switches would be taken
/// for each other (OpenTelemetry semantic conventions, `client.address`).
const SENDER: &str = "client.address";

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
    /// Values that were refused: there was no room, or their attributes are of an odd kind.
    pub refused: u64,
    /// Messages that could not be read: too long, not whole in time, or none of OTLP.
    pub unread: u64,
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
        Self::listen_with(address, CONNECTIONS_MAX, PATIENCE)
    }

    fn listen_with(
        address: SocketAddr,
        connections_max: usize,
        patience: Duration,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let received = Arc::<Mutex<Received>>::default();
        let service = MetricsServiceServer::new(Service(Arc::clone(&received)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip);
        let service = InterceptedService::new(service, admission(Arc::clone(&received)));
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = async move {
            let listener = TcpListener::from_std(listener)?;
            let (give, incoming) = mpsc::channel(1);
            tokio::spawn(accept(listener, give, connections_max, patience));
            Server::builder()
                .timeout(patience)
                .max_concurrent_streams(u32::try_from(MESSAGES_MAX).ok())
                .http2_keepalive_interval(Some(patience))
                .add_service(service)
                .serve_with_incoming(ReceiverStream::new(incoming))
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

/// Gives connections to a server, so many at a time, until it wants no more.
async fn accept(
    listener: TcpListener,
    give: mpsc::Sender<io::Result<Connection>>,
    connections_max: usize,
    patience: Duration,
) {
    let room = Arc::new(Semaphore::new(connections_max));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            time::sleep(PAUSE).await;
            continue;
        };
        let connection = Connection {
            stream,
            begins: Some((Box::pin(time::sleep(patience)), PREFACE_BYTES)),
            _room: permit,
        };
        if give.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

/// A connection that has to begin soon. Then the server sees to it that it lives.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// When it is given up, and how many bytes are missing till then.
    begins: Option<(Pin<Box<Sleep>>, usize)>,
    _room: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some((late, _)) = &mut this.begins
            && late.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        let before = bytes.filled().len();
        let result = ready!(Pin::new(&mut this.stream).poll_read(context, bytes));
        let read = bytes.filled().len() - before;
        this.begins = this.begins.take().and_then(|(late, missing)| {
            let missing = missing.checked_sub(read).filter(|&missing| missing > 0);
            Some((late, missing?))
        });
        Poll::Ready(result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A message that is being taken in.
#[derive(Debug)]
struct Admitted {
    received: Arc<Mutex<Received>>,
    is_read: AtomicBool,
    _room: OwnedSemaphorePermit,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.is_read.load(Ordering::Relaxed) {
            lock(&self.received).unread += 1;
        }
    }
}

/// Lets messages in before their bytes are, while there is room for them.
fn admission(
    received: Arc<Mutex<Received>>,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    let room = Arc::new(Semaphore::new(MESSAGES_MAX));
    move |mut request| {
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            let line = format!("{MESSAGES_MAX} messages are taken in already: send it again later");
            return Err(Status::unavailable(line));
        };
        // It goes with the request, whatever becomes of that.
        request.extensions_mut().insert(Arc::new(Admitted {
            received: Arc::clone(&received),
            is_read: AtomicBool::new(false),
            _room: permit,
        }));
        Ok(request)
    }
}

#[derive(Debug)]
struct Service(Arc<Mutex<Received>>);

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let sender = request.remote_addr().map(|address| address.ip());
        let admitted = request.extensions().get::<Arc<Admitted>>().cloned();
        let now = Timestamp::now();
        // Between two values others may read what there is.
        let refused = each_value(request.into_inner(), sender, now, |name, latest| {
            lock(&self.0).keep(name, latest, now)
        });
        lock(&self.0).refuse(refused);
        if let Some(admitted) = admitted {
            admitted.is_read.store(true, Ordering::Relaxed);
        }
        let partial_success = (refused > 0).then(|| ExportMetricsPartialSuccess {
            rejected_data_points: i64::try_from(refused).unwrap_or(i64::MAX),
            error_message: format!(
                "no room, attributes other than text and numbers, or more than {NAME_BYTES_MAX} bytes of them"
            ),
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
        let mut values = Vec::new();
        let mut bytes = 0;
        // These stay the same while they hold, so that each is said once.
        let mut lines = Vec::new();
        for series in self.series.iter().filter(is_told) {
            bytes += texts(series.0, series.1).map(str::len).sum::<usize>();
            if values.len() == TOLD_MAX || bytes > TOLD_BYTES_MAX {
                lines.push(format!(
                    "switches: more than {TOLD_MAX} series, or than {TOLD_BYTES_MAX} bytes of their names: those \
                     after, by name, are left out; let them send fewer"
                ));
                break;
            }
            values.push(told(series));
        }
        if self.refused > 0 {
            lines.push(format!(
                "switches: some values were refused: there are {SERIES_MAX} series already, or these have \
                 attributes other than text and numbers, or more than {NAME_BYTES_MAX} bytes of them"
            ));
        }
        if self.unread > 0 {
            lines.push(format!(
                "switches: some messages could not be read: they are longer than {MESSAGE_BYTES_MAX} bytes, broken \
                 off, or no metrics of OTLP; their sender's log says which"
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
        ExportMetricsServiceRequest::decode(message).map(|request| self.take(request, None, now))
    }

    fn take(
        &mut self,
        request: ExportMetricsServiceRequest,
        sender: Option<IpAddr>,
        now: Timestamp,
    ) -> u64 {
        let keep = |name, latest| self.keep(name, latest, now);
        let refused = each_value(request, sender, now, keep);
        self.refuse(refused);
        refused
    }

    fn refuse(&mut self, values: u64) {
        self.refused = self.refused.saturating_add(values);
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

/// Hands on the values of a message, each by itself; says how many were refused, here or there.
fn each_value(
    request: ExportMetricsServiceRequest,
    sender: Option<IpAddr>,
    now: Timestamp,
    mut keep: impl FnMut(Name, Latest) -> bool,
) -> u64 {
    let mut refused = 0;
    for resource in request.resource_metrics {
        let mut of_sender = resource.resource.map_or_else(Vec::new, |r| r.attributes);
        of_sender.extend(sender.filter(|_| is_anonymous(&of_sender)).map(address));
        for metric in resource.scope_metrics.into_iter().flat_map(|s| s.metrics) {
            let Some(data) = &metric.data else {
                continue;
            };
            let room = NAME_BYTES_MAX.checked_sub(metric.name.len() + metric.unit.len());
            let (points, is_counter) = points(data);
            for point in points.filter(Point::has_values) {
                let room = room.filter(|_| !point.is_empty());
                let attributes = room.and_then(|r| attributes(&of_sender, point.attributes, r));
                let is_kept = attributes.is_some_and(|attributes| {
                    let parts = point.parts.iter();
                    let mut parts = parts.filter_map(|(part, value)| Some((*part, (*value)?)));
                    parts.all(|(part, value)| {
                        let name = Name {
                            metric: format!("{}{}", metric.name, part.suffix()),
                            attributes: attributes.clone(),
                        };
                        let latest = Latest {
                            value,
                            unit: part.unit(&metric.unit).to_owned(),
                            is_counter: is_counter && part != Part::Max,
                            received_at: now,
                            observed_wall_ns: point.observed_wall_ns,
                        };
                        keep(name, latest)
                    })
                });
                refused += u64::from(!is_kept);
            }
        }
    }
    refused
}

/// What a series costs beside its fixed size. Never 0.
fn text_bytes(name: &Name, latest: &Latest) -> usize {
    // What the allocator and the map add for each text.
    const EACH: usize = 32;
    texts(name, latest).map(|text| text.len() + EACH).sum()
}

fn texts<'a>(name: &'a Name, latest: &'a Latest) -> impl Iterator<Item = &'a str> {
    let attributes = name.attributes.iter();
    let attributes = attributes.flat_map(|(key, value)| [key, value]);
    let all = [&name.metric, &latest.unit].into_iter().chain(attributes);
    all.map(String::as_str)
}

/// What is kept of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All there is.
    Value,
    /// How many values a distribution has.
    Count,
    /// All of them together.
    Sum,
    /// The largest.
    Max,
}

impl Part {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Value => "",
            Self::Count => "_count",
            Self::Sum => "_sum",
            Self::Max => "_max",
        }
    }

    const fn unit(self, of_metric: &str) -> &str {
        match self {
            Self::Count => "1",
            _ => of_metric,
        }
    }
}

/// A point of any kind of metric.
struct Point<'a> {
    attributes: &'a [KeyValue],
    flags: u32,
    observed_wall_ns: u64,
    parts: [(Part, Option<Value>); 3],
}

impl<'a> Point<'a> {
    fn number(point: &'a NumberDataPoint) -> Self {
        let value = point.value.map(|value| match value {
            number_data_point::Value::AsInt(value) => Value::Integer(value),
            number_data_point::Value::AsDouble(value) => Value::Float(value),
        });
        Self {
            attributes: &point.attributes,
            flags: point.flags,
            observed_wall_ns: point.time_unix_nano,
            parts: [(Part::Value, value), (Part::Sum, None), (Part::Max, None)],
        }
    }

    fn distribution(
        (attributes, flags, observed_wall_ns): (&'a [KeyValue], u32, u64),
        count: u64,
        sum: Option<f64>,
        max: Option<f64>,
    ) -> Self {
        let count = Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
        Self {
            attributes,
            flags,
            observed_wall_ns,
            parts: [
                (Part::Count, Some(count)),
                (Part::Sum, sum.map(Value::Float)),
                (Part::Max, max.map(Value::Float)),
            ],
        }
    }

    /// Senders say so where there are none.
    fn has_values(&self) -> bool {
        self.flags & DataPointFlags::NoRecordedValueMask as u32 == 0
    }

    /// It says that it has a value, and has none.
    fn is_empty(&self) -> bool {
        self.parts.iter().all(|(_, value)| value.is_none())
    }
}

/// The points of a metric, and whether they are sums since some beginning, which only grow.
fn points(data: &metric::Data) -> (Box<dyn Iterator<Item = Point<'_>> + '_>, bool) {
    // What is told since the last message is of that time alone.
    let is_cumulative = |kind: i32| kind != AggregationTemporality::Delta as i32;
    match data {
        metric::Data::Gauge(gauge) => {
            (Box::new(gauge.data_points.iter().map(Point::number)), false)
        }
        metric::Data::Sum(sum) => (
            Box::new(sum.data_points.iter().map(Point::number)),
            sum.is_monotonic && is_cumulative(sum.aggregation_temporality),
        ),
        metric::Data::Histogram(histogram) => (
            Box::new(histogram.data_points.iter().map(|p| {
                let about = (&*p.attributes, p.flags, p.time_unix_nano);
                Point::distribution(about, p.count, p.sum, p.max)
            })),
            is_cumulative(histogram.aggregation_temporality),
        ),
        metric::Data::ExponentialHistogram(histogram) => (
            Box::new(histogram.data_points.iter().map(|p| {
                let about = (&*p.attributes, p.flags, p.time_unix_nano);
                Point::distribution(about, p.count, p.sum, p.max)
            })),
            is_cumulative(histogram.aggregation_temporality),
        ),
        metric::Data::Summary(summary) => (
            Box::new(summary.data_points.iter().map(|p| {
                let about = (&*p.attributes, p.flags, p.time_unix_nano);
                Point::distribution(about, p.count, Some(p.sum), None)
            })),
            true,
        ),
    }
}

/// Whether a sender says at most which program it is.
fn is_anonymous(of_sender: &[KeyValue]) -> bool {
    let is_of_program = |key: &str| key.starts_with("service.") || key.starts_with("telemetry.");
    of_sender
        .iter()
        .all(|attribute| is_of_program(&attribute.key))
}

fn address(sender: IpAddr) -> KeyValue {
    let value = any_value::Value::StringValue(sender.to_canonical().to_string());
    KeyValue {
        key: SENDER.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Those of a value take the place of its sender's. None if there are too many, if they have more than so many bytes,
/// or if some are no text or number: without them series would be taken for each other.
fn attributes(
    sender: &[KeyValue],
    point: &[KeyValue],
    bytes_max: usize,
) -> Option<BTreeMap<String, String>> {
    if sender.len() + point.len() > ATTRIBUTES_MAX {
        return None;
    }
    let mut room = bytes_max;
    let all = sender.iter().chain(point);
    let text = |attribute: &KeyValue| {
        let value: Cow<'_, str> = match attribute.value.as_ref()?.value.as_ref()? {
            any_value::Value::StringValue(text) => text.into(),
            any_value::Value::BoolValue(value) => value.to_string().into(),
            any_value::Value::IntValue(value) => value.to_string().into(),
            any_value::Value::DoubleValue(value) => value.to_string().into(),
            _ => return None,
        };
        // Before it is copied: a message may have one of 4 MiB, and a million values.
        room = room.checked_sub(attribute.key.len() + value.len())?;
        Some((attribute.key.clone(), value.into_owned()))
    };
    all.map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpStream;

    use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
    use opentelemetry_proto::tonic::common::v1::ArrayValue;
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Histogram, HistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics, Sum, Summary,
        SummaryDataPoint,
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
        assert_eq!(received.take(first, None, at(1)), 0);
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
        let metrics = vec![metric(
            "octets",
            sum(vec![odd, many, empty, absent, point("2", 7)]),
        )];
        assert_eq!(received.take(request(metrics), None, at(1)), 3);
        let names: Vec<_> = received.series.keys().collect();
        assert_eq!(names, [&name("octets", "2")]);
    }

    /// As SONiC sends how full its queues were since the last message.
    #[test]
    fn of_distributions_count_sum_and_largest_are_kept() {
        let mut received = Received::default();
        let of_queue = HistogramDataPoint {
            attributes: vec![text("port", "1")],
            count: 100,
            sum: Some(250.5),
            max: Some(9.0),
            bucket_counts: vec![60, 40],
            explicit_bounds: vec![2.0],
            ..HistogramDataPoint::default()
        };
        let histogram = |kind: AggregationTemporality| {
            metric::Data::Histogram(Histogram {
                data_points: vec![of_queue.clone()],
                aggregation_temporality: kind as i32,
            })
        };
        let summary = metric::Data::Summary(Summary {
            data_points: vec![SummaryDataPoint {
                attributes: vec![text("port", "1")],
                count: 3,
                sum: 6.0,
                ..SummaryDataPoint::default()
            }],
        });
        let metrics = vec![
            metric("depth", histogram(AggregationTemporality::Delta)),
            metric("time", histogram(AggregationTemporality::Cumulative)),
            metric("old", summary),
        ];
        assert_eq!(received.take(request(metrics), None, at(1)), 0);
        let told = |metric: &str| {
            let latest = &received.series[&name(metric, "1")];
            (latest.value, latest.unit.as_str(), latest.is_counter)
        };
        assert_eq!(told("depth_count"), (Value::Integer(100), "1", false));
        assert_eq!(told("depth_sum"), (Value::Float(250.5), "By", false));
        assert_eq!(told("depth_max"), (Value::Float(9.0), "By", false));
        assert_eq!(told("time_count"), (Value::Integer(100), "1", true));
        assert_eq!(told("time_max"), (Value::Float(9.0), "By", false));
        assert_eq!(told("old_sum"), (Value::Float(6.0), "By", true));
        assert_eq!(received.series.len(), 3 + 3 + 2);
        // What is counted since the last message does not grow.
        let sum = metric::Data::Sum(Sum {
            data_points: vec![point("1", 5)],
            aggregation_temporality: AggregationTemporality::Delta as i32,
            is_monotonic: true,
        });
        received.take(request(vec![metric("drops", sum)]), None, at(1));
        assert!(!received.series[&name("drops", "1")].is_counter);
    }

    #[test]
    fn senders_that_do_not_say_who_they_are_are_told_apart() {
        let mut received = Received::default();
        let mut anonymous = request(vec![metric("octets", sum(vec![point("1", 1)]))]);
        let of_sender = &mut anonymous.resource_metrics[0].resource;
        of_sender.as_mut().unwrap().attributes = vec![text("service.name", "countersyncd")];
        for sender in ["10.0.0.1", "::ffff:10.0.0.2"] {
            let sender = sender.parse().ok();
            assert_eq!(received.take(anonymous.clone(), sender, at(1)), 0);
        }
        let known = request(vec![metric("octets", sum(vec![point("1", 1)]))]);
        received.take(known, "10.0.0.3".parse().ok(), at(1));
        let senders: Vec<_> = received
            .series
            .keys()
            .map(|name| name.attributes.get(SENDER).map(String::as_str))
            .collect();
        assert_eq!(senders, [Some("10.0.0.1"), Some("10.0.0.2"), None]);
    }

    #[test]
    fn strangers_do_not_fill_memory() {
        let mut received = Received::default();
        let fill = |from: usize, count: usize, size: usize| {
            let pad = "x".repeat(size);
            let points = (from..from + count).map(|n| point(&format!("{n}{pad}"), 1));
            request(vec![metric("m", sum(points.collect()))])
        };
        assert_eq!(received.take(fill(0, SERIES_MAX, 0), None, at(1)), 0);
        // Known series go on, and new ones have no room until old ones are forgotten.
        assert_eq!(received.take(fill(0, 10, 0), None, at(2)), 0);
        assert_eq!(received.take(fill(SERIES_MAX, 7, 0), None, at(2)), 7);
        assert_eq!(received.series.len(), SERIES_MAX);
        assert_eq!(received.take(fill(SERIES_MAX, 7, 0), None, at(301)), 0);
        assert_eq!(received.series.len(), 10 + 7);
        // Few, but long.
        let refused = received.take(fill(0, 10_000, 3900), None, at(302));
        assert!(refused >= 1000, "{refused}");
        assert!(received.text_bytes <= TEXT_BYTES_MAX);
        assert_eq!(received.refused, 7 + refused);
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_before_it_is_copied() {
        let mut received = Received::default();
        let long = "x".repeat(NAME_BYTES_MAX);
        let of_metric = request(vec![metric(&long, sum(vec![point("1", 1)]))]);
        assert_eq!(received.take(of_metric, None, at(1)), 1);
        let of_point = request(vec![metric("m", sum(vec![point(&long, 1), point("1", 1)]))]);
        assert_eq!(received.take(of_point, None, at(1)), 1);
        // Of the sender, and so of each of its values: copied, these would be 2 TB.
        let mut of_sender = request(vec![metric("m", sum(vec![point("2", 1); 1 << 20]))]);
        let resource = of_sender.resource_metrics[0].resource.as_mut().unwrap();
        resource.attributes[0] = text("host", &"x".repeat(2 << 20));
        assert_eq!(received.take(of_sender, None, at(1)), 1 << 20);
        let names: Vec<_> = received.series.keys().collect();
        assert_eq!(names, [&name("m", "1")]);
    }

    #[test]
    fn what_is_told_fits_into_a_line_of_a_recording() {
        let mut received = Received::default();
        let dense = |n| point(&format!("{n}{}", "\u{1}".repeat(4000)), 1);
        let points = (0..8000).map(dense).collect();
        received.take(request(vec![metric("m", sum(points))]), None, at(1));
        let (values, lines) = received.told(at(1));
        assert!(values.len() > 2000 && lines[0].contains("left out"));
        let text = serde_json::to_string(&values).unwrap();
        assert!(text.len() > 6 * TOLD_BYTES_MAX / 10 * 9, "{}", text.len());
        assert!(text.len() < 56 << 20, "{}", text.len());
    }

    #[test]
    fn what_is_told_is_fresh_and_bounded() {
        let mut received = Received::default();
        let old = request(vec![metric("octets", sum(vec![point("1", 10)]))]);
        assert_eq!(received.take(old, None, at(1)), 0);
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
        assert_eq!(received.take(later, None, at(2)), 0);
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
        received.take(request(vec![metric("m", sum(many))]), None, at(3));
        (received.refused, received.unread) = (1, 1);
        let (values, lines) = received.told(at(3));
        assert_eq!((values.len(), lines.len()), (TOLD_MAX, 3));
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
            // As a collector sends, and as many values as SONiC sends at once.
            let mut client = client.send_compressed(CompressionEncoding::Gzip);
            let many = (0..10_000).map(|n| {
                let points = sum(vec![point(&format!("Ethernet{n}"), n)]);
                metric(
                    &format!("sai_counter_type_{n}_stat_{n}_{}", "x".repeat(99)),
                    points,
                )
            });
            let answer = client.export(request(many.collect())).await.unwrap();
            assert_eq!(answer.into_inner().partial_success, None);
            // More than a message may have, however small it was made.
            let large = metric(&"x".repeat(MESSAGE_BYTES_MAX), sum(vec![point("1", 1)]));
            let bomb = client
                .export(request(vec![large.clone()]))
                .await
                .unwrap_err();
            assert_eq!(bomb.code(), tonic::Code::ResourceExhausted, "{bomb}");
            let mut client = MetricsServiceClient::connect(format!("http://{address}"))
                .await
                .unwrap();
            client.export(request(vec![large])).await.unwrap_err()
        });
        assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
        assert_eq!(refused.message().lines().count(), 1, "{refused}");
        let now = receiver.read();
        assert_eq!(now.series[&name("octets", "1")].value, Value::Integer(10));
        assert_eq!((now.series.len(), now.unread), (1 + 10_000, 2));
        // With it ends the port, whoever is still connected.
        drop(receiver);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn those_who_never_begin_keep_nobody_out() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let receiver = Receiver::listen_with(address, 2, Duration::from_millis(300)).unwrap();
        let address = receiver.address();
        let silent = TcpStream::connect(address).unwrap();
        let mut slow = TcpStream::connect(address).unwrap();
        slow.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut client = MetricsServiceClient::connect(format!("http://{address}"))
                .await
                .unwrap();
            let metrics = vec![metric("octets", sum(vec![point("1", 10)]))];
            let answer = time::timeout(PATIENCE, client.export(request(metrics))).await;
            assert_eq!(answer.unwrap().unwrap().into_inner().partial_success, None);
        });
        assert_eq!(receiver.read().series.len(), 1);
        for mut stranger in [silent, slow] {
            stranger.set_read_timeout(Some(PATIENCE)).unwrap();
            // Their end, behind what the server may have said; not the timeout.
            let end = io::Read::read_to_end(&mut stranger, &mut Vec::new());
            let is_reset = |error: io::Error| error.kind() == ErrorKind::ConnectionReset;
            assert!(end.map_or_else(is_reset, |_| true));
        }
    }

    /// Those who send slowly, or nothing, hold no more than so many places, and each for so long.
    #[test]
    fn few_messages_are_taken_in_at_once() {
        let received = Arc::<Mutex<Received>>::default();
        let mut admit = admission(Arc::clone(&received));
        let admitted: Vec<_> = (0..MESSAGES_MAX)
            .map(|_| admit(Request::new(())).unwrap())
            .collect();
        let refused = admit(Request::new(())).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
        assert_eq!(lock(&received).unread, 0);
        drop(admitted);
        assert_eq!(lock(&received).unread, MESSAGES_MAX as u64);
        assert!(admit(Request::new(())).is_ok());
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let first = Receiver::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let error = Receiver::listen(first.address()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes: Vec<u8>) {
            let _ = Received::default().take_bytes(&bytes, at(1));
        }
    }
}

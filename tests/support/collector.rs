//! A collector of traces, which keeps what it is sent.

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::Span,
};
use std::sync::{Arc, Mutex};
use tonic::{Request, Response, Status, transport::Server};

/// What one process has sent: its name, and its spans.
type Sent = (String, Vec<Span>);

/// Collects until the test ends.
#[derive(Clone, Default)]
pub struct Collector {
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Collector {
    /// Starts at a free port of this machine, and returns its address too.
    pub fn start() -> (Self, String) {
        let collector = Self::default();
        let address = format!("127.0.0.1:{}", super::ports::free_port());
        let service = TraceServiceServer::new(collector.clone());
        let at = address.parse().unwrap();
        tokio::spawn(async move { Server::builder().add_service(service).serve(at).await.unwrap() });
        (collector, format!("http://{address}"))
    }

    /// The spans of this name, which a service has sent.
    pub fn spans(&self, service: &str, name: &str) -> Vec<Span> {
        let sent = self.sent.lock().unwrap();
        let theirs = sent.iter().filter(|(sender, _)| sender == service);
        let spans = theirs.flat_map(|(_, spans)| spans);
        spans.filter(|span| span.name == name).cloned().collect()
    }

    /// All that was sent, as text.
    pub fn text(&self) -> String {
        format!("{:?}", self.sent.lock().unwrap())
    }
}

/// The value of an attribute, as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|known| known.key == key)?;
    match &found.value {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => Some(text.clone()),
        Some(AnyValue { value: Some(value) }) => Some(format!("{value:?}")),
        _ => None,
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = attribute(&attributes, "service.name").unwrap_or_default();
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.sent.lock().unwrap().push((service, spans.collect()));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

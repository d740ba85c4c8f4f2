//! The exporter's client in the shape that opentelemetry-otlp asks for.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, ResponseBodyTooLarge};

use crate::telemetry::exporter::otlp::post::Poster;

/// Posts to its own endpoint with its own headers, whatever the request says.
pub(super) struct Client(Mutex<Poster>);

impl Client {
    pub(super) fn new(poster: Poster) -> Client {
        Client(Mutex::new(poster))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let ready = self.0.lock().unwrap_or_else(PoisonError::into_inner).ready()?;
        let is_gzip = request.headers().get("content-encoding").is_some_and(|value| value == "gzip");
        let answer = ready.post(request.into_body().into(), is_gzip).await?;
        if answer.is_cut {
            return Err(ResponseBodyTooLarge::new().into());
        }
        Ok(Response::builder().status(answer.status).body(answer.body.into())?)
    }
}

//! A web service that keeps its log through a SIGKILL: `cargo run --example service`, then
//! `curl localhost:3000/paid/7`, and kill it with `kill -9` if you like: the next start delivers what
//! the dead one left. The rows are in `service-data/logs.db`. It uses the telemetry half alone.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use dogwatch::telemetry::record::Source;
use dogwatch::telemetry::{self, Adopt, Config, Destination};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[tracing::instrument]
async fn paid(Path(order): Path<u64>) -> String {
    tracing::info!(order, "paid");
    format!("order {order} is paid\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (layer, guard) = telemetry::start(Config {
        database: Some(Destination::Sqlite {
            path: "service-data/logs.db".into(),
            retention: Duration::from_secs(7 * 86_400),
            retention_bytes: 1 << 30,
        }),
        adopt: Adopt::All,
        ..Config::new(
            "service-data/spool",
            Source {
                source_type: "external".to_owned(),
                source_id: "shop-1".to_owned(),
                resource: vec![("service.name".to_owned(), "shop".to_owned())],
            },
        )
    })?;
    tracing_subscriber::registry().with(layer).init();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, Router::new().route("/paid/{order}", get(paid))).with_graceful_shutdown(stop).await?;
    let end = guard.shutdown(Duration::from_secs(10));
    if end.lost > 0 { Err(end.to_string().into()) } else { Ok(()) }
}

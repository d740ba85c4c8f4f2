//! The server around the protocol: bodies, sizes, pages, panics, outages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::super::Token;
use super::rig::Rig;
use crate::rpc::BODY_BYTES_MAX;

#[tokio::test]
async fn a_body_that_is_no_call_is_answered_as_postgrest_would() {
    let rig = Rig::new().await;
    for bad in ["", "{", "nonsense", "{\"a\":}", &"[".repeat(10_000)] {
        let (status, body) = rig.post("dw_heartbeat", bad.to_owned()).await;
        assert_eq!((status, body["code"].as_str()), (400, Some("PGRST102")), "{bad:.20}");
    }
    let (status, body) = rig.post("dw_drop_tables", "{}").await;
    assert_eq!((status, body["code"].as_str()), (404, Some("PGRST202")));
    assert_eq!(rig.post("dw_heartbeat", "[]").await.0, 422);
    assert_eq!(rig.get("/rest/v1/rpc/dw_heartbeat").await.0, 405);
    assert_eq!(rig.get("/etc/passwd").await.0, 404);
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_read_and_no_longer() {
    let rig = Rig::new().await;
    let agent = rig.spawn("gpu-1").await.ready().await;
    let of_size = |size: usize| {
        let mut body = agent.body(&json!({ "seq": 2, "phase": "ready", "progress_seq": 0, "pad": "" })).to_string();
        body.insert_str(body.len() - 1, &" ".repeat(size - body.len()));
        body
    };
    assert_eq!(rig.post("dw_heartbeat", of_size(BODY_BYTES_MAX)).await.0, 200);
    assert_eq!(rig.post("dw_heartbeat", of_size(BODY_BYTES_MAX + 1)).await.0, 413);
}

#[tokio::test]
async fn a_panic_costs_one_answer_and_not_the_server() {
    let rig = Rig::with("127.0.0.1", |gateway| gateway.metrics = Arc::new(|| panic!("planted"))).await;
    assert_eq!(rig.get("/metrics").await.0, 500);
    assert_eq!(rig.get("/metrics").await.0, 500);
    assert_eq!(rig.get("/livez").await.0, 200);
}

#[tokio::test]
async fn health_does_not_ask_the_database() {
    let is_ready = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_ready);
    let rig = Rig::with("127.0.0.1", move |gateway| {
        let asked = Arc::clone(&asked);
        gateway.ready =
            Arc::new(move || if asked.load(Ordering::SeqCst) { Ok("standby") } else { Err("starting".into()) });
    })
    .await;
    assert_eq!(rig.get("/readyz").await, (503, "not ready: starting\n".into()));
    is_ready.store(true, Ordering::SeqCst);
    rig.sqlite().close().await;
    assert_eq!(rig.get("/readyz").await, (200, "ready: standby\n".into()));
    assert_eq!(rig.get("/livez").await.0, 200);
}

#[tokio::test]
async fn a_store_that_does_not_answer_means_not_now() {
    let rig = Rig::new().await;
    let agent = rig.spawn("gpu-1").await.ready().await;
    rig.sqlite().close().await;
    let url = format!("{}/rest/v1/rpc/dw_heartbeat", rig.url());
    let body = agent.body(&json!({ "seq": 2, "phase": "ready", "progress_seq": 0 })).to_string();
    let response = rig.http.post(url).body(body).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn beyond_loopback_pages_need_the_token_and_health_does_not() {
    let with_token = Rig::with("0.0.0.0", |gateway| gateway.token = Some(Token("s3cret".into()))).await;
    let ask = |bearer: &'static str| {
        let request = with_token.http.get(format!("{}/metrics", with_token.url())).bearer_auth(bearer);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!((ask("s3cret").await, ask("guessed").await), (200, 401));
    assert_eq!(with_token.get("/metrics").await.0, 401);
    assert_eq!((with_token.get("/livez").await.0, with_token.get("/readyz").await.0), (200, 200));
    let without = Rig::with("0.0.0.0", |_| ()).await;
    assert_eq!(without.get("/metrics").await.0, 401, "no token opens nothing");
    assert_eq!(Rig::new().await.get("/metrics").await, (200, "dogwatch_up 1\n".into()));
}

#[tokio::test]
async fn calls_are_counted_by_function_and_status() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let _local = metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new().await;
    rig.post("dw_heartbeat", "{}").await;
    rig.post("dw_heartbeat", "{").await;
    rig.post("dw_nonsense", "{}").await;
    let page = page.render();
    for (function, status) in [("dw_heartbeat", 422), ("dw_heartbeat", 400), ("unknown", 404)] {
        let line = format!("{{function=\"{function}\",status=\"{status}\"}} 1");
        assert!(page.contains(&line), "{line} is not in {page}");
    }
}

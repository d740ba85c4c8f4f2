//! A real Prometheus scrapes a running `dogwatch up` as `otel/prometheus.yml` does, token and all,
//! and its query API gives our series.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::rig::{Rig, Running, eventually, get};

/// The bearer that the pages want.
const TOKEN: &str = "marked-secret-page-token";

/// Prometheus on these scrape targets; `more` are further parts of its configuration.
pub(super) fn prometheus(rig: &Rig, port: u16, more: &str) -> Running {
    let token = rig.file("token", TOKEN);
    let config = format!(
        "{more}\n\
         scrape_configs:\n\
         \x20 - job_name: dogwatch\n\
         \x20   authorization: {{credentials_file: {token}}}\n\
         \x20   static_configs: [{{targets: [\"127.0.0.1:{}\"]}}]\n\
         \x20 - job_name: dogwatch-watch\n\
         \x20   authorization: {{credentials_file: {token}}}\n\
         \x20   static_configs: [{{targets: [\"127.0.0.1:{}\"]}}]\n",
        rig.gateway, rig.watch
    );
    let mut command = Command::new("prometheus");
    let said = Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(said.is_ok(), "prometheus is not on the PATH: scripts/test.sh puts it there (Debian: prometheus)");
    command
        .arg(format!("--config.file={}", rig.file("prometheus.yml", config)))
        .arg(format!("--storage.tsdb.path={}", rig.path("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null());
    rig.start(command)
}

/// What its API answers.
pub(super) fn ask(port: u16, path: &str) -> Option<Value> {
    let (_, body) = get(port, path).filter(|(code, _)| *code == 200)?;
    // The answer may come in chunks: the document is between the first and the last brace.
    let document = body.get(body.find('{')?..=body.rfind('}')?)?;
    serde_json::from_str(document).ok()
}

/// The value of a query that gives one number.
fn number(port: u16, query: &str) -> Option<f64> {
    let query: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = ask(port, &format!("/api/v1/query?query={query}"))?;
    answer["data"]["result"].as_array()?.first()?["value"][1].as_str()?.parse().ok()
}

#[test]
fn a_real_prometheus_scrapes_it() {
    let rig = Rig::new();
    let port = rig.watch + 7_000;
    let _up = rig.up_with(&[], &[("DOGWATCH_TOKEN", TOKEN)]);
    let scraper = prometheus(&rig, port, "global: {scrape_interval: 500ms, scrape_timeout: 400ms}");
    rig.submit(&["--", "true"]);
    for query in [
        "up{job=\"dogwatch\"} == 1",
        "up{job=\"dogwatch-watch\"} == 1",
        "otel_sdk_log_created_total{job=\"dogwatch\"} > 0",
        "dogwatch_cycle_completed_total > 0",
        "dogwatch_cycle_duration_seconds_count > 0",
        "histogram_quantile(0.5, sum by (le) (dogwatch_cycle_duration_seconds_bucket)) > 0",
        "sum(otel_sdk_exporter_log_exported_total{job=\"dogwatch\"}) > 0",
    ] {
        eventually(query, || number(port, query));
    }
    assert!(number(port, "dogwatch_no_such_series").is_none());
    scraper.kill();
}

//! What stands around the program says the truth about it: alert rules, dashboards, compose file,
//! collector and Grafana settings.
//!
//! A panel of a metric that nobody emits stays empty, an alert on one never rings, and nobody
//! notices either. So each name is looked up in the catalogue, each setting in the program's own
//! list, each mounted file in the tree. promtool and amtool test what the rules mean; see
//! scripts/test.sh.

use std::collections::BTreeSet;

use dogwatch::catalogue;
use dogwatch::watch::alarm::Alarm;
use expect_test::{Expect, expect};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::tidy::{File, tree};

/// Files of the folders around the program.
fn assets() -> Vec<File> {
    let around = |file: &File| ["alerts/", "dashboards/", "otel/"].iter().any(|f| file.path.starts_with(f));
    tree().into_iter().filter(around).collect()
}

fn text_of(path: &str) -> String {
    let found = tree().into_iter().find(|file| file.path == path);
    found.unwrap_or_else(|| panic!("{path} is missing")).text
}

fn yaml_of(path: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&text_of(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(documents.len(), 1, "{path}: one document");
    documents.remove(0)
}

/// The entries of a mapping, keys as text.
fn entries(yaml: &Yaml) -> Vec<(String, &Yaml)> {
    let hash = yaml.as_hash().unwrap_or_else(|| panic!("a mapping, not {yaml:?}"));
    hash.iter().map(|(key, value)| (key.as_str().expect("a key").to_owned(), value)).collect()
}

/// The texts of a list; none where it is absent.
fn texts(yaml: &Yaml) -> Vec<&str> {
    yaml.as_vec().into_iter().flatten().filter_map(Yaml::as_str).collect()
}

/// Words of `text` that look like metrics of ours and are none in the catalogue.
fn unknown_metrics(text: &str) -> Vec<&str> {
    let known: BTreeSet<String> = catalogue::ALL.iter().map(catalogue::Metric::prometheus).collect();
    let is_known = |word: &str| {
        let series = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        known.contains(word) || series.is_some_and(|name| known.contains(name))
    };
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("dogwatch_") || word.starts_with("otel_"));
    ours.filter(|word| !is_known(word)).collect()
}

#[test]
fn every_metric_named_is_in_the_catalogue() {
    let mut faults = Vec::new();
    for file in assets() {
        faults.extend(unknown_metrics(&file.text).iter().map(|name| format!("{}: {name}", file.path)));
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_metric_that_is_not_in_the_catalogue_is_found() {
    let check = |text: &str, expected: &Expect| expected.assert_eq(&unknown_metrics(text).join(" "));
    check("sum(rate(dogwatch_cycle_completed_total{a=\"b\"}[5m]))", &expect![[""]]);
    check(
        "dogwatch_cycle_completed > dogwatch_cycles_total",
        &expect!["dogwatch_cycle_completed dogwatch_cycles_total"],
    );
    check("dogwatch_cycle_duration_seconds_bucket / dogwatch_cycle_duration_seconds_count", &expect![[""]]);
    check(
        "otel_sdk_log_created_total otelcol_exporter_queue_size dogwatch:worker_ended:increase30m",
        &expect![[""]],
    );
    check("otel_sdk_log_made_total", &expect!["otel_sdk_log_made_total"]);
}

#[test]
fn json_and_yaml_can_be_read() {
    for file in assets() {
        let path = file.path.as_str();
        if path.ends_with(".json") {
            serde_json::from_str::<Value>(&file.text).unwrap_or_else(|e| panic!("{path}: {e}"));
        } else if path.ends_with(".yml") || path.ends_with(".yaml") {
            assert!(yaml_of(path).as_hash().is_some(), "{path}: a mapping");
        }
    }
}

/// The rules that are alerts, by name.
fn alert_rules() -> Vec<(String, Yaml)> {
    let rules = yaml_of("alerts/dogwatch.yml");
    let groups = rules["groups"].as_vec().expect("groups");
    let all = groups.iter().flat_map(|group| group["rules"].as_vec().expect("rules"));
    let alerts = all.filter(|rule| !rule["alert"].is_badvalue());
    alerts.map(|rule| (rule["alert"].as_str().expect("a name").to_owned(), rule.clone())).collect()
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() {
    let files = tree();
    let tests: String =
        files.iter().filter(|file| file.path.starts_with("alerts/tests/")).map(|file| file.text.as_str()).collect();
    let alerts = alert_rules();
    for (name, alert) in &alerts {
        let annotation = |key: &str| alert["annotations"][key].as_str().unwrap_or_default().to_owned();
        assert!(name.starts_with("Dogwatch"), "{name}");
        // The one that always fires is for a machine.
        let always = name == "DogwatchWatchdog";
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        let known: &[&str] = if always { &["none"] } else { &["critical", "warning", "info"] };
        assert!(known.contains(&severity), "{name}: severity {severity:?}");
        assert!(annotation("summary").ends_with('.'), "{name}: the summary is a sentence");
        assert!(!annotation("description").is_empty(), "{name}: a description");
        let runbook = annotation("runbook_url");
        assert_eq!(runbook, format!("alerts/runbooks/{name}.md"));
        let page = text_of(&runbook);
        for part in ["Meaning", "Impact", "Diagnosis", "Mitigation"] {
            assert!(page.contains(&format!("\n## {part}\n")), "{runbook}: {part}");
        }
        assert!(page.contains("`dogwatch "), "{runbook}: no command of ours");
        // It is shown to ring, and shown to stay quiet.
        let mentions = tests.matches(&format!("alertname: {name}\n")).count();
        let quiet = tests.matches(&format!("alertname: {name}}}")).count();
        assert!(mentions > 0 && (always || quiet > 0), "{name}: rings in {mentions} tests, stays quiet in {quiet}");
    }
    let orphans = files.iter().filter_map(|file| file.path.strip_prefix("alerts/runbooks/")?.strip_suffix(".md"));
    for page in orphans {
        assert!(alerts.iter().any(|(name, _)| name == page), "{page}: a runbook of no alert");
    }
}

#[test]
fn each_alarm_of_the_watch_has_its_rule() {
    let alerts = alert_rules();
    for alarm in Alarm::ALL {
        let rule = alerts.iter().find(|(name, _)| name == alarm.rule());
        let (name, rule) = rule.unwrap_or_else(|| panic!("{}: no rule {}", alarm.word(), alarm.rule()));
        assert_eq!(rule["labels"]["severity"].as_str(), Some(alarm.severity().word()), "{name}");
    }
    let mut words: Vec<_> = Alarm::ALL.map(Alarm::word).to_vec();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), Alarm::ALL.len());
}

/// A rule on a metric that nobody sets never rings, whatever the catalogue says of it.
#[test]
fn each_metric_of_a_rule_is_set_somewhere() {
    let rules = text_of("alerts/dogwatch.yml");
    let list = text_of("src/catalogue.rs");
    let files = tree();
    let is_used = |constant: &str| {
        let wanted = format!("catalogue::{constant}");
        let code = files.iter().filter(|file| file.path.starts_with("src/") && !file.path.contains("/tests"));
        code.into_iter().any(|file| {
            file.text.match_indices(&wanted).any(|(at, _)| {
                let next = file.text[at + wanted.len()..].chars().next();
                next.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_')
            })
        })
    };
    let mut named = 0;
    for metric in catalogue::ALL {
        let name = metric.prometheus();
        if !rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name) {
            continue;
        }
        named += 1;
        let line = list.lines().find(|line| line.contains(&format!("= \"{}\",", metric.name)));
        let constant = line.and_then(|line| line.trim().split(' ').next()).expect("a line of the catalogue");
        assert!(is_used(constant), "{name}: {constant} is set nowhere");
    }
    assert!(named > 20, "{named} metrics are named in rules");
}

#[test]
fn runbooks_name_only_commands_and_settings_that_exist() {
    let settings = dogwatch::config::settings::ALL;
    let is_setting =
        |word: &str| settings.iter().any(|setting| setting.name == word || setting.aliases.contains(&word));
    let commands = text_of("src/cli/args.rs");
    for file in tree().iter().filter(|file| file.path.starts_with("alerts/runbooks/")) {
        for word in file.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let looks =
                word.len() > 5 && word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            assert!(!looks || is_setting(word), "{}: {word} is no setting", file.path);
        }
        for call in file.text.split("`dogwatch ").skip(1) {
            let name = call.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            let variant = name[..1].to_uppercase() + &name[1..];
            assert!(commands.contains(&format!("    {variant}(")), "{}: dogwatch {name}", file.path);
        }
    }
}

#[test]
fn dashboards_are_whole_without_an_import_dialogue() {
    for file in assets().iter().filter(|file| file.path.starts_with("dashboards/") && file.path.ends_with(".json"))
    {
        let dashboard: Value = serde_json::from_str(&file.text).expect("json");
        let path = &file.path;
        assert!(dashboard["uid"].as_str().is_some_and(|uid| uid.starts_with("dogwatch-")), "{path}: a fixed uid");
        assert!(dashboard.get("id").is_none() && dashboard.get("version").is_none(), "{path}: no id, no version");
        assert!(!file.text.contains("__inputs") && !file.text.contains("${DS_"), "{path}: exported for import");
        assert_eq!(dashboard["templating"]["list"][0]["name"], "datasource", "{path}");
        let panels = dashboard["panels"].as_array().expect("panels");
        assert!(panels.len() >= 5, "{path}: {} panels", panels.len());
        for panel in panels {
            let title = panel["title"].as_str().unwrap_or_default();
            assert!(
                !title.is_empty() && !panel["description"].as_str().unwrap_or_default().is_empty(),
                "{path}: {title}"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{path}: {title}");
            for target in panel["targets"].as_array().expect("targets") {
                let expr = target["expr"].as_str().expect("a query");
                assert!(expr.contains("dogwatch_") || expr.contains("otel_"), "{path}: {title}: {expr}");
                assert!(expr.contains("$job") && expr.contains("$instance"), "{path}: {title}: {expr}");
            }
        }
    }
}

/// Names of `${NAME...}` in a compose file.
fn variables(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let after = code.flat_map(|line| line.split("${").skip(1));
    after
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or("").to_owned())
        .collect()
}

#[test]
fn compose_publishes_on_loopback_and_pins_its_images() {
    let compose = yaml_of("docker-compose.yml");
    let pins = text_of(".env.example");
    let declared: BTreeSet<&str> =
        pins.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    for name in variables(&text_of("docker-compose.yml")) {
        assert!(declared.contains(name.as_str()), "{name} is not in .env.example");
    }
    for (name, service) in entries(&compose["services"]) {
        let image = service["image"].as_str().unwrap_or_default();
        assert!(image.contains("_VERSION:-") && !image.contains("latest"), "{name}: {image} is not pinned");
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to the world");
        }
        assert!(!service["logging"].is_badvalue(), "{name}: logs without a limit");
        // Images without a shell: a check by wget would hold the whole stack for ever.
        let check = texts(&service["healthcheck"]["test"]).join(" ");
        match name.as_str() {
            "dogwatch" => assert_eq!(check, "CMD /usr/local/bin/dogwatch healthcheck"),
            "tempo" => assert_eq!(check, "CMD /tempo -health"),
            "otel-collector" | "migrate" => assert_eq!(check, ""),
            _ => assert!(check.starts_with("CMD "), "{name}: no health check"),
        }
        for mount in texts(&service["volumes"]) {
            check_mount(&name, mount, &compose);
        }
    }
}

/// A mounted path is in the tree; a mounted volume is declared.
fn check_mount(service: &str, mount: &str, compose: &Yaml) {
    let source = mount.split(':').next().unwrap_or_default();
    match source.strip_prefix("./") {
        Some(path) => {
            let there = tree().iter().any(|f| f.path == path || f.path.starts_with(&format!("{path}/")));
            assert!(there, "{service}: {path} is not in the tree");
        }
        None => assert!(!compose["volumes"][source].is_badvalue(), "{service}: volume {source} is not declared"),
    }
}

#[test]
fn compose_keeps_secrets_out_and_agrees_with_the_program() {
    let compose = yaml_of("docker-compose.yml");
    let dogwatch = &compose["services"]["dogwatch"];
    let settings: String =
        tree().into_iter().filter(|file| file.path.starts_with("src/config")).map(|file| file.text).collect();
    for (name, value) in entries(&dogwatch["environment"]) {
        assert!(settings.contains(&format!("\"{name}\"")), "{name} is no setting of the program");
        if name == "DATABASE_URL" {
            assert!(
                value.as_str().is_some_and(|value| value.contains(":${POSTGRES_PASSWORD")),
                "its password is in the file"
            );
        }
        if name.ends_with("TOKEN") {
            assert!(value.as_str().is_some_and(|value| value.starts_with("${")), "{name} has a value in the file");
        }
    }
    for line in text_of(".env.example").lines() {
        let secret = ["TOKEN=", "PASSWORD=", "KEY="].iter().any(|end| line.contains(end));
        assert!(!secret || line.ends_with('='), "{line}: a secret is committed");
    }
    let scraped = text_of("otel/prometheus.yml");
    let image = text_of("Dockerfile");
    for port in ["7411", "7412"] {
        assert!(scraped.contains(&format!("dogwatch:{port}")), "port {port} is not scraped");
        let exposed = image.lines().any(|line| line.starts_with("EXPOSE ") && line.contains(port));
        assert!(exposed, "port {port} is not exposed");
    }
    assert_eq!(texts(&dogwatch["command"]), ["run", "--provider", "local", "--listen", "0.0.0.0:7411"]);
    assert!(!dogwatch["environment"]["DOGWATCH_TOKEN"].is_badvalue(), "more than loopback needs a token");
}

//! A fleet on a Postgres of its own, with everybody who may notice something: an orchestrator behind a
//! wire that can be cut, its agents, a watch with another way to the database, a Prometheus that
//! scrapes both.

use std::time::Duration;

use dogwatch::clock;

use super::measure::{Look, Pace};
use crate::delivery::proxy::Proxy;
use crate::flows::prometheus;
use crate::flows::rig::{Rig, Running, free_port, get, is_long, pause};
use crate::postgres_rig::{Cluster, Database, PASSWORD};

/// Owns the databases: no superuser, whose rights nobody can revoke.
pub(super) const ROLE: &str = "dw_fleet";
/// source_type of the orchestrator's rows.
const ORCHESTRATOR: &str = "orchestrator_gpu";
/// Time for a fleet to come up, or to be well again, while others do so beside it.
const WELL_LIMIT: Duration = Duration::from_secs(240);

/// See the module.
pub(super) struct Fleet {
    pub(super) rig: Rig,
    pub(super) database: Database,
    /// The orchestrator's way to the database.
    pub(super) line: Proxy,
    /// The watch's.
    pub(super) watch_line: Proxy,
    pub(super) orchestrator: Running,
    pub(super) watch: Running,
    prometheus: u16,
    _scraper: Running,
}

/// What differs from fleet to fleet.
#[derive(Default)]
pub(super) struct Manner<'a> {
    /// Settings of the orchestrator.
    pub(super) orchestrator: &'a [(&'a str, &'a str)],
    /// Settings of the watch.
    pub(super) watch: &'a [(&'a str, &'a str)],
}

impl Fleet {
    /// A fleet that is well and has been looked at for long enough.
    pub(super) fn start(rig: Rig, manner: &Manner<'_>) -> Fleet {
        let cluster = Cluster::shared();
        let database = cluster.database();
        make_role(&database);
        let (line, watch_line) = (Proxy::to(cluster.port()), Proxy::to(cluster.port()));
        let command = |words: &[&str], port: u16| {
            let mut command = rig.command(words);
            command.env("DATABASE_URL", database.url_at(ROLE, port)).envs(Pace::get().settings.iter().copied());
            command
        };
        let migrated = rig.start(command(&["migrate"], cluster.port())).wait();
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        let mut run = command(&["run", "--provider", "local", "--no-watch", "--max-workers", "2"], line.port());
        run.args(["--", "sh", "-c", "exec sleep 600"]);
        let ended = Pace::get().ended.to_string();
        run.envs([("ORCHESTRATOR_INSTANCE_ID", "orchestrator"), ("MIN_ACTIVE_GPUS", "2")]);
        run.envs([
            ("DOGWATCH_HEARTBEAT_LIMIT_SECONDS", ended.as_str()),
            ("TASK_STUCK_TIMEOUT_SEC", ended.as_str()),
        ]);
        run.envs(manner.orchestrator.iter().copied());
        let mut watch = command(&["watch"], watch_line.port());
        watch.env("TASK_STUCK_TIMEOUT_SEC", Pace::get().hung.to_string());
        watch.envs(manner.watch.iter().copied());
        let (orchestrator, watch) = (rig.start(run), rig.start(watch));
        let prometheus = free_port();
        let scraper = scraper(&rig, prometheus);
        let fleet = Fleet { rig, database, line, watch_line, orchestrator, watch, prometheus, _scraper: scraper };
        fleet.is_well();
        fleet
    }

    /// Waits until two workers live, everybody's rows arrive, a canary has come back, nothing rings, and
    /// the watch has looked for as long as it must before it holds silence against anybody.
    pub(super) fn is_well(&self) {
        let pace = Pace::get();
        let arrived = format!(
            "select count(distinct l.source_id) from system_logs l
             where l.ingested_at > now() - interval '{} seconds' and (l.source_type in ('{ORCHESTRATOR}', 'watch')
                 or l.source_id in (select w.id from dogwatch.workers w where w.state in ('idle', 'busy')))",
            pace.silence / 2
        );
        let rounds = if is_long() { 10.0 } else { 24.0 };
        self.wait("all to be well", || {
            let page = self.page(self.rig.watch);
            let looked = value(&page, "dogwatch_watch_rounds_total").is_some_and(|count| count > rounds);
            let canary = value(&page, "dogwatch_canary_took_seconds").is_some();
            looked
                && canary
                && self.ringing().is_empty()
                && self.firing() == ["DogwatchWatchdog"]
                && self.database.ask(&arrived) == "4"
        });
    }

    /// Waits until something is so.
    pub(super) fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let limit = clock::monotonic() + WELL_LIMIT;
        while !is_so() {
            let late = clock::monotonic() > limit;
            assert!(
                !late,
                "{what}: {:?} ring, {:?} fire; {}",
                self.ringing(),
                self.firing(),
                self.orchestrator.err()
            );
            pause(Duration::from_millis(500));
        }
    }

    fn page(&self, port: u16) -> String {
        get(port, "/metrics").map(|(_, page)| page).unwrap_or_default()
    }

    /// Alarms that ring, as the watch's page has them.
    pub(super) fn ringing(&self) -> Vec<String> {
        let page = self.page(self.rig.watch);
        let rows = page.lines().filter_map(|line| line.strip_prefix("dogwatch_alarm_firing{alarm=\""));
        rows.filter_map(|row| row.strip_suffix("\"} 1")).map(str::to_owned).collect()
    }

    /// Alerts of Prometheus that fire.
    fn firing(&self) -> Vec<String> {
        let answer = prometheus::ask(self.prometheus, "/api/v1/alerts").unwrap_or_default();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let mut names: Vec<String> =
            firing.filter_map(|alert| alert["labels"]["alertname"].as_str()).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The orchestrator's process says these words on stderr, or any of them.
    pub(super) fn says<'a>(&'a self, promised: u64, words: &'a [&'a str]) -> Look<'a> {
        let already = self.orchestrator.err().len();
        Look::new(promised, move || {
            let text = self.orchestrator.err();
            let said = text[already..].lines().find(|line| words.iter().any(|word| line.contains(word)))?;
            let said = said.trim_start_matches("dogwatch telemetry: ");
            said.split([':', ';']).next()?.split(" while ").next().map(str::to_owned)
        })
    }

    /// A series of the orchestrator's page has this value, or more.
    pub(super) fn shows<'a>(&'a self, promised: u64, series: &'a str, least: f64) -> Look<'a> {
        Look::new(promised, move || {
            value(&self.page(self.rig.gateway), series).filter(|value| *value >= least)?;
            Some(format!("`{series}`"))
        })
    }

    /// The orchestrator ends a worker with that outcome.
    pub(super) fn ends<'a>(&'a self, outcome: &'a str) -> Look<'a> {
        let sql = format!("dogwatch.workers where outcome = '{outcome}'");
        let already = self.database.count(&sql);
        Look::new(Pace::get().ended + 5, move || {
            (self.database.count(&sql) > already).then(|| format!("ended by the cycle as {outcome}"))
        })
    }

    /// The watch rings that alarm; no other than those of `beside` may ring.
    pub(super) fn rings<'a>(&'a self, limit: u64, alarm: &'a str, beside: &'a [&'a str]) -> Look<'a> {
        Look::new(limit + Pace::get().rounds, move || {
            let ringing = self.ringing();
            let strange: Vec<_> =
                ringing.iter().filter(|word| *word != alarm && !beside.contains(&word.as_str())).collect();
            assert!(strange.is_empty(), "{strange:?} ring beside {alarm}");
            ringing.iter().any(|word| word == alarm).then(|| alarm.to_owned())
        })
    }

    /// That rule fires in Prometheus.
    pub(super) fn fires<'a>(&'a self, limit: u64, rule: &'a str) -> Look<'a> {
        Look::new(limit + Pace::get().scrapes, move || {
            self.firing().iter().any(|name| name == rule).then(|| rule.to_owned())
        })
    }

    /// What the job of docs/who-noticed.md asks names the orchestrator, or all of them; asked every moment,
    /// where a job asks every minute.
    pub(super) fn is_silent(&self) -> Look<'_> {
        let limit = Pace::get().slow_silence;
        Look::new(limit + 2, move || {
            let from = format!("telemetry_silence(p_limit => '{limit} seconds')");
            let sql = format!(
                "select count(*) from (
                     select source_type from {from} where silent
                     union all
                     select 'orchestrator_gpu' from {from} where source_type = 'orchestrator_gpu'
                     having min(row_age) is null or min(row_age) > interval '{limit} seconds') told
                 where source_type = 'orchestrator_gpu'"
            );
            (self.database.ask(&sql) != "0").then(|| "telemetry_silence(): orchestrator_gpu".to_owned())
        })
    }

    /// The processes of the agents.
    pub(super) fn agents(&self) -> Vec<rustix::process::Pid> {
        let all = self.rig.processes().into_iter();
        all.filter(|(_, words)| words.contains(" agent ")).map(|(pid, _)| pid).collect()
    }
}

/// The value of a series of a page of metrics.
fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn scraper(rig: &Rig, port: u16) -> Running {
    let rules = rig.file("rules.yml", Pace::get().rules());
    let evaluated = if is_long() { "15s" } else { "1s" };
    let more = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: {evaluated}}}\nrule_files: [{rules}]"
    );
    prometheus::prometheus(rig, port, &more)
}

/// The role, once for all databases of the cluster, as the owner of this one.
fn make_role(database: &Database) {
    database.named("postgres").run(&format!(
        "select pg_advisory_lock(2);
         do $$ begin if not exists (select from pg_roles where rolname = '{ROLE}')
         then create role {ROLE} login password '{PASSWORD}'; end if; end $$"
    ));
    let name = &database.name;
    database.run(&format!("alter database {name} owner to {ROLE}; alter schema public owner to {ROLE}"));
}

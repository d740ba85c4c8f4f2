//! Rows of a project read back by its Data API: the same that a reader of its database gets, page by
//! page, and what is said where it does not answer.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use dogwatch::clock::{self, Time};
use dogwatch::error;
use dogwatch::fleet::ids::{TaskId, WorkerId};
use dogwatch::store::postgres::PostgresStore;
use dogwatch::store::sqlite::{SqliteStore, TimeSource};
use dogwatch::store::{LogQuery, LogRow, Store};
use dogwatch::telemetry::exporter::postgres::Address;
use dogwatch::telemetry::exporter::supabase::{DataApi, SupabaseConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::migrated;
use crate::postgres_rig::{Cluster, Database};
use crate::postgrest_rig::{Fault, Project, SECRET_KEY, SERVICE_JWT};

/// Rows in the table of a [`Scene`].
const ROWS: i64 = 2_500;
/// What the fleet's clock shows: nothing like the project's.
const FLEET_MICROS: i64 = 1_700_000_000_000_000;

/// A fleet whose log rows are in a project, and a reader of the project's database itself.
struct Scene {
    project: Project,
    database: Database,
    fleet: SqliteStore,
    direct: PostgresStore,
    _folder: TempDir,
}

impl Scene {
    async fn with_key(key: &str) -> Scene {
        let made = tokio::task::spawn_blocking(|| {
            let database = migrated(Cluster::shared().database());
            (Project::start(&database), database)
        });
        let (project, database) = made.await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = SupabaseConfig::new(&project.url, "SUPABASE_SECRET_KEY", key).unwrap();
        let clock = TimeSource::Fixed(Arc::new(AtomicI64::new(FLEET_MICROS)));
        let fleet = SqliteStore::open(folder.path(), clock).await.unwrap().with_logs_in(config);
        let address = Address::parse(&database.url()).unwrap();
        let direct = PostgresStore::new(&address, TimeSource::Database);
        Scene { project, database, fleet, direct, _folder: folder }
    }

    /// The same with [`ROWS`] rows: two of each microsecond, every kind of value, a minute old.
    async fn filled() -> Scene {
        let scene = Scene::with_key(SECRET_KEY).await;
        scene.database.run(&format!(
            "insert into system_logs (timestamp, ingested_at, source_type, source_id, log_level, message, task_id,
                 worker_id, cycle_number, trace_id, span_id, metadata)
             select timestamptz '2026-11-01 10:00:00.000001Z' + (n / 2) * interval '1 second 1 microsecond',
                 now() - interval '1 minute', case n % 3 when 0 then 'worker' else 'watch' end, 'source-' || n % 7,
                 (array['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'])[n % 5 + 1], 'Row \"' || n || E'\" \\u2011\\n',
                 case n % 2 when 0 then '00000000-0000-0000-0000-000000000007'::uuid end,
                 case n % 3 when 0 then 'gpu-' || n % 4 end, case n % 10 when 0 then 5000000000 + n end,
                 case n % 4 when 0 then '0af7651916cd43dd8448eb211c80319c' end, null,
                 jsonb_build_object('n', n, 'large', 9223372036854775807, 'fraction', 0.1, 'list', '[1, null]'::jsonb)
             from generate_series(1, {ROWS}) n"
        ));
        scene
    }

    /// Rows of both ways, arrival times apart: those are by two clocks.
    async fn both(&self, query: &LogQuery) -> (Vec<LogRow>, Vec<LogRow>) {
        let same = |row: LogRow| LogRow { ingested_at: Time::UNIX_EPOCH, ..row };
        let far = self.fleet.logs(query).await.unwrap();
        let near = self.direct.logs(query).await.unwrap();
        (far.into_iter().map(same).collect(), near.into_iter().map(same).collect())
    }
}

#[tokio::test]
async fn every_question_has_the_answer_that_the_database_gives() {
    let scene = Scene::filled().await;
    let all = LogQuery::default;
    let at = |second: i64| clock::from_micros(1_793_527_200_000_001 + second * 1_000_001);
    let queries = [
        all(),
        LogQuery { limit: 1, ..all() },
        LogQuery { limit: 2_001, ..all() },
        LogQuery { since: Some(at(100)), until: Some(at(1_100)), ..all() },
        LogQuery { level: Some("warning".into()), limit: 1_200, ..all() },
        LogQuery { level: Some("ERROR".into()), ..all() },
        LogQuery { source_type: Some("watch".into()), source_id: Some("source-4".into()), ..all() },
        LogQuery { worker: Some(WorkerId("gpu-3".into())), ..all() },
        LogQuery { task: Some(TaskId(uuid::Uuid::from_u128(7))), ..all() },
        LogQuery { cycle: Some(5_000_000_010), ..all() },
        LogQuery { trace: Some("0AF7651916CD43DD8448EB211C80319C".into()), ..all() },
        LogQuery { grep: Some("rOW \"12".into()), ..all() },
        LogQuery { after_arrival: Some(0), ..all() },
        LogQuery { after_arrival: Some(700), limit: 1_500, ..all() },
        LogQuery { grep: Some("nowhere".into()), ..all() },
    ];
    let mut found = 0;
    for query in queries {
        let (far, near) = scene.both(&query).await;
        assert!(far == near, "{query:?}: {} and {} rows", far.len(), near.len());
        found += far.len();
    }
    assert!(found > 10_000, "{found}");
    let (far, near) = (scene.fleet.newest_rows().await.unwrap(), scene.direct.newest_rows().await.unwrap());
    let of = |rows: &[dogwatch::store::SourceNewest]| -> Vec<_> {
        rows.iter().map(|row| (row.source_type.clone(), row.source_id.clone(), row.timestamp)).collect()
    };
    assert_eq!((far.len(), of(&far)), (14, of(&near)));
}

#[tokio::test]
async fn rows_come_in_pages_that_no_cap_cuts_and_of_a_bounded_size() {
    let scene = Scene::filled().await;
    assert_eq!(scene.fleet.logs(&LogQuery { limit: 2_400, ..LogQuery::default() }).await.unwrap().len(), 2_400);
    let rows: Vec<Option<usize>> = scene.project.seen().iter().map(|call| call.rows).collect();
    assert_eq!(rows, [Some(1_000), Some(1_000), Some(400)]);
    // Sixty rows of 256 KiB are 15 MiB: a page ends at 4.
    scene.database.run(
        "insert into system_logs (source_type, source_id, log_level, message, metadata)
         select 'external', 'large', 'INFO', 'large ' || n, jsonb_build_object('text', repeat('x', 262144))
         from generate_series(1, 60) n",
    );
    let before = scene.project.seen().len();
    let large = LogQuery { source_id: Some("large".into()), ..LogQuery::default() };
    assert_eq!(scene.fleet.logs(&large).await.unwrap().len(), 60);
    let rows: Vec<Option<usize>> = scene.project.seen()[before..].iter().map(|call| call.rows).collect();
    assert_eq!(rows, [Some(16), Some(16), Some(16), Some(12)]);
}

#[tokio::test]
async fn a_projects_own_cap_cuts_sets_and_no_answer_of_ours() {
    let scene = Scene::filled().await;
    scene.project.cap_rows(10);
    scene.database.run(
        "create function public.many(jsonb) returns setof int language sql as 'select generate_series(1, 50)';
         grant execute on function public.many(jsonb) to service_role",
    );
    let api = DataApi::new(SupabaseConfig::new(&scene.project.url, "SUPABASE_SECRET_KEY", SECRET_KEY).unwrap());
    let many = api.ask("many", b"{}".to_vec(), 1 << 20, clock::now()).await.unwrap();
    assert_eq!(many.replace(' ', ""), "[1,2,3,4,5,6,7,8,9,10]", "there is a cap");
    let (far, near) = scene.both(&LogQuery { limit: 2_100, ..LogQuery::default() }).await;
    assert!(far.len() == 2_100 && far == near, "{} and {} rows", far.len(), near.len());
    assert_eq!(scene.fleet.newest_rows().await.unwrap().len(), 14);
}

#[tokio::test]
async fn more_sources_than_a_page_has_are_all_found() {
    let scene = Scene::with_key(SERVICE_JWT).await;
    scene.database.run(
        "insert into system_logs (source_type, source_id, log_level, message)
         select 'worker', 'gpu-' || n, 'INFO', 'row' from generate_series(1, 1300) n",
    );
    assert_eq!(scene.fleet.newest_rows().await.unwrap().len(), 1_300);
    assert_eq!(scene.project.seen().len(), 2);
}

#[tokio::test]
async fn arrivals_are_told_by_the_fleets_clock() {
    let scene = Scene::filled().await;
    let now = clock::from_micros(FLEET_MICROS);
    let newest = scene.fleet.newest_rows().await.unwrap();
    let rows = scene.fleet.logs(&LogQuery { limit: 3, ..LogQuery::default() }).await.unwrap();
    for arrived in newest.iter().map(|row| row.ingested_at).chain(rows.iter().map(|row| row.ingested_at)) {
        let age = clock::age(now, arrived).as_secs();
        // A minute, and however long this test takes on a busy machine.
        assert!((60..300).contains(&age), "{age} s");
    }
}

#[tokio::test]
async fn a_project_that_does_not_let_read_says_why_and_what_to_do() {
    let scene = Scene::filled().await;
    let error = async |store: &SqliteStore| {
        let failed = store.logs(&LogQuery::default()).await.unwrap_err();
        let text = error::chain(&failed);
        assert!(store.newest_rows().await.is_err(), "{text}");
        assert!(!text.contains("marked-secret"), "{text}");
        text
    };
    scene.project.always(Fault::status(503));
    assert!(error(&scene.fleet).await.contains("Supabase answered 503"));
    scene.project.always(Fault::page(522, "Connection timed out"));
    assert!(error(&scene.fleet).await.contains("522: Connection timed out"));
    scene.project.heal();
    scene.project.revoke_keys();
    let text = error(&scene.fleet).await;
    assert!(text.contains("401") && text.contains("SUPABASE_SECRET_KEY"), "{text}");
    scene.project.restore_keys();
    let functions = "function public.dw_read_logs(jsonb), public.dw_newest_logs(jsonb)";
    scene.database.run(&format!("revoke execute on {functions} from service_role"));
    let text = error(&scene.fleet).await;
    assert!(text.contains("403 42501") && text.contains("migrate"), "{text}");
    scene.database.run(&format!("grant execute on {functions} to service_role"));
    assert_eq!(scene.fleet.logs(&LogQuery::default()).await.unwrap().len(), usize::try_from(ROWS).unwrap());
    scene.database.run(&format!("drop {functions}"));
    let text = error(&scene.fleet).await;
    assert!(text.contains("PGRST202") && text.contains("dogwatch migrate"), "{text}");
}

#[test]
fn only_the_service_role_may_read_also_where_everybody_got_it_by_default() {
    let database = Cluster::shared().database();
    database.make_supabase_roles();
    for role in [crate::postgres_rig::ADMIN, "postgres"] {
        let everybody =
            "alter default privileges in schema public grant execute on functions to anon, authenticated";
        database.try_ask_as(role, everybody).unwrap();
    }
    let database = migrated(database);
    for function in ["dw_read_logs", "dw_newest_logs"] {
        let call = |role: &str| {
            let sql = format!("set role {role}; select public.{function}('{{}}')");
            database.try_ask_as("authenticator", &sql)
        };
        for role in ["anon", "authenticated"] {
            let error = call(role).unwrap_err();
            assert!(error.contains(&format!("permission denied for function {function}")), "{role}: {error}");
        }
        let answer: Value = serde_json::from_str(&call("service_role").unwrap()).unwrap();
        assert_eq!((&answer["rows"], &answer["more"]), (&json!([]), &json!(false)), "{answer}");
    }
}

//! The two functions that workers of the system before call: as the service role, with their old
//! arguments, and with the truth for an answer.

use serde_json::{Value, json};

use super::rig::Fleet;
use crate::postgres_rig::{Cluster, Database};

fn fleet() -> Fleet {
    let database = Cluster::shared().database();
    database.make_supabase_roles();
    Fleet::on(database)
}

/// What a function answers to the service role.
fn call(database: &Database, expression: &str) -> Value {
    serde_json::from_str(&database.ask(&format!("set role service_role; select public.{expression}"))).unwrap()
}

fn batch(database: &Database, rows: &Value) -> Value {
    call(database, &format!("func_insert_logs_batch('{rows}')"))
}

fn row(message: &str) -> Value {
    json!({ "source_type": "worker", "source_id": "gpu-1", "log_level": "warn", "message": message, "worker_id": "gpu-1" })
}

#[test]
fn the_old_batch_has_success_only_where_every_row_arrived() {
    let fleet = fleet();
    let database = &fleet.database;
    let rows = |message: &str| database.count(&format!("public.system_logs where message = '{message}'"));
    let answer = batch(database, &json!([row("one"), row("two")]));
    assert_eq!(answer, json!({ "success": true, "inserted": 2, "errors": [] }));
    assert_eq!(
        database.ask("select distinct log_level from public.system_logs where message in ('one', 'two')"),
        "WARNING"
    );
    let (mut mute, mut untimely) = (row("mute"), row("untimely"));
    mute["message"] = Value::Null;
    untimely["timestamp"] = json!("yesterday-ish");
    let answer = batch(database, &json!([mute, row("three"), untimely]));
    assert_eq!((&answer["success"], &answer["inserted"]), (&json!(false), &json!(1)), "{answer}");
    let errors: Vec<&str> =
        answer["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap()).collect();
    assert!(errors.len() == 2 && errors[0].starts_with("row 0: ") && errors[1].starts_with("row 2: "), "{answer}");
    assert_eq!((rows("three"), rows("untimely")), (1, 0), "the good row is there");
    let mut known = row("four");
    known["id"] = json!("00000000-0000-0000-0000-000000000004");
    known["timestamp"] = json!("2026-01-31T12:00:00Z");
    for _ in 0..2 {
        assert_eq!(batch(database, &json!([known]))["success"], json!(true));
    }
    assert_eq!(rows("four"), 1, "a repeated row is one");
    for refused in [json!({ "message": "no array" }), Value::Array(vec![row("many"); 1_001])] {
        let answer = batch(database, &refused);
        assert_eq!((&answer["success"], &answer["inserted"]), (&json!(false), &json!(0)), "{answer}");
    }
    assert_eq!(rows("many"), 0);
}

#[test]
fn the_old_beat_is_a_beat_and_revives_nobody() {
    let fleet = fleet();
    let database = &fleet.database;
    database.run(
        "insert into dogwatch.workers (id, status, state, state_since, created_at, pool)
         values ('gpu-1', 'active', 'alive', now(), now(), 'default');
         insert into dogwatch.workers (id, status, state, state_since, created_at, pool, ended_at, outcome)
         values ('gpu-2', 'terminated', 'gone', now(), now(), 'default', now(), 'planned')",
    );
    let beat = |worker: &str, logs: &Value| {
        let arguments = format!("'{worker}', 24576, 1024, '{logs}', null, 'active'");
        call(database, &format!("func_worker_heartbeat_with_logs({arguments})"))
    };
    let answer = beat("gpu-1", &json!([row("with a beat")]));
    assert_eq!(answer, json!({ "success": true, "heartbeat": true, "inserted": 1, "errors": [] }));
    let heard = "dogwatch.workers where last_heartbeat is not null and (gpu ->> 'vram_total_mb')::int = 24576";
    assert_eq!(database.count(heard), 1);
    let answer = beat("gpu-1", &json!([{ "message": null }]));
    assert_eq!((&answer["success"], &answer["heartbeat"]), (&json!(false), &json!(true)), "{answer}");
    for nobody in ["gpu-2", "gpu-3"] {
        let answer = beat(nobody, &json!([]));
        assert_eq!(
            (&answer["success"], &answer["heartbeat"]),
            (&json!(false), &json!(false)),
            "{nobody}: {answer}"
        );
    }
    assert_eq!(
        database.ask("select state, last_heartbeat is null from dogwatch.workers where id = 'gpu-2'"),
        "gone|t"
    );
}

#[test]
fn the_old_functions_are_the_service_roles_alone() {
    let fleet = fleet();
    for expression in ["func_insert_logs_batch('[]')", "func_worker_heartbeat_with_logs('gpu-1')"] {
        for role in ["anon", "authenticated"] {
            let error =
                fleet.database.try_ask(&format!("set role {role}; select public.{expression}")).unwrap_err();
            assert!(error.contains("permission denied"), "{role} {expression}: {error}");
        }
        call(&fleet.database, expression);
    }
}

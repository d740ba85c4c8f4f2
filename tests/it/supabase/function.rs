//! `dw_insert_logs` by itself: what it says, and who may call it.

use serde_json::{Value, json};

use super::migrated;
use crate::postgres_rig::{Cluster, Database};

fn row(number: u32) -> Value {
    json!({
        "id": format!("01999e1b-4538-7ffb-a6a7-{number:012}"), "timestamp": "2026-11-01T10:00:00.000001Z",
        "source_type": "external", "source_id": "app", "log_level": "INFO", "message": format!("row {number}"),
        "worker_id": "gpu-1", "cycle_number": 5_000_000_000_i64, "metadata": {"a": 1},
    })
}

fn call(database: &Database, role: &str, body: &Value) -> Result<Value, String> {
    let sql = format!("set role {role}; select public.dw_insert_logs($body${body}$body$)");
    let said = database.try_ask_as("authenticator", &sql)?;
    Ok(serde_json::from_str(&said).unwrap())
}

#[test]
fn it_says_what_it_received_and_what_was_not_there() {
    let database = migrated(Cluster::shared().database());
    let first = json!({"rows": [row(1), row(2)]});
    assert_eq!(call(&database, "service_role", &first), Ok(json!({"received": 2, "inserted": 2})));
    let more = json!({"rows": [row(2), row(3), row(3)]});
    assert_eq!(call(&database, "service_role", &more), Ok(json!({"received": 3, "inserted": 1})));
    assert_eq!(call(&database, "service_role", &json!({"rows": []})), Ok(json!({"received": 0, "inserted": 0})));
    assert_eq!(
        database.ask("select timestamp at time zone 'UTC', cycle_number, metadata from system_logs limit 1"),
        "2026-11-01 10:00:00.000001|5000000000|{\"a\": 1}"
    );
}

#[test]
fn a_bad_row_or_body_refuses_the_call_and_nothing_stays() {
    let database = migrated(Cluster::shared().database());
    let with = |key: &str, value: Value| {
        let mut bad = row(2);
        bad[key] = value;
        json!({"rows": [row(1), bad]})
    };
    for (body, expected) in [
        (with("log_level", json!("loud")), "violates check constraint"),
        (with("id", json!("no uuid")), "invalid input syntax for type uuid"),
        (with("message", Value::Null), "violates not-null constraint"),
        (with("timestamp", json!("soon")), "invalid input syntax for type timestamp"),
        (json!({"rows": {}}), "rows is not a list"),
        (json!([]), "rows is not a list"),
        (json!({"rows": vec![json!({}); 1_001]}), "rows has 1001 entries, more than 1000"),
    ] {
        let error = call(&database, "service_role", &body).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(database.count("system_logs"), 0);
}

#[test]
fn only_the_service_role_may_call_it_also_where_everybody_got_it_by_default() {
    let database = Cluster::shared().database();
    database.make_supabase_roles();
    database.run("alter default privileges in schema public grant execute on functions to anon, authenticated");
    database
        .try_ask_as(
            "postgres",
            "alter default privileges in schema public grant execute on functions to anon, authenticated",
        )
        .unwrap();
    let database = migrated(database);
    for role in ["anon", "authenticated"] {
        let error = call(&database, role, &json!({"rows": []})).unwrap_err();
        assert!(error.contains("permission denied for function dw_insert_logs"), "{role}: {error}");
    }
    assert!(call(&database, "service_role", &json!({"rows": [row(1)]})).is_ok());
}

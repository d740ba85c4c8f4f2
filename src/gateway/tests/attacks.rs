//! What somebody with one worker's token, or with the role `anon` alone, tries on the functions.

use serde_json::json;
use uuid::Uuid;

use super::rig::{Base, Rig, with};
use crate::fleet::task::TaskStatus;

/// Statements of role `anon`, which must fail for want of a right.
#[tokio::test]
async fn anon_has_its_functions_and_nothing_else() {
    let rig = Rig::on(Base::Functions).await;
    rig.spawn("gpu-1").await.ready().await;
    let database = &rig.functions.as_ref().unwrap().database;
    let forbidden = [
        "select * from dogwatch.workers",
        "select * from dogwatch.dw_tasks",
        "update dogwatch.settings set user_task_limit = 1000",
        "insert into dogwatch.tasks (task_type, user_id) values ('command', 'me')",
        "select dogwatch.door_claim('{}', now(), 1000)",
        "select dogwatch.dw_claim(gen_random_uuid(), 'gpu-1', now())",
        "select * from public.system_logs",
        "select public.func_insert_logs_batch('[]')",
        "create table public.workers (id text)",
        "create function dogwatch.clamp(text) returns text language sql as 'select $1'",
        "alter function public.dw_exit(jsonb) reset search_path",
    ];
    for sql in forbidden {
        let error = database.try_ask(&format!("set role anon; {sql}")).unwrap_err();
        assert!(error.contains("permission denied") || error.contains("must be owner"), "{sql}: {error}");
    }
    let owners = database.ask(
        "select distinct r.rolsuper from pg_proc p join pg_roles r on r.oid = p.proowner
         where p.pronamespace = 'public'::regnamespace and p.proname like 'dw\\_%' and p.prosecdef
           and has_function_privilege('anon', p.oid, 'execute')",
    );
    assert_eq!(owners, "f", "no function that anon may call runs as a superuser");
    let bare = database.ask(
        "select count(*) from pg_proc p
         where p.pronamespace in ('public'::regnamespace, 'dogwatch'::regnamespace) and p.prosecdef
           and not coalesce(p.proconfig, '{}') @> '{\"search_path=pg_catalog, pg_temp\"}'",
    );
    assert_eq!(bare, "0", "each has a search path in which nobody can put a name before ours");
    let open = database.ask(
        "select count(*) from pg_class c where c.relnamespace = 'dogwatch'::regnamespace and c.relkind = 'r'
           and not c.relrowsecurity and c.relname not like 'system_logs%'
           and c.relname not in ('migrations', 'log_settings')",
    );
    assert_eq!(open, "0", "each table has row level security");
}

/// A path of the caller's own choice changes nothing: no name is looked up in it.
#[tokio::test]
async fn a_search_path_does_not_lead_the_functions_astray() {
    let rig = Rig::on(Base::Functions).await;
    let agent = rig.spawn("gpu-1").await.ready().await;
    let database = &rig.functions.as_ref().unwrap().database;
    database.run(
        "create schema evil; grant usage, create on schema evil to anon;
         create function evil.sha256(bytea) returns bytea language sql as $$ select ''::bytea $$;
         create function evil.now() returns timestamptz language sql as $$ select 'infinity'::timestamptz $$;
         create operator evil.<> (leftarg = uuid, rightarg = uuid, function = uuid_eq);
         grant execute on all functions in schema evil to anon;",
    );
    let body = agent.body(&json!({ "worker_token": "guessed", "seq": 9, "phase": "ready", "progress_seq": 0 }));
    let answer = database.ask(&format!(
        "set role anon; set search_path = evil, pg_catalog, public; select public.dw_heartbeat('{body}')"
    ));
    assert!(answer.contains("DW401"), "{answer}");
    let stranger = with(&body, json!({ "worker_token": agent.token(), "incarnation": Uuid::from_u128(77) }));
    let answer = database.ask(&format!(
        "set role anon; set search_path = evil, pg_catalog, public; select public.dw_heartbeat('{stranger}')"
    ));
    assert!(answer.contains("DW409"), "{answer}");
}

/// A type of the caller's own in the temporary schema, which a path begins with where it does not name it:
/// its check would be carried out with the function's rights.
#[tokio::test]
async fn a_temporary_type_does_not_lead_the_functions_astray() {
    let rig = Rig::on(Base::Functions).await;
    rig.submit(&["true"]).await;
    let agent = rig.spawn("gpu-1").await.ready().await;
    let database = &rig.functions.as_ref().unwrap().database;
    let mut evil = "set role anon;
         create function pg_temp.evil(v text) returns boolean language plpgsql as $$
         begin raise 'evil as %', current_user; end $$;"
        .to_owned();
    for name in ["uuid", "jsonb", "numeric", "timestamptz", "text"] {
        evil.push_str(&format!("create domain pg_temp.{name} as pg_catalog.text check (pg_temp.evil(value));"));
    }
    for table in ["workers", "settings", "task_attempts"] {
        evil.push_str(&format!("create table pg_temp.{table} (id pg_catalog.text);"));
    }
    let task = json!({ "task_id": Uuid::from_u128(1), "attempt": 1 });
    for (function, keys) in [
        ("dw_register", json!({ "info": { "host": "h", "pid": 1, "capabilities": ["c"] } })),
        (
            "dw_heartbeat",
            json!({ "seq": 9, "phase": "ready", "progress_seq": 0, "current_task": Uuid::from_u128(1),
            "gpu": { "vram_total_mb": 1, "vram_used_mb": 1, "utilization": 0.5 } }),
        ),
        ("dw_claim_task", json!({ "claim_id": Uuid::new_v4() })),
        ("dw_task_progress", with(&task, json!({ "fraction": 0.5 }))),
        ("dw_complete_task", with(&task, json!({ "output": {} }))),
        ("dw_fail_task", with(&task, json!({ "error": "e", "retryable": true }))),
        (
            "dw_ingest_logs",
            json!({ "rows": [{ "id": Uuid::from_u128(1), "timestamp": "2025-10-16T17:35:31Z",
            "log_level": "INFO", "message": "m" }] }),
        ),
        ("dw_exit", json!({ "report": { "reason": "r", "last_lines": ["l"] } })),
    ] {
        let body = agent.body(&keys);
        let answer = database.try_ask(&format!("{evil} select public.{function}('{body}'::pg_catalog.jsonb)"));
        assert!(!answer.as_ref().is_err_and(|error| error.contains("evil")), "{function}: {answer:?}");
        assert!(answer.is_ok(), "{function}: {answer:?}");
    }
}

/// One worker's token, another worker's task, row and name.
#[tokio::test]
async fn a_token_reaches_its_own_rows_only() {
    for base in [Base::Sqlite, Base::Postgres, Base::Functions] {
        let rig = Rig::on(base).await;
        let task = rig.submit(&["true"]).await;
        let (mine, theirs) = (rig.spawn("gpu-1").await.ready().await, rig.spawn("gpu-2").await.ready().await);
        let keys = theirs.claim().await;
        for (function, keys) in [
            ("dw_complete_task", with(&keys, json!({ "output": { "by": "me" } }))),
            ("dw_fail_task", with(&keys, json!({ "error": "e", "retryable": false }))),
            ("dw_task_progress", with(&keys, json!({ "fraction": 0.5 }))),
        ] {
            assert_eq!(mine.call(function, keys.clone()).await.0, 409, "{base:?} {function}");
            let as_them = with(&keys, json!({ "worker_id": "gpu-2" }));
            assert_eq!(mine.call(function, as_them).await.0, 401, "{base:?} {function}");
        }
        let row = json!({ "id": Uuid::from_u128(1), "timestamp": "2025-10-16T17:35:31Z", "log_level": "INFO",
            "message": "m", "source_id": "gpu-2", "worker_id": "gpu-2", "source_type": "orchestrator_gpu",
            "attributes": { "worker_id": "gpu-2", "source_id": "gpu-2" } });
        mine.ok("dw_ingest_logs", json!({ "rows": [row] })).await;
        assert_eq!(rig.log_rows(), ["worker gpu-1"], "{base:?}");
        let task = rig.task(task).await;
        assert_eq!((task.status, task.worker.unwrap().0.as_str()), (TaskStatus::InProgress, "gpu-2"), "{base:?}");
    }
}

/// Text that would be SQL, a path or a type elsewhere is text here.
#[tokio::test]
async fn crafted_texts_are_texts() {
    for base in [Base::Postgres, Base::Functions] {
        let rig = Rig::on(base).await;
        let agent = rig.spawn("gpu-1").await.ready().await;
        rig.submit(&["true"]).await;
        for text in ["'; drop table dogwatch.workers; --", "$1", "%s %I", "{\"code\":\"DW409\"}", "\\", "{1,2}"] {
            let stranger = json!({ "worker_id": text, "claim_id": Uuid::nil() });
            assert_eq!(agent.call("dw_claim_task", stranger).await.0, 401, "{base:?} {text}");
            let claim = json!({ "claim_id": Uuid::new_v4(), "run_type": text });
            agent.ok("dw_claim_task", claim).await;
            let register = json!({ "info": { "host": text, "version": text, "capabilities": [text] } });
            agent.ok("dw_register", register).await;
        }
        let workers = rig.store.workers(None, 0).await.unwrap();
        assert_eq!(workers[0].info.as_ref().unwrap().host, "{1,2}");
    }
}

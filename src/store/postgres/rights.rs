//! Rights on the fleet's tables and functions: of this program's own role, and those that the
//! migrations gave to others.

use sqlx::postgres::PgPool;

use super::fault::from_sqlx;
use crate::store::Result;
use crate::telemetry::exporter::postgres::rights::{self, LOGS};

/// What is due to whom by the fleet's migrations: workers call functions as roles of a Supabase
/// project; these run as their owner, and the service role reads and writes as an operator does.
pub(super) const RIGHTS: &str = "
    select 'function', format('public.%s(jsonb)', name), 'execute', role
    from unnest(array['dw_register', 'dw_heartbeat', 'dw_claim_task', 'dw_task_progress', 'dw_complete_task',
            'dw_fail_task', 'dw_exit', 'dw_ingest_logs']) as name
        cross join unnest(array['anon', 'authenticated', 'service_role']) as role
    union all
    select 'function', name, 'execute', 'service_role'
    from unnest(array['public.func_insert_logs_batch(jsonb)',
            'public.func_worker_heartbeat_with_logs(text, integer, integer, jsonb, uuid, text)']) as name
    union all
    select case when name is null then 'schema' else 'table' end, 'dogwatch' || coalesce('.' || name, ''), privilege, role
    from (values (null, 'usage')
            union all
            select name, privilege from unnest(array['users', 'tasks', 'task_attempts', 'task_holds', 'task_let_go',
                'workers', 'incarnations', 'snapshots', 'decisions', 'action_results', 'processes', 'lease',
                'refusals', 'audit', 'pause', 'orders', 'queue_pools', 'writes', 'settings', 'claim_heads',
                'claim_scans', 'log_settings']) as name
            cross join unnest(array['select', 'insert', 'update', 'delete']) as privilege
            union all
            select name, 'select' from unnest(array['dw_tasks', 'dw_queue', 'dw_demand']) as name
        ) as own (name, privilege)
        cross join unnest(array['service_role', 'dogwatch_rpc']) as role
    where to_regprocedure('public.dw_register(jsonb)') is not null
        -- A role of the whole cluster: only where it owns the functions of this very database.
        and (role <> 'dogwatch_rpc' or exists (select from pg_proc p
            where p.oid = to_regprocedure('public.dw_register(jsonb)') and p.proowner = to_regrole('dogwatch_rpc')))
    union all
    select kind, object, privilege, 'dogwatch_rpc'
    from (values ('table', 'public.system_logs', 'select'), ('table', 'public.system_logs', 'insert'),
            ('sequence', 'dogwatch.system_logs_arrival', 'usage')) as door (kind, object, privilege)
    where exists (select from pg_proc p
        where p.oid = to_regprocedure('public.dw_ingest_logs(jsonb)') and p.proowner = to_regrole('dogwatch_rpc'))";

/// Tables of the fleet that this role may not read and write.
pub(super) async fn missing_rights(pool: &PgPool) -> Result<Vec<String>> {
    let sql = "select c.relname::text from pg_class c
         where c.relnamespace = 'dogwatch'::regnamespace and c.relkind = 'r' and c.relname !~ '^system_logs'
           and not (has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
               and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete'))
         order by 1 limit 100";
    sqlx::query_scalar(sql).fetch_all(pool).await.map_err(|error| from_sqlx(error, "look at this role's rights"))
}

/// Rights that the migrations gave and somebody has taken, in words.
pub(super) async fn revoked(pool: &PgPool) -> Result<Vec<String>> {
    let failed = |error| from_sqlx(error, "look at the roles' rights");
    let mut connection = pool.acquire().await.map_err(failed)?;
    rights::missing(&mut connection, &[LOGS, RIGHTS]).await.map_err(failed)
}

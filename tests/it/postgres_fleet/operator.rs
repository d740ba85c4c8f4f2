//! dogwatch beside an operator's own tables, with rows in them: it works on the tasks, and leaves
//! what was there as it was.

use crate::postgres_rig::{Cluster, until};

use super::rig::Fleet;

/// Tables as the system before had them, with a past.
const BEFORE: &str = "
create type public.task_status as enum ('Queued', 'In Progress', 'Complete', 'Failed', 'Cancelled');
create table public.users (id uuid primary key, credits numeric, allows_cloud boolean);
create table public.projects (id uuid primary key, user_id uuid references public.users (id));
create table public.tasks (
    id uuid primary key default gen_random_uuid(), task_type text not null, params jsonb not null default '{}',
    status public.task_status not null default 'Queued', dependant_on uuid[], project_id uuid references public.projects (id),
    worker_id text, attempts integer default 0, error_message text, output_location text,
    generation_started_at timestamptz, generation_processed_at timestamptz,
    created_at timestamptz not null default now(), updated_at timestamptz, idempotency_key text);
create table public.workers (
    id text primary key, instance_type text, status text, created_at timestamptz default now(),
    last_heartbeat timestamptz default now(), metadata jsonb default '{}');
create table public.system_logs (
    id uuid primary key default gen_random_uuid(), timestamp timestamptz default now(), source_type text,
    source_id text, log_level text, message text, task_id uuid, worker_id text, cycle_number int, metadata jsonb);
create function public.func_insert_logs_batch(logs jsonb) returns jsonb language sql as $$ select '{\"success\": true}'::jsonb $$;
insert into public.users select ('00000000-0000-0000-0000-00000000000' || i)::uuid, i - 1, true from generate_series(1, 3) i;
insert into public.projects select ('10000000-0000-0000-0000-00000000000' || i)::uuid, ('00000000-0000-0000-0000-00000000000' || i)::uuid
    from generate_series(1, 3) i;
insert into public.tasks (task_type, status, project_id, worker_id, attempts, generation_started_at, generation_processed_at)
    select 'render', case when i % 2 = 0 then 'Complete' else 'Failed' end::public.task_status,
        '10000000-0000-0000-0000-000000000002', 'gpu-20251016_173531-0000000' || i, 1, now(), now() from generate_series(1, 8) i;
insert into public.workers (id, status) select 'gpu-20251016_173531-0000000' || i,
    (array['terminated', 'error', 'crashed', 'active'])[i % 4 + 1] from generate_series(1, 8) i;
insert into public.system_logs (source_type, source_id, log_level, message)
    select 'orchestrator_gpu', 'old', 'INFO', 'line ' || i from generate_series(1, 50) i;
";

const PAST: &str = "
select md5(string_agg(t::text, '|' order by t.id)) from public.tasks t where created_at < (select at from public.marker)
union all select md5(string_agg(w::text, '|' order by w.id)) from public.workers w
union all select md5(string_agg(u::text, '|' order by u.id)) from public.users u";

#[test]
fn it_works_beside_an_operators_tables_and_leaves_their_rows() {
    let database = Cluster::shared().database();
    database.run(BEFORE);
    database.run("create table public.marker as select clock_timestamp() as at");
    let (past, logs) = (database.ask(PAST), "select md5(string_agg(l::text, '|' order by l.id)) from public.");
    let old_logs = database.ask(&format!("{logs}system_logs l"));
    let fleet = Fleet::on(database);
    let database = &fleet.database;
    assert_eq!(database.ask(PAST), past, "the migration touched nothing");
    assert_eq!(database.ask(&format!("{logs}system_logs_before_dogwatch l")), old_logs);
    database.run(include_str!("../../../docs/operator-schema.sql"));
    // User 1 has no credits; user 2 and 3 have, and one task waits for another.
    database.run(
        "insert into public.tasks (task_type, project_id, params, created_at)
         select 'render', ('10000000-0000-0000-0000-00000000000' || i)::uuid, '{\"x\": 1}', now() + n * interval '1 ms'
         from generate_series(1, 3) i, generate_series(1, 2) n;
         insert into public.tasks (task_type, project_id, dependant_on) select 'render', project_id, array[id]
         from public.tasks where status = 'Queued' and project_id = '10000000-0000-0000-0000-000000000003' limit 1",
    );
    let mut command = fleet.command(&["run", "--provider", "local", "--no-watch", "--max-workers", "2"]);
    command.args(["--", "sh", "-c", "echo done"]);
    command.envs([("ORCHESTRATOR_POLL_SEC", "0.3"), ("MIN_ACTIVE_GPUS", "0"), ("DOGWATCH_CLAIM_SECONDS", "0.1")]);
    let mut run = fleet.start("run", command);
    run.says("dogwatch runs on");
    let done = "public.tasks where status = 'Complete' and created_at > (select at from public.marker)";
    until("the tasks of those who have credits", || database.count(done) == 5);
    let waiting = "select distinct project_id from public.tasks where status = 'Queued'";
    assert_eq!(database.ask(waiting), "10000000-0000-0000-0000-000000000001");
    let demand = fleet.ok(&["tasks", "--by", "user", "--json"]);
    assert!(demand.contains("no_credits"), "{demand}");
    until("the workers' log rows", || database.count("public.system_logs where source_type = 'worker'") > 0);
    assert_eq!(run.stop(), Some(0));
    assert_eq!(database.ask(PAST), past, "old rows are as they were");
    assert_eq!(database.ask(&format!("{logs}system_logs_before_dogwatch l")), old_logs);
    let (code, _, err) = fleet.run(&["submit", "--", "true"]);
    assert!(code != Some(0) && err.contains("operator"), "{err}");
    assert_eq!(database.count("dogwatch.tasks"), 0, "nothing is left where nobody would look");
}

-- fleet.db: tasks, workers, decisions and what guards them.
--
-- Times are whole microseconds since 1970 in UTC, by this database's clock. tasks and workers keep
-- the names that operators know. Everything that asks about the queue goes through the views
-- below, so that counting a task and claiming it can never follow two definitions.

create table users (
    user_id       text primary key,
    credits       real,
    cloud_enabled integer check (cloud_enabled in (0, 1))
) strict;

create table tasks (
    id                      text primary key,
    task_type               text not null,
    params                  text not null check (json_valid(params)),
    status                  text not null default 'Queued'
        check (status in ('Queued', 'In Progress', 'Complete', 'Failed', 'Cancelled')),
    dependant_on            text not null default '[]' check (json_valid(dependant_on)),
    user_id                 text not null,
    run_type                text,
    worker_id               text,
    attempts                integer not null default 0 check (attempts >= 0),
    error_message           text,
    output                  text check (output is null or json_valid(output)),
    generation_started_at   integer,
    generation_processed_at integer,
    created_at              integer not null,
    updated_at              integer not null,
    idempotency_key         text,
    traceparent             text,
    progress_at             integer,
    progress_fraction       real,
    progress_note           text,
    -- A task has an end exactly when it has ended.
    check ((status in ('Complete', 'Failed', 'Cancelled')) = (generation_processed_at is not null)),
    -- A waiting task is nobody's; a task in hand is somebody's.
    check (status <> 'Queued' or worker_id is null),
    check (status <> 'In Progress' or (worker_id is not null and generation_started_at is not null and attempts > 0))
) strict;

create unique index tasks_idempotency_key on tasks (idempotency_key) where idempotency_key is not null;
create index tasks_queued on tasks (created_at, id) where status = 'Queued';
create index tasks_in_hand_of_user on tasks (user_id) where status = 'In Progress';
create index tasks_in_hand_of_worker on tasks (worker_id) where status = 'In Progress';
create index tasks_ended on tasks (generation_processed_at, status) where generation_processed_at is not null;
create index tasks_newest on tasks (created_at desc, id desc);
create index tasks_of_user on tasks (user_id, status);

-- One row a claim: what makes every call of the protocol repeatable.
create table task_attempts (
    task_id     text not null,
    attempt     integer not null,
    worker_id   text not null,
    incarnation text not null,
    claim_id    text not null,
    claimed_at  integer not null,
    ended_at    integer,
    -- The task's status when this attempt itself ended it; null where somebody else did.
    answer      text check (answer in ('Complete', 'Failed', 'Queued')),
    primary key (task_id, attempt)
) strict, without rowid;

create unique index task_attempts_claim on task_attempts (worker_id, claim_id);

-- Tasks that are held back, and in which bucket they are counted meanwhile.
create table task_holds (
    task_id text primary key,
    bucket  text not null check (bucket in ('paused', 'poisoned', 'too_old', 'wrong_type')),
    actor   text not null,
    reason  text not null,
    since   integer not null
) strict;

create table workers (
    id                 text primary key,
    instance_type      text,
    -- The old word for old tools; `state` is the truth.
    status             text not null,
    state              text not null,
    state_since        integer not null,
    created_at         integer not null,
    pool               text not null,
    token_sha256       blob check (token_sha256 is null or length(token_sha256) = 32),
    pod_id             text,
    incarnation        text,
    beat_seq           integer,
    progress_seq       integer,
    promoted_at        integer,
    first_heartbeat_at integer,
    last_heartbeat     integer,
    progress_at        integer,
    idle_since         integer,
    tasks_claimed      integer not null default 0,
    leaving_outcome    text,
    leaving_reason     text,
    leaving_since      integer,
    ended_at           integer,
    outcome            text,
    reason             text,
    actor              text,
    evidence           text not null default '[]' check (json_valid(evidence)),
    info               text check (info is null or json_valid(info)),
    exited_at          integer,
    exit_report        text check (exit_report is null or json_valid(exit_report)),
    gpu                text check (gpu is null or json_valid(gpu)),
    metadata           text not null default '{}' check (json_valid(metadata)),
    -- Why a change to this row was refused the last time.
    quarantine         text,
    check (
        case
            when state in ('planned', 'requesting', 'created', 'ambiguous', 'provisioning', 'starting')
                then status = 'spawning'
            when state in ('alive', 'idle', 'busy', 'draining') then status = 'active'
            when state = 'terminating' then status = 'terminating'
            when state in ('rejected', 'gone') then status in ('terminated', 'error', 'crashed')
            else 0
        end),
    -- Every ended worker has an outcome, and only an ended one.
    check ((state in ('rejected', 'gone')) = (ended_at is not null)),
    check ((ended_at is null) = (outcome is null)),
    check ((leaving_outcome is null) = (leaving_since is null)),
    check ((first_heartbeat_at is null) = (last_heartbeat is null))
) strict;

create index workers_not_ended on workers (created_at, id) where ended_at is null;
create index workers_ended on workers (ended_at) where ended_at is not null;
create index workers_newest on workers (created_at desc, id desc);

-- Every start of every worker's agent: one that was superseded cannot come back.
create table incarnations (
    worker_id   text not null,
    incarnation text not null,
    at          integer not null,
    primary key (worker_id, incarnation)
) strict, without rowid;

-- zstd of the snapshot's JSON without its instant, cycle number and ages, which stand in the decision's row.
create table snapshots (
    id     integer primary key,
    sha256 blob not null,
    body   blob not null
) strict;

create table decisions (
    id           integer primary key autoincrement,
    boot_id      text not null,
    cycle        integer not null,
    term         integer not null,
    at           integer not null,
    trace_id     text,
    snapshot_id  integer not null references snapshots (id),
    as_of        text not null,
    snap_cycle   integer,
    database_age integer,
    provider_age integer,
    decision     text not null check (json_valid(decision)),
    actions      integer not null
) strict;

create index decisions_at on decisions (at);
create index decisions_snapshot on decisions (snapshot_id);

create table action_results (
    decision_id integer not null references decisions (id) on delete cascade,
    idx         integer not null,
    ok          integer not null check (ok in (0, 1)),
    detail      text not null,
    at          integer not null,
    primary key (decision_id, idx)
) strict, without rowid;

create table processes (
    boot_id     text primary key,
    kind        text not null,
    source_type text not null,
    source_id   text not null,
    version     text not null,
    config_hash text not null,
    host        text not null,
    pid         integer not null,
    started_at  integer not null,
    seen_at     integer not null,
    ended_at    integer
) strict;

create index processes_newest on processes (started_at desc);

-- Leadership. A holder of null: it was given back.
create table lease (
    name   text primary key,
    holder text,
    term   integer not null check (term > 0),
    until  integer not null
) strict, without rowid;

-- Calls that were not granted: one row a worker and minute.
create table refusals (
    worker_id text not null,
    minute    integer not null,
    function  text not null,
    code      text not null,
    message   text not null,
    primary key (worker_id, minute)
) strict, without rowid;

create index refusals_minute on refusals (minute);

-- What humans ordered.
create table audit (
    id     integer primary key autoincrement,
    at     integer not null,
    actor  text not null,
    verb   text not null,
    target text,
    reason text not null
) strict;

create table pause (
    one    integer primary key check (one = 1),
    actor  text not null,
    reason text not null,
    since  integer not null,
    until  integer
) strict;

-- Since when this database has taken writes without a gap.
create table writes (
    one   integer primary key check (one = 1),
    since integer not null,
    last  integer not null
) strict;

-- All that knows the operator's schema.
create view dw_tasks as
select
    t.id,
    t.user_id,
    t.task_type,
    t.status,
    t.run_type,
    t.created_at as queued_at,
    (u.credits is null or u.credits > 0) as credits_ok,
    (u.cloud_enabled is null or u.cloud_enabled = 1) as cloud_ok,
    (t.dependant_on = '[]' or not exists (
        select 1
        from json_each(t.dependant_on) d
        where not exists (select 1 from tasks p where p.id = d.value and p.status = 'Complete')
    )) as dependencies_ok,
    t.attempts
from tasks t
left join users u on u.user_id = t.user_id;

-- Each waiting task with the first bucket that fits. `ready` is what remains: user_limit or
-- claimable, which only a count over its user's tasks can tell apart.
create view dw_queue as
select
    v.id,
    v.user_id,
    v.run_type,
    v.queued_at,
    not v.dependencies_ok as waits,
    case
        when h.bucket = 'paused' then 'paused'
        when h.bucket = 'poisoned' or v.attempts >= 3 then 'poisoned'
        when h.bucket = 'too_old' then 'too_old'
        when not v.credits_ok then 'no_credits'
        when not v.cloud_ok then 'cloud_disabled'
        when not v.dependencies_ok then 'dependency'
        when h.bucket = 'wrong_type' then 'wrong_type'
        else 'ready'
    end as bucket
from dw_tasks v
left join task_holds h on h.task_id = v.id
where v.status = 'Queued';

-- A row a user with tasks waiting or in hand. Materialized, so that a task's bucket is found once.
create view dw_demand as
with queued as materialized (
    select user_id, queued_at, waits, bucket from dw_queue
)
select
    coalesce(q.user_id, p.user_id) as user_id,
    coalesce(q.queued, 0) as queued,
    coalesce(p.in_progress, 0) as in_progress,
    coalesce(q.waits, 0) as waits,
    coalesce(q.paused, 0) as paused,
    coalesce(q.poisoned, 0) as poisoned,
    coalesce(q.too_old, 0) as too_old,
    coalesce(q.no_credits, 0) as no_credits,
    coalesce(q.cloud_disabled, 0) as cloud_disabled,
    coalesce(q.dependency, 0) as dependency,
    coalesce(q.wrong_type, 0) as wrong_type,
    coalesce(q.ready, 0) as ready,
    q.ready_since
from (
    select
        user_id,
        count(*) as queued,
        sum(waits) as waits,
        sum(bucket = 'paused') as paused,
        sum(bucket = 'poisoned') as poisoned,
        sum(bucket = 'too_old') as too_old,
        sum(bucket = 'no_credits') as no_credits,
        sum(bucket = 'cloud_disabled') as cloud_disabled,
        sum(bucket = 'dependency') as dependency,
        sum(bucket = 'wrong_type') as wrong_type,
        sum(bucket = 'ready') as ready,
        min(case when bucket = 'ready' then queued_at end) as ready_since
    from queued
    group by user_id
) q
full join (
    select user_id, count(*) as in_progress
    from dw_tasks
    where status = 'In Progress'
    group by user_id
) p on p.user_id = q.user_id;

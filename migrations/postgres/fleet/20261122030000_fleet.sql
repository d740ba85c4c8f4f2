-- The fleet: tasks, workers, decisions and what guards them.
--
-- Everything lives in a schema of its own, so that nothing of an operator's is touched whatever its
-- tables are called. Times are this database's. All that knows the shape of the tasks' table is the
-- view dw_tasks and the functions dw_claim, dw_finish and dw_requeue: replaced, they put the fleet on
-- an operator's own table. Everything that asks about the queue goes through the views below, so
-- that counting a task and claiming it can never follow two definitions.

create schema if not exists dogwatch;
revoke all on schema dogwatch from public;

-- The plain version of what an operator's schema says about users.
create table dogwatch.users (
    user_id       text primary key,
    credits       double precision,
    cloud_enabled boolean
);

-- The plain version of the tasks' table.
create table dogwatch.tasks (
    id                      uuid primary key default gen_random_uuid(),
    task_type               text not null,
    params                  jsonb not null default '{}',
    status                  text not null default 'Queued'
        check (status in ('Queued', 'In Progress', 'Complete', 'Failed', 'Cancelled')),
    dependant_on            uuid[] not null default '{}',
    user_id                 text not null,
    run_type                text,
    worker_id               text,
    attempts                bigint not null default 0 check (attempts >= 0),
    error_message           text,
    output                  jsonb,
    generation_started_at   timestamptz,
    generation_processed_at timestamptz,
    created_at              timestamptz not null default now(),
    updated_at              timestamptz not null default now(),
    idempotency_key         text,
    traceparent             text,
    -- A task has an end exactly when it has ended.
    constraint tasks_end check
        ((status in ('Complete', 'Failed', 'Cancelled')) = (generation_processed_at is not null)),
    -- A waiting task is nobody's; a task in hand is somebody's.
    constraint tasks_waiting check (status <> 'Queued' or worker_id is null),
    constraint tasks_in_hand check (status <> 'In Progress'
        or (worker_id is not null and generation_started_at is not null and attempts > 0))
);

-- A repeated insert by its owner's key is the same task.
create unique index tasks_idempotency_key on dogwatch.tasks (idempotency_key) where idempotency_key is not null;
-- A claim: the oldest waiting task.
create index tasks_queued on dogwatch.tasks (created_at, id) where status = 'Queued';
-- A claim behind many tasks of users at their limit: the oldest of each user.
create index tasks_queued_of_user on dogwatch.tasks (user_id, created_at, id) where status = 'Queued';
-- The limit of tasks per user.
create index tasks_in_hand_of_user on dogwatch.tasks (user_id) where status = 'In Progress';
-- What a worker has in hand; what it gives back when it ends.
create index tasks_in_hand_of_worker on dogwatch.tasks (worker_id) where status = 'In Progress';
-- `dogwatch tasks`.
create index tasks_newest on dogwatch.tasks (created_at desc, id desc);
-- `dogwatch tasks --by user`.
create index tasks_of_user on dogwatch.tasks (user_id, status);

-- One row a claim: what makes every call of the protocol repeatable.
create table dogwatch.task_attempts (
    task_id           uuid not null,
    attempt           bigint not null check (attempt > 0),
    worker_id         text not null,
    incarnation       uuid not null,
    claim_id          uuid not null,
    claimed_at        timestamptz not null,
    ended_at          timestamptz,
    -- The task's status when this attempt itself ended it; null where somebody else did.
    answer            text check (answer in ('Complete', 'Failed', 'Queued')),
    progress_at       timestamptz,
    progress_fraction double precision check (progress_fraction between 0 and 1),
    progress_note     text,
    primary key (task_id, attempt)
);

-- A repeated claim.
create unique index task_attempts_claim on dogwatch.task_attempts (worker_id, claim_id);
-- The watch: how tasks have ended lately.
create index task_attempts_ended on dogwatch.task_attempts (ended_at) where ended_at is not null;

-- Tasks that are held back, and in which bucket they are counted meanwhile.
create table dogwatch.task_holds (
    task_id uuid primary key,
    bucket  text not null check (bucket in ('paused', 'poisoned', 'too_old', 'wrong_type')),
    actor   text not null,
    reason  text not null,
    since   timestamptz not null
);

-- Which state may follow which; staying is always allowed.
create function dogwatch.may_become(state text, next text) returns boolean
language sql immutable parallel safe as $$
    select state = next or next = any (case state
        when 'planned' then '{requesting,terminating,gone}'
        when 'requesting' then '{created,ambiguous,rejected,provisioning,starting,alive,terminating,gone}'
        when 'created' then '{provisioning,starting,alive,draining,terminating,gone}'
        when 'ambiguous' then '{created,provisioning,starting,alive,terminating,gone}'
        when 'rejected' then '{gone}'
        when 'provisioning' then '{starting,alive,draining,terminating,gone}'
        when 'starting' then '{alive,draining,terminating,gone}'
        when 'alive' then '{idle,busy,draining,terminating,gone}'
        when 'idle' then '{busy,draining,terminating,gone}'
        when 'busy' then '{idle,draining,terminating,gone}'
        when 'draining' then '{terminating,gone}'
        when 'terminating' then '{gone}'
        else '{}'
    end::text[])
$$;

-- The old word for old tools.
create function dogwatch.status_of(state text) returns text
language sql immutable parallel safe as $$
    select case
        when state in ('planned', 'requesting', 'created', 'ambiguous', 'provisioning', 'starting') then 'spawning'
        when state in ('alive', 'idle', 'busy', 'draining') then 'active'
        when state = 'terminating' then 'terminating'
        else 'terminated'
    end
$$;

create table dogwatch.workers (
    id                 text primary key,
    instance_type      text,
    -- The old word for old tools; `state` is the truth.
    status             text not null,
    state              text not null,
    state_since        timestamptz not null,
    created_at         timestamptz not null,
    pool               text not null,
    token_sha256       bytea check (length(token_sha256) = 32),
    pod_id             text,
    incarnation        uuid,
    beat_seq           bigint,
    progress_seq       bigint,
    promoted_at        timestamptz,
    first_heartbeat_at timestamptz,
    last_heartbeat     timestamptz,
    progress_at        timestamptz,
    idle_since         timestamptz,
    tasks_claimed      bigint not null default 0 check (tasks_claimed >= 0),
    leaving_outcome    text,
    leaving_reason     text,
    leaving_since      timestamptz,
    ended_at           timestamptz,
    outcome            text,
    reason             text,
    actor              text,
    evidence           jsonb not null default '[]' check (jsonb_typeof(evidence) = 'array'),
    info               jsonb,
    exited_at          timestamptz,
    exit_report        jsonb,
    gpu                jsonb,
    metadata           jsonb not null default '{}',
    -- Why a change to this row was refused the last time.
    quarantine         text,
    constraint workers_state check (state in ('planned', 'requesting', 'created', 'ambiguous', 'rejected',
        'provisioning', 'starting', 'alive', 'idle', 'busy', 'draining', 'terminating', 'gone')),
    constraint workers_status check (status = dogwatch.status_of(state)
        or (state in ('rejected', 'gone') and status in ('error', 'crashed'))),
    -- Every ended worker has an outcome, and only an ended one.
    constraint workers_end check ((state in ('rejected', 'gone')) = (ended_at is not null)),
    constraint workers_outcome check ((ended_at is null) = (outcome is null)),
    constraint workers_leaving check ((leaving_outcome is null) = (leaving_since is null)),
    constraint workers_heartbeat check ((first_heartbeat_at is null) = (last_heartbeat is null)),
    constraint workers_words check (
        outcome in ('planned', 'operator', 'provider_capacity', 'provider_fault', 'boot', 'worker_crash', 'stalled',
            'poison_task', 'external', 'controller_error', 'unknown'))
);

-- Every cycle: those that have not ended.
create index workers_not_ended on dogwatch.workers (created_at, id) where ended_at is null;
-- Every cycle: those that ended within the breaker's window.
create index workers_ended on dogwatch.workers (ended_at) where ended_at is not null;
-- `dogwatch workers`.
create index workers_newest on dogwatch.workers (created_at desc, id desc);

-- No step that the table of states does not have; an ended worker stays ended.
create function dogwatch.check_step() returns trigger
language plpgsql as $$
begin
    if not dogwatch.may_become(old.state, new.state) then
        raise check_violation using
            message = format('worker %s is %s and cannot become %s', old.id, old.state, new.state);
    end if;
    return new;
end
$$;

create trigger workers_step before update of state on dogwatch.workers
    for each row when (old.state is distinct from new.state) execute function dogwatch.check_step();

-- Every start of every worker's agent: one that was superseded cannot come back.
create table dogwatch.incarnations (
    worker_id   text not null,
    incarnation uuid not null,
    at          timestamptz not null,
    primary key (worker_id, incarnation)
);

-- zstd of the snapshot's JSON without its instant, cycle number and ages, which stand in the decision's row.
create table dogwatch.snapshots (
    id     bigint generated always as identity primary key,
    sha256 bytea not null,
    body   bytea not null
);

create table dogwatch.decisions (
    id           bigint generated always as identity primary key,
    boot_id      uuid not null,
    cycle        bigint not null,
    term         bigint not null,
    at           timestamptz not null,
    trace_id     text,
    snapshot_id  bigint not null references dogwatch.snapshots (id),
    as_of        text not null,
    snap_cycle   bigint,
    database_age bigint,
    provider_age bigint,
    -- json and not jsonb: it is given back byte for byte.
    decision     json not null,
    actions      bigint not null
);

-- Reading since a time; deleting what is too old.
create index decisions_at on dogwatch.decisions (at);
-- Deleting a snapshot that no row points to.
create index decisions_snapshot on dogwatch.decisions (snapshot_id);

create table dogwatch.action_results (
    decision_id bigint not null references dogwatch.decisions (id) on delete cascade,
    idx         bigint not null check (idx >= 0),
    ok          boolean not null,
    detail      text not null,
    at          timestamptz not null,
    primary key (decision_id, idx)
);

create table dogwatch.processes (
    boot_id     uuid primary key,
    kind        text not null,
    source_type text not null,
    source_id   text not null,
    version     text not null,
    config_hash text not null,
    host        text not null,
    pid         bigint not null,
    started_at  timestamptz not null,
    seen_at     timestamptz not null,
    ended_at    timestamptz
);

-- The newest starts; which of them are too many.
create index processes_newest on dogwatch.processes (started_at desc, boot_id desc);

-- Leadership. A holder of null: it was given back.
create table dogwatch.lease (
    name   text primary key,
    holder uuid,
    term   bigint not null check (term > 0),
    until  timestamptz not null
);

-- Calls that were not granted: one row a worker and minute.
create table dogwatch.refusals (
    worker_id text not null,
    minute    bigint not null,
    function  text not null,
    code      text not null,
    message   text not null,
    primary key (worker_id, minute)
);

-- Deleting the oldest.
create index refusals_minute on dogwatch.refusals (minute desc, worker_id);

-- What humans ordered.
create table dogwatch.audit (
    id     bigint generated always as identity primary key,
    at     timestamptz not null,
    actor  text not null,
    verb   text not null,
    target text,
    reason text not null
);

create table dogwatch.pause (
    one    boolean primary key default true check (one),
    actor  text not null,
    reason text not null,
    since  timestamptz not null,
    until  timestamptz
);

-- Since when this database has taken writes without a gap.
create table dogwatch.writes (
    one   boolean primary key default true check (one),
    since timestamptz not null,
    last  timestamptz not null
);

-- What workers that call the functions by themselves are told; kept up by the leader's cycles.
create table dogwatch.settings (
    one               boolean primary key default true check (one),
    heartbeat_seconds double precision not null default 20 check (heartbeat_seconds > 0),
    dead_man_seconds  double precision not null default 1800 check (dead_man_seconds > 0),
    poll_seconds      double precision not null default 1 check (poll_seconds > 0),
    user_task_limit   bigint not null default 5 check (user_task_limit >= 0)
);

insert into dogwatch.settings default values;

-- All that knows the tasks' table, with the three functions below it.
create view dogwatch.dw_tasks as
select
    t.id,
    t.user_id,
    t.task_type,
    t.status,
    t.run_type,
    t.created_at as queued_at,
    (u.credits is null or u.credits > 0) as credits_ok,
    (u.cloud_enabled is null or u.cloud_enabled) as cloud_ok,
    (t.dependant_on = '{}' or not exists (
        select from unnest(t.dependant_on) d
        where not exists (select from dogwatch.tasks p where p.id = d and p.status = 'Complete')
    )) as dependencies_ok,
    t.attempts,
    t.worker_id,
    t.params,
    t.generation_started_at as started_at,
    t.generation_processed_at as ended_at,
    t.error_message,
    t.output,
    t.traceparent
from dogwatch.tasks t
left join dogwatch.users u on u.user_id = t.user_id;

-- A worker takes a waiting task, or takes again what an earlier start of it had in hand: the number
-- of the attempt, or null where somebody else is at it.
create function dogwatch.dw_claim(task uuid, worker text, at timestamptz) returns bigint
language sql as $$
    update dogwatch.tasks
    set status = 'In Progress', worker_id = worker, attempts = attempts + 1, generation_started_at = at, updated_at = at
    where id = (
        select id from dogwatch.tasks
        where id = task and (status = 'Queued' or (status = 'In Progress' and worker_id = worker))
        for update skip locked)
    returning attempts
$$;

-- A task ends: Complete, Failed, or Cancelled by its owner (worker and attempt null). False: it was
-- not this attempt's any more.
create function dogwatch.dw_finish(
    task uuid, worker text, attempt bigint, final_status text, error text, result jsonb, at timestamptz) returns boolean
language sql as $$
    with ended as (
        update dogwatch.tasks
        set status = final_status, error_message = coalesce(error, error_message), output = coalesce(result, output),
            generation_processed_at = at, updated_at = at
        where id = task and (
            (status = 'In Progress' and worker_id = worker and attempts = attempt)
            or (worker is null and status in ('Queued', 'In Progress')))
        returning 1)
    select exists (select from ended)
$$;

-- A task leaves its worker's hands and waits again. False: it was not this attempt's any more.
create function dogwatch.dw_requeue(task uuid, worker text, attempt bigint, error text, at timestamptz) returns boolean
language sql as $$
    with queued as (
        update dogwatch.tasks
        set status = 'Queued', error_message = coalesce(error, error_message), worker_id = null,
            generation_started_at = null, updated_at = at
        where id = task and status = 'In Progress' and worker_id = worker and attempts = attempt
        returning 1)
    select exists (select from queued)
$$;

-- Each waiting task with the first bucket that fits. `ready` is what remains: user_limit or
-- claimable, which only a count over its user's tasks can tell apart.
create view dogwatch.dw_queue as
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
from dogwatch.dw_tasks v
left join dogwatch.task_holds h on h.task_id = v.id
where v.status = 'Queued';

-- A row a user with tasks waiting or in hand.
create view dogwatch.dw_demand as
with queued as materialized (
    select user_id, queued_at, waits, bucket from dogwatch.dw_queue
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
        count(*) filter (where waits) as waits,
        count(*) filter (where bucket = 'paused') as paused,
        count(*) filter (where bucket = 'poisoned') as poisoned,
        count(*) filter (where bucket = 'too_old') as too_old,
        count(*) filter (where bucket = 'no_credits') as no_credits,
        count(*) filter (where bucket = 'cloud_disabled') as cloud_disabled,
        count(*) filter (where bucket = 'dependency') as dependency,
        count(*) filter (where bucket = 'wrong_type') as wrong_type,
        count(*) filter (where bucket = 'ready') as ready,
        min(queued_at) filter (where bucket = 'ready') as ready_since
    from queued
    group by user_id
) q
full join (
    select user_id, count(*) as in_progress
    from dogwatch.dw_tasks
    where status = 'In Progress'
    group by user_id
) p on p.user_id = q.user_id;

-- Cells, prices and refusals of workers; what humans order; pools; a count of the queue that reads an
-- index instead of every task.

-- The cell a worker was asked for in ({"gpu", "region", "image"}), what it costs, why it was refused.
alter table workers add column cell text check (cell is null or json_valid(cell));
alter table workers add column usd_per_hour real;
alter table workers add column refusal text;

-- When an operator let a task go that had been held: its age counts from there.
alter table tasks add column let_go_at integer;

-- A decision row that was loaded from a file carries the file's digest: loaded twice, it is one row.
alter table decisions add column imported text;
create unique index decisions_imported on decisions (imported) where imported is not null;

-- Orders of humans; those without an end are in force until their time is over.
create table orders (
    id           integer primary key autoincrement,
    command      text not null check (json_valid(command)),
    actor        text not null check (actor <> ''),
    reason       text not null check (reason <> ''),
    since        integer not null,
    until        integer,
    ended_at     integer,
    ended_by     text,
    ended_reason text,
    check ((ended_at is null) = (ended_by is null))
) strict;

create index orders_open on orders (until) where ended_at is null;

-- Which pool takes which task type; '' is every type that no other pool takes. Without a row one pool
-- takes everything.
create table queue_pools (
    task_type text primary key,
    pool      text not null
) strict, without rowid;

-- Most waiting tasks need no look at anything but their owner: they are counted from this index alone,
-- without reading a task's row or its parameters.
create index tasks_plain on tasks (user_id, task_type, created_at, id, status, dependant_on, attempts)
    where status = 'Queued' and dependant_on = '[]' and attempts < 3;
-- The others are looked at one by one.
create index tasks_special on tasks (id)
    where status = 'Queued' and (dependant_on <> '[]' or attempts >= 3);

drop view dw_demand;
drop view dw_queue;

-- Each waiting task with the first bucket that fits, and the pool that takes it ('' = any). `ready` is
-- what remains: user_limit or claimable, which only a count over its user's tasks can tell apart.
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
        when q.pool is null and r.pool is null and exists (select 1 from queue_pools) then 'wrong_type'
        else 'ready'
    end as bucket,
    coalesce(q.pool, r.pool, '') as pool
from dw_tasks v
left join task_holds h on h.task_id = v.id
left join queue_pools q on q.task_type = v.task_type and v.task_type <> ''
left join queue_pools r on r.task_type = ''
where v.status = 'Queued';

-- Waiting tasks by user, bucket and pool: the plain ones counted from their index, the others one by
-- one. The conditions are those of the indexes, word for word, or SQLite could not use them.
create view dw_counts as
select
    p.user_id,
    case
        when u.credits is not null and u.credits <= 0 then 'no_credits'
        when u.cloud_enabled is not null and u.cloud_enabled = 0 then 'cloud_disabled'
        when q.pool is null and r.pool is null and exists (select 1 from queue_pools) then 'wrong_type'
        else 'ready'
    end as bucket,
    coalesce(q.pool, r.pool, '') as pool,
    p.tasks,
    0 as waits,
    p.since
from (
    select user_id, task_type, count(*) as tasks, min(created_at) as since
    from tasks indexed by tasks_plain
    where status = 'Queued' and dependant_on = '[]' and attempts < 3
        and not exists (select 1 from task_holds h where h.task_id = tasks.id)
    group by user_id, task_type
) p
left join users u on u.user_id = p.user_id
left join queue_pools q on q.task_type = p.task_type and p.task_type <> ''
left join queue_pools r on r.task_type = ''
union all
select q.user_id, q.bucket, q.pool, count(*), sum(q.waits), min(q.queued_at)
from dw_queue q
where q.id in (
    select id from tasks indexed by tasks_special
    where status = 'Queued' and (dependant_on <> '[]' or attempts >= 3)
    union
    select task_id from task_holds)
group by q.user_id, q.bucket, q.pool;

-- A row a user with tasks waiting or in hand. Materialized, so that the queue is counted once.
create view dw_demand as
with counts as materialized (
    select user_id, bucket, tasks, waits, since from dw_counts
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
        sum(tasks) as queued,
        sum(waits) as waits,
        sum(tasks * (bucket = 'paused')) as paused,
        sum(tasks * (bucket = 'poisoned')) as poisoned,
        sum(tasks * (bucket = 'too_old')) as too_old,
        sum(tasks * (bucket = 'no_credits')) as no_credits,
        sum(tasks * (bucket = 'cloud_disabled')) as cloud_disabled,
        sum(tasks * (bucket = 'dependency')) as dependency,
        sum(tasks * (bucket = 'wrong_type')) as wrong_type,
        sum(tasks * (bucket = 'ready')) as ready,
        min(case when bucket = 'ready' then since end) as ready_since
    from counts
    group by user_id
) q
full join (
    select user_id, count(*) as in_progress
    from dw_tasks
    where status = 'In Progress'
    group by user_id
) p on p.user_id = q.user_id;

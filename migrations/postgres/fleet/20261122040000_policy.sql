-- Cells, prices and refusals of workers; what humans order; pools.
--
-- Nothing here touches the view dw_tasks or the functions below it, which may be an operator's own.

-- The cell a worker was asked for in ({"gpu", "region", "image"}), what it costs, why it was refused.
alter table dogwatch.workers add column cell jsonb check (jsonb_typeof(cell) = 'object');
alter table dogwatch.workers add column usd_per_hour double precision;
alter table dogwatch.workers add column refusal text;

-- When an operator let a task go that had been held: its age counts from there. Beside the tasks, whose
-- table may be somebody else's.
create table dogwatch.task_let_go (
    task_id uuid primary key,
    at      timestamptz not null
);

-- Deleting what no rule reads any more.
create index task_let_go_at on dogwatch.task_let_go (at, task_id);

-- A decision row that was loaded from a file carries the file's digest: loaded twice, it is one row.
alter table dogwatch.decisions add column imported text;
create unique index decisions_imported on dogwatch.decisions (imported) where imported is not null;

-- Orders of humans; those without an end are in force until their time is over.
create table dogwatch.orders (
    id           bigint generated always as identity primary key,
    command      jsonb not null,
    actor        text not null check (actor <> ''),
    reason       text not null check (reason <> ''),
    since        timestamptz not null,
    until        timestamptz,
    ended_at     timestamptz,
    ended_by     text,
    ended_reason text,
    constraint orders_end check ((ended_at is null) = (ended_by is null))
);

create index orders_open on dogwatch.orders (until) where ended_at is null;

-- Which pool takes which task type; '' is every type that no other pool takes. Without a row one pool
-- takes everything.
create table dogwatch.queue_pools (
    task_type text primary key,
    pool      text not null
);

-- Each waiting task with the first bucket that fits, and the pool that takes it ('' = any). `ready` is
-- what remains: user_limit or claimable, which only a count over its user's tasks can tell apart.
create or replace view dogwatch.dw_queue as
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
        when q.pool is null and r.pool is null and exists (select from dogwatch.queue_pools) then 'wrong_type'
        else 'ready'
    end as bucket,
    coalesce(q.pool, r.pool, '') as pool
from dogwatch.dw_tasks v
left join dogwatch.task_holds h on h.task_id = v.id
left join dogwatch.queue_pools q on q.task_type = v.task_type
left join dogwatch.queue_pools r on r.task_type = ''
where v.status = 'Queued';

-- Tasks of a pool to try, oldest first: those at the head of the queue, and where it is taken up by
-- users who may not have more or by other pools, the oldest of every other user. Both are found by
-- index.
drop function dogwatch.candidates(text, text[], boolean);
create function dogwatch.candidates(run_type text, pool text, without text[], is_deep boolean)
returns table (id uuid, user_id text)
language plpgsql stable as $$
begin
    if not is_deep then
        return query
        select h.id, h.user_id from (
            select q.* from dogwatch.dw_queue q order by q.queued_at, q.id limit 1000
        ) h
        where h.bucket = 'ready' and h.pool in ('', candidates.pool)
            and (candidates.run_type is null or h.run_type is null or h.run_type = candidates.run_type)
            and h.user_id <> all (without)
        order by h.queued_at, h.id limit 32;
        return;
    end if;
    return query
    with recursive waiting (user_id) as (
        (select t.user_id from dogwatch.dw_tasks t where t.status = 'Queued' order by t.user_id limit 1)
        union all
        select (
            select t.user_id from dogwatch.dw_tasks t
            where t.status = 'Queued' and t.user_id > w.user_id order by t.user_id limit 1)
        from waiting w where w.user_id is not null
    )
    select c.id, c.user_id
    from waiting w
    cross join lateral (
        select q.id, q.user_id, q.queued_at from dogwatch.dw_queue q
        where q.user_id = w.user_id and q.bucket = 'ready' and q.pool in ('', candidates.pool)
            and (candidates.run_type is null or q.run_type is null or q.run_type = candidates.run_type)
        order by q.queued_at, q.id limit 1
    ) c
    where w.user_id <> all (without)
    order by c.queued_at, c.id limit 32;
end
$$;

-- Takes one claimable task of the worker's pool. While a user's lock is held nobody else counts or
-- claims for that user, so that the limit holds however many claim at once; a user whose lock is taken
-- is passed over, and waited for only where nothing else is to be had and no other lock is held.
create or replace function dogwatch.take(
    worker text, run_type text, user_limit bigint, at timestamptz, out task uuid, out attempt bigint)
language plpgsql as $$
declare
    c record;
    own_pool text := (select w.pool from dogwatch.workers w where w.id = take.worker);
    full_users text[] := array(
        select t.user_id from dogwatch.dw_tasks t where t.status = 'In Progress'
        group by t.user_id having count(*) >= user_limit);
    busy_users text[] := '{}';
    held text;
    waited boolean := false;
    is_deep boolean := false;
begin
    if user_limit <= 0 then
        return;
    end if;
    loop
        for c in select * from dogwatch.candidates(run_type, own_pool, full_users || busy_users, is_deep) loop
            continue when c.user_id = any (full_users || busy_users);
            if not pg_try_advisory_xact_lock(dogwatch.user_key(c.user_id)) then
                busy_users := busy_users || c.user_id;
                continue;
            end if;
            held := c.user_id;
            if (select count(*) from dogwatch.dw_tasks t
                where t.status = 'In Progress' and t.user_id = c.user_id) >= user_limit then
                full_users := full_users || c.user_id;
                continue;
            end if;
            -- What was read before the lock may have changed since.
            continue when not exists (
                select from dogwatch.dw_queue q
                where q.id = c.id and q.bucket = 'ready' and q.pool in ('', own_pool));
            attempt := dogwatch.dw_claim(c.id, worker, at);
            if attempt is not null then
                task := c.id;
                return;
            end if;
        end loop;
        if not is_deep and exists (
            select from dogwatch.dw_tasks t where t.status = 'Queued' order by t.queued_at, t.id offset 1000 limit 1) then
            is_deep := true;
        elsif waited or held is not null or cardinality(busy_users) = 0 then
            return;
        else
            waited := true;
            is_deep := false;
            perform pg_advisory_xact_lock(dogwatch.user_key(busy_users[1]));
            busy_users := busy_users[2:];
        end if;
    end loop;
end
$$;

create or replace function dogwatch.fleet_level() returns bigint
language sql immutable as $$ select 2::bigint $$;

-- ---- rights ----

do $$
declare
    item text;
begin
    revoke all on function dogwatch.candidates(text, text, text[], boolean) from public;
    foreach item in array '{task_let_go,orders,queue_pools}'::text[] loop
        execute format('alter table dogwatch.%I enable row level security', item);
        if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
            execute format('grant select, insert, update, delete on dogwatch.%I to dogwatch_rpc', item);
            execute format('create policy dogwatch_rpc on dogwatch.%I to dogwatch_rpc using (true) with check (true)', item);
        end if;
        if to_regrole('service_role') is not null then
            execute format('grant select, insert, update, delete on dogwatch.%I to service_role', item);
        end if;
    end loop;
    if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        grant execute on function dogwatch.candidates(text, text, text[], boolean) to dogwatch_rpc;
    end if;
    if to_regrole('service_role') is not null then
        grant execute on function dogwatch.candidates(text, text, text[], boolean) to service_role;
    end if;
end
$$;

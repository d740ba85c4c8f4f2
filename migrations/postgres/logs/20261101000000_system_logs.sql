-- The log table of a fleet in Postgres: one row a record, in day partitions.
--
-- (timestamp, id) is the record's identity: a repeated delivery finds its row. `arrival` is the
-- order in which rows came in: readers that follow the log remember it. Rows of days that have no
-- partition go to the DEFAULT partition, and maintenance moves them to one. Everything but the
-- table itself stands in the schema `dogwatch`, which no data API shows.
--
-- May be applied again: it changes nothing then. Also runs under Supabase's own tools.

create schema if not exists dogwatch;
revoke all on schema dogwatch from public;

-- A table of that name that is not ours is kept, under another name.
do $$
begin
    if to_regclass('public.system_logs') is not null
        and not exists (
            select from pg_attribute
            where attrelid = to_regclass('public.system_logs') and attname = 'arrival' and not attisdropped)
    then
        if to_regclass('public.system_logs_before_dogwatch') is not null then
            raise exception 'public.system_logs is not dogwatch''s, and system_logs_before_dogwatch exists'
                using hint = 'rename or drop one of the two';
        end if;
        alter table public.system_logs rename to system_logs_before_dogwatch;
    end if;
end $$;

create sequence if not exists dogwatch.system_logs_arrival;

-- The defaults of id, timestamp and metadata are for writers that know the table as it was before.
create table if not exists public.system_logs (
    timestamp    timestamptz not null default now(),
    id           uuid        not null default gen_random_uuid(),
    ingested_at  timestamptz not null default now(),
    arrival      bigint      not null default nextval('dogwatch.system_logs_arrival'),
    source_type  text        not null,
    source_id    text        not null,
    log_level    text        not null
        constraint dw_system_logs_level check (log_level in ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')),
    message      text        not null,
    task_id      uuid,
    worker_id    text,
    cycle_number bigint,
    trace_id     text,
    span_id      text,
    metadata     jsonb       not null default '{}',
    -- Time ranges and newest first (`dogwatch logs`) use this one, too.
    constraint dw_system_logs_identity primary key (timestamp, id)
) partition by range (timestamp);

alter table public.system_logs enable row level security;

-- The newest row of each source (watch: silence), `logs --source`.
create index if not exists dw_system_logs_source on public.system_logs (source_type, source_id, timestamp);
-- `logs --worker`, `logs --task`, `logs --cycle`, `logs --trace`: few rows have all of them.
create index if not exists dw_system_logs_worker
    on public.system_logs (worker_id, timestamp) where worker_id is not null;
create index if not exists dw_system_logs_task on public.system_logs (task_id, timestamp) where task_id is not null;
create index if not exists dw_system_logs_cycle
    on public.system_logs (cycle_number, timestamp) where cycle_number is not null;
create index if not exists dw_system_logs_trace on public.system_logs (trace_id) where trace_id is not null;
-- `logs --level error`.
create index if not exists dw_system_logs_errors
    on public.system_logs (timestamp) where log_level in ('ERROR', 'CRITICAL');
-- `logs --follow`, the last rows for the watch, and retention. Rows of a partition lie in the order in which they came, so that a
-- summary of ranges is enough.
create index if not exists dw_system_logs_arrived
    on public.system_logs using brin (ingested_at, arrival) with (pages_per_range = 32, autosummarize = on);

create table if not exists dogwatch.system_logs_default partition of public.system_logs default;
alter table dogwatch.system_logs_default enable row level security;

-- One row: how long rows are kept after they came in. `dogwatch migrate` writes it.
create table if not exists dogwatch.log_settings (
    only_row boolean  primary key default true check (only_row),
    keep     interval not null default '48 hours' check (keep >= '1 hour')
);
insert into dogwatch.log_settings default values on conflict do nothing;

-- Makes the partition of a day (UTC), with the rows of that day that the DEFAULT partition has; both
-- or neither. Returns how many rows were moved; null where the partition was there.
create or replace function dogwatch.make_log_day(p_day date) returns bigint
language plpgsql set search_path = '' as $$
declare
    v_name  text        := 'system_logs_' || to_char(p_day, 'YYYYMMDD');
    v_from  timestamptz := p_day::timestamp at time zone 'UTC';
    v_until timestamptz := (p_day + 1)::timestamp at time zone 'UTC';
    v_moved bigint;
begin
    if to_regclass('dogwatch.' || v_name) is not null then
        return null;
    end if;
    execute format('create table dogwatch.%I (like public.system_logs including defaults including constraints)',
                   v_name);
    execute format('alter table dogwatch.%I enable row level security', v_name);
    -- Until the commit nobody adds rows of that day behind the move.
    lock table dogwatch.system_logs_default in access exclusive mode;
    execute format(
        'with moved as (delete from dogwatch.system_logs_default where timestamp >= $1 and timestamp < $2 returning *)
         insert into dogwatch.%I select * from moved order by arrival', v_name)
        using v_from, v_until;
    get diagnostics v_moved = row_count;
    execute format('alter table public.system_logs attach partition dogwatch.%I for values from (%L) to (%L)',
                   v_name, v_from, v_until);
    return v_moved;
end $$;

-- Housekeeping: partitions from today to 7 days ahead; the DEFAULT partition emptied into partitions
-- of the last 31 days; rows that came in longer than p_keep ago gone, by whole partitions where all
-- of them did. Bounded, may be called at any time by anybody who may; of two at once one does
-- nothing. What waits too long for a lock is left for the next call.
create or replace function dogwatch.maintain_logs(p_now timestamptz, p_keep interval) returns jsonb
language plpgsql set search_path = '' set lock_timeout = '2s' as $$
declare
    v_today   date        := (p_now at time zone 'UTC')::date;
    v_cutoff  timestamptz := p_now - p_keep;
    v_created int         := 0;
    v_moved   bigint      := 0;
    v_dropped int         := 0;
    v_busy    int         := 0;
    v_deleted bigint;
    v_count   bigint;
    v_day     date;
    v_name    text;
    v_late    boolean;
begin
    if not pg_try_advisory_xact_lock(4920017734120861) then
        return '{"skipped": "another one runs"}';
    end if;
    if to_regclass('dogwatch.system_logs_default') is null then
        create table dogwatch.system_logs_default partition of public.system_logs default;
    end if;
    for v_day in
        select v_today + ahead from generate_series(0, 7) as ahead
        union
        select distinct (timestamp at time zone 'UTC')::date from dogwatch.system_logs_default
        where timestamp >= p_now - interval '31 days' and timestamp < p_now + interval '7 days'
    loop
        begin
            v_count := dogwatch.make_log_day(v_day);
            if v_count is not null then
                v_created := v_created + 1;
                v_moved := v_moved + v_count;
            end if;
        exception when lock_not_available then
            v_busy := v_busy + 1;
        end;
    end loop;

    for v_name in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'public.system_logs'::regclass and c.relname ~ '^system_logs_[0-9]{8}$'
        order by c.relname
    loop
        v_day := to_date(right(v_name, 8), 'YYYYMMDD');
        continue when (v_day + 1)::timestamp at time zone 'UTC' > v_cutoff;
        -- A backlog that was delivered late is kept as long as everything else.
        execute format('select exists (select from dogwatch.%I where ingested_at >= $1)', v_name)
            into v_late using v_cutoff;
        continue when v_late;
        begin
            execute format('drop table dogwatch.%I', v_name);
            v_dropped := v_dropped + 1;
        exception when lock_not_available then
            v_busy := v_busy + 1;
        end;
    end loop;

    delete from dogwatch.system_logs_default
    where ctid = any (array(
        select ctid from dogwatch.system_logs_default where ingested_at < v_cutoff limit 50000));
    get diagnostics v_deleted = row_count;
    select count(*) into v_count from (select from dogwatch.system_logs_default limit 100000) as found;
    return jsonb_build_object(
        'created', v_created, 'moved', v_moved, 'dropped', v_dropped, 'deleted', v_deleted,
        'busy', v_busy, 'default_rows', v_count);
end $$;

-- The same with the database's own time and setting: what pg_cron and exporters call. It runs with
-- the owner's rights, because who writes rows need not own the table.
create or replace function public.dw_maintain_system_logs() returns jsonb
language sql security definer set search_path = '' as $$
    select dogwatch.maintain_logs(now(), (select keep from dogwatch.log_settings))
$$;

-- Where pg_cron is, it runs the housekeeping. Returns whether it does.
create or replace function dogwatch.schedule_log_maintenance() returns boolean
language plpgsql set search_path = '' as $$
begin
    if to_regprocedure('cron.schedule(text, text, text)') is null then
        return false;
    end if;
    execute 'select cron.schedule($1, $2, $3)'
        using 'dogwatch-system-logs', '*/10 * * * *', 'select public.dw_maintain_system_logs()';
    return true;
exception when insufficient_privilege then
    raise notice 'pg_cron is there, and this role may not use it: exporters run the housekeeping';
    return false;
end $$;

revoke all on public.system_logs from public;
revoke all on all functions in schema dogwatch from public;
revoke all on function public.dw_maintain_system_logs() from public;
do $$
declare
    v_role text;
begin
    foreach v_role in array array['anon', 'authenticated'] loop
        if exists (select from pg_roles where rolname = v_role) then
            execute format('revoke all on public.system_logs from %I', v_role);
            execute format('revoke all on function public.dw_maintain_system_logs() from %I', v_role);
        end if;
    end loop;
    if exists (select from pg_roles where rolname = 'service_role') then
        grant select, insert on public.system_logs to service_role;
        grant usage on sequence dogwatch.system_logs_arrival to service_role;
        grant execute on function public.dw_maintain_system_logs() to service_role;
    end if;
end $$;

select dogwatch.maintain_logs(now(), (select keep from dogwatch.log_settings));
select dogwatch.schedule_log_maintenance();

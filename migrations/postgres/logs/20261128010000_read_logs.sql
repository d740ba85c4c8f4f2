-- The way back out of system_logs through PostgREST, for fleets that reach their project by its Data
-- API alone: POST /rest/v1/rpc/dw_read_logs and /rest/v1/rpc/dw_newest_logs.
--
-- One unnamed jsonb parameter each, and one jsonb answer {now, rows, more}: a page of at most 1,000
-- rows, which is what a project's cap would cut a result at, and of about 4 MiB. `more` says that the
-- caller asks again, with the key of the last row. Times in answers are microseconds since 1970; `now`
-- is this database's clock, because the caller's fleet has another one. For the service role alone;
-- they run with the owner's rights, because the order of arrival is read from the schema dogwatch.
--
-- May be applied again: it changes nothing then.

-- A row as both of them give it.
create or replace function dogwatch.log_row(entry public.system_logs) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
    select jsonb_build_object(
        'id', entry.id, 'timestamp', (extract(epoch from entry.timestamp) * 1000000)::bigint,
        'source_type', entry.source_type, 'source_id', entry.source_id, 'log_level', entry.log_level,
        'message', entry.message, 'task_id', entry.task_id, 'worker_id', entry.worker_id,
        'cycle_number', entry.cycle_number, 'trace_id', entry.trace_id, 'span_id', entry.span_id,
        'metadata', entry.metadata, 'ingested_at', (extract(epoch from entry.ingested_at) * 1000000)::bigint,
        'arrival', entry.arrival)
$$;

-- Rows that fit every condition that was given: since, until, levels, source_id, source_type, worker,
-- task, cycle, trace, grep. The newest first, from `before` {timestamp, arrival} on; or, where
-- `after_arrival` is given, in the order of arrival behind it, and two seconds late: a row gets its
-- place in that order before others can see it.
create or replace function public.dw_read_logs(jsonb) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set statement_timeout = '15s' as $$
declare
    v_limit  int  := least(greatest(coalesce(($1 ->> 'limit')::int, 1000), 1), 1000);
    v_order  text := case when $1 ->> 'after_arrival' is null then 'timestamp desc, arrival desc' else 'arrival' end;
    v_levels text[];
    v_answer jsonb;
begin
    if jsonb_typeof($1 -> 'levels') = 'array' then
        v_levels := array(select jsonb_array_elements_text($1 -> 'levels'));
    end if;
    -- Planned for these very values: a condition that is not given costs nothing, and indexes count.
    execute format($sql$
        with found as (
            select l as entry, l.timestamp, l.arrival,
                octet_length(l.message) + octet_length(l.metadata::text) as bytes
            from public.system_logs l
            where ($1 is null or l.timestamp >= $1)
                and ($2 is null or l.timestamp < $2)
                and ($3 is null or l.log_level = any ($3))
                and ($4 is null or l.source_id = $4)
                and ($5 is null or l.source_type = $5)
                and ($6 is null or l.worker_id = $6)
                and ($7 is null or l.task_id = $7)
                and ($8 is null or l.cycle_number = $8)
                and ($9 is null or l.trace_id = $9)
                and ($10 is null or position(lower($10) in lower(l.message)) > 0)
                and ($11 is null or (l.arrival > $11 and l.ingested_at <= now() - interval '2 seconds'))
                and ($12 is null or (l.timestamp, l.arrival) < ($12, $13))
            order by %1$s limit $14
        ), sized as (
            select entry, bytes, row_number() over ordered as place, sum(bytes) over ordered as through
            from found window ordered as (order by %1$s rows unbounded preceding)
        ), page as (
            select entry, place from sized where through - bytes < 4194304
        )
        select jsonb_build_object(
            'now', (extract(epoch from clock_timestamp()) * 1000000)::bigint,
            'rows', coalesce(jsonb_agg(dogwatch.log_row(entry) order by place), '[]'),
            'more', count(*) >= $14 or count(*) < (select count(*) from found))
        from page
    $sql$, v_order)
    into v_answer
    using ($1 ->> 'since')::timestamptz, ($1 ->> 'until')::timestamptz, v_levels, $1 ->> 'source_id',
        $1 ->> 'source_type', $1 ->> 'worker', ($1 ->> 'task')::uuid, ($1 ->> 'cycle')::bigint, $1 ->> 'trace',
        $1 ->> 'grep', ($1 ->> 'after_arrival')::bigint, ($1 -> 'before' ->> 'timestamp')::timestamptz,
        ($1 -> 'before' ->> 'arrival')::bigint, v_limit;
    return v_answer;
end $$;

-- Of each source the row that arrived last, among its newest by its own clock and the last 2,000 of
-- the table: a clock that ran ahead once would otherwise hide all that its source has said since. In
-- the order of sources, from behind `after` {source_type, source_id} on. Texts are cut, metadata and
-- nulls are left out: it is asked every few seconds.
create or replace function public.dw_newest_logs(jsonb) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp set statement_timeout = '15s' as $$
    with recursive sources (source_type, source_id) as (
        (select l.source_type, l.source_id from public.system_logs l
         where ($1 -> 'after') is null
            or (l.source_type, l.source_id) > ($1 -> 'after' ->> 'source_type', $1 -> 'after' ->> 'source_id')
         order by l.source_type, l.source_id limit 1)
        union all
        select n.source_type, n.source_id from sources s cross join lateral (
            select l.source_type, l.source_id from public.system_logs l
            where (l.source_type, l.source_id) > (s.source_type, s.source_id)
            order by l.source_type, l.source_id limit 1) n
    ), page as materialized (
        select * from sources limit 1000
    ), candidates as (
        select newest.entry from page p cross join lateral (
            select l as entry from public.system_logs l
            where l.source_type = p.source_type and l.source_id = p.source_id
            order by l.timestamp desc limit 1) newest
        union all
        select l from public.system_logs l join page p using (source_type, source_id)
        where l.arrival > (select last_value from dogwatch.system_logs_arrival) - 2000
    ), newest as (
        select distinct on ((entry).source_type, (entry).source_id) entry
        from candidates order by (entry).source_type, (entry).source_id, (entry).arrival desc
    )
    select jsonb_build_object(
        'now', (extract(epoch from clock_timestamp()) * 1000000)::bigint,
        'rows', coalesce(jsonb_agg(
            jsonb_strip_nulls(dogwatch.log_row(entry)
                || jsonb_build_object('message', left((entry).message, 512), 'metadata', '{}'::jsonb))
            order by (entry).source_type, (entry).source_id), '[]'),
        'more', count(*) >= 1000)
    from newest
$$;

revoke all on function dogwatch.log_row(public.system_logs) from public;
revoke all on function public.dw_read_logs(jsonb), public.dw_newest_logs(jsonb) from public;
do $$
declare
    v_role text;
begin
    -- A project's default rights may have given them to everybody.
    foreach v_role in array array['anon', 'authenticated'] loop
        if exists (select from pg_roles where rolname = v_role) then
            execute format(
                'revoke all on function public.dw_read_logs(jsonb), public.dw_newest_logs(jsonb) from %I', v_role);
        end if;
    end loop;
    if exists (select from pg_roles where rolname = 'service_role') then
        grant execute on function public.dw_read_logs(jsonb), public.dw_newest_logs(jsonb) to service_role;
    end if;
end $$;

-- A search path that does not name the caller's temporary schema begins with it, and a type of the
-- caller's own making may bear any name there: for what runs with the owner's rights it comes last.
alter function public.dw_maintain_system_logs() set search_path = pg_catalog, pg_temp;
alter function public.telemetry_silence(interval, interval, timestamptz) set search_path = pg_catalog, pg_temp;

-- PostgREST reads the schema anew.
notify pgrst, 'reload schema';

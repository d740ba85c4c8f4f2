-- Silence, from system_logs alone: for those who run nothing else that looks. One row a source that
-- has written within p_look_back, with the age of its newest row and of its newest heartbeat record,
-- which is due every 15 s. A source that has ended on purpose is silent, too: nothing here knows.
-- Ages are those of arrival; the times of the sources' own clocks are only used to find rows.
--
-- May be applied again: it changes nothing then.

create or replace function public.telemetry_silence(
    p_limit     interval    default '60 seconds',
    p_look_back interval    default '1 day',
    p_now       timestamptz default null
) returns table (
    source_type   text,
    source_id     text,
    newest_row_at timestamptz,
    row_age       interval,
    heartbeat_at  timestamptz,
    heartbeat_age interval,
    silent        boolean
)
language sql stable security definer set search_path = '' as $$
    with recursive clock as (
        select coalesce(p_now, now()) as now
    ),
    -- The sources, by skipping through the index instead of reading it.
    sources (source_type, source_id) as (
        (select l.source_type, l.source_id from public.system_logs l, clock
         where l.timestamp >= clock.now - p_look_back order by l.source_type, l.source_id limit 1)
        union all
        select n.source_type, n.source_id
        from sources s cross join clock cross join lateral (
            select l.source_type, l.source_id from public.system_logs l
            where (l.source_type, l.source_id) > (s.source_type, s.source_id)
                and l.timestamp >= clock.now - p_look_back
            order by l.source_type, l.source_id limit 1) n
    ),
    -- What arrived lately, whatever its own time: a clock that ran ahead once hides nothing.
    lately as (
        select l.source_type, l.source_id, max(l.ingested_at) as ingested_at
        from public.system_logs l, clock
        where l.ingested_at >= clock.now - p_limit group by l.source_type, l.source_id
    ),
    newest as (
        select s.source_type, s.source_id, n.timestamp, greatest(n.ingested_at, r.ingested_at) as ingested_at
        from (select * from sources limit 10000) s
        cross join lateral (
            select l.timestamp, l.ingested_at from public.system_logs l
            where l.source_type = s.source_type and l.source_id = s.source_id
            order by l.timestamp desc limit 1) n
        left join lately r on r.source_type = s.source_type and r.source_id = s.source_id
    )
    select n.source_type, n.source_id, n.ingested_at, clock.now - n.ingested_at, h.ingested_at,
        clock.now - h.ingested_at, n.ingested_at <= clock.now - p_limit
    from newest n cross join clock
    left join lateral (
        select l.ingested_at from public.system_logs l
        where l.source_type = n.source_type and l.source_id = n.source_id
            and l.timestamp >= n.timestamp - interval '10 minutes' and l.message = 'telemetry heartbeat'
        order by l.timestamp desc limit 1) h on true
    order by n.ingested_at desc
$$;

revoke all on function public.telemetry_silence(interval, interval, timestamptz) from public;
do $$
declare
    v_role text;
begin
    foreach v_role in array array['anon', 'authenticated'] loop
        if exists (select from pg_roles where rolname = v_role) then
            execute format('revoke all on function public.telemetry_silence(interval, interval, timestamptz) from %I',
                           v_role);
        end if;
    end loop;
    if exists (select from pg_roles where rolname = 'service_role') then
        grant execute on function public.telemetry_silence(interval, interval, timestamptz) to service_role;
    end if;
end $$;

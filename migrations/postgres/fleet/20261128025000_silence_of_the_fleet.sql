-- Silence by the rule of the watch: what system_logs has of each source beside what the fleet's own
-- tables say of it. A source is meant to write while it lives: a process that has not said good-bye, a
-- worker that speaks. It is silent where nothing has arrived from it for p_limit although it lived on
-- for half of that; so a killed worker is no silence, and neither is one that ended on purpose, a
-- shipper or a command. One row more, of source_type `fleet`, is about all of them at once: silent
-- where nothing has arrived from anybody while workers or cycles change.
--
-- Where no process and no worker was ever written down, nobody knows who lives: then it is age alone,
-- as it was before.

-- What system_logs alone says goes on to be asked, under another name.
alter function public.telemetry_silence(interval, interval, timestamptz) set schema dogwatch;
alter function dogwatch.telemetry_silence(interval, interval, timestamptz) rename to silence_of_logs;

create function public.telemetry_silence(
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
    silent        boolean,
    -- Its last sign of life in the fleet's tables; null: nobody says that it lives.
    alive_at      timestamptz
)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    with clock as (
        select coalesce(p_now, now()) as now,
            exists (select from dogwatch.processes) or exists (select from dogwatch.workers) as has_fleet
    ),
    -- Who is meant to write; of several starts of one source the newest.
    live as (
        select distinct on (m.source_type, m.source_id) m.source_type, m.source_id, m.since, m.alive_at
        from (
            select p.source_type, p.source_id, p.started_at as since, p.seen_at as alive_at
            from (select * from dogwatch.processes order by started_at desc, boot_id desc limit 200) p
            where p.ended_at is null and p.kind in ('orchestrator', 'gateway', 'watch')
            union all
            select 'worker', w.id, w.first_heartbeat_at, w.last_heartbeat
            from dogwatch.workers w
            where w.ended_at is null and w.state in ('alive', 'idle', 'busy', 'draining')
                and w.first_heartbeat_at is not null
        ) m
        order by m.source_type, m.source_id, m.since desc
    ),
    joined as (
        select coalesce(l.source_type, v.source_type) as source_type, coalesce(l.source_id, v.source_id) as source_id,
            l.newest_row_at, l.heartbeat_at, l.silent as is_old, v.since, v.alive_at,
            greatest(l.newest_row_at, v.since) as last
        from dogwatch.silence_of_logs(p_limit, p_look_back, p_now) l
        full join live v on v.source_type = l.source_type and v.source_id = l.source_id
    ),
    -- When a worker or a cycle last changed, and what has arrived from anybody who lives.
    fleet as (
        select max(j.newest_row_at) as newest_row_at, coalesce(max(j.newest_row_at), min(j.since)) as last,
            greatest(
                (select max(greatest(w.created_at, w.state_since, w.last_heartbeat)) from dogwatch.workers w, clock
                 where w.ended_at is null or w.ended_at >= clock.now - interval '30 minutes'),
                (select d.at from dogwatch.decisions d order by d.id desc limit 1)) as changed_at
        from joined j where j.since is not null
        having count(*) > 0
    )
    select j.source_type, j.source_id, j.newest_row_at, clock.now - j.newest_row_at, j.heartbeat_at,
        clock.now - j.heartbeat_at,
        case
            when clock.has_fleet then
                j.since is not null and j.last <= clock.now - p_limit and j.alive_at - j.last >= p_limit / 2
            else j.is_old
        end,
        j.alive_at
    from joined j cross join clock
    union all
    select 'fleet', '*', f.newest_row_at, clock.now - f.newest_row_at, null, null,
        coalesce(f.last <= clock.now - p_limit and f.changed_at - f.last >= p_limit / 2, false), f.changed_at
    from fleet f cross join clock
    order by 3 desc nulls last, 1, 2
$$;

-- Only the function above asks it.
revoke all on function dogwatch.silence_of_logs(interval, interval, timestamptz) from public;
revoke all on function public.telemetry_silence(interval, interval, timestamptz) from public;
do $$
declare
    who text;
begin
    foreach who in array '{anon,authenticated}'::text[] loop
        if to_regrole(who) is not null then
            execute format('revoke all on function public.telemetry_silence(interval, interval, timestamptz) from %I', who);
        end if;
    end loop;
    if to_regrole('service_role') is not null then
        grant execute on function public.telemetry_silence(interval, interval, timestamptz) to service_role;
    end if;
end
$$;

-- PostgREST reads the schema anew.
notify pgrst, 'reload schema';

-- Log rows of workers, and the two functions that callers of the system before know. The table
-- public.system_logs has migrations of its own, which come first.

-- The instant of a text in RFC 3339; null where it is none.
create function dogwatch.instant(value text) returns timestamptz
language plpgsql stable as $$
begin
    if value !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$' then
        return null;
    end if;
    return value::timestamptz;
exception when data_exception then
    return null;
end
$$;

-- The level's word, from any case and from other words for the same; null where it is none.
create function dogwatch.level_word(value text) returns text
language sql immutable as $$
    select case lower(value)
        when 'trace' then 'DEBUG' when 'debug' then 'DEBUG' when 'info' then 'INFO'
        when 'warn' then 'WARNING' when 'warning' then 'WARNING' when 'error' then 'ERROR'
        when 'fatal' then 'CRITICAL' when 'critical' then 'CRITICAL'
    end
$$;

-- What is wrong with a row: the key and what was expected there; null where nothing is.
create function dogwatch.row_fault(r jsonb) returns text[]
language sql stable as $$
    select case
        when jsonb_typeof(r) is distinct from 'object' then array['', 'a row']
        when not dogwatch.fits(r -> 'id', 'uuid') then array['id', 'a uuid']
        when jsonb_typeof(r -> 'timestamp') is distinct from 'string' or dogwatch.instant(r ->> 'timestamp') is null
            then array['timestamp', 'an RFC 3339 time']
        when jsonb_typeof(r -> 'log_level') is distinct from 'string' or dogwatch.level_word(r ->> 'log_level') is null
            then array['log_level', 'DEBUG, INFO, WARNING, ERROR or CRITICAL']
        when jsonb_typeof(r -> 'message') is distinct from 'string' then array['message', 'a string']
        when octet_length(r ->> 'message') > 262144 then array['message', 'at most 256 KiB of text']
        when not dogwatch.fits(coalesce(r -> 'task_id', 'null'), 'uuid?') then array['task_id', 'a uuid or null']
        when jsonb_typeof(coalesce(r -> 'trace_id', 'null')) <> 'null'
            and (jsonb_typeof(r -> 'trace_id') <> 'string' or r ->> 'trace_id' !~* '^[0-9a-f]{32}$')
            then array['trace_id', '32 hex digits or null']
        when jsonb_typeof(coalesce(r -> 'span_id', 'null')) <> 'null'
            and (jsonb_typeof(r -> 'span_id') <> 'string' or r ->> 'span_id' !~* '^[0-9a-f]{16}$')
            then array['span_id', '16 hex digits or null']
        when jsonb_typeof(coalesce(r -> 'attributes', '{}')) not in ('object', 'null') then array['attributes', 'an object']
    end
$$;

create function dogwatch.door_ingest(body jsonb) returns jsonb
language plpgsql as $$
declare
    called record;
    refused jsonb := dogwatch.check_caller(body);
    rows jsonb;
    bad record;
    added bigint;
begin
    if refused is null then
        rows := body -> 'rows';
        if jsonb_typeof(rows) is distinct from 'array' or jsonb_array_length(rows) > 1000 then
            refused := dogwatch.malformed('rows', 'an array of at most 1,000 rows');
        elsif octet_length(rows::text) > 1048576 then
            refused := dogwatch.refusal('DW413', 'the rows are larger than 1048576 bytes', 'rows', 'send them in halves');
        end if;
    end if;
    if refused is null then
        select * into called from dogwatch.admit(body, false);
        refused := called.refused;
    end if;
    if refused is not null then
        return refused;
    end if;
    select l.n - 1 as at, dogwatch.row_fault(l.r) as fault into bad
    from jsonb_array_elements(rows) with ordinality l (r, n)
    where dogwatch.row_fault(l.r) is not null order by l.n limit 1;
    if bad.fault is not null then
        return dogwatch.malformed(
            format('rows[%s]%s', bad.at, case when bad.fault[1] <> '' then '.' || bad.fault[1] else '' end), bad.fault[2]);
    end if;
    insert into public.system_logs (id, "timestamp", source_type, source_id, log_level, message, task_id, worker_id,
        cycle_number, trace_id, span_id, metadata)
    select (l.r ->> 'id')::uuid, dogwatch.instant(l.r ->> 'timestamp'), 'worker', body ->> 'worker_id',
        dogwatch.level_word(l.r ->> 'log_level'), l.r ->> 'message', (l.r ->> 'task_id')::uuid, body ->> 'worker_id',
        case when dogwatch.fits(l.r #> '{attributes,cycle_number}', 'int')
            then (l.r #>> '{attributes,cycle_number}')::bigint end,
        lower(l.r ->> 'trace_id'), lower(l.r ->> 'span_id'),
        case when jsonb_typeof(l.r -> 'attributes') = 'object' then l.r -> 'attributes' else '{}' end
    from jsonb_array_elements(rows) with ordinality l (r, n)
    order by l.n
    on conflict ("timestamp", id) do nothing;
    get diagnostics added = row_count;
    return jsonb_build_object('received', jsonb_array_length(rows), 'inserted', added);
end
$$;

create function public.dw_ingest_logs(jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return dogwatch.reply('dw_ingest_logs', $1, dogwatch.door_ingest($1));
end
$$;

-- ---- callers of the system before ----

-- Functions of these names that are there already stay, under another name.
do $$
declare
    old record;
begin
    for old in select p.oid::regprocedure as name, p.proname from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace
            and p.proname in ('func_insert_logs_batch', 'func_worker_heartbeat_with_logs') loop
        execute format('alter function %s rename to %I', old.name, old.proname || '_before_dogwatch');
    end loop;
end
$$;

-- Rows as the system before wrote them, each by itself; `success` only if every one arrived.
create function public.func_insert_logs_batch(logs jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
    r jsonb;
    inserted bigint := 0;
    errors jsonb := '[]';
    place bigint := -1;
begin
    if jsonb_typeof(logs) is distinct from 'array' or jsonb_array_length(logs) > 1000 then
        return jsonb_build_object('success', false, 'inserted', 0, 'errors',
            jsonb_build_array('logs is not an array of at most 1,000 rows'));
    end if;
    for r in select l.r from jsonb_array_elements(logs) l (r) loop
        place := place + 1;
        begin
            insert into public.system_logs (id, "timestamp", source_type, source_id, log_level, message, task_id,
                worker_id, cycle_number, metadata)
            values (coalesce((r ->> 'id')::uuid, gen_random_uuid()), coalesce((r ->> 'timestamp')::timestamptz, now()),
                r ->> 'source_type', r ->> 'source_id', coalesce(dogwatch.level_word(r ->> 'log_level'), r ->> 'log_level'),
                r ->> 'message', (r ->> 'task_id')::uuid, r ->> 'worker_id', (r ->> 'cycle_number')::bigint,
                case when jsonb_typeof(r -> 'metadata') = 'object' then r -> 'metadata' else '{}' end)
            on conflict ("timestamp", id) do nothing;
            inserted := inserted + 1;
        exception when data_exception or integrity_constraint_violation then
            errors := errors || jsonb_build_array(format('row %s: %s', place, sqlerrm));
        end;
    end loop;
    return jsonb_build_object('success', errors = '[]', 'inserted', inserted, 'errors', errors);
end
$$;

-- A beat of a worker as the system before sent it. An ended worker is not revived by it.
create function public.func_worker_heartbeat_with_logs(
    worker_id_param text, vram_total_mb_param integer default null, vram_used_mb_param integer default null,
    logs_param jsonb default '[]', current_task_id_param uuid default null, status_param text default 'active') returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
    logged jsonb := public.func_insert_logs_batch(coalesce(logs_param, '[]'));
    beaten boolean;
begin
    update dogwatch.workers w
    set last_heartbeat = now(), first_heartbeat_at = coalesce(w.first_heartbeat_at, now()),
        gpu = case when vram_total_mb_param is null then w.gpu else jsonb_build_object(
            'vram_total_mb', vram_total_mb_param, 'vram_used_mb', vram_used_mb_param, 'utilization', null) end
    where w.id = worker_id_param and w.ended_at is null;
    beaten := found;
    return jsonb_build_object('success', beaten and (logged ->> 'success')::boolean, 'heartbeat', beaten,
        'inserted', logged -> 'inserted', 'errors', logged -> 'errors');
end
$$;

-- ---- rights ----

do $$
declare
    who text;
    name text;
    item record;
begin
    for item in select p.oid::regprocedure as name, p.proname, p.pronamespace from pg_catalog.pg_proc p
        where (p.pronamespace = 'dogwatch'::regnamespace
                and p.proname in ('instant', 'level_word', 'row_fault', 'door_ingest'))
            or (p.pronamespace = 'public'::regnamespace
                and p.proname in ('dw_ingest_logs', 'func_insert_logs_batch', 'func_worker_heartbeat_with_logs')) loop
        execute format('revoke all on function %s from public', item.name);
        if to_regrole('anon') is not null then
            execute format('revoke all on function %s from anon, authenticated', item.name);
        end if;
    end loop;
    if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        grant execute on function dogwatch.instant(text), dogwatch.level_word(text), dogwatch.row_fault(jsonb),
            dogwatch.door_ingest(jsonb) to dogwatch_rpc;
        grant select, insert on public.system_logs to dogwatch_rpc;
        grant usage on sequence dogwatch.system_logs_arrival to dogwatch_rpc;
        create policy dogwatch_rpc on public.system_logs to dogwatch_rpc using (true) with check (true);
        alter function public.dw_ingest_logs(jsonb) owner to dogwatch_rpc;
    end if;
    foreach who in array '{anon,authenticated,service_role}'::text[] loop
        if to_regrole(who) is not null then
            execute format('grant execute on function public.dw_ingest_logs(jsonb) to %I', who);
        end if;
    end loop;
    if to_regrole('service_role') is not null then
        grant execute on function public.func_insert_logs_batch(jsonb) to service_role;
        grant execute on function public.func_worker_heartbeat_with_logs(text, integer, integer, jsonb, uuid, text)
            to service_role;
        grant execute on function dogwatch.level_word(text) to service_role;
        grant select, insert on public.system_logs to service_role;
    end if;
end
$$;

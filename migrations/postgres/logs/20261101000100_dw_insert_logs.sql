-- The way into system_logs through PostgREST: POST /rest/v1/rpc/dw_insert_logs with {"rows": [...]}.
--
-- One unnamed jsonb parameter: PostgREST hands it the whole body. Says how many rows it was given and
-- how many were not there before, so that a call may be repeated. A row that the table does not take
-- refuses the whole call with the table's own error (SQLSTATE 22xxx, 23xxx), by which the sender finds
-- it; nothing is swallowed. The caller's rights count: it is for the service role.
--
-- May be applied again: it changes nothing then.

create or replace function public.dw_insert_logs(jsonb) returns jsonb
-- PostgREST takes this limit for the whole call; a call is 1,000 rows at most.
language plpgsql security invoker set search_path = '' set statement_timeout = '15s' as $$
declare
    v_received int;
    v_inserted int;
begin
    if jsonb_typeof($1 -> 'rows') is distinct from 'array' then
        raise exception 'rows is not a list' using errcode = 'invalid_parameter_value';
    end if;
    v_received := jsonb_array_length($1 -> 'rows');
    if v_received > 1000 then
        raise exception 'rows has % entries, more than 1000', v_received
            using errcode = 'invalid_parameter_value';
    end if;
    insert into public.system_logs (
        timestamp, id, source_type, source_id, log_level, message,
        task_id, worker_id, cycle_number, trace_id, span_id, metadata)
    select
        r.timestamp, r.id, r.source_type, r.source_id, r.log_level, r.message,
        r.task_id, r.worker_id, r.cycle_number, r.trace_id, r.span_id, coalesce(r.metadata, '{}')
    from jsonb_to_recordset($1 -> 'rows') as r (
        timestamp timestamptz, id uuid, source_type text, source_id text, log_level text, message text,
        task_id uuid, worker_id text, cycle_number bigint, trace_id text, span_id text, metadata jsonb)
    on conflict do nothing;
    get diagnostics v_inserted = row_count;
    return jsonb_build_object('received', v_received, 'inserted', v_inserted);
end $$;

revoke all on function public.dw_insert_logs(jsonb) from public;
do $$
declare
    v_role text;
begin
    -- A project's default rights may have given it to everybody.
    foreach v_role in array array['anon', 'authenticated'] loop
        if exists (select from pg_roles where rolname = v_role) then
            execute format('revoke all on function public.dw_insert_logs(jsonb) from %I', v_role);
        end if;
    end loop;
    if exists (select from pg_roles where rolname = 'service_role') then
        grant execute on function public.dw_insert_logs(jsonb) to service_role;
    end if;
end $$;

-- PostgREST reads the schema anew.
notify pgrst, 'reload schema';

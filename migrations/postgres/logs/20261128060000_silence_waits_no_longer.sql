-- telemetry_silence() waits 3 s for a lock and fails then: where somebody holds the log table against
-- everybody, a job that asks would hang, and no news would look like good news. Who asks takes an error
-- for silence (docs/who-noticed.md).
--
-- May be applied again: it changes nothing then. Beside a fleet's tables the function of that name is the
-- fleet's, and what it asks of system_logs has another one.

do $$
declare
    v_name text;
begin
    foreach v_name in array array['public.telemetry_silence', 'dogwatch.silence_of_logs'] loop
        if to_regprocedure(v_name || '(interval, interval, timestamptz)') is not null then
            execute format('alter function %s(interval, interval, timestamptz) set lock_timeout = %L', v_name, '3s');
            execute format('alter function %s(interval, interval, timestamptz) set search_path = pg_catalog, pg_temp',
                           v_name);
        end if;
    end loop;
end $$;

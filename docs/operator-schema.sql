-- dogwatch on tasks that are somebody's already: an example for a schema with users, their projects,
-- and tasks in them. Run it once after `dogwatch migrate`, with the names that yours has; everything
-- that dogwatch knows of your tables stands here. Your rows stay where and what they are.

-- The words of the status, as text that an index can be made on.
create function dogwatch.task_word(status public.task_status) returns text
language plpgsql immutable as $$ begin return status::text; end $$;

create or replace view dogwatch.dw_tasks as
select
    t.id,
    p.user_id::text as user_id,
    t.task_type,
    dogwatch.task_word(t.status) as status,
    null::text as run_type,
    t.created_at as queued_at,
    coalesce(u.credits > 0, false) as credits_ok,
    coalesce(u.allows_cloud, false) as cloud_ok,
    (t.dependant_on is null or not exists (
        select from unnest(t.dependant_on) d
        where not exists (select from public.tasks w where w.id = d and w.status = 'Complete')
    )) as dependencies_ok,
    coalesce(t.attempts, 0)::bigint as attempts,
    t.worker_id,
    t.params,
    t.generation_started_at as started_at,
    t.generation_processed_at as ended_at,
    t.error_message,
    to_jsonb(t.output_location) as output,
    null::text as traceparent
from public.tasks t
left join public.projects p on p.id = t.project_id
left join public.users u on u.id = p.user_id;

-- A worker takes a waiting task, or takes again what an earlier start of it had in hand: the number
-- of the attempt, or null where somebody else is at it. (plpgsql: planned once a session.)
create or replace function dogwatch.dw_claim(task uuid, worker text, at timestamptz) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    attempt bigint;
begin
    update public.tasks t
    set status = 'In Progress', worker_id = worker, attempts = coalesce(t.attempts, 0) + 1,
        generation_started_at = at, updated_at = at
    where t.id = (
        select w.id from public.tasks w
        where w.id = task and (w.status = 'Queued' or (w.status = 'In Progress' and w.worker_id = worker))
        for update skip locked)
    returning t.attempts::bigint into attempt;
    return attempt;
end
$$;

-- A task ends: Complete, Failed, or Cancelled by its owner (worker and attempt null). False: it was
-- not this attempt's any more.
create or replace function dogwatch.dw_finish(
    task uuid, worker text, attempt bigint, final_status text, error text, result jsonb, at timestamptz) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update public.tasks t
    set status = final_status::public.task_status, error_message = coalesce(error, t.error_message),
        output_location = coalesce(result #>> '{}', t.output_location), generation_processed_at = at, updated_at = at
    where t.id = task and (
        (t.status = 'In Progress' and t.worker_id = worker and t.attempts = attempt)
        or (worker is null and t.status in ('Queued', 'In Progress')));
    return found;
end
$$;

-- A task leaves its worker's hands and waits again. False: it was not this attempt's any more.
create or replace function dogwatch.dw_requeue(
    task uuid, worker text, attempt bigint, error text, at timestamptz) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update public.tasks t
    set status = 'Queued', error_message = coalesce(error, t.error_message), worker_id = null,
        generation_started_at = null, updated_at = at
    where t.id = task and t.status = 'In Progress' and t.worker_id = worker and t.attempts = attempt;
    return found;
end
$$;

-- What a claim, a limit and a cycle look for: the queue, the queue of one user, what is in hand.
create index if not exists dw_tasks_queued on public.tasks (created_at, id)
    where dogwatch.task_word(status) = 'Queued';
create index if not exists dw_tasks_queued_of_project on public.tasks (project_id, created_at, id)
    where dogwatch.task_word(status) = 'Queued';
create index if not exists dw_tasks_in_hand on public.tasks (worker_id)
    where dogwatch.task_word(status) = 'In Progress';
create index if not exists dw_tasks_in_hand_of_project on public.tasks (project_id)
    where dogwatch.task_word(status) = 'In Progress';
create index if not exists dw_projects_of_user on public.projects ((user_id::text));

do $$
begin
    if to_regrole('dogwatch_rpc') is not null then
        grant execute on function dogwatch.task_word(public.task_status) to dogwatch_rpc;
    end if;
end
$$;

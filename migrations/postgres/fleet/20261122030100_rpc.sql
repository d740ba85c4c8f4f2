-- The workers' way in: the calls of the protocol as functions.
--
-- dogwatch.door_* hold every rule and are what both ways lead to: dogwatch's own store calls them
-- with a clock and a limit, and public.dw_* call them for whoever holds a worker's token, as role
-- anon. A call that is not granted is returned, not raised, and changes nothing but its row in
-- refusals. Each call begins by locking its worker's row, so that two calls of one worker follow
-- each other; after that come the user's lock and the task's row, in this order.

-- ---- answers ----

create function dogwatch.refusal(code text, message text, details text, hint text) returns jsonb
language sql immutable as $$
    select jsonb_build_object('code', code, 'message', message, 'details', details, 'hint', hint)
$$;

create function dogwatch.superseded(message text) returns jsonb
language sql immutable as $$
    select dogwatch.refusal('DW409', message, null, 'stop: another attempt or incarnation has taken over')
$$;

create function dogwatch.malformed(key text, expected text) returns jsonb
language sql immutable as $$
    select dogwatch.refusal('DW422', format('key `%s` is missing or malformed: expected %s', key, expected), key, null)
$$;

-- ---- values ----

-- The text, cut to 4,096 bytes at a character's border.
create function dogwatch.clamp(text text) returns text
language plpgsql immutable as $$
declare
    bytes bytea;
    length int := 4096;
begin
    if octet_length(text) <= length then
        return text;
    end if;
    bytes := convert_to(text, 'UTF8');
    while get_byte(bytes, length) & 192 = 128 loop
        length := length - 1;
    end loop;
    return convert_from(substring(bytes from 1 for length), 'UTF8');
end
$$;

create function dogwatch.is_whole(value jsonb, low numeric, high numeric) returns boolean
language sql immutable as $$
    select case when jsonb_typeof(value) = 'number' and value::text ~ '^-?[0-9]{1,20}$'
        then value::numeric between low and high else false end
$$;

create function dogwatch.is_texts(value jsonb) returns boolean
language sql immutable as $$
    select case when jsonb_typeof(value) = 'array'
        then not exists (select from jsonb_array_elements(value) item where jsonb_typeof(item) <> 'string')
        else false end
$$;

create function dogwatch.is_gpu(value jsonb) returns boolean
language sql immutable as $$
    select jsonb_typeof(value) = 'null' or (jsonb_typeof(value) = 'object' and not exists (
        select from unnest('{vram_total_mb,vram_used_mb,utilization}'::text[]) key
        where jsonb_typeof(value -> key) not in ('number', 'null')
            or (jsonb_typeof(value -> key) = 'number' and abs((value ->> key)::numeric) > 1e300)))
$$;

-- Whether the value is of that kind.
create function dogwatch.fits(value jsonb, kind text) returns boolean
language sql immutable as $$
    select coalesce(case kind
        when 'any' then true
        when 'text' then jsonb_typeof(value) = 'string'
        when 'text?' then jsonb_typeof(value) in ('string', 'null')
        when 'bool' then jsonb_typeof(value) = 'boolean'
        when 'object' then jsonb_typeof(value) = 'object'
        when 'int' then dogwatch.is_whole(value, -9223372036854775808, 9223372036854775807)
        when 'uuid' then jsonb_typeof(value) = 'string' and value #>> '{}'
            ~* '^([0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$'
        when 'uuid?' then jsonb_typeof(value) = 'null' or dogwatch.fits(value, 'uuid')
        when 'phase' then jsonb_typeof(value) = 'string'
            and value #>> '{}' in ('starting', 'ready', 'busy', 'draining')
        when 'fraction?' then jsonb_typeof(value) = 'null'
            or (jsonb_typeof(value) = 'number' and (value #>> '{}')::numeric between 0 and 1)
        when 'gpu?' then dogwatch.is_gpu(value)
        when 'info' then jsonb_typeof(value) = 'object'
            and jsonb_typeof(coalesce(value -> 'host', '""')) = 'string'
            and dogwatch.is_whole(coalesce(value -> 'pid', '0'), 0, 4294967295)
            and jsonb_typeof(coalesce(value -> 'version', '""')) = 'string'
            and dogwatch.is_texts(coalesce(value -> 'capabilities', '[]'))
        when 'report' then jsonb_typeof(value) = 'object'
            and jsonb_typeof(value -> 'reason') = 'string'
            and (jsonb_typeof(coalesce(value -> 'exit_code', 'null')) = 'null'
                or dogwatch.is_whole(value -> 'exit_code', -2147483648, 2147483647))
            and (jsonb_typeof(coalesce(value -> 'signal', 'null')) = 'null'
                or dogwatch.is_whole(value -> 'signal', -2147483648, 2147483647))
            and jsonb_typeof(coalesce(value -> 'oom_killed', 'false')) = 'boolean'
            and dogwatch.is_texts(coalesce(value -> 'last_lines', '[]'))
            and dogwatch.is_gpu(coalesce(value -> 'gpu', 'null'))
    end, false)
$$;

-- The first key that cannot be used, as a refusal; null where all can. `keys` are rows of
-- {key, kind, expected}; a kind that ends in ? may be absent.
create function dogwatch.check_keys(body jsonb, variadic keys text[]) returns jsonb
language plpgsql immutable as $$
declare
    at int := 1;
begin
    if jsonb_typeof(body) is distinct from 'object' then
        return dogwatch.malformed('body', 'a JSON object');
    end if;
    while at < cardinality(keys) loop
        if body ? keys[at] then
            if not dogwatch.fits(body -> keys[at], keys[at + 1]) then
                return dogwatch.malformed(keys[at], keys[at + 2]);
            end if;
        elsif right(keys[at + 1], 1) <> '?' then
            return dogwatch.malformed(keys[at], keys[at + 2]);
        end if;
        at := at + 3;
    end loop;
    return null;
end
$$;

create function dogwatch.check_caller(body jsonb) returns jsonb
language sql immutable as $$
    select dogwatch.check_keys(body,
        'worker_id', 'text', 'the worker''s id, a string',
        'worker_token', 'text', 'the worker''s token, a string',
        'incarnation', 'uuid', 'a uuid')
$$;

-- ---- the worker's state ----

create function dogwatch.enter(w dogwatch.workers, next text, at timestamptz) returns dogwatch.workers
language plpgsql immutable as $$
begin
    if w.state <> next then
        w.state := next;
        w.status := dogwatch.status_of(next);
        w.state_since := at;
        w.idle_since := case when next = 'idle' then at end;
    end if;
    return w;
end
$$;

-- Goes on to a state; what lies behind already is normal (words arrive late and twice).
create function dogwatch.reach(w dogwatch.workers, next text, at timestamptz) returns dogwatch.workers
language plpgsql immutable as $$
begin
    if dogwatch.may_become(w.state, next) then
        return dogwatch.enter(w, next, at);
    elsif w.state = 'planned' then
        w.quarantine := format('planned cannot become %s: its agent spoke before the provider was asked', next);
        return w;
    elsif w.state <> 'alive' and dogwatch.may_become(w.state, 'alive') then
        return dogwatch.reach(dogwatch.enter(w, 'alive', at), next, at);
    end if;
    return w;
end
$$;

-- Writes what calls can change.
create function dogwatch.save(w dogwatch.workers) returns void
language sql as $$
    update dogwatch.workers set
        status = w.status, state = w.state, state_since = w.state_since, incarnation = w.incarnation,
        beat_seq = w.beat_seq, progress_seq = w.progress_seq, promoted_at = w.promoted_at,
        first_heartbeat_at = w.first_heartbeat_at, last_heartbeat = w.last_heartbeat, progress_at = w.progress_at,
        idle_since = w.idle_since, tasks_claimed = w.tasks_claimed, info = w.info, exited_at = w.exited_at,
        exit_report = w.exit_report, gpu = w.gpu, quarantine = w.quarantine
    where id = w.id
$$;

-- Who calls: the worker, or why not.
create function dogwatch.admit_token(
    body jsonb, is_writer boolean, out w dogwatch.workers, out refused jsonb)
language plpgsql as $$
begin
    if is_writer then
        select * into w from dogwatch.workers where id = body ->> 'worker_id' for no key update;
    else
        select * into w from dogwatch.workers where id = body ->> 'worker_id';
    end if;
    if w.token_sha256 is distinct from sha256(convert_to(body ->> 'worker_token', 'UTF8')) or w.id is null then
        refused := dogwatch.refusal('DW401', 'unknown worker or wrong token', null,
            'start the agent with the worker id and token it was spawned with');
    elsif w.ended_at is not null then
        refused := dogwatch.superseded('this worker has ended');
    end if;
end
$$;

create function dogwatch.admit(body jsonb, is_writer boolean, out w dogwatch.workers, out refused jsonb)
language plpgsql as $$
declare
    called record;
begin
    select * into called from dogwatch.admit_token(body, is_writer);
    w := called.w;
    refused := called.refused;
    if refused is not null then
        return;
    elsif w.incarnation is null then
        refused := dogwatch.superseded('this start of the agent has not registered');
    elsif w.incarnation <> (body ->> 'incarnation')::uuid then
        refused := dogwatch.superseded('a later start of this agent has taken over');
    end if;
end
$$;

-- ---- the calls ----

create function dogwatch.door_authenticate(body jsonb) returns jsonb
language plpgsql as $$
declare
    called record;
    w dogwatch.workers;
    refused jsonb := dogwatch.check_caller(body);
begin
    if refused is null then
        select * into called from dogwatch.admit(body, false);
        w := called.w;
        refused := called.refused;
    end if;
    return coalesce(refused, to_jsonb(w.id));
end
$$;

create function dogwatch.door_register(body jsonb, at timestamptz) returns jsonb
language plpgsql as $$
declare
    called record;
    w dogwatch.workers;
    refused jsonb := coalesce(
        dogwatch.check_caller(body),
        dogwatch.check_keys(body, 'info', 'info', 'an object {host, pid, version, gpu, capabilities[]}'));
    start uuid;
begin
    if refused is null then
        select * into called from dogwatch.admit_token(body, true);
        w := called.w;
        refused := called.refused;
    end if;
    if refused is not null then
        return refused;
    end if;
    start := (body ->> 'incarnation')::uuid;
    if w.incarnation is distinct from start then
        if exists (select from dogwatch.incarnations i where i.worker_id = w.id and i.incarnation = start) then
            return dogwatch.superseded('a later start of this agent has taken over');
        end if;
        insert into dogwatch.incarnations (worker_id, incarnation, at) values (w.id, start, door_register.at);
        w.incarnation := start;
        w.beat_seq := null;
        w.progress_seq := null;
        w.exited_at := null;
    end if;
    w.info := body -> 'info';
    if dogwatch.may_become(w.state, 'alive') then
        w := dogwatch.enter(w, 'alive', at);
    elsif w.state = 'planned' then
        w := dogwatch.reach(w, 'alive', at);
    end if;
    perform dogwatch.save(w);
    return '{}';
end
$$;

create function dogwatch.in_hand(worker text) returns bigint
language sql stable as $$
    select count(*) from dogwatch.dw_tasks t where t.status = 'In Progress' and t.worker_id = worker
$$;

create function dogwatch.door_heartbeat(body jsonb, at timestamptz) returns jsonb
language plpgsql as $$
declare
    called record;
    w dogwatch.workers;
    refused jsonb := coalesce(
        dogwatch.check_caller(body),
        dogwatch.check_keys(body,
            'seq', 'int', 'the beat''s number, an integer',
            'phase', 'phase', 'starting, ready, busy or draining',
            'progress_seq', 'int', 'an integer',
            'current_task', 'uuid?', 'a uuid or null',
            'gpu', 'gpu?', 'an object {vram_total_mb, vram_used_mb, utilization} or null'));
    phase text := body ->> 'phase';
    task uuid;
    cancel uuid;
begin
    if refused is null then
        select * into called from dogwatch.admit(body, true);
        w := called.w;
        refused := called.refused;
    end if;
    if refused is not null then
        return refused;
    end if;
    if w.beat_seq is null or (body ->> 'seq')::bigint > w.beat_seq then
        w.beat_seq := (body ->> 'seq')::bigint;
        w.first_heartbeat_at := coalesce(w.first_heartbeat_at, at);
        w.last_heartbeat := at;
        if (body ->> 'progress_seq')::bigint > coalesce(w.progress_seq, 0) then
            w.progress_at := at;
        end if;
        w.progress_seq := (body ->> 'progress_seq')::bigint;
        -- A claim that was answered while this beat was under way makes the worker busy.
        w := dogwatch.reach(w, case
            when phase = 'starting' then 'alive'
            when phase = 'draining' then 'draining'
            when phase = 'ready' and dogwatch.in_hand(w.id) = 0 then 'idle'
            else 'busy'
        end, at);
        if phase in ('ready', 'busy') then
            w.promoted_at := coalesce(w.promoted_at, at);
        end if;
        if jsonb_typeof(body -> 'gpu') = 'object' then
            w.gpu := body -> 'gpu';
        end if;
        perform dogwatch.save(w);
    end if;
    task := (body ->> 'current_task')::uuid;
    if task is not null and not exists (
        select from dogwatch.dw_tasks t
        join dogwatch.task_attempts a on a.task_id = t.id and a.attempt = t.attempts
        where t.id = task and t.status <> 'Cancelled' and a.worker_id = w.id) then
        cancel := task;
    end if;
    return jsonb_build_object(
        'drain', w.state in ('draining', 'terminating'), 'stop', w.state = 'terminating', 'cancel', cancel);
end
$$;

-- A task without attempts left, in the hands of nobody any more: its error says so.
create function dogwatch.no_attempts_left(why text, attempt bigint) returns text
language sql immutable as $$
    select format('no attempts left: %s in attempt %s of 3', why, attempt)
$$;

-- An attempt is over, by whoever ended it.
create function dogwatch.end_attempt(task uuid, attempt bigint, answer text, at timestamptz) returns void
language sql as $$
    update dogwatch.task_attempts a
    set ended_at = end_attempt.at, answer = coalesce(end_attempt.answer, a.answer)
    where a.task_id = task and a.attempt = end_attempt.attempt
$$;

-- Tasks to try, oldest first: those at the head of the queue, and where it is taken up by users who
-- may not have more, the oldest of every other user. Both are found by index.
create function dogwatch.candidates(run_type text, without text[], is_deep boolean)
returns table (id uuid, user_id text)
language plpgsql stable as $$
begin
    if not is_deep then
        return query
        select h.id, h.user_id from (
            select q.* from dogwatch.dw_queue q order by q.queued_at, q.id limit 1000
        ) h
        where h.bucket = 'ready' and (candidates.run_type is null or h.run_type is null or h.run_type = candidates.run_type)
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
        where q.user_id = w.user_id and q.bucket = 'ready'
            and (candidates.run_type is null or q.run_type is null or q.run_type = candidates.run_type)
        order by q.queued_at, q.id limit 1
    ) c
    where w.user_id <> all (without)
    order by c.queued_at, c.id limit 32;
end
$$;

create function dogwatch.user_key(user_id text) returns bigint
language sql immutable as $$
    select hashtextextended('dogwatch.user:' || user_id, 0)
$$;

-- Takes one claimable task for a worker. While a user's lock is held nobody else counts or claims for
-- that user, so that the limit holds however many claim at once; a user whose lock is taken is passed
-- over, and waited for only where nothing else is to be had and no other lock is held.
create function dogwatch.take(
    worker text, run_type text, user_limit bigint, at timestamptz, out task uuid, out attempt bigint)
language plpgsql as $$
declare
    c record;
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
        for c in select * from dogwatch.candidates(run_type, full_users || busy_users, is_deep) loop
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
            continue when not exists (select from dogwatch.dw_queue q where q.id = c.id and q.bucket = 'ready');
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

create function dogwatch.claimed(worker text, claim uuid) returns jsonb
language sql stable as $$
    select jsonb_build_object('task_id', t.id, 'attempt', a.attempt, 'task_type', t.task_type, 'params', t.params,
        'traceparent', t.traceparent, 'user', t.user_id)
    from dogwatch.task_attempts a join dogwatch.dw_tasks t on t.id = a.task_id
    where a.worker_id = worker and a.claim_id = claim
$$;

create function dogwatch.door_claim(body jsonb, at timestamptz, user_limit bigint) returns jsonb
language plpgsql as $$
declare
    called record;
    w dogwatch.workers;
    refused jsonb := coalesce(
        dogwatch.check_caller(body),
        dogwatch.check_keys(body, 'claim_id', 'uuid', 'a uuid', 'run_type', 'text?', 'a string or null'));
    repeated jsonb;
    claim uuid;
    left_task record;
    v_task uuid;
    v_attempt bigint;
begin
    if refused is null then
        select * into called from dogwatch.admit(body, true);
        w := called.w;
        refused := called.refused;
    end if;
    if refused is not null then
        return refused;
    end if;
    claim := (body ->> 'claim_id')::uuid;
    repeated := dogwatch.claimed(w.id, claim);
    if repeated is not null then
        return repeated;
    end if;
    if w.exited_at is not null or w.state not in ('alive', 'idle', 'busy') then
        return null;
    end if;
    -- A task that an earlier start of the same agent took with it: it stays with its worker until that
    -- has ended, so this start does it again.
    for left_task in
        select t.id, t.attempts from dogwatch.dw_tasks t
        join dogwatch.task_attempts a on a.task_id = t.id and a.attempt = t.attempts
        where t.status = 'In Progress' and t.worker_id = w.id and a.incarnation <> w.incarnation
        order by t.started_at, t.id limit 100
    loop
        if left_task.attempts < 3 then
            v_task := left_task.id;
            v_attempt := dogwatch.dw_claim(v_task, w.id, at);
            exit when v_attempt is not null;
        elsif dogwatch.dw_finish(left_task.id, w.id, left_task.attempts, 'Failed',
            dogwatch.no_attempts_left('the agent was started again', left_task.attempts), null, at) then
            perform dogwatch.end_attempt(left_task.id, left_task.attempts, null, at);
        end if;
    end loop;
    if v_attempt is null then
        select t.task, t.attempt into v_task, v_attempt
        from dogwatch.take(w.id, body ->> 'run_type', user_limit, door_claim.at) t;
    end if;
    if v_attempt is null then
        return null;
    end if;
    insert into dogwatch.task_attempts (task_id, attempt, worker_id, incarnation, claim_id, claimed_at)
    values (v_task, v_attempt, w.id, w.incarnation, claim, door_claim.at);
    w := dogwatch.reach(w, 'busy', at);
    w.promoted_at := coalesce(w.promoted_at, at);
    w.progress_at := at;
    w.tasks_claimed := w.tasks_claimed + 1;
    perform dogwatch.save(w);
    return dogwatch.claimed(w.id, claim);
end
$$;

-- What an attempt's words are worth: a refusal, the answer of the first time, or null where the
-- attempt is the one that has the task in hand.
create function dogwatch.judge(task uuid, number bigint, worker text) returns jsonb
language plpgsql stable as $$
declare
    r record;
begin
    select t.status, t.attempts, t.worker_id, a.worker_id as claimed_by, a.answer into r
    from dogwatch.dw_tasks t join dogwatch.task_attempts a on a.task_id = t.id
    where t.id = task and a.attempt = number;
    if r.claimed_by = worker and r.answer is not null then
        return jsonb_build_object('status', r.answer, 'attempts', number);
    elsif r.claimed_by = worker and r.attempts = number and r.worker_id = worker then
        if r.status = 'In Progress' then
            return null;
        elsif r.status = 'Cancelled' then
            -- Its owner ended it first; the agent has done nothing wrong and goes on.
            return jsonb_build_object('status', 'Cancelled', 'attempts', number);
        end if;
    end if;
    return dogwatch.superseded(format('attempt %s of task %s is not this worker''s any more', number, task));
end
$$;

create function dogwatch.door_progress(body jsonb, at timestamptz) returns jsonb
language plpgsql as $$
declare
    called record;
    w dogwatch.workers;
    refused jsonb := coalesce(
        dogwatch.check_caller(body),
        dogwatch.check_keys(body,
            'task_id', 'uuid', 'a uuid',
            'attempt', 'int', 'the attempt''s number, an integer',
            'fraction', 'fraction?', 'a number from 0 to 1, or null',
            'note', 'text?', 'a string or null'));
    verdict jsonb;
begin
    if refused is null then
        select * into called from dogwatch.admit(body, true);
        w := called.w;
        refused := called.refused;
    end if;
    if refused is not null then
        return refused;
    end if;
    verdict := dogwatch.judge((body ->> 'task_id')::uuid, (body ->> 'attempt')::bigint, w.id);
    if verdict is null then
        update dogwatch.task_attempts a
        set progress_at = door_progress.at, progress_fraction = (body ->> 'fraction')::double precision,
            progress_note = dogwatch.clamp(body ->> 'note')
        where a.task_id = (body ->> 'task_id')::uuid and a.attempt = (body ->> 'attempt')::bigint;
        w.progress_at := at;
        perform dogwatch.save(w);
    elsif verdict ? 'code' then
        return verdict;
    end if;
    return jsonb_build_object('cancel', coalesce(verdict ->> 'status' = 'Cancelled', false));
end
$$;

-- An attempt says that it is over.
create function dogwatch.over(body jsonb, ending text, result jsonb, error text, at timestamptz) returns jsonb
language plpgsql as $$
declare
    called record;
    w dogwatch.workers;
    refused jsonb;
    verdict jsonb;
    v_task uuid := (body ->> 'task_id')::uuid;
    number bigint := (body ->> 'attempt')::bigint;
    ended text;
    is_done boolean;
begin
    select * into called from dogwatch.admit(body, true);
    w := called.w;
    refused := called.refused;
    if refused is not null then
        return refused;
    end if;
    ended := case
        when ending = 'complete' then 'Complete'
        when ending = 'retry' and number < 3 then 'Queued'
        else 'Failed'
    end;
    -- Its owner may end the task between the look and the write: then a second look says so.
    for round in 1..2 loop
        verdict := dogwatch.judge(v_task, number, w.id);
        if verdict is not null then
            return verdict;
        end if;
        if ended = 'Queued' then
            is_done := dogwatch.dw_requeue(v_task, w.id, number, error, at);
        else
            is_done := dogwatch.dw_finish(v_task, w.id, number, ended, error, result, at);
        end if;
        exit when is_done;
    end loop;
    if not is_done then
        return dogwatch.superseded(format('attempt %s of task %s is not this worker''s any more', number, v_task));
    end if;
    perform dogwatch.end_attempt(v_task, number, ended, at);
    w.progress_at := at;
    if w.state = 'busy' and dogwatch.in_hand(w.id) = 0 then
        w := dogwatch.reach(w, 'idle', at);
    end if;
    perform dogwatch.save(w);
    return jsonb_build_object('status', ended, 'attempts', number);
end
$$;

create function dogwatch.door_complete(body jsonb, at timestamptz) returns jsonb
language plpgsql as $$
declare
    refused jsonb := coalesce(
        dogwatch.check_caller(body),
        dogwatch.check_keys(body,
            'task_id', 'uuid', 'a uuid',
            'attempt', 'int', 'the attempt''s number, an integer',
            'output', 'any', 'the output, any JSON'));
begin
    return coalesce(refused, dogwatch.over(body, 'complete', body -> 'output', null, at));
end
$$;

create function dogwatch.door_fail(body jsonb, at timestamptz) returns jsonb
language plpgsql as $$
declare
    refused jsonb := coalesce(
        dogwatch.check_caller(body),
        dogwatch.check_keys(body,
            'task_id', 'uuid', 'a uuid',
            'attempt', 'int', 'the attempt''s number, an integer',
            'error', 'text', 'a string',
            'retryable', 'bool', 'true or false'));
begin
    return coalesce(refused, dogwatch.over(
        body, case when (body ->> 'retryable')::boolean then 'retry' else 'final' end,
        null, dogwatch.clamp(body ->> 'error'), at));
end
$$;

create function dogwatch.door_exit(body jsonb, at timestamptz) returns jsonb
language plpgsql as $$
declare
    called record;
    w dogwatch.workers;
    refused jsonb := coalesce(
        dogwatch.check_caller(body),
        dogwatch.check_keys(body, 'report', 'report',
            'an object {reason, exit_code, signal, oom_killed, last_lines[], gpu}'));
    report jsonb;
    lines jsonb;
begin
    if refused is null then
        select * into called from dogwatch.admit(body, true);
        w := called.w;
        refused := called.refused;
    end if;
    if refused is not null then
        return refused;
    end if;
    report := body -> 'report';
    -- The last 200 lines.
    select coalesce(jsonb_agg(dogwatch.clamp(l.line) order by l.n), '[]') into lines
    from jsonb_array_elements_text(coalesce(report -> 'last_lines', '[]')) with ordinality l (line, n)
    where l.n > jsonb_array_length(report -> 'last_lines') - 200;
    w.exit_report := report || jsonb_build_object('reason', dogwatch.clamp(report ->> 'reason'), 'last_lines', lines);
    w.exited_at := coalesce(w.exited_at, at);
    perform dogwatch.save(w);
    return '{}';
end
$$;

-- ---- refusals, for the record ----

-- One row a worker and minute; the oldest go where there are too many. What is malformed is the
-- caller's own bug and says nothing of who it is.
create function dogwatch.noted(function text, body jsonb, answer jsonb, at timestamptz) returns jsonb
language plpgsql as $$
begin
    if jsonb_typeof(answer) <> 'object' or answer ->> 'code' is null or answer ->> 'code' not in ('DW401', 'DW409') then
        return answer;
    end if;
    insert into dogwatch.refusals (worker_id, minute, function, code, message)
    values (left(body ->> 'worker_id', 128), floor(extract(epoch from noted.at) / 60)::bigint, noted.function,
        answer ->> 'code', answer ->> 'message')
    on conflict do nothing;
    if found then
        delete from dogwatch.refusals r
        where (r.worker_id, r.minute) in (
            select o.worker_id, o.minute from dogwatch.refusals o order by o.minute desc, o.worker_id offset 10000);
    end if;
    return answer;
end
$$;

-- ---- for PostgREST ----

-- The answer as it leaves: a refusal takes its status along.
create function dogwatch.reply(function text, body jsonb, answer jsonb) returns jsonb
language plpgsql as $$
begin
    if jsonb_typeof(answer) = 'object' and answer ->> 'code' ~ '^DW4[0-9]{2}$' then
        perform set_config('response.status', right(answer ->> 'code', 3), true);
    end if;
    return dogwatch.noted(function, body, answer, now());
end
$$;

create function public.dw_register(jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    answer jsonb := dogwatch.door_register($1, now());
begin
    if answer = '{}' then
        select jsonb_build_object('heartbeat_seconds', s.heartbeat_seconds, 'dead_man_seconds', s.dead_man_seconds,
            'poll_seconds', s.poll_seconds) into answer from dogwatch.settings s;
    end if;
    return dogwatch.reply('dw_register', $1, answer);
end
$$;

create function public.dw_heartbeat(jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return dogwatch.reply('dw_heartbeat', $1, dogwatch.door_heartbeat($1, now()));
end
$$;

create function public.dw_claim_task(jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return dogwatch.reply('dw_claim_task', $1,
        dogwatch.door_claim($1, now(), (select s.user_task_limit from dogwatch.settings s)));
end
$$;

create function public.dw_task_progress(jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return dogwatch.reply('dw_task_progress', $1, dogwatch.door_progress($1, now()));
end
$$;

create function public.dw_complete_task(jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return dogwatch.reply('dw_complete_task', $1, dogwatch.door_complete($1, now()) - 'attempts');
end
$$;

create function public.dw_fail_task(jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return dogwatch.reply('dw_fail_task', $1, dogwatch.door_fail($1, now()));
end
$$;

create function public.dw_exit(jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
    return dogwatch.reply('dw_exit', $1, dogwatch.door_exit($1, now()));
end
$$;

-- The level of the fleet's schema: a dogwatch that knows none of this or the one before refuses to run.
create function dogwatch.fleet_level() returns bigint
language sql immutable as $$ select 1::bigint $$;

-- ---- rights ----

-- Functions that anon may call must not be a superuser's: where one migrates, they get an owner of
-- their own that may use this schema's tables and nothing else.
do $$
declare
    owner text := current_user;
    item record;
begin
    if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        owner := 'dogwatch_rpc';
        begin
            create role dogwatch_rpc nologin noinherit;
        exception when duplicate_object or unique_violation then
            -- Another database of the same cluster has it already.
        end;
        grant usage on schema dogwatch to dogwatch_rpc;
        grant select, insert, update, delete on all tables in schema dogwatch to dogwatch_rpc;
    end if;
    for item in select c.oid::regclass as name from pg_catalog.pg_class c
        where c.relnamespace = 'dogwatch'::regnamespace and c.relkind = 'r'
            and c.relname in ('users', 'tasks', 'task_attempts', 'task_holds', 'workers', 'incarnations', 'snapshots',
                'decisions', 'action_results', 'processes', 'lease', 'refusals', 'audit', 'pause', 'writes',
                'settings') loop
        execute format('alter table %s enable row level security', item.name);
        if owner <> current_user then
            execute format('create policy dogwatch_rpc on %s to dogwatch_rpc using (true) with check (true)', item.name);
        end if;
    end loop;
    for item in select p.oid::regprocedure as name, p.pronamespace from pg_catalog.pg_proc p
        where p.pronamespace = 'dogwatch'::regnamespace
            or (p.pronamespace = 'public'::regnamespace and p.proname in ('dw_register', 'dw_heartbeat', 'dw_claim_task',
                'dw_task_progress', 'dw_complete_task', 'dw_fail_task', 'dw_exit')) loop
        execute format('revoke all on function %s from public', item.name);
        if item.pronamespace = 'public'::regnamespace then
            if owner <> current_user then
                execute format('alter function %s owner to %I', item.name, owner);
            end if;
        elsif owner <> current_user then
            execute format('grant execute on function %s to %I', item.name, owner);
        end if;
    end loop;
end
$$;

-- Roles of a Supabase project, where there are such: workers call as anon; the service role reads
-- and writes as an operator does.
do $$
declare
    who text;
    name text;
begin
    foreach who in array '{anon,authenticated,service_role}'::text[] loop
        if to_regrole(who) is null then
            continue;
        end if;
        foreach name in array '{dw_register,dw_heartbeat,dw_claim_task,dw_task_progress,dw_complete_task,dw_fail_task,dw_exit}'::text[] loop
            execute format('grant execute on function public.%I(jsonb) to %I', name, who);
        end loop;
    end loop;
    if to_regrole('service_role') is not null then
        grant usage on schema dogwatch to service_role;
        grant select, insert, update, delete on all tables in schema dogwatch to service_role;
        grant execute on all functions in schema dogwatch to service_role;
    end if;
end
$$;

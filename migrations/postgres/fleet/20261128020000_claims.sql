-- Claims that cost the same however long the queue is and whoever stands at its head; and functions that run
-- with their owner's rights look up types where no caller can put one.
--
-- The view dw_tasks stays as it is, and so do the functions below it where an operator has replaced
-- them. A statement that every claim makes is planned once a session and not once a call: the
-- functions on that way are plpgsql, and a plan is kept whatever it is called with.

-- ---- what a plan looks at ----

-- Two small indexes on tasks in hand looked equally cheap while nothing was in hand, and a session
-- that had chosen the wrong one read all of it from then on. The limit is counted by tasks_of_user.
drop index dogwatch.tasks_in_hand_of_user;
-- A claim and a beat: what this worker has not ended yet.
create index task_attempts_open on dogwatch.task_attempts (worker_id) where ended_at is null;

-- Checks are read anew by each statement that writes: long lists stand in functions, and functions that are
-- called there or by a trigger are not in SQL, which would be parsed each time.
create or replace function dogwatch.may_become(state text, next text) returns boolean
language plpgsql immutable parallel safe as $$
begin
    return state = next or next = any (case state
        when 'planned' then '{requesting,terminating,gone}'
        when 'requesting' then '{created,ambiguous,rejected,provisioning,starting,alive,terminating,gone}'
        when 'created' then '{provisioning,starting,alive,draining,terminating,gone}'
        when 'ambiguous' then '{created,provisioning,starting,alive,terminating,gone}'
        when 'rejected' then '{gone}'
        when 'provisioning' then '{starting,alive,draining,terminating,gone}'
        when 'starting' then '{alive,draining,terminating,gone}'
        when 'alive' then '{idle,busy,draining,terminating,gone}'
        when 'idle' then '{busy,draining,terminating,gone}'
        when 'busy' then '{idle,draining,terminating,gone}'
        when 'draining' then '{terminating,gone}'
        when 'terminating' then '{gone}'
        else '{}'
    end::text[]);
end
$$;

create or replace function dogwatch.status_of(state text) returns text
language plpgsql immutable parallel safe as $$
begin
    return case
        when state in ('planned', 'requesting', 'created', 'ambiguous', 'provisioning', 'starting') then 'spawning'
        when state in ('alive', 'idle', 'busy', 'draining') then 'active'
        when state = 'terminating' then 'terminating'
        else 'terminated'
    end;
end
$$;

create function dogwatch.is_state(word text) returns boolean
language plpgsql immutable parallel safe as $$
begin
    return word in ('planned', 'requesting', 'created', 'ambiguous', 'rejected', 'provisioning', 'starting', 'alive',
        'idle', 'busy', 'draining', 'terminating', 'gone');
end
$$;

create function dogwatch.is_outcome(word text) returns boolean
language plpgsql immutable parallel safe as $$
begin
    return word in ('planned', 'operator', 'provider_capacity', 'provider_fault', 'boot', 'worker_crash', 'stalled',
        'poison_task', 'external', 'controller_error', 'unknown');
end
$$;

alter table dogwatch.workers
    drop constraint workers_state, add constraint workers_state check (dogwatch.is_state(state)),
    drop constraint workers_words, add constraint workers_words check (outcome is null or dogwatch.is_outcome(outcome));

-- Each waiting task with the first bucket that fits, the pool that takes it ('' = any), and what its
-- worker is told. `ready` is what remains: user_limit or claimable, which only a count over its user's
-- tasks can tell apart.
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
        when q.pool is null and r.pool is null and (select min(p.task_type) from dogwatch.queue_pools p) is not null
            then 'wrong_type'
        else 'ready'
    end as bucket,
    coalesce(q.pool, r.pool, '') as pool,
    v.task_type,
    v.params,
    v.traceparent
from dogwatch.dw_tasks v
left join dogwatch.task_holds h on h.task_id = v.id
left join dogwatch.queue_pools q on q.task_type = v.task_type
left join dogwatch.queue_pools r on r.task_type = ''
where v.status = 'Queued';

-- The plain versions, where nobody has put their own in their place.
create function dogwatch.is_plain(name text, digest text) returns boolean
language sql stable as $$
    select exists (
        select from pg_catalog.pg_proc p
        where p.pronamespace = 'dogwatch'::regnamespace and p.proname = name and md5(p.prosrc) = digest)
$$;

do $$
begin
    if dogwatch.is_plain('dw_claim', 'bf1f975ae302525f5215b24d45a87da2') then
        create or replace function dogwatch.dw_claim(task uuid, worker text, at timestamptz) returns bigint
        language plpgsql as $claim$
        declare
            attempt bigint;
        begin
            update dogwatch.tasks t
            set status = 'In Progress', worker_id = worker, attempts = t.attempts + 1, generation_started_at = at,
                updated_at = at
            where t.id = (
                select w.id from dogwatch.tasks w
                where w.id = task and (w.status = 'Queued' or (w.status = 'In Progress' and w.worker_id = worker))
                for update skip locked)
            returning t.attempts into attempt;
            return attempt;
        end
        $claim$;
    end if;
    if dogwatch.is_plain('dw_finish', 'e130918f89fc20a049218271ede1547b') then
        create or replace function dogwatch.dw_finish(
            task uuid, worker text, attempt bigint, final_status text, error text, result jsonb, at timestamptz)
        returns boolean
        language plpgsql as $finish$
        begin
            update dogwatch.tasks t
            set status = final_status, error_message = coalesce(error, t.error_message),
                output = coalesce(result, t.output), generation_processed_at = at, updated_at = at
            where t.id = task and (
                (t.status = 'In Progress' and t.worker_id = worker and t.attempts = attempt)
                or (worker is null and t.status in ('Queued', 'In Progress')));
            return found;
        end
        $finish$;
    end if;
    if dogwatch.is_plain('dw_requeue', 'bb60ebb54d63b1a61653acabc858231a') then
        create or replace function dogwatch.dw_requeue(
            task uuid, worker text, attempt bigint, error text, at timestamptz) returns boolean
        language plpgsql as $requeue$
        begin
            update dogwatch.tasks t
            set status = 'Queued', error_message = coalesce(error, t.error_message), worker_id = null,
                generation_started_at = null, updated_at = at
            where t.id = task and t.status = 'In Progress' and t.worker_id = worker and t.attempts = attempt;
            return found;
        end
        $requeue$;
    end if;
end
$$;

drop function dogwatch.is_plain(text, text);

-- ---- heads ----

-- Where the queue is long and its head is taken up by users who may not have more, each of its users'
-- oldest task, by kind of claim (pool and run type). It is a hint: what it names is checked again when it
-- is taken, and a claim that finds it a second old looks at the queue again. Nothing is lost with it.
create unlogged table dogwatch.claim_heads (
    kind      text not null,
    user_id   text not null,
    queued_at timestamptz not null,
    task_id   uuid not null,
    primary key (kind, user_id)
);

-- A claim: the oldest.
create index claim_heads_oldest on dogwatch.claim_heads (kind, queued_at, task_id);

-- When each kind's heads were looked for.
create unlogged table dogwatch.claim_scans (
    kind     text primary key,
    pool     text not null,
    run_type text,
    at       timestamptz not null
);

-- Whether a task of this pool and run type is for such a worker.
create function dogwatch.suits(pool text, run_type text, own_pool text, own_run_type text) returns boolean
language sql immutable parallel safe as $$
    select pool in ('', own_pool) and (own_run_type is null or run_type is null or run_type = own_run_type)
$$;

-- The oldest task of a user that such a worker may have: mostly it is one of the first. (The user stands in the
-- order, and not as an equality, so that the index that begins with the user is the only one that fits: by the
-- queue's own order one would read the tasks of all who are older.)
create function dogwatch.head_of(whose text, own_pool text, run_type text, out queued_at timestamptz, out task uuid)
language plpgsql stable as $$
begin
    select h.queued_at, h.id into head_of.queued_at, task from (
        select q.* from dogwatch.dw_queue q where q.user_id >= whose and q.user_id <= whose
        order by q.user_id, q.queued_at, q.id limit 16
    ) h
    where h.bucket = 'ready' and dogwatch.suits(h.pool, h.run_type, own_pool, head_of.run_type) limit 1;
    if task is null then
        select q.queued_at, q.id into head_of.queued_at, task from dogwatch.dw_queue q
        where q.user_id >= whose and q.user_id <= whose and q.bucket = 'ready'
            and dogwatch.suits(q.pool, q.run_type, own_pool, head_of.run_type)
        order by q.user_id, q.queued_at, q.id limit 1;
    end if;
end
$$;

-- The same of every user who may have one more, found by index: from each user to the next.
create function dogwatch.heads(own_pool text, run_type text, user_limit bigint)
returns table (user_id text, queued_at timestamptz, task uuid)
language plpgsql stable as $$
begin
    return query
    with recursive waiting (whose) as (
        (
            select t.user_id from dogwatch.dw_tasks t
            where t.status = 'Queued' and t.user_id >= '' order by t.user_id limit 1)
        union all
        select (
            select t.user_id from dogwatch.dw_tasks t
            where t.status = 'Queued' and t.user_id > w.whose order by t.user_id limit 1)
        from waiting w where w.whose is not null
    )
    select w.whose, h.queued_at, h.task
    from waiting w
    cross join lateral (
        select count(*) as tasks from dogwatch.dw_tasks t where t.status = 'In Progress' and t.user_id = w.whose
    ) hands
    cross join lateral dogwatch.head_of(
        case when hands.tasks < user_limit then w.whose end, own_pool, heads.run_type) h
    where h.task is not null;
end
$$;

-- Looks for the heads of one kind of claim. What another transaction holds is left as it is. Run types are the
-- callers' words: of 64 kinds, the one that was looked for longest ago goes first.
create function dogwatch.scan_heads(this_kind text, own_pool text, run_type text, user_limit bigint, at timestamptz)
returns void
language plpgsql as $$
begin
    with gone as (
        delete from dogwatch.claim_scans s where s.kind in (
            select o.kind from dogwatch.claim_scans o where o.kind <> this_kind order by o.at desc, o.kind offset 63
            for update skip locked)
        returning s.kind
    )
    delete from dogwatch.claim_heads h where h.kind in (select g.kind from gone g);
    with found as materialized (
        select * from dogwatch.heads(own_pool, scan_heads.run_type, user_limit)
    ), kept as (
        insert into dogwatch.claim_heads as old (kind, user_id, queued_at, task_id)
        select this_kind, f.user_id, f.queued_at, f.task from found f order by f.user_id
        on conflict (kind, user_id) do update set queued_at = excluded.queued_at, task_id = excluded.task_id
            where (old.queued_at, old.task_id) is distinct from (excluded.queued_at, excluded.task_id)
    )
    delete from dogwatch.claim_heads h where h.kind = this_kind and h.user_id in (
        select o.user_id from dogwatch.claim_heads o
        where o.kind = this_kind and o.user_id not in (select f.user_id from found f)
        for update skip locked);
    insert into dogwatch.claim_scans (kind, pool, run_type, at)
    values (this_kind, own_pool, scan_heads.run_type, scan_heads.at)
    on conflict (kind) do update set at = excluded.at;
end
$$;

-- A user's head is another one, or (null) the user has none.
create function dogwatch.set_head(this_kind text, whose text, queued_at timestamptz, task uuid) returns void
language plpgsql as $$
begin
    perform from dogwatch.claim_heads h where h.kind = this_kind and h.user_id = whose for update skip locked;
    if not found then
        return;
    elsif task is null then
        delete from dogwatch.claim_heads h where h.kind = this_kind and h.user_id = whose;
    else
        update dogwatch.claim_heads h set queued_at = set_head.queued_at, task_id = task
        where h.kind = this_kind and h.user_id = whose;
    end if;
end
$$;

-- A task has left somebody's hands: where heads are kept, its user may have one again.
create function dogwatch.freed(task uuid, at timestamptz) returns void
language plpgsql as $$
declare
    s record;
    whose text;
    head record;
begin
    for s in
        select c.kind, c.pool, c.run_type from dogwatch.claim_scans c
        where c.at > freed.at - interval '1 second' order by c.kind
    loop
        whose := coalesce(whose, (select t.user_id from dogwatch.dw_tasks t where t.id = task));
        select * into head from dogwatch.head_of(whose, s.pool, s.run_type);
        insert into dogwatch.claim_heads as old (kind, user_id, queued_at, task_id)
        select s.kind, whose, head.queued_at, head.task where head.task is not null
        on conflict (kind, user_id) do update set queued_at = excluded.queued_at, task_id = excluded.task_id
            where (excluded.queued_at, excluded.task_id) < (old.queued_at, old.task_id);
    end loop;
end
$$;

-- The queue's head is enough again.
create function dogwatch.forget_heads(this_kind text) returns void
language plpgsql as $$
begin
    delete from dogwatch.claim_scans s where s.kind in (
        select o.kind from dogwatch.claim_scans o where o.kind = this_kind for update skip locked);
    delete from dogwatch.claim_heads h where h.kind = this_kind and h.user_id in (
        select o.user_id from dogwatch.claim_heads o where o.kind = this_kind for update skip locked);
end
$$;

-- What may give somebody a task to claim: heads that are a moment old are looked for anew.
create function dogwatch.scan_again() returns trigger
language plpgsql security definer as $$
begin
    update dogwatch.claim_scans s set at = '-infinity' where s.kind in (
        select o.kind from dogwatch.claim_scans o
        where o.at > '-infinity' and o.at < now() - interval '0.1 seconds' for update skip locked);
    return null;
end
$$;

create trigger tasks_scans after insert on dogwatch.tasks execute function dogwatch.scan_again();
create trigger users_scans after insert or update on dogwatch.users execute function dogwatch.scan_again();
create trigger task_holds_scans after update or delete on dogwatch.task_holds execute function dogwatch.scan_again();
create trigger queue_pools_scans after insert or update or delete on dogwatch.queue_pools
    execute function dogwatch.scan_again();

-- ---- a claim ----

-- Takes this task, if it still may be had and its user may have one more. The caller holds the user's lock, so
-- that nobody else counts or claims for that user meanwhile, and this statement sees what they did before.
create function dogwatch.claim_one(
    wanted uuid, whose text, worker text, own_pool text, user_limit bigint, at timestamptz,
    out task uuid, out attempt bigint, out answer jsonb)
language plpgsql as $$
begin
    select dogwatch.dw_claim(q.id, worker, claim_one.at),
        jsonb_build_object('task_id', q.id, 'task_type', q.task_type, 'params', q.params, 'traceparent', q.traceparent,
            'user', q.user_id)
    into attempt, answer
    from dogwatch.dw_queue q
    where q.id = wanted and q.bucket = 'ready' and q.pool in ('', own_pool) and user_limit > (
        select count(*) from dogwatch.dw_tasks t where t.status = 'In Progress' and t.user_id = whose);
    if attempt is not null then
        task := wanted;
    end if;
end
$$;

-- Users to try, the oldest task first: those of the heads that are kept, or of the whole queue.
drop function dogwatch.candidates(text, text, text[], boolean);
create function dogwatch.candidates(this_kind text, own_pool text, run_type text, user_limit bigint)
returns table (user_id text, task uuid)
language plpgsql stable as $$
begin
    if this_kind is not null then
        return query
        select h.user_id, h.task_id from dogwatch.claim_heads h where h.kind = this_kind
        order by h.queued_at, h.task_id limit 32;
    else
        return query
        select h.user_id, h.task from dogwatch.heads(own_pool, candidates.run_type, user_limit) h
        order by h.queued_at, h.task limit 1000;
    end if;
end
$$;

-- Takes the oldest task of any user who may have one. A user whose lock is held by another claim is passed
-- over, and waited for only where nothing else is to be had and no lock is held.
create function dogwatch.take_of_users(
    this_kind text, worker text, own_pool text, run_type text, user_limit bigint, at timestamptz,
    is_holding boolean, out task uuid, out attempt bigint, out answer jsonb)
language plpgsql as $$
declare
    c record;
    taken record;
    head record;
    busy text;
    is_dropped boolean;
begin
    for round in 1..4 loop
        busy := null;
        is_dropped := false;
        for c in select * from dogwatch.candidates(this_kind, own_pool, run_type, user_limit) loop
            if not pg_try_advisory_xact_lock(dogwatch.user_key(c.user_id)) then
                busy := coalesce(busy, c.user_id);
                continue;
            end if;
            is_holding := true;
            taken := dogwatch.claim_one(c.task, c.user_id, worker, own_pool, user_limit, at);
            if taken.attempt is null then
                head := dogwatch.head_of(c.user_id, own_pool, run_type);
                taken := dogwatch.claim_one(head.task, c.user_id, worker, own_pool, user_limit, at);
            end if;
            task := taken.task;
            attempt := taken.attempt;
            answer := taken.answer;
            if this_kind is not null then
                head := dogwatch.head_of(case when attempt is not null then c.user_id end, own_pool, run_type);
                perform dogwatch.set_head(this_kind, c.user_id, head.queued_at, head.task);
                is_dropped := true;
            end if;
            if attempt is not null then
                return;
            end if;
        end loop;
        continue when is_dropped;
        exit when is_holding or busy is null;
        perform pg_advisory_xact_lock(dogwatch.user_key(busy));
        is_holding := true;
    end loop;
end
$$;

-- Takes one claimable task: the oldest at the queue's head; where that is taken up by users who may not have
-- more, the oldest of any other user. `scanned`: when this kind's heads were looked for.
drop function dogwatch.take(text, text, bigint, timestamptz);
create function dogwatch.take(
    this_kind text, scanned timestamptz, worker text, own_pool text, run_type text, user_limit bigint, at timestamptz,
    out task uuid, out attempt bigint, out answer jsonb)
language plpgsql as $$
declare
    is_kept boolean := coalesce(scanned between at - interval '1 second' and at + interval '1 second', false);
    is_scanner boolean := false;
    is_holding boolean := false;
    passed text[] := '{}';
    c record;
    taken record;
begin
    if user_limit <= 0 then
        return;
    elsif scanned is not null and not is_kept then
        -- One looks again; meanwhile the others go by what is there.
        is_scanner := pg_try_advisory_xact_lock(hashtextextended('dogwatch.heads:' || this_kind, 0));
        is_kept := not is_scanner;
    end if;
    while not is_kept loop
        -- The lock comes last, and for who may have one more only: row by row, in the queue's order.
        select h.id, h.user_id into c from (
            select q.* from dogwatch.dw_queue q order by q.queued_at, q.id limit 64
        ) h
        cross join lateral (
            select count(*) as tasks from dogwatch.dw_tasks t where t.status = 'In Progress' and t.user_id = h.user_id
        ) hands
        where h.bucket = 'ready' and dogwatch.suits(h.pool, h.run_type, own_pool, take.run_type)
            and h.user_id <> all (passed)
            and pg_try_advisory_xact_lock(case when hands.tasks < user_limit then dogwatch.user_key(h.user_id) end)
        limit 1;
        exit when not found;
        is_holding := true;
        taken := dogwatch.claim_one(c.id, c.user_id, worker, own_pool, user_limit, at);
        if taken.attempt is not null then
            task := taken.task;
            attempt := taken.attempt;
            answer := taken.answer;
            if is_scanner then
                perform dogwatch.forget_heads(this_kind);
            end if;
            return;
        end if;
        passed := passed || c.user_id;
    end loop;
    if not is_kept then
        is_kept := exists (
            select from dogwatch.dw_tasks t where t.status = 'Queued' order by t.queued_at, t.id offset 1000 limit 1);
        if is_kept and not is_scanner and is_holding then
            is_scanner := pg_try_advisory_xact_lock(hashtextextended('dogwatch.heads:' || this_kind, 0));
        elsif is_kept and not is_scanner then
            perform pg_advisory_xact_lock(hashtextextended('dogwatch.heads:' || this_kind, 0));
            is_scanner := not exists (
                select from dogwatch.claim_scans s where s.kind = this_kind and s.at > take.at - interval '1 second');
        end if;
        if is_scanner and is_kept then
            perform dogwatch.scan_heads(this_kind, own_pool, run_type, user_limit, at);
        elsif is_scanner then
            perform dogwatch.forget_heads(this_kind);
        end if;
    end if;
    taken := dogwatch.take_of_users(
        case when is_kept then this_kind end, worker, own_pool, run_type, user_limit, at, is_holding);
    task := taken.task;
    attempt := taken.attempt;
    answer := taken.answer;
end
$$;

-- ---- the calls ----

-- Who calls: why it is not this worker.
create function dogwatch.stranger(w dogwatch.workers, body jsonb) returns jsonb
language plpgsql immutable as $$
begin
    if w.token_sha256 is distinct from sha256(convert_to(body ->> 'worker_token', 'UTF8')) or w.id is null then
        return dogwatch.refusal('DW401', 'unknown worker or wrong token', null,
            'start the agent with the worker id and token it was spawned with');
    elsif w.ended_at is not null then
        return dogwatch.superseded('this worker has ended');
    end if;
    return null;
end
$$;

-- The same, and why it is not the newest start of its agent.
create function dogwatch.outsider(w dogwatch.workers, body jsonb) returns jsonb
language plpgsql immutable as $$
declare
    refused jsonb := dogwatch.stranger(w, body);
begin
    if refused is not null then
        return refused;
    elsif w.incarnation is null then
        return dogwatch.superseded('this start of the agent has not registered');
    elsif w.incarnation <> (body ->> 'incarnation')::uuid then
        return dogwatch.superseded('a later start of this agent has taken over');
    end if;
    return null;
end
$$;

create or replace function dogwatch.admit_token(
    body jsonb, is_writer boolean, out w dogwatch.workers, out refused jsonb)
language plpgsql as $$
begin
    if is_writer then
        select * into w from dogwatch.workers where id = body ->> 'worker_id' for no key update;
    else
        select * into w from dogwatch.workers where id = body ->> 'worker_id';
    end if;
    refused := dogwatch.stranger(w, body);
end
$$;

create or replace function dogwatch.admit(body jsonb, is_writer boolean, out w dogwatch.workers, out refused jsonb)
language plpgsql as $$
begin
    if is_writer then
        select * into w from dogwatch.workers where id = body ->> 'worker_id' for no key update;
    else
        select * into w from dogwatch.workers where id = body ->> 'worker_id';
    end if;
    refused := dogwatch.outsider(w, body);
end
$$;

-- Writes what calls can change.
create or replace function dogwatch.save(w dogwatch.workers) returns void
language plpgsql as $$
begin
    update dogwatch.workers set
        status = w.status, state = w.state, state_since = w.state_since, incarnation = w.incarnation,
        beat_seq = w.beat_seq, progress_seq = w.progress_seq, promoted_at = w.promoted_at,
        first_heartbeat_at = w.first_heartbeat_at, last_heartbeat = w.last_heartbeat, progress_at = w.progress_at,
        idle_since = w.idle_since, tasks_claimed = w.tasks_claimed, info = w.info, exited_at = w.exited_at,
        exit_report = w.exit_report, gpu = w.gpu, quarantine = w.quarantine
    where id = w.id;
end
$$;

create or replace function dogwatch.in_hand(worker text) returns bigint
language plpgsql stable as $$
begin
    return (select count(*) from dogwatch.dw_tasks t where t.status = 'In Progress' and t.worker_id = worker);
end
$$;

-- An attempt is over, by whoever ended it.
create or replace function dogwatch.end_attempt(task uuid, attempt bigint, answer text, at timestamptz) returns void
language plpgsql as $$
begin
    update dogwatch.task_attempts a
    set ended_at = end_attempt.at, answer = coalesce(end_attempt.answer, a.answer)
    where a.task_id = task and a.attempt = end_attempt.attempt;
end
$$;

create or replace function dogwatch.claimed(worker text, claim uuid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_build_object('task_id', t.id, 'attempt', a.attempt, 'task_type', t.task_type, 'params', t.params,
            'traceparent', t.traceparent, 'user', t.user_id)
        from dogwatch.task_attempts a join dogwatch.dw_tasks t on t.id = a.task_id
        where a.worker_id = worker and a.claim_id = claim);
end
$$;

-- A task that an earlier start of the same agent took with it: it stays with its worker until that has ended,
-- so this start does it again. Those without attempts left fail.
create function dogwatch.take_again(
    worker text, start uuid, at timestamptz, out task uuid, out attempt bigint, out answer jsonb)
language plpgsql as $$
declare
    left_task record;
begin
    for left_task in
        select t.id, t.attempts from dogwatch.task_attempts a
        join dogwatch.dw_tasks t on t.id = a.task_id
        where a.worker_id = take_again.worker and a.ended_at is null and a.incarnation <> start and a.attempt = t.attempts
            and t.status = 'In Progress' and t.worker_id = take_again.worker
        order by t.started_at, t.id limit 100
    loop
        if left_task.attempts < 3 then
            attempt := dogwatch.dw_claim(left_task.id, worker, at);
            if attempt is not null then
                task := left_task.id;
                return;
            end if;
        elsif dogwatch.dw_finish(left_task.id, worker, left_task.attempts, 'Failed',
            dogwatch.no_attempts_left('the agent was started again', left_task.attempts), null, at) then
            perform dogwatch.end_attempt(left_task.id, left_task.attempts, null, at);
        end if;
    end loop;
end
$$;

create or replace function dogwatch.door_claim(body jsonb, at timestamptz, user_limit bigint) returns jsonb
language plpgsql as $$
declare
    w record;
    refused jsonb;
    claim uuid;
    before record;
    taken record;
    v_kind text;
begin
    -- What is in order is seen at once; what is not is looked at by who can say why.
    if not coalesce(jsonb_typeof(body -> 'worker_id') = 'string' and jsonb_typeof(body -> 'worker_token') = 'string'
        and dogwatch.fits(body -> 'incarnation', 'uuid') and dogwatch.fits(body -> 'claim_id', 'uuid')
        and coalesce(jsonb_typeof(body -> 'run_type'), 'null') in ('string', 'null'), false) then
        refused := dogwatch.check_keys(body,
            'worker_id', 'text', 'the worker''s id, a string',
            'worker_token', 'text', 'the worker''s token, a string',
            'incarnation', 'uuid', 'a uuid',
            'claim_id', 'uuid', 'a uuid',
            'run_type', 'text?', 'a string or null');
        if refused is not null then
            return refused;
        end if;
    end if;
    select v.id, v.pool, v.state, v.exited_at, v.incarnation, coalesce(
        v.token_sha256 = sha256(convert_to(body ->> 'worker_token', 'UTF8')) and v.ended_at is null
        and v.incarnation = (body ->> 'incarnation')::uuid, false) as is_known
    into w from dogwatch.workers v where v.id = body ->> 'worker_id' for no key update;
    if w.is_known is not true then
        return (dogwatch.admit(body, true)).refused;
    end if;
    claim := (body ->> 'claim_id')::uuid;
    v_kind := jsonb_build_array(w.pool, body -> 'run_type')::text;
    select exists (select from dogwatch.task_attempts a where a.worker_id = w.id and a.claim_id = claim) as is_repeated,
        exists (select from dogwatch.task_attempts a where a.worker_id = w.id and a.ended_at is null
            and a.incarnation <> w.incarnation) as has_more,
        (select s.at from dogwatch.claim_scans s where s.kind = v_kind) as scanned
    into before;
    if before.is_repeated then
        return dogwatch.claimed(w.id, claim);
    elsif w.exited_at is not null or w.state not in ('alive', 'idle', 'busy') then
        return null;
    end if;
    if before.has_more then
        taken := dogwatch.take_again(w.id, w.incarnation, at);
    end if;
    if taken is null then
        taken := dogwatch.take(v_kind, before.scanned, w.id, w.pool, body ->> 'run_type', user_limit, at);
    end if;
    if taken.attempt is null then
        return null;
    end if;
    insert into dogwatch.task_attempts (task_id, attempt, worker_id, incarnation, claim_id, claimed_at)
    values (taken.task, taken.attempt, w.id, w.incarnation, claim, door_claim.at);
    update dogwatch.workers v set
        state = 'busy', status = dogwatch.status_of('busy'), idle_since = null,
        state_since = case when v.state = 'busy' then v.state_since else door_claim.at end,
        promoted_at = coalesce(v.promoted_at, door_claim.at), progress_at = door_claim.at,
        tasks_claimed = v.tasks_claimed + 1
    where v.id = w.id;
    return coalesce(taken.answer || jsonb_build_object('attempt', taken.attempt), dogwatch.claimed(w.id, claim));
end
$$;

-- An attempt says that it is over.
create or replace function dogwatch.over(body jsonb, ending text, result jsonb, error text, at timestamptz) returns jsonb
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
    perform dogwatch.freed(v_task, at);
    w.progress_at := at;
    if w.state = 'busy' and dogwatch.in_hand(w.id) = 0 then
        w := dogwatch.reach(w, 'idle', at);
    end if;
    perform dogwatch.save(w);
    return jsonb_build_object('status', ended, 'attempts', number);
end
$$;

-- Whatever a call is about, its statements are the same: they are planned once a session, by index whatever
-- the statistics say at that moment.
do $$
declare
    door regprocedure;
    setting text;
begin
    for door in select p.oid from pg_catalog.pg_proc p
        where p.pronamespace = 'dogwatch'::regnamespace and p.proname in ('door_register', 'door_heartbeat', 'door_claim',
            'door_progress', 'door_complete', 'door_fail', 'door_exit') loop
        foreach setting in array '{plan_cache_mode=force_generic_plan,enable_seqscan=off,enable_bitmapscan=off,enable_sort=off,jit=off}'::text[] loop
            execute format('alter function %s set %s', door, setting);
        end loop;
    end loop;
end
$$;

create or replace function dogwatch.fleet_level() returns bigint
language sql immutable as $$ select 3::bigint $$;

-- ---- rights ----

do $$
declare
    is_super boolean := (select rolsuper from pg_catalog.pg_roles where rolname = current_user);
    item text;
begin
    foreach item in array '{claim_heads,claim_scans}'::text[] loop
        execute format('alter table dogwatch.%I enable row level security', item);
        if is_super then
            execute format('grant select, insert, update, delete on dogwatch.%I to dogwatch_rpc', item);
            execute format('create policy dogwatch_rpc on dogwatch.%I to dogwatch_rpc using (true) with check (true)', item);
        end if;
        if to_regrole('service_role') is not null then
            execute format('grant select, insert, update, delete on dogwatch.%I to service_role', item);
        end if;
    end loop;
    for item in select p.oid::regprocedure from pg_catalog.pg_proc p
        where p.pronamespace = 'dogwatch'::regnamespace and p.proname in ('suits', 'head_of', 'heads', 'scan_heads',
            'set_head', 'freed', 'scan_again', 'claim_one', 'candidates', 'take_of_users', 'take', 'take_again',
            'stranger', 'outsider',
            'forget_heads', 'is_state', 'is_outcome') loop
        execute format('revoke all on function %s from public', item);
        if is_super then
            execute format('grant execute on function %s to dogwatch_rpc', item);
        end if;
        if to_regrole('service_role') is not null then
            execute format('grant execute on function %s to service_role', item);
        end if;
    end loop;
    if is_super then
        alter function dogwatch.scan_again() owner to dogwatch_rpc;
    end if;
    -- A path that does not name it begins with the caller's temporary schema, where a type of the caller's own
    -- making may bear any name, and its checks would be carried out with the function's rights. So it comes last.
    for item in select p.oid::regprocedure from pg_catalog.pg_proc p
        where p.prosecdef and (p.oid = 'dogwatch.scan_again()'::regprocedure
            or (p.pronamespace = 'public'::regnamespace and p.proname in ('dw_register', 'dw_heartbeat', 'dw_claim_task',
                'dw_task_progress', 'dw_complete_task', 'dw_fail_task', 'dw_exit', 'dw_ingest_logs',
                'dw_maintain_system_logs', 'telemetry_silence'))) loop
        execute format('alter function %s set search_path = pg_catalog, pg_temp', item);
    end loop;
end
$$;

-- Claims of several workers in one transaction: what a claim costs beside its three rows (its statements, their
-- checks, the look at the queue, the commit) is paid once for all of them.
--
-- For who speaks for many workers, as the gateway does; who holds one worker's token claims by dw_claim_task as
-- before. The rules are the same: the oldest tasks of those who may have more, the caller who stands first gets
-- the older. Nothing here waits for anybody: a worker's row, a user or a list of heads that somebody else holds
-- is passed over, and a call that this leaves open, or that is not plain, has no row in the answer. It
-- is made again by itself, where there is time to wait and to say why not.

-- ---- what a user has in hand ----

-- A count for the limit goes by the index that begins with the user: the order asks for it, and not an equality.
-- While little is in hand, the small index on what each worker has looks cheaper, and a session that has chosen it
-- reads all that is in hand at every claim from then on.

-- The same of every user who may have one more, found by index: from each user to the next.
create or replace function dogwatch.heads(own_pool text, run_type text, user_limit bigint)
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
        select count(*) as tasks from (
            select from dogwatch.dw_tasks t
            where t.status = 'In Progress' and t.user_id >= w.whose and t.user_id <= w.whose order by t.user_id) of_user
    ) hands
    cross join lateral dogwatch.head_of(
        case when hands.tasks < user_limit then w.whose end, own_pool, heads.run_type) h
    where h.task is not null;
end
$$;

-- Takes this task, if it still may be had and its user may have one more. The caller holds the user's lock, so
-- that nobody else counts or claims for that user meanwhile, and this statement sees what they did before.
create or replace function dogwatch.claim_one(
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
        select count(*) from (
            select from dogwatch.dw_tasks t
            where t.status = 'In Progress' and t.user_id >= whose and t.user_id <= whose order by t.user_id) of_user);
    if attempt is not null then
        task := wanted;
    end if;
end
$$;

-- Takes one claimable task: the oldest at the queue's head; where that is taken up by users who may not have
-- more, the oldest of any other user. `scanned`: when this kind's heads were looked for.
create or replace function dogwatch.take(
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
            select count(*) as tasks from (
                select from dogwatch.dw_tasks t
                where t.status = 'In Progress' and t.user_id >= h.user_id and t.user_id <= h.user_id
                order by t.user_id) of_user
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

-- A claim: what an earlier start of the worker's agent has left behind, however much this one has in hand.
drop index dogwatch.task_attempts_open;
create index task_attempts_open on dogwatch.task_attempts (worker_id, incarnation) where ended_at is null;
-- A row's new version has room beside the old ones, also where many workers' rows change at once: so no index
-- has to be written.
alter table dogwatch.workers set (fillfactor = 40);

-- ---- what to take ----

-- The oldest tasks at the queue's head, at most `many`, that users without a lock of somebody else's may have
-- more of; those users are locked from here on. Not by the count that was made before the lock: it is made again.
create function dogwatch.oldest_at_head(
    own_pool text, run_type text, user_limit bigint, many bigint,
    out tasks uuid[], out is_busy boolean, out is_whole boolean)
language plpgsql as $$
begin
    with head as materialized (
        select q.* from dogwatch.dw_queue q order by q.queued_at, q.id limit 64
    ), ready as materialized (
        select h.id, h.user_id, h.queued_at,
            row_number() over (partition by h.user_id order by h.queued_at, h.id) as nth
        from head h
        where h.bucket = 'ready' and dogwatch.suits(h.pool, h.run_type, own_pool, oldest_at_head.run_type)
    ), oldest as materialized (
        select r.id, r.user_id
        from (select * from ready order by queued_at, id) r
        cross join lateral (
            select count(*) as tasks from (
                select from dogwatch.dw_tasks t
                where t.status = 'In Progress' and t.user_id >= r.user_id and t.user_id <= r.user_id order by t.user_id) of_user
        ) hands
        where r.nth <= user_limit - hands.tasks
        order by r.queued_at, r.id limit many
    ), users as materialized (
        select u.user_id, pg_try_advisory_xact_lock(dogwatch.user_key(u.user_id)) as is_ours
        from (select distinct o.user_id from oldest o) u
    )
    select array_agg(o.id) filter (where u.is_ours), coalesce(bool_or(not u.is_ours), false),
        (select count(*) < 64 from head)
    into tasks, is_busy, is_whole
    from oldest o join users u on u.user_id = o.user_id;
end
$$;

-- The same of the users whose heads are kept, or of all who wait. `users`: whose lock we have.
create function dogwatch.oldest_of_users(
    this_kind text, own_pool text, run_type text, user_limit bigint, many bigint,
    out tasks uuid[], out users text[], out is_busy boolean)
language plpgsql as $$
begin
    with heads as materialized (
        select c.user_id from dogwatch.candidates(this_kind, own_pool, oldest_of_users.run_type, user_limit) c
        limit many
    ), found as materialized (
        select q.id, h.user_id, q.queued_at
        from heads h
        cross join lateral (
            select count(*) as tasks from (
                select from dogwatch.dw_tasks t
                where t.status = 'In Progress' and t.user_id >= h.user_id and t.user_id <= h.user_id order by t.user_id) of_user
        ) hands
        cross join lateral (
            select q.id, q.queued_at from dogwatch.dw_queue q
            where q.user_id >= h.user_id and q.user_id <= h.user_id and q.bucket = 'ready'
                and dogwatch.suits(q.pool, q.run_type, own_pool, oldest_of_users.run_type)
            order by q.user_id, q.queued_at, q.id limit greatest(least(user_limit - hands.tasks, many), 0)
        ) q
    ), oldest as materialized (
        select f.id, f.user_id from found f order by f.queued_at, f.id limit many
    ), locked as materialized (
        select h.user_id, pg_try_advisory_xact_lock(dogwatch.user_key(h.user_id)) as is_ours
        from heads h
        -- Who has nothing is looked at, too: the head goes.
        where h.user_id in (select o.user_id from oldest o) or h.user_id not in (select f.user_id from found f)
    )
    select (select array_agg(o.id) from oldest o join locked l on l.user_id = o.user_id and l.is_ours),
        (select array_agg(l.user_id) from locked l where l.is_ours),
        (select coalesce(bool_or(not l.is_ours), false) from locked l)
    into tasks, users, is_busy;
end
$$;

-- Takes waiting tasks, each for the worker beside it, as dw_claim does: where that is the plain one, in one
-- statement; an operator's own is called for each. What somebody else is at is not in the answer.
create function dogwatch.claim_tasks(wanted uuid[], ids text[], at timestamptz)
returns table (task uuid, attempt bigint)
language plpgsql as $$
begin
    if (select md5(p.prosrc) from pg_catalog.pg_proc p
        where p.oid = 'dogwatch.dw_claim(uuid,text,timestamptz)'::regprocedure) = '423c6e601bc08bf88cb15d3ee62cc34f'
    then
        return query
        with free as materialized (
            select w.id, c.worker
            from unnest(wanted, ids) as c (task, worker)
            cross join lateral (
                select w.id from dogwatch.tasks w where w.id = c.task and w.status = 'Queued' for update skip locked
            ) w
        )
        update dogwatch.tasks t
        set status = 'In Progress', worker_id = f.worker, attempts = t.attempts + 1,
            generation_started_at = claim_tasks.at, updated_at = claim_tasks.at
        from free f where t.id = f.id
        returning t.id, t.attempts;
    else
        return query
        select c.task, dogwatch.dw_claim(c.task, c.worker, claim_tasks.at)
        from unnest(wanted, ids) as c (task, worker);
    end if;
end
$$;

-- Gives these tasks, the oldest first, to those callers who have none yet, in their order: as many as may still be
-- had. The caller holds the locks of their users, so that this statement sees what others did before.
create function dogwatch.give_together(
    tasks uuid[], ns bigint[], ids text[], starts uuid[], claims uuid[], given bigint[], own_pool text,
    user_limit bigint, at timestamptz)
returns table (n bigint, task uuid, attempt bigint, task_type text, params jsonb, traceparent text, user_id text)
language plpgsql as $$
begin
    return query
    with chosen as materialized (
        select q.id, q.user_id, q.task_type, q.params, q.traceparent, q.queued_at,
            row_number() over (partition by q.user_id order by q.queued_at, q.id) as nth
        from unnest(tasks) as x (id)
        -- One by one, whatever else there is to sort by.
        cross join lateral (select * from dogwatch.dw_queue q where q.id = x.id offset 0) q
        where q.bucket = 'ready' and q.pool in ('', own_pool)
    ), free as materialized (
        select c.*, row_number() over (order by c.queued_at, c.id) as place
        from chosen c
        cross join lateral (
            select count(*) as tasks from (
                select from dogwatch.dw_tasks t
                where t.status = 'In Progress' and t.user_id >= c.user_id and t.user_id <= c.user_id order by t.user_id) of_user
        ) hands
        where c.nth <= user_limit - hands.tasks
    ), callers as materialized (
        select c.n, c.worker, c.start, c.claim, row_number() over (order by c.n) as place
        from unnest(ns, ids, starts, claims) as c (n, worker, start, claim)
        where c.n <> all (given)
    ), pairs as materialized (
        select c.n, c.worker, c.start, c.claim, f.id, f.task_type, f.params, f.traceparent, f.user_id
        from free f join callers c on c.place = f.place
    ), taken as materialized (
        select p.*, c.attempt
        from dogwatch.claim_tasks(
            (select array_agg(p.id order by p.n) from pairs p), (select array_agg(p.worker order by p.n) from pairs p),
            give_together.at) c
        join pairs p on p.id = c.task
    ), attempts as (
        insert into dogwatch.task_attempts (task_id, attempt, worker_id, incarnation, claim_id, claimed_at)
        select t.id, t.attempt, t.worker, t.start, t.claim, give_together.at
        from taken t where t.attempt is not null
    ), workers as (
        update dogwatch.workers v set
            state = 'busy', status = dogwatch.status_of('busy'), idle_since = null,
            state_since = case when v.state = 'busy' then v.state_since else give_together.at end,
            promoted_at = coalesce(v.promoted_at, give_together.at), progress_at = give_together.at,
            tasks_claimed = v.tasks_claimed + 1
        from taken t
        where v.id = t.worker and t.attempt is not null
    )
    select t.n, t.id, t.attempt, t.task_type, t.params, t.traceparent, t.user_id
    from taken t where t.attempt is not null;
end
$$;

-- ---- one kind of claim ----

-- Takes tasks for callers of one pool and run type, whose rows we have locked. Callers who are not in the
-- answer are open; one whose task is null has been looked for everywhere, and there is none.
create function dogwatch.take_together(
    ns bigint[], ids text[], starts uuid[], claims uuid[], own_pool text, run_type text, user_limit bigint,
    at timestamptz)
returns table (n bigint, task uuid, attempt bigint, task_type text, params jsonb, traceparent text, user_id text)
language plpgsql as $$
declare
    this_kind text := jsonb_build_array(own_pool, run_type)::text;
    scanned timestamptz := (select s.at from dogwatch.claim_scans s where s.kind = this_kind);
    is_kept boolean := coalesce(scanned between at - interval '1 second' and at + interval '1 second', false);
    is_scanner boolean := false;
    -- Nobody who is left may have anything.
    is_over boolean := user_limit <= 0;
    given bigint[] := '{}';
    found_now record;
    head record;
    whose text;
begin
    if scanned is not null and not is_kept then
        -- One looks again; meanwhile the others go by what is there.
        is_scanner := pg_try_advisory_xact_lock(hashtextextended('dogwatch.heads:' || this_kind, 0));
        is_kept := not is_scanner;
    end if;
    -- At the head, as long as it gives something.
    while not is_kept and not is_over and cardinality(given) < cardinality(ns) loop
        found_now := dogwatch.oldest_at_head(
            own_pool, run_type, user_limit, cardinality(ns) - cardinality(given));
        is_over := found_now.is_whole and found_now.tasks is null and not found_now.is_busy;
        exit when found_now.tasks is null;
        for n, task, attempt, task_type, params, traceparent, user_id in
            select * from dogwatch.give_together(
                found_now.tasks, ns, ids, starts, claims, given, own_pool, user_limit, at) loop
            given := given || n;
            return next;
        end loop;
        exit when not found;
    end loop;
    if cardinality(given) = cardinality(ns) or is_over then
        if is_scanner then
            perform dogwatch.forget_heads(this_kind);
        end if;
    else
        if not is_kept then
            is_kept := exists (
                select from dogwatch.dw_tasks t where t.status = 'Queued' order by t.queued_at, t.id offset 1000 limit 1);
            if is_kept and not is_scanner then
                is_scanner := pg_try_advisory_xact_lock(hashtextextended('dogwatch.heads:' || this_kind, 0));
                if not is_scanner then
                    return;
                end if;
            end if;
            if is_kept then
                perform dogwatch.scan_heads(this_kind, own_pool, run_type, user_limit, at);
            elsif is_scanner then
                perform dogwatch.forget_heads(this_kind);
            end if;
        end if;
        -- Of users behind the head.
        for round in 1..4 loop
            found_now := dogwatch.oldest_of_users(case when is_kept then this_kind end, own_pool, run_type, user_limit,
                cardinality(ns) - cardinality(given));
            is_over := found_now.tasks is null and found_now.users is null and not found_now.is_busy;
            exit when found_now.tasks is null and found_now.users is null;
            for n, task, attempt, task_type, params, traceparent, user_id in
                select * from dogwatch.give_together(
                    found_now.tasks, ns, ids, starts, claims, given, own_pool, user_limit, at) loop
                given := given || n;
                return next;
            end loop;
            if is_kept then
                foreach whose in array coalesce(found_now.users, '{}') loop
                    head := dogwatch.head_of(case when user_limit > (
                        select count(*) from (
                            select from dogwatch.dw_tasks t
                            where t.status = 'In Progress' and t.user_id >= whose and t.user_id <= whose
                            order by t.user_id) of_user)
                        then whose end, own_pool, run_type);
                    perform dogwatch.set_head(this_kind, whose, head.queued_at, head.task);
                end loop;
            end if;
            exit when cardinality(given) = cardinality(ns);
        end loop;
    end if;
    if is_over then
        return query
        select c.n, null::uuid, null::bigint, null::text, null::jsonb, null::text, null::text
        from unnest(ns) as c (n) where c.n <> all (given);
    end if;
end
$$;

-- ---- the call ----

-- Claims, each with its worker's own token. The callers of one kind are served in their order. A call that has
-- no row in the answer is to be made by itself: its caller is not known or not in order, has made this claim
-- before or has left something behind, or somebody else holds what it needs.
create function dogwatch.door_claims(
    workers text[], tokens text[], starts uuid[], claims uuid[], run_types text[], at timestamptz, user_limit bigint)
returns table (n bigint, task uuid, attempt bigint, task_type text, params jsonb, traceparent text, user_id text)
language plpgsql as $$
declare
    known record;
    k record;
begin
    select array_agg(c.n) as ns, array_agg(c.worker) as ids, array_agg(c.start) as starts, array_agg(c.claim) as claims,
        array_agg(v.pool) as pools, array_agg(c.run_type) as run_types
    into known
    from (
        select c.*, row_number() over (partition by c.worker order by c.n) as of_worker
        from unnest(workers, tokens, starts, claims, run_types)
            with ordinality as c (worker, token, start, claim, run_type, n)
    ) c
    cross join lateral (
        select w.* from dogwatch.workers w where w.id >= c.worker and w.id <= c.worker order by w.id
        for no key update skip locked
    ) v
    where c.of_worker = 1 and v.token_sha256 = sha256(convert_to(c.token, 'UTF8')) and v.incarnation = c.start
        and v.ended_at is null and v.exited_at is null and v.state in ('alive', 'idle', 'busy');
    -- Kind by kind in the order of their names, as everybody goes through lists of heads.
    for k in
        select c.pool, c.run_type, array_agg(c.n order by c.n) as ns, array_agg(c.worker order by c.n) as ids,
            array_agg(c.start order by c.n) as starts, array_agg(c.claim order by c.n) as claims
        from unnest(known.ns, known.ids, known.starts, known.claims, known.pools, known.run_types)
            as c (n, worker, start, claim, pool, run_type)
        where not exists (
                select from dogwatch.task_attempts a where a.worker_id = c.worker and a.claim_id = c.claim)
            -- The lowest and the highest of all starts that have something open.
            and c.start = coalesce((
                select a.incarnation from dogwatch.task_attempts a
                where a.worker_id >= c.worker and a.worker_id <= c.worker and a.ended_at is null
                order by a.worker_id, a.incarnation limit 1), c.start)
            and c.start = coalesce((
                select a.incarnation from dogwatch.task_attempts a
                where a.worker_id >= c.worker and a.worker_id <= c.worker and a.ended_at is null
                order by a.worker_id desc, a.incarnation desc limit 1), c.start)
        group by c.pool, c.run_type
        order by jsonb_build_array(c.pool, c.run_type)::text
    loop
        return query
        select * from dogwatch.take_together(
            k.ns, k.ids, k.starts, k.claims, k.pool, k.run_type, user_limit, door_claims.at);
    end loop;
end
$$;

do $$
declare
    setting text;
begin
    foreach setting in array '{plan_cache_mode=force_generic_plan,enable_seqscan=off,enable_bitmapscan=off,enable_sort=off,jit=off}'::text[] loop
        execute format('alter function dogwatch.door_claims set %s', setting);
    end loop;
end
$$;

create or replace function dogwatch.fleet_level() returns bigint
language sql immutable as $$ select 4::bigint $$;

-- ---- rights ----

do $$
declare
    item text;
begin
    for item in select p.oid::regprocedure from pg_catalog.pg_proc p
        where p.pronamespace = 'dogwatch'::regnamespace and p.proname in ('oldest_at_head', 'oldest_of_users',
            'claim_tasks', 'give_together', 'take_together', 'door_claims') loop
        execute format('revoke all on function %s from public', item);
        if to_regrole('service_role') is not null then
            execute format('grant execute on function %s to service_role', item);
        end if;
    end loop;
end
$$;

//! Claims of one transaction: to each its own answer, whatever becomes of the others.

use super::*;
use crate::store::RpcError;
use crate::store::conformance::{Agent, refused};
use tokio::task::JoinSet;

/// A store whose turns can be held up, and its rig.
struct Held {
    database: Database,
    rig: Rig,
    store: Arc<PostgresStore>,
}

/// An answer: whose, number and attempt of the task.
type Answered = (String, std::result::Result<Option<(u128, i64)>, RpcError>);

impl Held {
    async fn new() -> Held {
        let database = database();
        let time = Arc::new(AtomicI64::new(START_MICROS));
        let store = Arc::new(open(&database, TimeSource::Fixed(Arc::clone(&time))).await);
        let rig = Rig { store: Arc::clone(&store) as Arc<dyn Store>, time, keep: None };
        Held { database, rig, store }
    }

    async fn agents(&self, many: usize) -> Vec<Agent> {
        let mut agents = Vec::new();
        for number in 1..=many {
            agents.push(self.rig.ready(&format!("gpu-{number}")).await);
        }
        // The first claim looks at the schema's level; the others are to meet.
        agents[0].claim(u128::MAX).await;
        agents
    }

    /// Lets them claim, each once the one before it waits: the order of the group.
    fn queue(&self, agents: &[Agent], claim: u128) -> JoinSet<Answered> {
        let mut claims = JoinSet::new();
        for agent in agents {
            let (waits, agent) = (self.store.together.waits(), agent.clone());
            claims.spawn(async move {
                let answer = agent.try_claim(claim).await;
                let worker = agent.caller.worker_id.clone();
                (worker, answer.map(|task| task.map(|task| (task.task_id.as_u128(), task.attempt))))
            });
            cluster::until("the claim to wait", || self.store.together.waits() == waits + 1);
        }
        claims
    }

    /// The answers of a group, by worker.
    async fn together(&self, agents: &[Agent], claim: u128) -> Vec<Answered> {
        let turn = self.store.together.hold().await;
        let claims = self.queue(agents, claim);
        drop(turn);
        sorted(claims.join_all().await)
    }

    /// Attempts, and the transactions that wrote them.
    fn attempts(&self) -> String {
        self.database.ask("select count(*), count(distinct xmin::text) from dogwatch.task_attempts")
    }

    /// Nobody reads or writes a task until this is given back.
    async fn lock_tasks(&self) -> Tx {
        let mut tx = self.store.write().await.unwrap();
        sqlx::query("lock table dogwatch.tasks in access exclusive mode").execute(tx.db()).await.unwrap();
        tx
    }

    fn until_one_is_stuck(&self) {
        let stuck = format!("pg_stat_activity where {STUCK}");
        cluster::until("the statement to wait for the lock", || self.database.count(&stuck) == 1);
    }
}

const STUCK: &str = "wait_event_type = 'Lock' and query like '%door_claims%' and datname = current_database()
    and pid <> pg_backend_pid()";

fn sorted(mut answers: Vec<Answered>) -> Vec<Answered> {
    answers.sort_by(|a, b| a.0.cmp(&b.0));
    answers
}

fn granted(answers: Vec<Answered>) -> Vec<Option<(u128, i64)>> {
    answers.into_iter().map(|(_, answer)| answer.unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_the_same_moment_is_one_transaction_in_its_order() {
    let held = Held::new().await;
    let agents = held.agents(6).await;
    held.rig.submit("ada", [1, 2, 3]).await;
    held.rig.pass(Duration::from_secs(1));
    held.rig.submit("bob", [4, 5]).await;
    let answers = granted(held.together(&agents, 1).await);
    let task = |number| Some((number, 1));
    assert_eq!(answers, [task(1), task(2), task(3), task(4), task(5), None], "who came first has the oldest");
    assert_eq!(held.attempts(), "5|1");
    assert_eq!(held.rig.state("gpu-5").await, WorkerState::Busy);
    assert_eq!(held.rig.state("gpu-6").await, WorkerState::Idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_its_callers_alone() {
    let held = Held::new().await;
    let mut agents = held.agents(7).await;
    held.rig.submit("ada", [1, 2, 3, 4]).await;
    assert_eq!(agents[4].claim(1).await, Some((1, 1)));
    agents[1].caller.worker_token = "guessed".into();
    let later = Agent::new(&held.rig, "gpu-3", 2);
    later.register().await;
    held.rig.leave("gpu-6", WorkerState::Draining, crate::fleet::outcome::Outcome::Planned, "a test").await;
    agents[6].caller.worker_id = "nobody".into();
    let answers = held.together(&agents, 1).await;
    let mut words = Vec::new();
    for (worker, answer) in answers {
        let word = match answer {
            Err(RpcError::Refused(refusal)) => refusal.status().to_string(),
            answer => format!("{:?}", answer.unwrap()),
        };
        words.push(format!("{worker} {word}"));
    }
    let expected = [
        "gpu-1 Some((2, 1))",
        "gpu-2 401",
        "gpu-3 409",
        "gpu-4 Some((3, 1))",
        // Claimed before, under the same id.
        "gpu-5 Some((1, 1))",
        // Draining.
        "gpu-6 None",
        "nobody 401",
    ];
    assert_eq!(words, expected);
    assert_eq!(held.attempts(), "3|2", "the first, and two at once");
    assert_eq!(held.database.count("dogwatch.refusals"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_met_inside_a_group() {
    let held = Held::new().await;
    let agents = held.agents(9).await;
    held.rig.submit("ada", 1..=20).await;
    held.rig.pass(Duration::from_secs(1));
    held.rig.submit("bob", [21, 22]).await;
    assert_eq!(agents[0].claim(9).await, Some((1, 1)));
    let answers = granted(held.together(&agents, 1).await);
    let tasks: Vec<u128> = answers.iter().flatten().map(|(task, _)| *task).collect();
    assert_eq!(tasks, [2, 3, 4, 5, 21, 22], "four more of one user, and both of the other");
    assert_eq!(answers[6..], [None, None, None]);
    assert_eq!(held.attempts(), "7|2");
}

/// The same where the queue's head says nothing of the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_met_inside_a_group_behind_a_full_head() {
    let held = Held::new().await;
    let agents = held.agents(9).await;
    for user in 0..4_u128 {
        held.rig.submit(&format!("user-{user}"), user * 400 + 1..=user * 400 + 400).await;
        held.rig.pass(Duration::from_secs(1));
    }
    let mut tasks = Vec::new();
    for claim in 1..=3 {
        tasks.extend(granted(held.together(&agents, claim).await).into_iter().flatten().map(|(task, _)| task));
    }
    let oldest: Vec<u128> = (0..4).flat_map(|user| user * 400 + 1..=user * 400 + 5).collect();
    assert_eq!(tasks, oldest, "five of each user, the oldest first");
}

/// A worker that asks twice at once, as a client does whose first request hangs, is answered twice with one task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_repeated_in_its_own_group_is_one_claim() {
    let held = Held::new().await;
    let agents = held.agents(2).await;
    held.rig.submit("ada", [1, 2, 3]).await;
    let twice = [agents[0].clone(), agents[0].clone(), agents[1].clone()];
    let answers = granted(held.together(&twice, 1).await);
    assert_eq!(answers, [Some((1, 1)), Some((1, 1)), Some((2, 1))]);
    assert_eq!(held.attempts(), "2|1");
}

/// The connection dies under a group: each caller hears of it, and has its task when it asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_connection_dies_loses_nothing() {
    let held = Held::new().await;
    let agents = held.agents(4).await;
    held.rig.submit("ada", 1..=4).await;
    let turn = held.store.together.hold().await;
    let claims = held.queue(&agents, 1);
    let lock = held.lock_tasks().await;
    drop(turn);
    held.until_one_is_stuck();
    held.database.run(&format!("select pg_terminate_backend(pid) from pg_stat_activity where {STUCK}"));
    for (worker, answer) in claims.join_all().await {
        let away = matches!(&answer, Err(RpcError::Store(StoreError::Unavailable { .. })));
        assert!(away, "{worker}: {answer:?}");
    }
    lock.inner.rollback().await.unwrap();
    assert_eq!(held.attempts(), "0|0");
    let mut tasks = Vec::new();
    for agent in &agents {
        tasks.push(agent.claim(1).await);
    }
    assert_eq!(tasks, (1..=4).map(|task| Some((task, 1))).collect::<Vec<_>>());
}

/// Whoever carries a group goes away, and so does one that waits: the others are answered, the carrier finds its
/// task when it asks again, and for the other nothing was claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_carrier_goes_away_is_answered() {
    let held = Held::new().await;
    let agents = held.agents(4).await;
    held.rig.submit("ada", 1..=4).await;
    let turn = held.store.together.hold().await;
    let mut carrier = held.queue(&agents[..1], 1);
    let mut gone = held.queue(&agents[1..2], 1);
    let others = held.queue(&agents[2..], 1);
    gone.shutdown().await;
    let lock = held.lock_tasks().await;
    drop(turn);
    held.until_one_is_stuck();
    carrier.shutdown().await;
    lock.inner.rollback().await.unwrap();
    let answers = granted(sorted(others.join_all().await));
    assert!(answers.iter().all(Option::is_some), "{answers:?}");
    let again = agents[0].claim(1).await;
    assert!(again.is_some() && !answers.contains(&again), "{again:?} {answers:?}");
    assert_eq!(held.database.count("dogwatch.task_attempts where worker_id = 'gpu-2'"), 0);
    assert_eq!(held.database.count("dogwatch.task_attempts"), 3);
}

/// An error that one row gives is not the others': then each asks by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_one_claim_is_not_that_of_the_others() {
    let held = Held::new().await;
    let agents = held.agents(3).await;
    held.rig.submit("ada", [1, 2, 3]).await;
    held.database.run("alter table dogwatch.task_attempts add check (worker_id <> 'gpu-2')");
    let mut refused_by_the_table = 0;
    for (worker, answer) in held.together(&agents, 1).await {
        match answer {
            Ok(task) => assert!(task.is_some(), "{worker}"),
            Err(RpcError::Store(StoreError::BadRow { .. })) if worker == "gpu-2" => refused_by_the_table += 1,
            Err(error) => panic!("{worker}: {error:?}"),
        }
    }
    assert_eq!((refused_by_the_table, held.attempts().as_str()), (1, "2|2"));
}

/// A worker's row, or a user, that somebody else holds keeps up its own caller, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_held_by_another_keeps_up_nobody_else() {
    let held = Held::new().await;
    let agents = held.agents(3).await;
    held.rig.submit("ada", [1, 2, 3]).await;
    let mut tx = held.store.write().await.unwrap();
    sqlx::query("select from dogwatch.workers where id = 'gpu-2' for update").execute(tx.db()).await.unwrap();
    let turn = held.store.together.hold().await;
    let mut claims = held.queue(&agents, 1);
    drop(turn);
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(claims.join_next().await.unwrap().unwrap());
    }
    assert_eq!(granted(sorted(answers)), [Some((1, 1)), Some((2, 1))]);
    assert!(claims.try_join_next().is_none());
    tx.inner.rollback().await.unwrap();
    assert_eq!(granted(claims.join_all().await), [Some((3, 1))]);
}

/// The functions of many bear no rights of their owner, and nobody who only holds a token may call them.
#[tokio::test]
async fn anon_claims_for_itself_only() {
    let held = Held::new().await;
    for role in ["anon", "authenticated"] {
        let call = "select dogwatch.door_claims('{}', '{}', '{}', '{}', '{}', now(), 5)";
        let error = held.database.try_ask(&format!("set role {role}; {call}")).unwrap_err();
        assert!(error.contains("permission denied"), "{error}");
    }
    let definers = "pg_proc where prosecdef and pronamespace = 'dogwatch'::regnamespace
        and proname in ('door_claims', 'take_together', 'give_together', 'claim_tasks', 'oldest_at_head', 'oldest_of_users')";
    assert_eq!(held.database.count(definers), 0);
    let mut stranger = held.rig.ready("gpu-1").await;
    stranger.caller.worker_token = "guessed".into();
    assert_eq!(refused(stranger.try_claim(1).await), 401);
}

//! What humans order, what is set aside by a rule, and what follows for a reader.

use std::time::Duration;

use super::bounded;
use super::state::State;
use crate::clock::{self, Time};
use crate::fleet::ids::TaskId;
use crate::fleet::order::{Command, NewOrder, ORDERS_MAX, Order, OrderId};
use crate::fleet::outcome::Outcome;
use crate::fleet::pool::PoolTasks;
use crate::fleet::snapshot::{Suspect, Worker};
use crate::fleet::state::WorkerState;
use crate::fleet::task::Bucket;
use crate::store::worker_row::WorkerData;
use crate::store::{AuditRow, HOLD_OLD_MAX, OrderRow, Result, StoreError};

/// Most rows of the audit that are kept.
const AUDIT_ROWS_MAX: usize = 10_000;

impl State {
    pub(super) fn order(&mut self, new: &NewOrder, now: Time) -> Result<Order> {
        let against = |detail: String| StoreError::BadRow { what: "the order".into(), detail };
        new.check().map_err(against)?;
        if self.orders_in_force(now).len() >= ORDERS_MAX {
            return Err(against(format!("{ORDERS_MAX} orders are in force; end some first")));
        }
        let mut command = new.command.clone();
        if let Command::Spawn { pool, beside, .. } = &mut command {
            let staying = |row: &&WorkerData| {
                row.leaving.is_none()
                    && !matches!(row.state, WorkerState::Draining | WorkerState::Terminating)
                    && pool.as_ref().is_none_or(|pool| row.pool == *pool)
            };
            let rows = self.not_ended.iter().map(|(_, id)| &self.workers[id]);
            *beside = u32::try_from(rows.filter(staying).count()).unwrap_or(u32::MAX);
        }
        let order = Order {
            id: OrderId(i64::try_from(self.orders.len()).unwrap_or(i64::MAX) + 1),
            command,
            actor: new.actor.clone(),
            reason: new.reason.clone(),
            since: now,
            until: new.lasts.map(|lasts| clock::plus(now, lasts)),
        };
        self.note((&new.actor, &new.reason), order.command.word(), Some(order.command.target()), now);
        self.orders.push(OrderRow { order: order.clone(), ended_at: None, ended_by: None, ended_reason: None });
        Ok(order)
    }

    pub(super) fn end_order(&mut self, order: OrderId, (actor, reason): (&str, &str), now: Time) -> bool {
        let open = self.orders.iter_mut().find(|row| row.order.id == order && in_force(row, now));
        let Some(row) = open else { return false };
        row.ended_at = Some(now);
        (row.ended_by, row.ended_reason) = (Some(actor.to_owned()), Some(reason.to_owned()));
        self.note((actor, reason), "end an order", Some(order.0.to_string()), now);
        true
    }

    pub(super) fn orders_in_force(&self, now: Time) -> Vec<Order> {
        self.orders.iter().filter(|row| in_force(row, now)).map(|row| row.order.clone()).collect()
    }

    pub(super) fn read_orders(&self, limit: usize) -> Vec<OrderRow> {
        self.orders.iter().rev().take(bounded(limit)).cloned().collect()
    }

    pub(super) fn note(&mut self, (actor, reason): (&str, &str), verb: &str, target: Option<String>, now: Time) {
        let (actor, reason, verb) = (actor.to_owned(), reason.to_owned(), verb.to_owned());
        self.audit.push_back(AuditRow { at: now, actor, verb, target, reason });
        if self.audit.len() > AUDIT_ROWS_MAX {
            self.audit.pop_front();
        }
    }

    pub(super) fn hold(&mut self, task: TaskId, bucket: Bucket, by: (&str, &str), now: Time) {
        self.holds.insert(task, bucket);
        self.note(by, "hold a task", Some(task.to_string()), now);
    }

    pub(super) fn let_go(&mut self, task: TaskId, by: (&str, &str), now: Time) {
        self.holds.remove(&task);
        if self.tasks.contains_key(&task) {
            self.let_go.insert(task, now);
        }
        self.note(by, "release a task", Some(task.to_string()), now);
    }

    pub(super) fn hold_old(&mut self, older_than: Duration, now: Time) {
        let cutoff = clock::minus(now, older_than);
        let reason = format!("queued for more than {} s", older_than.as_secs());
        let old: Vec<TaskId> = self
            .queued
            .iter()
            .take_while(|(queued_at, _)| *queued_at < cutoff)
            .filter(|(_, id)| !self.holds.contains_key(id))
            .filter(|(_, id)| self.let_go.get(id).is_none_or(|let_go| *let_go < cutoff))
            .map(|(_, id)| *id)
            .take(HOLD_OLD_MAX)
            .collect();
        for task in old {
            self.hold(task, Bucket::TooOld, ("orchestrator", &reason), now);
        }
    }

    pub(super) fn set_pools(&mut self, pools: &[PoolTasks]) {
        self.pools.clear();
        for pool in pools {
            if pool.task_types.is_empty() {
                self.pools.insert(String::new(), pool.pool.clone());
            }
            for task_type in &pool.task_types {
                self.pools.insert(task_type.clone(), pool.pool.clone());
            }
        }
    }

    /// The worker as a snapshot shows it, with the tasks in its hands.
    pub(super) fn seen(&self, row: &WorkerData, hands: Vec<TaskId>) -> Worker {
        let suspects = hands.iter().filter_map(|task| self.suspect(*task)).collect();
        let mut worker = row.worker(hands);
        if let Some(live) = &mut worker.live {
            live.suspects = suspects;
        }
        worker
    }

    fn suspect(&self, id: TaskId) -> Option<Suspect> {
        let task = &self.tasks[&id].task;
        let death = |number: i64| {
            let attempt = self.attempts.get(&(id, number)).filter(|attempt| attempt.answer.is_none())?;
            let worker = self.workers.get(&attempt.worker)?;
            let died =
                matches!(worker.outcome, Some(Outcome::WorkerCrash | Outcome::Stalled | Outcome::PoisonTask));
            if !died || worker.ended_at.is_none() || worker.ended_at != attempt.ended_at {
                return None;
            }
            let last = worker.last_heartbeat_at.unwrap_or(attempt.claimed_at);
            Some(clock::age(last, attempt.claimed_at).as_secs())
        };
        let deaths: Vec<u64> = (1..task.attempts).filter_map(death).collect();
        let claimed_at = task.started_at.filter(|_| !deaths.is_empty())?;
        Some(Suspect { task: id, claimed_at, deaths_after_seconds: deaths })
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody spends 2^53 micro-dollars a day")]
    pub(super) fn ended_today_usd(&self, now: Time) -> Option<f64> {
        const DAY: i64 = 86_400_000_000;
        let midnight = now.as_microsecond().div_euclid(DAY) * DAY;
        let cost = |(ended_at, id): &(Time, _)| {
            let row = &self.workers[id];
            let usd_per_hour = row.offer.usd_per_hour.filter(|_| row.pod_id.is_some())?;
            let micros = ended_at.as_microsecond() - row.created_at.as_microsecond().max(midnight);
            Some((usd_per_hour * micros as f64 / 3600.0).round() as i64)
        };
        let today = self.ended.range((clock::from_micros(midnight), crate::fleet::ids::WorkerId(String::new()))..);
        let costs: Vec<i64> = today.filter_map(cost).collect();
        (!costs.is_empty()).then(|| costs.iter().sum::<i64>() as f64 / 1e6)
    }
}

fn in_force(row: &OrderRow, now: Time) -> bool {
    row.ended_at.is_none() && row.order.holds(now)
}

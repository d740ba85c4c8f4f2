//! What the functions of the protocol need to know where a worker calls them by itself: kept up by
//! the leader, in the transaction of its cycle.

use super::Tx;
use super::fault::Fault;
use crate::fleet::policy::Policy;

pub(super) async fn keep_up(tx: &mut Tx, policy: &Policy) -> Result<(), Fault> {
    let live = policy.live.clone().unwrap_or_default();
    let told = crate::store::registered(&live);
    sqlx::query(
        "update dogwatch.settings
         set heartbeat_seconds = $1, dead_man_seconds = $2, poll_seconds = $3, user_task_limit = $4
         where (heartbeat_seconds, dead_man_seconds, poll_seconds, user_task_limit) is distinct from ($1, $2, $3, $4)",
    )
    .bind(told.heartbeat_seconds)
    .bind(told.dead_man_seconds)
    .bind(told.poll_seconds)
    .bind(i64::from(policy.user_task_limit))
    .execute(tx.db())
    .await?;
    Ok(())
}

//! The words of orders: who may be overruled, held, asked for or ended, for how long and why.

use clap::{Args, Subcommand};

use super::Output;

/// An order about workers.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum WorkersAction {
    /// Wants so many more workers than there are, for a while; the gates still hold.
    Spawn(SpawnArgs),
    /// Lets a worker finish its task and end.
    Drain(OneWorker),
    /// Ends a worker; its task is queued again.
    Terminate(OneWorker),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SpawnArgs {
    /// How many more.
    #[arg(value_name = "N", default_value_t = 1)]
    pub count: u32,
    /// Of this pool.
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// How long they are wanted.
    #[arg(long = "for", value_name = "TIME", default_value = "30m")]
    pub lasts: String,
    /// Why; kept in the audit.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OneWorker {
    /// The worker.
    #[arg(value_name = "WORKER")]
    pub worker: String,
    /// Why; kept in the audit.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OverrideArgs {
    #[command(subcommand)]
    pub command: OverrideCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum OverrideCommand {
    /// Overrules a gate until the time is over.
    Add(AddOverride),
    /// Shows the orders in force.
    Ls(ListOverrides),
    /// Ends an order before its time.
    Expire(ExpireOverride),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AddOverride {
    /// The gate: failure_breaker, provider_backoff, budget or rate_limit.
    #[arg(value_name = "GATE")]
    pub gate: String,
    /// Only for this cell, such as RTX4090/EU-NO-1.
    #[arg(long, value_name = "CELL")]
    pub cell: Option<String>,
    /// How long, at most 1d.
    #[arg(long = "for", value_name = "TIME", default_value = "30m")]
    pub lasts: String,
    /// Why; kept in the audit.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListOverrides {
    /// Also those that are over.
    #[arg(long)]
    pub history: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExpireOverride {
    /// The order's number.
    #[arg(value_name = "ORDER")]
    pub order: i64,
    /// Why; kept in the audit.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PauseArgs {
    /// Only this pool.
    #[arg(long, value_name = "POOL", conflicts_with = "task")]
    pub pool: Option<String>,
    /// Only this task.
    #[arg(long, value_name = "ID")]
    pub task: Option<uuid::Uuid>,
    /// How long; default: until `resume`.
    #[arg(long = "for", value_name = "TIME")]
    pub lasts: Option<String>,
    /// Why; kept in the audit.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ResumeArgs {
    /// Only this pool.
    #[arg(long, value_name = "POOL", conflicts_with = "task")]
    pub pool: Option<String>,
    /// Only this task, also one that a rule had set aside.
    #[arg(long, value_name = "ID")]
    pub task: Option<uuid::Uuid>,
    /// Why; kept in the audit.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

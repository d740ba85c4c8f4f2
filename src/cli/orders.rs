//! `dogwatch override`, `pause`, `resume`, `workers spawn|drain|terminate`, `tasks hold|release`: what
//! humans order, with who and why in the audit.

use std::time::Duration;

use super::args::{
    AddOverride, ExpireOverride, ListOverrides, OverrideArgs, OverrideCommand, PauseArgs, ResumeArgs, WorkersAction,
};
use super::open::Opened;
use super::{Outcome, open, render, when};
use crate::clock;
use crate::config::{environment, hostname};
use crate::error::{BadInput, Exit};
use crate::fleet::decision::GateName;
use crate::fleet::ids::{TaskId, WorkerId};
use crate::fleet::order::{Command, NewOrder, OVERRIDABLE, Order, OrderId};
use crate::fleet::task::Bucket;
use crate::store::{OrderRow, StoreError};

type Flags = Vec<(&'static str, String)>;

/// How long an order about one worker stays in force: long enough for the next cycles to see it.
const WORKER_ORDER_LASTS: Duration = Duration::from_secs(3_600);

pub(super) async fn overrides(args: OverrideArgs, flags: Flags) -> Outcome {
    match args.command {
        OverrideCommand::Add(args) => add(args, flags).await,
        OverrideCommand::Ls(args) => list(args, flags).await,
        OverrideCommand::Expire(args) => expire(args, flags).await,
    }
}

async fn add(args: AddOverride, flags: Flags) -> Outcome {
    let gate = GateName::from_word(&args.gate).filter(|gate| OVERRIDABLE.contains(gate)).ok_or_else(|| {
        let words: Vec<_> = OVERRIDABLE.iter().map(|gate| gate.word()).collect();
        BadInput::new(
            format!("{:?} is no gate that can be overridden", args.gate),
            format!("write {}", words.join(", ")),
        )
    })?;
    let lasts = lasting("--for", &args.lasts)?;
    let opened = open::fleet(flags).await?;
    let command = Command::Override { gate, cell: args.cell };
    let order = give(&opened, command, &args.reason, Some(lasts)).await?;
    told(&order, args.output.json, &format!("{} is overridden", order.command.target()))
}

async fn list(args: ListOverrides, flags: Flags) -> Outcome {
    let opened = open::fleet(flags).await?;
    let now = opened.store.now().await?;
    let mut rows = opened.store.orders(0).await?;
    rows.retain(|row| args.history || (row.ended_at.is_none() && row.order.holds(now)));
    if args.output.json {
        render::json("orders", &rows)?;
        return Ok(Exit::Ok);
    }
    let state = |row: &OrderRow| match (&row.ended_by, row.order.until) {
        (Some(by), _) => format!("ended by {by}"),
        (None, Some(until)) if until <= now => "over".to_owned(),
        (None, Some(until)) => format!("{} left", render::duration(clock::age(until, now).as_secs())),
        (None, None) => "until it is ended".to_owned(),
    };
    let rows = rows.iter().map(|row| {
        let order = &row.order;
        vec![
            order.id.0.to_string(),
            order.command.word().to_owned(),
            order.command.target(),
            order.actor.clone(),
            render::ago(now, Some(order.since)),
            state(row),
            order.reason.clone(),
        ]
    });
    render::table(&["order", "what", "about", "by", "given", "state", "reason"], rows.collect())?;
    Ok(Exit::Ok)
}

async fn expire(args: ExpireOverride, flags: Flags) -> Outcome {
    let opened = open::fleet(flags).await?;
    if opened.store.end_order(OrderId(args.order), &actor(), &args.reason).await? {
        render::note(format!("order {} is over", args.order));
        return Ok(Exit::Ok);
    }
    let what = format!("no order {} is in force", args.order);
    Err(BadInput::new(what, "`dogwatch override ls` shows those that are").into())
}

pub(super) async fn pause(args: PauseArgs, flags: Flags) -> Outcome {
    let lasts = args.lasts.as_deref().map(|text| lasting("--for", text)).transpose()?;
    reasoned(&args.reason)?;
    let opened = open::fleet(flags).await?;
    if let Some(task) = args.task {
        if lasts.is_some() {
            return Err(BadInput::new("a task is held until it is let go", "leave --for out").into());
        }
        opened.store.hold_task(TaskId(task), Some(Bucket::Paused), &actor(), &args.reason).await?;
        render::note(format!("task {task} is paused until `dogwatch resume --task {task}`"));
    } else if let Some(pool) = args.pool {
        let order = give(&opened, Command::PausePool { pool }, &args.reason, lasts).await?;
        render::note(format!("pool {} asks for no workers {}", order.command.target(), until(&order)));
    } else {
        let now = opened.store.now().await?;
        let end = lasts.map(|lasts| clock::plus(now, lasts));
        opened.store.pause(&actor(), &args.reason, end).await?;
        let end = end.map_or_else(|| "until `dogwatch resume`".to_owned(), |end| format!("until {end}"));
        render::note(format!("the fleet asks for no workers {end}"));
    }
    Ok(Exit::Ok)
}

pub(super) async fn resume(args: ResumeArgs, flags: Flags) -> Outcome {
    reasoned(&args.reason)?;
    let opened = open::fleet(flags).await?;
    if let Some(task) = args.task {
        opened.store.hold_task(TaskId(task), None, &actor(), &args.reason).await?;
        render::note(format!("task {task} may go on"));
    } else if let Some(pool) = args.pool {
        let now = opened.store.now().await?;
        let mut ended = 0;
        for row in opened.store.orders(0).await? {
            let of_pool = matches!(&row.order.command, Command::PausePool { pool: paused } if *paused == pool);
            if of_pool && row.ended_at.is_none() && row.order.holds(now) {
                ended += u32::from(opened.store.end_order(row.order.id, &actor(), &args.reason).await?);
            }
        }
        if ended == 0 {
            return Err(BadInput::new(
                format!("pool {pool} is not paused"),
                "`dogwatch override ls` shows what is",
            )
            .into());
        }
        render::note(format!("pool {pool} may ask for workers"));
    } else {
        opened.store.resume(&actor(), &args.reason).await?;
        render::note("the fleet may ask for workers");
    }
    Ok(Exit::Ok)
}

pub(super) async fn workers(action: WorkersAction, flags: Flags) -> Outcome {
    match action {
        WorkersAction::Spawn(args) => {
            let lasts = lasting("--for", &args.lasts)?;
            let opened = open::fleet(flags).await?;
            let command = Command::Spawn { pool: args.pool, count: args.count, beside: 0 };
            let order = give(&opened, command, &args.reason, Some(lasts)).await?;
            let floor = match &order.command {
                Command::Spawn { count, beside, .. } => count.saturating_add(*beside),
                _ => args.count,
            };
            told(&order, args.output.json, &format!("at least {floor} workers are wanted"))
        }
        WorkersAction::Drain(args) => {
            one(Command::Drain { worker: WorkerId(args.worker) }, &args.reason, args.output.json, flags).await
        }
        WorkersAction::Terminate(args) => {
            one(Command::Terminate { worker: WorkerId(args.worker) }, &args.reason, args.output.json, flags).await
        }
    }
}

/// An order about one worker, which must be there.
async fn one(command: Command, reason: &str, json: bool, flags: Flags) -> Outcome {
    let opened = open::fleet(flags).await?;
    let target = command.target();
    let rows = opened.store.workers(None, 0).await?;
    match rows.iter().find(|row| row.worker.id.0 == target) {
        Some(row) if !row.worker.is_ended() => {}
        Some(_) => {
            return Err(
                BadInput::new(format!("worker {target} has ended"), "`dogwatch workers` shows the others").into()
            );
        }
        None => {
            return Err(
                BadInput::new(format!("there is no worker {target}"), "`dogwatch workers` shows them").into()
            );
        }
    }
    let done = format!("worker {target}: {} in the next cycle", command.word());
    let order = give(&opened, command, reason, Some(WORKER_ORDER_LASTS)).await?;
    told(&order, json, &done)
}

async fn give(opened: &Opened, command: Command, reason: &str, lasts: Option<Duration>) -> anyhow::Result<Order> {
    reasoned(reason)?;
    let new = NewOrder { command, actor: actor(), reason: reason.to_owned(), lasts };
    opened.store.order(&new).await.map_err(|error| match error {
        StoreError::BadRow { detail, .. } => BadInput::new(format!("no such order: {detail}"), "change it").into(),
        error => error.into(),
    })
}

fn told(order: &Order, json: bool, what: &str) -> Outcome {
    if json {
        render::json("order", order)?;
    } else {
        render::note(format!("{what} {} (order {})", until(order), order.id.0));
    }
    Ok(Exit::Ok)
}

fn until(order: &Order) -> String {
    order.until.map_or_else(|| "until it is ended".to_owned(), |until| format!("until {until}"))
}

fn reasoned(reason: &str) -> Result<(), BadInput> {
    if reason.trim().is_empty() {
        return Err(BadInput::new("--reason is empty", "say why, for whoever reads the audit"));
    }
    Ok(())
}

/// A duration such as 30m.
fn lasting(option: &str, text: &str) -> Result<Duration, BadInput> {
    let now = clock::now();
    let refused = || BadInput::new(format!("{option} {text:?} is not a duration"), "write 90s, 15m, 2h or 1d");
    if text.parse::<clock::Time>().is_ok() {
        return Err(refused());
    }
    let past = when::parse(option, text, now).map_err(|_| refused())?;
    let lasts = clock::age(now, past);
    if lasts.is_zero() { Err(refused()) } else { Ok(lasts) }
}

/// Who gives the order: the user of this machine.
fn actor() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(environment).filter(|user| !user.is_empty());
    format!("{}@{}", user.as_deref().unwrap_or("somebody"), hostname())
}

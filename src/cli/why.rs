//! `dogwatch why` and `dogwatch eta`: a stored decision, explained by taking it again.

use super::args::{DecisionArgs, EtaArgs, WhyArgs};
use super::{Outcome, open, render, when};
use crate::error::{BadInput, Exit, Unavailable};
use crate::explain::why;
use crate::store::{DecisionQuery, DecisionRow};

pub(super) async fn main(args: WhyArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let row = row(&args.which, flags).await?;
    let why = why::why(&row);
    if args.output.json {
        render::json("why", &why)?;
    } else {
        render::line(why::words(&why).trim_end())?;
    }
    Ok(Exit::Ok)
}

pub(super) async fn eta(args: EtaArgs, flags: Vec<(&'static str, String)>) -> Outcome {
    let row = row(&args.which, flags).await?;
    let eta = why::when(&row);
    if args.output.json {
        render::json("eta", &eta)?;
    } else {
        render::line(why::eta_in_words(&eta).trim_end())?;
    }
    Ok(Exit::Ok)
}

/// The row that is asked about: the newest, that of a cycle, or the one in force at an instant.
async fn row(which: &DecisionArgs, flags: Vec<(&'static str, String)>) -> anyhow::Result<DecisionRow> {
    let opened = open::fleet(flags).await?;
    let until = match &which.at {
        Some(text) => Some(when::parse("--at", text, opened.store.now().await?)?),
        None => None,
    };
    let query = DecisionQuery { until, cycle: which.cycle, limit: 1, ..DecisionQuery::default() };
    let row = opened.store.decision_rows(&query).await?.into_iter().next();
    let asked = which.cycle.is_some() || which.at.is_some();
    row.ok_or_else(|| {
        let folder = opened.config.data_dir.display();
        if asked {
            let what = format!("no decision of that cycle or time is stored in {folder}");
            return BadInput::new(what, "name a cycle that `dogwatch logs` shows, or a later time").into();
        }
        Unavailable {
            service: format!("a decision in {folder}"),
            detail: "no cycle has been stored yet; start `dogwatch up`".to_owned(),
        }
        .into()
    })
}

//! `dogwatch healthcheck`: asks /readyz, for HEALTHCHECK in an image without a shell.

use std::time::Duration;

use super::args::HealthcheckArgs;
use super::{Outcome, render};
use crate::config::{Config, Profile};
use crate::error::Exit;

/// Time the gateway has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

pub(super) async fn main(args: HealthcheckArgs, mut flags: Vec<(&'static str, String)>) -> Outcome {
    flags.extend(args.listen.map(|listen| ("DOGWATCH_LISTEN", listen.to_string())));
    let config = Config::load(Profile::Up, &flags)?;
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let client = crate::http::client(ANSWER_WITHIN)?;
    match client.get(format!("http://{address}/readyz")).send().await {
        Ok(answer) if answer.status().is_success() => Ok(Exit::Ok),
        Ok(answer) => {
            let status = answer.status();
            render::note(format!("not ready ({status}): {}", answer.text().await.unwrap_or_default().trim()));
            Ok(Exit::Problem)
        }
        Err(error) => {
            render::note(format!("{address} does not answer: {}", crate::error::chain(&error)));
            Ok(Exit::Problem)
        }
    }
}

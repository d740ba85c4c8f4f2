//! Delivery to a real Postgres through everything that it does to its clients: at the end of each
//! scene the conservation law holds, each record is exactly one row, in order per source, and
//! nothing that was written anywhere shows a password.
//!
//! Bounded by default; with DOGWATCH_TEST_LONG=1 the outage of five minutes is five minutes long.

mod copy;
mod data;
mod outages;
pub(crate) mod pooler;
pub(crate) mod proxy;
mod refusals;
mod scene;

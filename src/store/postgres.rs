//! What is read from Postgres: `system_logs`, where DATABASE_URL names its database.

pub(super) mod logs;

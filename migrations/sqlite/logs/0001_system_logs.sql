-- The log table of an embedded fleet, a file of its own. Times are microseconds since 1970, UTC.
-- `arrival` is the order in which rows came in and is never used again: readers that follow the
-- log remember it. (timestamp, id) is the record's identity: a repeated delivery finds its row.
create table system_logs (
    arrival      integer primary key autoincrement,
    timestamp    integer not null,
    id           text    not null,
    ingested_at  integer not null,
    source_type  text    not null,
    source_id    text    not null,
    log_level    text    not null,
    message      text    not null,
    task_id      text,
    worker_id    text,
    cycle_number integer,
    trace_id     text,
    span_id      text,
    metadata     text    not null
) strict;

create unique index system_logs_identity on system_logs (timestamp, id);
create index system_logs_source on system_logs (source_type, source_id, timestamp);
create index system_logs_worker on system_logs (worker_id, timestamp) where worker_id is not null;
create index system_logs_task on system_logs (task_id, timestamp) where task_id is not null;
create index system_logs_trace on system_logs (trace_id) where trace_id is not null;
create index system_logs_cycle on system_logs (cycle_number, timestamp) where cycle_number is not null;

-- The same for people: times as text.
create view system_logs_readable as
select
    arrival,
    strftime('%Y-%m-%dT%H:%M:%S', timestamp / 1000000, 'unixepoch')
        || printf('.%06dZ', timestamp % 1000000) as timestamp,
    strftime('%Y-%m-%dT%H:%M:%S', ingested_at / 1000000, 'unixepoch')
        || printf('.%06dZ', ingested_at % 1000000) as ingested_at,
    source_type, source_id, log_level, message, task_id, worker_id, cycle_number, trace_id, span_id,
    metadata, id
from system_logs;

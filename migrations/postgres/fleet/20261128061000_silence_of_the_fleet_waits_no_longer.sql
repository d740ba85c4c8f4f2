-- The fleet's telemetry_silence() waits 3 s for a lock, too, and fails then: its own tables may be held as
-- well as the log table.

alter function public.telemetry_silence(interval, interval, timestamptz) set lock_timeout = '3s';

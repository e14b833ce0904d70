-- Ends a transaction before it does anything, where the server is not the one that was looked at: another timeline, or
-- a log that ends before what was seen. For connections through a pooler, which outlive the server behind it.
CREATE FUNCTION server_guard_1(p_timeline text, p_flushed bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'this server is a standby: it has not taken over yet' USING ERRCODE = 'cannot_connect_now';
    END IF;
    IF substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) <> p_timeline
        OR pg_current_wal_flush_lsn() - '0/0'::pg_lsn < p_flushed
    THEN
        RAISE EXCEPTION 'this is not the server that was looked at before' USING ERRCODE = 'OR001';
    END IF;
END
$$

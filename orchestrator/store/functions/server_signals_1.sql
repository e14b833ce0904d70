-- What a server tells of itself: its cluster, the timeline that it writes, how far its log is on disk. Null is what
-- this role may not ask for, or what this server does not have (a managed service, a standby).
CREATE FUNCTION server_signals_1(OUT system text, OUT timeline text, OUT flushed bigint)
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN;
    END IF;
    BEGIN
        SELECT system_identifier::text INTO system FROM pg_control_system();
    EXCEPTION WHEN OTHERS THEN
        system := NULL;
    END;
    BEGIN
        flushed := pg_current_wal_flush_lsn() - '0/0'::pg_lsn;
        timeline := substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8);
    EXCEPTION WHEN OTHERS THEN
        flushed := NULL;
        timeline := NULL;
    END;
END
$$

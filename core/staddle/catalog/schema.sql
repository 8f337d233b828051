-- The projection's own tables: no promise to users, who read the views (views.sql, docs/sql.md).
-- No primary keys: their indexes cost more than they bring (100 bytes a row, and slower inserts). Numbers are
-- handed out ascending, so zone maps find them. Ids are 32 lower-case hex digits, times UTC nanoseconds.

CREATE TABLE projection (
    schema_version INTEGER, applied_epoch UBIGINT, applied_lsn UBIGINT, grid VARCHAR
);

-- tier 1: from the op-log

CREATE TABLE agents (agent VARCHAR, urls VARCHAR[], streams_max INTEGER, enabled BOOLEAN);
CREATE TABLE media (
    medium VARCHAR, plugin VARCHAR, volume VARCHAR, failure_domain VARCHAR, state VARCHAR, agents VARCHAR[],
    message VARCHAR
);
CREATE TABLE pools (
    pool VARCHAR, media VARCHAR[], domain VARCHAR, copies INTEGER, min_copies INTEGER, policy VARCHAR,
    agents VARCHAR[], wait_busy_s BIGINT, wait_offline_s BIGINT, segment_bytes BIGINT
);
CREATE TABLE clients (client VARCHAR, joined_ns BIGINT);
CREATE TABLE jobs (
    job INTEGER, kind VARCHAR, client VARCHAR, name VARCHAR, roots VARCHAR[], pool VARCHAR, backup INTEGER,
    base_backup INTEGER, created_ns BIGINT, state VARCHAR, sealing_ns BIGINT, ended_ns BIGINT, message VARCHAR, warnings BIGINT,
    bytes_resent BIGINT, lost VARCHAR[]
);
CREATE TABLE streams (
    job INTEGER, stream INTEGER, epoch UBIGINT, state VARCHAR, agent VARCHAR, media VARCHAR[],
    next_seq BIGINT, segments INTEGER
);
CREATE TABLE failovers (
    job INTEGER, stream INTEGER, epoch UBIGINT, at_ns BIGINT, cause VARCHAR, from_agent VARCHAR,
    from_media VARCHAR[], to_agent VARCHAR, to_media VARCHAR[], detail VARCHAR, gap_ns BIGINT,
    bytes_resent BIGINT
);
CREATE TABLE backups (
    backup INTEGER, job INTEGER, client VARCHAR, name VARCHAR, roots VARCHAR[], roots_raw BLOB[],
    pool VARCHAR, domain VARCHAR, state VARCHAR, started_ns BIGINT, finished_ns BIGINT, files BIGINT,
    dirs BIGINT, bytes_read BIGINT, bytes_stored BIGINT, warnings BIGINT, seal VARCHAR
);
CREATE TABLE segments (
    backup INTEGER, stream INTEGER, ordinal INTEGER, first_seq BIGINT, next_seq BIGINT, manifest VARCHAR,
    digest VARCHAR
);
CREATE TABLE objects (
    object VARCHAR, kind VARCHAR, domain VARCHAR, size_bytes BIGINT, raw_bytes BIGINT, chunks BIGINT,
    digest VARCHAR, wanted INTEGER, state VARCHAR, condemned_ns BIGINT
);
CREATE TABLE copies (object VARCHAR, medium VARCHAR, name VARCHAR);

-- containers by number, so that millions of references stay small; a number outlives its container
CREATE TABLE container_ids (container_no INTEGER, container VARCHAR);
CREATE TABLE refs (backup INTEGER, stream INTEGER, ordinal INTEGER, container_no INTEGER);

-- tier 2: from the manifests

CREATE TABLE manifests (manifest_no INTEGER, manifest VARCHAR, backup INTEGER, entries INTEGER);
CREATE TABLE dirs (dir_no BIGINT, backup INTEGER, manifest_no INTEGER, path VARCHAR, path_raw BLOB);
CREATE TABLE files (
    backup INTEGER, manifest_no INTEGER, row_no INTEGER, dir_no BIGINT, name VARCHAR, name_raw BLOB,
    type UTINYINT, mode USMALLINT, uid UINTEGER, gid UINTEGER, size_bytes UBIGINT, mtime_ns BIGINT,
    ctime_ns BIGINT, part_offset UBIGINT, flags USMALLINT, link VARCHAR,
    runs STRUCT(c INTEGER, o BIGINT, n INTEGER)[]
);

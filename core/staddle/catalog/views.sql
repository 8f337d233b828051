-- The stable face of the catalog: documented column by column in docs/sql.md, which the tests compare.

CREATE MACRO join_path(dir, name) AS
    CASE WHEN name = '' THEN dir WHEN dir = '/' THEN '/' || name ELSE dir || '/' || name END;
CREATE MACRO join_path_raw(dir, dir_raw, name, name_raw) AS
    CASE WHEN dir_raw IS NULL AND name_raw IS NULL THEN encode(join_path(dir, name))
         ELSE coalesce(dir_raw, encode(dir)) || CASE WHEN dir = '/' THEN ''::BLOB ELSE '/'::BLOB END
              || coalesce(name_raw, encode(name)) END;
CREATE MACRO moment(ns) AS CASE WHEN ns <> 0 THEN make_timestamp_ns(ns) END;

CREATE VIEW v_agents AS SELECT agent, urls, streams_max, enabled FROM agents;

CREATE VIEW v_media AS
SELECT m.medium, m.plugin, m.state, m.failure_domain, m.volume, m.agents, m.message,
       coalesce(c.objects, 0) AS objects, coalesce(c.stored_bytes, 0) AS stored_bytes
FROM media m LEFT JOIN (
    SELECT medium, count(*) AS objects, sum(size_bytes)::BIGINT AS stored_bytes
    FROM copies JOIN objects USING (object) GROUP BY medium
) c USING (medium);

CREATE VIEW v_pools AS
SELECT pool, media, copies, min_copies, policy, agents, domain, wait_busy_s, wait_offline_s, segment_bytes
FROM pools;

CREATE VIEW v_clients AS SELECT client, moment(joined_ns) AS joined FROM clients;

CREATE VIEW v_jobs AS
SELECT job, kind, client, name, pool, state, backup, nullif(base_backup, 0) AS base_backup,
       moment(created_ns) AS started, moment(ended_ns) AS ended,
       CASE WHEN ended_ns > 0 THEN (ended_ns - created_ns) / 1e9 END AS duration_s,
       warnings, (SELECT count(*) FROM failovers f WHERE f.job = j.job) AS failovers, bytes_resent,
       len(lost) AS objects_lost, message
FROM jobs j;

CREATE VIEW v_streams AS
SELECT job, stream, state, epoch, agent, media, segments, next_seq FROM streams;

CREATE VIEW v_failovers AS
SELECT f.job, f.stream, moment(f.at_ns) AS at, f.cause, f.from_agent, f.from_media, f.to_agent, f.to_media,
       CASE WHEN f.gap_ns >= 0 THEN f.gap_ns / 1e9 END AS gap_s, f.bytes_resent, f.detail
FROM failovers f;

CREATE VIEW v_backups AS
SELECT backup, job, client, name, pool, state, roots, moment(started_ns) AS started,
       moment(finished_ns) AS finished, files, dirs, bytes_read, bytes_stored, warnings,
       nullif(seal, '') AS seal
FROM backups;

CREATE VIEW v_segments AS
SELECT backup, stream, ordinal, first_seq, next_seq, manifest FROM segments;

CREATE VIEW v_copies AS
SELECT c.object, o.kind, c.medium, m.state AS medium_state, m.failure_domain, c.name, o.size_bytes
FROM copies c JOIN objects o USING (object) LEFT JOIN media m USING (medium);

CREATE VIEW v_containers AS
SELECT o.object AS container, o.state, o.domain, o.size_bytes, o.raw_bytes, o.chunks,
       o.wanted AS copies_wanted, coalesce(c.present, 0) AS copies_present, moment(o.condemned_ns) AS condemned
FROM objects o LEFT JOIN (
    SELECT object, count(DISTINCT failure_domain) FILTER (WHERE medium_state = 'up') AS present
    FROM v_copies GROUP BY object
) c USING (object)
WHERE o.kind = 'container';

CREATE VIEW v_backup_containers AS
SELECT DISTINCT r.backup, i.container FROM refs r JOIN container_ids i USING (container_no);

CREATE VIEW v_backup_objects AS
SELECT backup, 'container' AS kind, container AS object FROM v_backup_containers
UNION ALL SELECT backup, 'manifest', manifest FROM segments
UNION ALL SELECT backup, 'seal', seal FROM backups WHERE seal <> '' AND state <> 'pruned';

CREATE VIEW v_dirs AS SELECT DISTINCT backup, path, coalesce(path_raw, encode(path)) AS path_raw FROM dirs;

CREATE VIEW v_files AS
SELECT f.backup, d.path AS dir, f.name, join_path(d.path, f.name) AS path,
       join_path_raw(d.path, d.path_raw, f.name, f.name_raw) AS path_raw,
       CASE f.type WHEN 1 THEN 'file' WHEN 2 THEN 'directory' WHEN 3 THEN 'symlink' WHEN 4 THEN 'hardlink'
            WHEN 5 THEN 'fifo' WHEN 6 THEN 'socket' WHEN 7 THEN 'block' WHEN 8 THEN 'char'
            WHEN 9 THEN 'image' WHEN 10 THEN 'stream' WHEN 11 THEN 'named_stream' ELSE 'other' END AS type,
       f.size_bytes, f.mode, f.uid, f.gid, make_timestamp_ns(f.mtime_ns) AS modified,
       f.flags & 4 <> 0 AS unchanged, f.flags & 8 <> 0 AS changed_while_read, f.flags & 32 <> 0 AS unreadable,
       f.link
FROM files f JOIN dirs d USING (dir_no)
WHERE f.flags & 3 <> 1;

CREATE VIEW v_file_containers AS
SELECT f.backup, join_path(d.path, f.name) AS path, i.container, f.run.o AS first_chunk, f.run.n AS chunks
FROM (SELECT backup, dir_no, name, unnest(runs) AS run FROM files) f
JOIN dirs d USING (dir_no) JOIN container_ids i ON i.container_no = f.run.c;

-- C3: what a rebuild must bring back: the sealed backups and what they use, in terms that depend on no internal
-- number. A backup without a seal is none that was promised. $db is one of the catalogs.

-- [backups]
SELECT backup, job, client, name, roots_raw, pool, domain, state, started_ns, finished_ns, files, dirs,
       bytes_read, bytes_stored, warnings, seal
FROM $db.backups WHERE state IN ('complete', 'warnings');

-- [segments]
SELECT backup, stream, ordinal, first_seq, next_seq, manifest, digest
FROM $db.segments SEMI JOIN (FROM $db.backups WHERE state IN ('complete', 'warnings')) USING (backup);

-- [containers, manifests and seals]
SELECT object, kind, domain, size_bytes, raw_bytes, chunks, digest
FROM $db.objects SEMI JOIN (
    SELECT object FROM $db.v_backup_objects
    SEMI JOIN (FROM $db.backups WHERE state IN ('complete', 'warnings')) USING (backup)
) USING (object);

-- [copies]
SELECT object, medium, name
FROM $db.copies SEMI JOIN (
    SELECT object FROM $db.v_backup_objects
    SEMI JOIN (FROM $db.backups WHERE state IN ('complete', 'warnings')) USING (backup)
) USING (object);

-- [references]
SELECT r.backup, r.stream, r.ordinal, i.container
FROM $db.refs r SEMI JOIN (FROM $db.backups WHERE state IN ('complete', 'warnings')) b USING (backup)
JOIN $db.container_ids i USING (container_no);

-- [files]
SELECT f.backup, m.manifest, f.row_no, d.path, d.path_raw, f.name, f.name_raw, f.type, f.mode, f.uid, f.gid,
       f.size_bytes, f.mtime_ns, f.ctime_ns, f.part_offset, f.flags, f.link, len(f.runs) AS runs
FROM $db.files f SEMI JOIN (FROM $db.backups WHERE state IN ('complete', 'warnings')) b USING (backup)
JOIN $db.dirs d USING (dir_no) JOIN $db.manifests m ON m.manifest_no = f.manifest_no;

-- [chunks of files]
SELECT m.manifest, f.row_no, i.container, f.run.o AS first, f.run.n AS chunks
FROM (
    SELECT manifest_no, row_no, unnest(runs) AS run
    FROM $db.files SEMI JOIN (FROM $db.backups WHERE state IN ('complete', 'warnings')) USING (backup)
) f
JOIN $db.manifests m USING (manifest_no) JOIN $db.container_ids i ON i.container_no = f.run.c;

-- What may never be in a catalog; each statement gives the rows that are wrong.

-- [backups that are there twice]
SELECT backup FROM backups GROUP BY ALL HAVING count(*) > 1;

-- [jobs that are there twice]
SELECT job FROM jobs GROUP BY ALL HAVING count(*) > 1;

-- [objects that are there twice]
SELECT object FROM objects GROUP BY ALL HAVING count(*) > 1;

-- [copies that are there twice]
SELECT medium, name FROM copies GROUP BY ALL HAVING count(*) > 1;

-- [segments that are there twice]
SELECT backup, stream, ordinal FROM segments GROUP BY ALL HAVING count(*) > 1;

-- [manifests that were ingested twice]
SELECT manifest FROM manifests GROUP BY ALL HAVING count(*) > 1;

-- [backups of a job that is not there]
SELECT backup, job FROM backups ANTI JOIN jobs USING (job);

-- [segments of a backup that is not there, or pruned]
SELECT backup, stream, ordinal
FROM segments ANTI JOIN (SELECT backup FROM backups WHERE state <> 'pruned') USING (backup);

-- [segments whose manifest is no known object]
SELECT backup, stream, ordinal, manifest
FROM segments ANTI JOIN (SELECT object AS manifest FROM objects WHERE kind = 'manifest') USING (manifest);

-- [segments that do not follow one another]
-- (a rebuild leaves out what it could not find; streams that it has brought back were never assigned)
SELECT backup, stream, ordinal
FROM (
    SELECT s.*, b.state, a.epoch,
           lag(s.next_seq, 1, 0) OVER w AS before, row_number() OVER w - 1 AS place
    FROM segments s
    LEFT JOIN backups b ON b.backup = s.backup
    LEFT JOIN streams a ON a.job = b.job AND a.stream = s.stream
    WINDOW w AS (PARTITION BY s.backup, s.stream ORDER BY s.ordinal)
)
WHERE first_seq < before OR ordinal < place
   OR ((first_seq <> before OR ordinal <> place) AND NOT coalesce(state = 'incomplete' AND epoch = 0, FALSE));

-- [seals that are no known object]
SELECT backup, seal
FROM (SELECT backup, seal FROM backups WHERE seal <> '' AND state <> 'pruned')
ANTI JOIN (SELECT object AS seal FROM objects WHERE kind = 'seal') USING (seal);

-- [references to a container that is not there, or is being deleted]
SELECT DISTINCT r.backup, i.container
FROM refs r LEFT JOIN container_ids i USING (container_no)
LEFT JOIN objects o ON o.object = i.container AND o.kind = 'container' AND o.state <> 'deleting'
WHERE o.object IS NULL;

-- [copies of an object that is not there]
SELECT object, medium, name FROM copies ANTI JOIN objects USING (object);

-- [copies on a medium that is not there]
SELECT object, medium, name FROM copies ANTI JOIN media USING (medium);

-- [ingested manifests of no committed segment]
SELECT manifest, backup FROM manifests ANTI JOIN segments USING (manifest, backup);

-- [manifests with another number of entries than were ingested]
SELECT manifest, entries, found
FROM manifests LEFT JOIN (
    SELECT manifest_no, count(*) AS found FROM files GROUP BY manifest_no
) USING (manifest_no)
WHERE entries <> coalesce(found, 0);

-- [files of a manifest that is not there]
SELECT manifest_no, count(*) AS files FROM files ANTI JOIN manifests USING (manifest_no) GROUP BY manifest_no;

-- [files in a directory that is not there]
SELECT manifest_no, dir_no, count(*) AS files
FROM files ANTI JOIN dirs USING (dir_no, manifest_no) GROUP BY ALL;

-- [manifests with chunks in a container that their segment does not refer to]
SELECT m.manifest, i.container
FROM (
    SELECT DISTINCT manifest_no, run.c AS container_no
    FROM (SELECT manifest_no, unnest(runs) AS run FROM files)
) f
JOIN manifests m USING (manifest_no)
LEFT JOIN container_ids i USING (container_no)
LEFT JOIN segments s ON s.manifest = m.manifest
LEFT JOIN refs r ON r.backup = s.backup AND r.stream = s.stream AND r.ordinal = s.ordinal
                AND r.container_no = f.container_no
WHERE r.backup IS NULL;

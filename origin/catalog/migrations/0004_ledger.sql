-- The ledger: each line's JSON as it is sent, and the SHA-256 of the hash before it and of that. Lines written before this have neither:
-- what they say stands in the other columns. The chain begins after serial `since`.
ALTER TABLE changes ADD COLUMN record BLOB;
ALTER TABLE changes ADD COLUMN hash BLOB;
CREATE TABLE chained (
    since INTEGER NOT NULL
);
INSERT INTO chained SELECT coalesce(max(serial), 0) FROM changes;

-- Covers what is asked of it, so that a walk by key does not touch the documents.
CREATE INDEX answers_held ON answers (key, registry, project, view) WHERE status = 200;

-- In order of names, so that a walk by name, or along a project's, reads neighbours however many there are.
CREATE TABLE bindings_by_name (
    name TEXT PRIMARY KEY,
    registry TEXT NOT NULL,
    project TEXT NOT NULL,
    version TEXT NOT NULL,
    filename TEXT NOT NULL,
    path TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    bound_at REAL NOT NULL,
    media_type TEXT NOT NULL,
    aliases TEXT NOT NULL,
    last_modified TEXT
) WITHOUT ROWID;
INSERT INTO bindings_by_name SELECT name, registry, project, version, filename, path, digest, size, bound_at, media_type, aliases,
    last_modified FROM bindings ORDER BY name;
DROP TABLE bindings;
ALTER TABLE bindings_by_name RENAME TO bindings;
CREATE INDEX bindings_by_project ON bindings (registry, project);
CREATE INDEX bindings_by_digest ON bindings (digest);

-- What a follower means to bring here. `resource` is the JSON of the page or file.
CREATE TABLE wanted (
    key TEXT PRIMARY KEY,
    is_file INTEGER NOT NULL,
    resource BLOB NOT NULL,
    since REAL NOT NULL,
    due REAL NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    dead INTEGER NOT NULL,
    asked INTEGER NOT NULL
);
CREATE INDEX wanted_in_order ON wanted (dead, is_file, since, key, due);

-- The fleet: who may come, and who is in. Secrets are SHA-256 in hex.
CREATE TABLE invitations (
    name TEXT PRIMARY KEY,
    secret TEXT NOT NULL UNIQUE,
    until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE members (
    name TEXT PRIMARY KEY,
    secret TEXT NOT NULL,
    enrolled_at REAL NOT NULL,
    seen_at REAL NOT NULL DEFAULT 0,
    serial INTEGER NOT NULL DEFAULT 0,
    verdicts INTEGER NOT NULL DEFAULT 0,
    unresolved INTEGER NOT NULL DEFAULT 0,
    held_bytes INTEGER NOT NULL DEFAULT 0,
    address TEXT NOT NULL DEFAULT '',
    release TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;

-- Access records are sent on by their id: it must never be given twice, even once all of them were trimmed.
CREATE TABLE accesses_numbered (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    file TEXT NOT NULL,
    digest TEXT NOT NULL,
    client TEXT NOT NULL,
    token TEXT NOT NULL,
    sent INTEGER NOT NULL,
    complete INTEGER NOT NULL,
    edge TEXT NOT NULL DEFAULT '',
    number INTEGER NOT NULL DEFAULT 0
);
INSERT INTO accesses_numbered (id, at, file, digest, client, token, sent, complete)
    SELECT id, at, file, digest, client, token, sent, complete FROM accesses ORDER BY id;
DROP TABLE accesses;
ALTER TABLE accesses_numbered RENAME TO accesses;
CREATE INDEX accesses_by_file ON accesses (file, id);
CREATE INDEX accesses_by_digest ON accesses (digest, id);
CREATE UNIQUE INDEX accesses_of_edge ON accesses (edge, number) WHERE number > 0;

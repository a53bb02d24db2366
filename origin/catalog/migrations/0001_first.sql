-- Pages as upstream gave them. A document is one zstd frame (empty where there is none); revision outlives the content.
CREATE TABLE answers (
    key TEXT PRIMARY KEY,
    registry TEXT NOT NULL,
    project TEXT NOT NULL,
    view TEXT NOT NULL,
    status INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    fresh_until REAL NOT NULL,
    stale_until REAL NOT NULL,
    received_at REAL NOT NULL,
    media_type TEXT NOT NULL,
    etag TEXT,
    last_modified TEXT,
    serial INTEGER,
    vanishing_since REAL,
    document BLOB NOT NULL
);
CREATE INDEX answers_by_project ON answers (registry, view, status, project);

-- Which project a file belongs to where its name does not say.
CREATE TABLE owners (
    registry TEXT NOT NULL,
    path TEXT NOT NULL,
    project TEXT NOT NULL,
    version TEXT NOT NULL,
    PRIMARY KEY (registry, path)
) WITHOUT ROWID;

-- A name tied to a digest, for ever.
CREATE TABLE bindings (
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
    aliases TEXT NOT NULL
);
CREATE INDEX bindings_by_project ON bindings (registry, project);

-- Blobs that are here.
CREATE TABLE holdings (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    used_at REAL NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX holdings_by_use ON holdings (used_at, digest, size) WHERE pinned = 0;

-- The feed. Rows are never deleted from the end, so that the next serial is always one more than the last.
CREATE TABLE changes (
    serial INTEGER PRIMARY KEY,
    resource TEXT NOT NULL,
    digest TEXT,
    verdict BLOB
);

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX events_by_subject ON events (subject, id);

CREATE TABLE accesses (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    file TEXT NOT NULL,
    digest TEXT NOT NULL,
    client TEXT NOT NULL,
    token TEXT NOT NULL,
    sent INTEGER NOT NULL,
    complete INTEGER NOT NULL
);
CREATE INDEX accesses_by_file ON accesses (file, id);

CREATE TABLE memory (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

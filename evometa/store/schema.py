"""The tables of a campaign database.

``user_version`` counts changes of their meaning: a reader refuses what is newer than itself. Foreign keys
are checked when a transaction commits, so rows may be written in any order. ``number`` columns keep the
order in which rows came. Every table but those named in NOT_CONTENT is the same for two runs of one
configuration, whether or not one of them was interrupted.
"""

from __future__ import annotations

APPLICATION_ID = int.from_bytes(b"evom", "big")
SCHEMA_VERSION = 3
NOT_CONTENT = frozenset({"timings", "journal"})

_JOURNAL = """
CREATE TABLE journal (
    number INTEGER PRIMARY KEY,
    topic TEXT NOT NULL UNIQUE,
    line TEXT NOT NULL,                  -- for reading
    data TEXT NOT NULL                   -- JSON, for whoever continues the campaign
);
"""
_TABLES = """
CREATE TABLE campaign (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    config TEXT NOT NULL,                -- fully resolved, JSON
    finished INTEGER NOT NULL DEFAULT 0  -- 1 once the final evaluations are in
);
CREATE TABLE weights (
    hash TEXT PRIMARY KEY,               -- SHA-256 of data
    data BLOB NOT NULL                   -- safetensors
);
CREATE TABLE genomes (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    family TEXT NOT NULL,
    name TEXT NOT NULL,
    genes TEXT NOT NULL,                 -- JSON, as in an exported genome
    weights TEXT REFERENCES weights (hash) DEFERRABLE INITIALLY DEFERRED,
    germline TEXT REFERENCES weights (hash) DEFERRABLE INITIALLY DEFERRED,
    operator TEXT NOT NULL,
    generation INTEGER NOT NULL,
    weights_origin TEXT NOT NULL,
    updates TEXT                         -- functional hash: the same for equal updates; NULL: unknown
);
CREATE INDEX genomes_by_updates ON genomes (updates);
CREATE TABLE parents (
    genome_id TEXT NOT NULL REFERENCES genomes (id) DEFERRABLE INITIALLY DEFERRED,
    position INTEGER NOT NULL,
    parent_id TEXT NOT NULL REFERENCES genomes (id) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (genome_id, position)
) WITHOUT ROWID;
CREATE INDEX parents_by_parent ON parents (parent_id);
CREATE TABLE generations (
    generation INTEGER PRIMARY KEY,
    hypervolume REAL,
    n_failures INTEGER NOT NULL,
    refinement_inner_steps INTEGER NOT NULL,
    evaluation_inner_steps INTEGER NOT NULL
);
CREATE TABLE objectives (
    generation INTEGER NOT NULL REFERENCES generations (generation) DEFERRABLE INITIALLY DEFERRED,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    reference REAL,                      -- the hypervolume's reference point
    PRIMARY KEY (generation, position),
    UNIQUE (generation, name)
) WITHOUT ROWID;
CREATE TABLE candidates (
    generation INTEGER NOT NULL REFERENCES generations (generation) DEFERRABLE INITIALLY DEFERRED,
    position INTEGER NOT NULL,
    genome_id TEXT NOT NULL REFERENCES genomes (id) DEFERRABLE INITIALLY DEFERRED,
    place INTEGER,                       -- in the surviving population; NULL: did not survive
    in_front INTEGER NOT NULL,
    PRIMARY KEY (generation, position),
    UNIQUE (generation, genome_id)
) WITHOUT ROWID;
CREATE INDEX candidates_by_genome ON candidates (genome_id);
CREATE TABLE objective_values (
    generation INTEGER NOT NULL,
    genome_id TEXT NOT NULL,
    objective TEXT NOT NULL,
    value REAL,
    PRIMARY KEY (generation, genome_id, objective),
    FOREIGN KEY (generation, genome_id) REFERENCES candidates (generation, genome_id)
        DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (generation, objective) REFERENCES objectives (generation, name)
        DEFERRABLE INITIALLY DEFERRED
) WITHOUT ROWID;
CREATE TABLE evaluations (
    number INTEGER PRIMARY KEY,
    genome_id TEXT NOT NULL REFERENCES genomes (id) DEFERRABLE INITIALLY DEFERRED,
    generation INTEGER NOT NULL REFERENCES generations (generation) DEFERRABLE INITIALLY DEFERRED,
    split TEXT NOT NULL,
    purpose TEXT NOT NULL,
    inner_steps INTEGER NOT NULL,
    status TEXT NOT NULL,
    message TEXT NOT NULL,
    UNIQUE (genome_id, generation, split, purpose)
);
CREATE INDEX evaluations_by_generation ON evaluations (generation);
CREATE TABLE task_results (
    evaluation INTEGER NOT NULL REFERENCES evaluations (number) DEFERRABLE INITIALLY DEFERRED,
    position INTEGER NOT NULL,
    family TEXT NOT NULL,
    description TEXT NOT NULL,
    status TEXT NOT NULL,
    initial_loss REAL,
    final_loss REAL,
    valid_loss REAL,
    reference_loss REAL,
    final_ratio REAL,
    anytime_ratio REAL,
    PRIMARY KEY (evaluation, position)
) WITHOUT ROWID;
CREATE TABLE streams (
    generation INTEGER NOT NULL REFERENCES generations (generation) DEFERRABLE INITIALLY DEFERRED,
    name TEXT NOT NULL,
    seed INTEGER NOT NULL,
    PRIMARY KEY (generation, name)
) WITHOUT ROWID;
CREATE TABLE baselines (
    number INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    rule TEXT NOT NULL,
    horizon INTEGER NOT NULL,
    learning_rate REAL NOT NULL,
    grid TEXT NOT NULL,                  -- JSON: [[learning rate, score or null], …]
    inner_steps INTEGER NOT NULL,
    UNIQUE (task, rule, horizon)
);
CREATE TABLE timings (
    number INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL REFERENCES generations (generation) DEFERRABLE INITIALLY DEFERRED,
    phase TEXT NOT NULL,
    seconds REAL NOT NULL,
    inner_steps INTEGER NOT NULL
);
"""

SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {SCHEMA_VERSION};\n{_TABLES}{_JOURNAL}"
)
#: What brings a database of an older version (the key) one version further.
MIGRATIONS = {
    1: _JOURNAL,
    2: """
ALTER TABLE genomes ADD COLUMN updates TEXT;
CREATE INDEX genomes_by_updates ON genomes (updates);
""",
}

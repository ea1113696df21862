"""Tables of a project's database, in the newest version: `migrations.py` leads there from earlier ones.

`phase` says what an execution was run for: "search", "confirm" (the race on fresh seeds) or "proof" (the recommended
trial's score on further seeds). `attempt` counts retries of a trial: the rows of a failed attempt stay, the latest
attempt is the one that counts.
`outcome` and `logs` are JSON objects; NaN and infinities are stored as the texts "NaN", "Infinity" and "-Infinity"
(Python's JSON reads and writes them), None marks what was not measured.
"""

TABLES = (
    """
    CREATE TABLE project (
        name  TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE trials (
        id         TEXT PRIMARY KEY,
        number     INTEGER NOT NULL,
        status     TEXT NOT NULL,
        attempt    INTEGER NOT NULL,
        trial_values TEXT NOT NULL,
        outcome    TEXT NOT NULL,
        started_at REAL NOT NULL,
        ended_at   REAL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE executions (
        trial_id  TEXT NOT NULL,
        phase     TEXT NOT NULL,
        attempt   INTEGER NOT NULL,
        execution INTEGER NOT NULL,
        outcome   TEXT NOT NULL,
        PRIMARY KEY (trial_id, phase, attempt, execution)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE epochs (
        trial_id  TEXT NOT NULL,
        phase     TEXT NOT NULL,
        attempt   INTEGER NOT NULL,
        execution INTEGER NOT NULL,
        epoch     INTEGER NOT NULL,
        logs      TEXT NOT NULL,
        PRIMARY KEY (trial_id, phase, attempt, execution, epoch)
    ) WITHOUT ROWID
    """,
)

-- Absences that were trimmed: the greatest revision any of them had. A page that is new is numbered from there.
CREATE TABLE trimmed (
    revision INTEGER NOT NULL
);
INSERT INTO trimmed VALUES (0);

CREATE INDEX answers_absent ON answers (received_at, key) WHERE status IN (404, 410);
CREATE INDEX answers_of_project ON answers (registry, project, view);

-- A file's Last-Modified as upstream sent it: Gradle and coursier compare it, so it is the same on every delivery.
ALTER TABLE bindings ADD COLUMN last_modified TEXT;

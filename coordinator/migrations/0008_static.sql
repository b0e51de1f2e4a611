-- Static workers from git: the commit that a launched version was found to be.

ALTER TABLE deployments ADD COLUMN git_commit TEXT;

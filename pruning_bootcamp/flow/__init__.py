"""The machine that every command runs on: steps with keys, kept results, status, gates and goal in one place."""

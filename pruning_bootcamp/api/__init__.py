"""Python for a notebook: your own modules and loaders on the same machine as the commands."""

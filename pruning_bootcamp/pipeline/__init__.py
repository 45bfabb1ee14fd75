"""The pipeline: stages that survive anything, gates that stop a bad network, files that ship."""

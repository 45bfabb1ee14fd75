"""The work of the steps: each reads the networks it needs from its context, and keeps its own there."""

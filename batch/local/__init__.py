"""The embedded stack for a laptop: real Temporal and S3 servers, and a provider that is simulated and says so."""

SIMULATED_PREFIX = "simulated-"
"""Every model name of the simulated provider begins so; it must never be mistaken for a model."""

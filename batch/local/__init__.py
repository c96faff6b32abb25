"""The embedded stack for a laptop: real Temporal and S3 servers, and a provider that is simulated and says so."""

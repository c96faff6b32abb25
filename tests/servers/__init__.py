"""Runs against servers of models and of S3 that nobody here wrote: `make servers` installs and starts them."""

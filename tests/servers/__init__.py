"""Runs against model servers that nobody here wrote: `make servers` installs and starts them."""

"""Grafana dashboards as code, and Prometheus' recording rules and alerts (`rules/`).

`python -m dashboards` (`make dashboards`) writes each dashboard's JSON beside this file; a test asserts that it is
fresh.
"""

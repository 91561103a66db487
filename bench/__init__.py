"""Measurements of the running service: `make bench` prints a table and writes results.json."""

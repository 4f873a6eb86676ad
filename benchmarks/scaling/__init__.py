"""Distributed selection: quality, speed, memory and faults; see __main__.py and example.py."""

"""EPIC in training: what it costs, and what becomes of it without gradient passes of its own."""

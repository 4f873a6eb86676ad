"""Selection speed: over time (test_speed.py), beside peers (peers.py), by count (count.py)."""

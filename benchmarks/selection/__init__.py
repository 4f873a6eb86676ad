"""Selection speed: our own over time (test_speed.py), beside the peers (peers.py), counted (count.py)."""

"""Selection speed: ours over time (test_speed.py), beside the peers (peers.py), counted (count.py)."""

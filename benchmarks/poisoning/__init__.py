"""Targeted clean-label poisoning in the transfer setting: attacks, EPIC, controls, experiments."""

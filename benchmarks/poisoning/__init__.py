"""A proving ground: targeted poisoning attacks, EPIC and other defenses, experiments."""

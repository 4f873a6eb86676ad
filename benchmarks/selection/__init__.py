"""Selection speed: workloads, their report, peers beside us, counts of similarities."""

"""Selection from more rows than one machine can search, on Dask or on the threads of this process.

Two passes over the rows find their ranges. Then the rows are dealt to partitions, each of which is
searched by itself, and a tree of merges selects among the selected. One more pass finds what holds
of all rows. Each step is a list of tasks without state, whose draws depend on their place alone. An
engine runs the tasks, here or on a cluster.

From the bottom up: `rows` are what tasks hand to each other, `goal` is what is maximized, `limits`
what may be selected together, `plan` deals the rows, `chunks` and `inputs` read them, `engines`
runs tasks, `tasks` says what these do, `run` puts them in order, `greedi` is the function that
users call.
"""

from subsel.distributed.greedi import greedi

__all__ = ["greedi"]

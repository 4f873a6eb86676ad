"""Selection from more rows than one machine can search, on Dask or on the threads of this process.

Two passes over the rows find their ranges. Then the rows are divided among partitions, each
partition is searched by itself, and a tree of merges selects among the selected rows. One more pass
evaluates the result over all rows. Each step is a list of tasks without state, and the random
numbers of a task depend only on its place in the tree. An engine runs the tasks, in this process or
on a cluster.

From the bottom up: `rows` defines what tasks pass to one another, `goal` what is maximized, and
`limits` what may be selected together. `plan` divides the rows, `chunks` and `inputs` read them,
`engines` runs tasks, `tasks` defines them, and `run` puts them in order. `greedi` is the function
that users call.
"""

from subsel.distributed.greedi import greedi

__all__ = ["greedi"]

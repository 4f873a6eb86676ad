"""The table at the top of docs/performance.md, from the pages that other commands write.

    python -m benchmarks.selection.summary

Reads docs/speed/workloads.md and docs/speed/peers.md, and measures nothing.
"""

import re
from pathlib import Path

from benchmarks.poisoning.report import markdown
from subsel.files import written_whole

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "performance.md"
MARK = "<!-- python -m benchmarks.selection.summary -->\n"
PEERS = ("submodlib", "apricot")
OF_PEERS = {"a-0.1": "f = 0.1", "a-0.3": "f = 0.3"}
"""Which workloads of the one page are which problems of the other."""


def tables(path):
    """The rows of each table of a page, as lists of words."""
    text = path.read_text()
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        lines = [[*map(str.strip, line[1:-1].split("|"))] for line in block.splitlines()]
        found.append(lines[2:])
    return found


def rows():
    """Workload, seconds, the least seconds, their ratio, and what others take."""
    workloads, _, limits = tables(DOCS / "speed/workloads.md")
    (beside,) = tables(DOCS / "speed/peers.md")
    least = {name: seconds for name, _, _, seconds, _ in limits}
    for name, what, seconds, _, _, _, rival, rival_seconds in workloads:
        others = [f"{rival}: {rival_seconds} s"] if rival else []
        if name in OF_PEERS:
            times = {library.split()[0]: factor for problem, library, _, factor, *_ in beside
                     if problem.endswith(OF_PEERS[name])}  # fmt: skip
            others += [f"{peer}: {float(times[peer]):.0f} times as long" for peer in PEERS]
        floor = least.get(name, "")
        ratio = f"{float(seconds) / float(floor):.2g}" if floor else ""
        yield [what, seconds, floor, ratio, "; ".join(others)]


def main():
    head = ["workload", "seconds", "floor", "ratio", "others"]
    before, _, after = PAGE.read_text().split(MARK)
    with written_whole(PAGE) as part:
        part.write_text(f"{before}{MARK}\n{markdown(head, list(rows()))}\n{MARK}{after}")


if __name__ == "__main__":
    main()

"""`subsel select`: choose the rows of a file that best stand for all of them.

Reads features from a file (.npy, .npz, .csv, Parquet, Arrow or Feather, Zarr, or a folder of
parts), selects rows, and writes their numbers. Rows are numbered from 0.
"""

import argparse
import math
import re
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from subsel.cli.job import METRICS, SEARCHED, Job, Percentage
from subsel.coreset import LARGE
from subsel.types import ObjectiveName

OBJECTIVES = get_args(ObjectiveName)

EXAMPLES = """\
examples:
  subsel select embeddings.npy --budget 1% --out chosen.npy
  subsel select photos.parquet --features embedding --by label --budget 1% --out chosen.parquet
  subsel select table.csv --features a:z --id name --budget 200 --out chosen.csv
  subsel select texts.parquet --costs tokens --budget 100000 --given labelled.csv --out next.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__.split("\n", 1)[0].partition(": ")[2].capitalize()
    parser.usage = "subsel select FILE --budget 1%% --out FILE [options]"
    parser.epilog = EXAMPLES
    parser.add_argument(
        "file", type=Path, metavar="FILE",
        help="rows of features: .npy, .npz, .csv, .tsv (also compressed, such as .csv.gz), "
        ".parquet, .arrow, .feather, .zarr, or a folder of Parquet or Arrow files, which are read "
        "in the order of their names",
    )  # fmt: skip
    _what(parser.add_argument_group("what to read"))
    _how(parser.add_argument_group("what to select"))
    _where(parser.add_argument_group("what to write"))
    _running(parser.add_argument_group("how to run"))


def _what(group: Any) -> None:
    group.add_argument(
        "--features", metavar="COLUMNS",
        help="a column of vectors, a range of numeric columns as a:z, or names with commas between "
        "them. Default: the only column of vectors, else all numeric columns that no other option "
        "names",
    )  # fmt: skip
    group.add_argument(
        "--by", metavar="COLUMN",
        help="the column of classes. Rows are then represented only by rows of their own class. "
        "--by, --costs and --id also take a file with one entry for each row",
    )  # fmt: skip
    group.add_argument("--costs", metavar="COLUMN", help="what each row costs; see --budget")
    group.add_argument("--id", metavar="COLUMN", help="a column that is copied to the output")
    group.add_argument(
        "--given", type=Path, metavar="FILE",
        help="numbers of rows that you have already. They represent others and are not selected. "
        "The file has a column `row`, as --out writes it, or only one column",
    )  # fmt: skip
    group.add_argument(
        "--exclude", type=Path, metavar="FILE", help="numbers of rows that are never selected"
    )


def _how(group: Any) -> None:
    group.add_argument(
        "--budget", type=_budget, metavar="N|P%",
        help="how many rows: a count, or a percentage of the rows (of each class with --by). With "
        "--costs, what the selected rows may cost together",
    )  # fmt: skip
    group.add_argument(
        "--coverage", type=_part, metavar="PART",
        help="stop once the selected rows reach this part, such as 0.9, of what all rows would "
        "reach",
    )  # fmt: skip
    group.add_argument(
        "--min-distance", type=_distance, metavar="D",
        help="the smallest distance that two selected rows may have",
    )  # fmt: skip
    group.add_argument(
        "--metric", choices=METRICS, metavar="NAME",
        help=f"what makes two rows similar: {', '.join(METRICS)}. Default: euclidean for the "
        "default objective",
    )  # fmt: skip
    group.add_argument(
        "--objective", choices=OBJECTIVES, default="facility_location", metavar="NAME",
        help=f"what is maximized: {', '.join(OBJECTIVES)}. Default: facility_location, which "
        "selects rows that represent all rows",
    )  # fmt: skip


def _where(group: Any) -> None:
    group.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="the selected rows, best first: .parquet or .csv with the columns row, rank, gain, "
        "size (how many rows it represents) and that of --id; .npy with row numbers only",
    )  # fmt: skip
    group.add_argument(
        "--assignments", type=Path, metavar="FILE",
        help="for every row the row that represents it and how similar they are: .parquet, .csv, "
        "or .npy with row numbers only",
    )  # fmt: skip
    group.add_argument(
        "--plot", type=Path, metavar="FILE",
        help="a picture of how much each further row adds: .png, .svg or .pdf",
    )  # fmt: skip


def _running(group: Any) -> None:
    group.add_argument(
        "--partitions", type=_count, metavar="N",
        help="search the rows in this many parts, then among the selected rows. Default: one part "
        f"for up to {LARGE} rows (of a class). For more rows, a sample is searched or, if options "
        "limit which rows may be selected, as many parts as necessary",
    )  # fmt: skip
    group.add_argument(
        "--scheduler", metavar="ADDRESS",
        help="search the parts on a Dask cluster, such as tcp://host:8786",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=_seed, default=0, metavar="N",
        help="seed of samples, and of the division into parts. Default: 0",
    )  # fmt: skip
    group.add_argument("--quiet", action="store_true", help="write nothing to the terminal")


def _budget(text: str) -> Any:
    found = re.fullmatch(r"\s*([0-9_]+|[0-9]*\.[0-9]+|[0-9]+\.)\s*(%?)\s*", text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"must be a count such as 200, or a percentage such as 1%, not {text!r}"
        )
    number, percent = found.groups()
    if not percent:
        return float(number) if "." in number else int(number)
    part = Fraction(number) / 100
    if not 0 < part <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0% and at most 100%, not {text}")
    return Percentage(part)


def _part(text: str) -> float:
    number = _number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be a fraction above 0 and at most 1, not {text!r}")
    return number


def _distance(text: str) -> float:
    if not 0 < _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return float(text)


def _number(text: str) -> float:
    with suppress(ValueError):
        return float(text)
    return math.nan


def _count(text: str) -> int:
    return _whole(text, 1)


def _seed(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    with suppress(ValueError):
        if int(text) >= least:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")


def check(args: argparse.Namespace) -> str | None:
    """An error message if the options do not fit together, else None."""
    if args.budget is None and args.coverage is None and args.min_distance is None:
        return "say how much to select: --budget, --coverage or --min-distance"
    if args.costs is None and isinstance(args.budget, float):
        cure = f": for a part of the rows write {100 * args.budget:g}%"
        return "--budget must be a count or a percentage" + (cure if args.budget < 1 else "")
    if args.costs is not None and not isinstance(args.budget, int | float):
        return (
            "--costs needs a --budget that is a number: the largest total cost of the selected rows"
        )
    alone = {"--coverage": args.coverage, "--min-distance": args.min_distance}
    if args.by is not None:
        for name, value in (alone | {"--costs": args.costs}).items():
            if value is not None:
                return f"--by and {name} cannot be combined: each class has a budget of its own"
        if args.objective != "facility_location":
            return f"--by needs the objective facility_location, not {args.objective}"
    if args.scheduler is not None or (args.partitions or 1) > 1:
        for name, value in alone.items():
            if value is not None:
                return f"--partitions and --scheduler cannot be combined with {name}"
        if args.metric is not None and args.metric not in SEARCHED:
            some = ", ".join(SEARCHED)
            return f"with --partitions or --scheduler, --metric must be one of {some}"
    if args.scheduler is not None and args.partitions == 1:
        return "--scheduler needs several partitions, not --partitions 1"
    if args.assignments is not None and args.objective != "facility_location":
        return f"--assignments needs the objective facility_location, not {args.objective}"
    return None


def run(args: argparse.Namespace) -> int:
    """Read the file, select rows, and write them."""
    Job(args).run()
    return 0

"""`remdm report`: one HTML page about one run or many, and its numbers as CSV and JSON."""

import argparse
from pathlib import Path

from rich.console import Console

DEFAULT_NAME = Path("report") / "index.html"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", type=Path, help="run folders; seeds are put together"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="write the page here (report/index.html of the run, if there is one run)",
    )
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the tables here, too")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers here, too")
    parser.add_argument(
        "--max_gif_mib",
        type=float,
        default=3.0,
        metavar="MIB",
        help="leave larger GIFs out of the page (3)",
    )


def report(args: argparse.Namespace) -> int:
    """Write the page, and CSV and JSON where asked for.

    Raises:
        ValueError: If a folder holds no run, or it is not said where the page of several goes.
    """
    from remdm.evaluation.bootstrap import RESAMPLES
    from remdm.evaluation.page import report_page
    from remdm.evaluation.report_numbers import report_csv, report_document
    from remdm.evaluation.run_groups import read_groups, score_tables
    from remdm.evaluation.tables import write_json, write_text
    from remdm.seeding import numpy_generator

    if args.out is None and len(args.runs) > 1:
        raise ValueError(
            f"a page about {len(args.runs)} runs belongs to none of them; say where it goes with "
            "--out FILE."
        )
    groups = read_groups(args.runs)
    tables = score_tables(groups, numpy_generator(0, "report"), RESAMPLES)
    page = args.out or groups[0].runs[0].root / DEFAULT_NAME
    write_text(page, report_page(groups, tables, RESAMPLES, args.max_gif_mib))
    if args.csv is not None:
        write_text(args.csv, report_csv(groups))
    if args.json is not None:
        write_json(args.json, report_document(groups, tables))
    console = Console(highlight=False, soft_wrap=True)
    for written in filter(None, (page, args.csv, args.json)):
        console.print(f"written: {written}", markup=False)
    return 0

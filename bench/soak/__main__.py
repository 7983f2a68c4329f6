"""`python -m bench.soak`: load, kills and crashes for some minutes, then the account of what was lost.

A PostgreSQL server of its own (fsync on), people who start, answer, stop and pause runs at a steady rate, worker
processes of which one is killed or frozen every few seconds, and crashes of the database. Then everything is drained
and every promise is checked, row by row and against what the outside world counted. Ctrl-C ends the load early and
still reports.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
from pathlib import Path

from bench.soak.report import new_console
from bench.soak.session import CutShort, Options, soak
from local.errors import StackError


def main() -> int:
    options = _options()
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # its warnings are about crashes that we make ourselves
    console = new_console()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    console.print(
        f"Soak: {options.minutes:g} minutes, {options.workers} workers, {options.rate:g} runs/s, a worker killed every"
        f" {options.kill_every:g} s, one frozen"
        f" every {options.freeze_every:g} s, PostgreSQL crashed every {options.restart_every:g} s, seed {seed}",
        soft_wrap=True,
    )
    wanted = Options(
        seconds=options.minutes * 60,
        workers=options.workers,
        rate=options.rate,
        kill_every=options.kill_every,
        restart_every=options.restart_every,
        freeze_every=options.freeze_every,
        seed=seed,
        log_dir=options.log_dir,
    )
    try:
        broken = asyncio.run(soak(wanted, console))
    except CutShort:
        print("Cut short: not everything had ended, so nothing was verified.", file=sys.stderr)
        return 130
    except StackError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 1 if broken and options.must_hold else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the load is on (default 5)")
    parser.add_argument("--workers", type=int, default=3, help="worker processes (default 3)")
    parser.add_argument("--rate", type=float, default=15.0, help="runs started a second (default 15)")
    parser.add_argument(
        "--kill-every", type=float, default=4.0, metavar="S", help="seconds between kills, about; 0 never (default 4)"
    )
    parser.add_argument(
        "--restart-every", type=float, default=30.0, metavar="S", help="seconds between crashes; 0 never (default 30)"
    )
    parser.add_argument(
        "--freeze-every", type=float, default=15.0, metavar="S", help="seconds between freezes; 0 never (default 15)"
    )
    parser.add_argument("--seed", type=int, help="draw the same runs and faults again")
    parser.add_argument("--log-dir", type=_directory, metavar="DIR", help="keep what the processes logged here")
    parser.add_argument("--assert", dest="must_hold", action="store_true", help="exit with 1 if a promise was broken")
    options = parser.parse_args()
    if options.minutes <= 0 or options.workers < 1 or options.rate <= 0:
        parser.error("--minutes and --rate must be positive, --workers at least 1")
    return options


def _directory(name: str) -> Path:
    path = Path(name)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{name} is no directory")
    return path


if __name__ == "__main__":
    sys.exit(main())

"""`python -m local.cli`, for the scripts: it works also where the console command is not on PATH."""

from __future__ import annotations

import sys

from local.cli.entry import main

sys.exit(main())

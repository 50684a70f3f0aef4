"""``python -m ubq.cli``: what a detached job is started with."""

import sys

from ubq.cli import main

sys.exit(main())

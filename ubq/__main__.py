"""``python -m ubq``: as ``ubq``, wherever scripts are installed; a detached job is started with it."""

import sys

from ubq.cli import main

sys.exit(main())

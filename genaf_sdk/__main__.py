"""``python -m genaf_sdk`` is ``genaf``."""

import sys

from genaf_sdk.cli import main

sys.exit(main())

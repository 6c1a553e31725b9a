"""`python -m seresnext` is `seresnext`."""

import sys

from .cli import main

sys.exit(main())

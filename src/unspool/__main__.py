"""``python -m unspool``."""

import sys

from unspool_command import main

if __name__ == "__main__":
    sys.exit(main())

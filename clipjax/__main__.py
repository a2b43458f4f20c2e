"""`python -m clipjax`."""

import sys

from clipjax.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m diamond_gym` is `diamond-gym`, wherever the package can be imported."""

import sys

from diamond_gym.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m gradmod``: see `gradmod.doctor`."""
import sys

from .doctor import main

if __name__ == '__main__':
    sys.exit(main())

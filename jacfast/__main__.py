"""python -m jacfast"""

import sys

from jacfast.cli import main

sys.exit(main())

import sys

from robustalign.cli.track import main

sys.exit(main())

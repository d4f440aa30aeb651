import sys

from robustalign.cli.sync import main

sys.exit(main())

import sys

from robustalign.cli.reward import main

sys.exit(main())

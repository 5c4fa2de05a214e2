"""`python -m nbgpu` is `nbgpu`."""

import sys

from nbgpu.cli import main

sys.exit(main())

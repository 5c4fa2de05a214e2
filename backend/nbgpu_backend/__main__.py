"""`python -m nbgpu_backend`: the service, in the foreground."""

import sys

from nbgpu_backend.server import main

sys.exit(main(sys.argv[1:]))

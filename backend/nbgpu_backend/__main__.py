"""`python -m nbgpu_backend`: the service, in the foreground."""

import gc
import sys

gc.disable()  # what modules make stays: the server collects once it has begun

from nbgpu_backend.server import main  # noqa: E402

sys.exit(main(sys.argv[1:]))

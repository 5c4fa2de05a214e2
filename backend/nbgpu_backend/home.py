"""Where things lie under NBGPU_HOME (stdlib only)."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from nbgpu_backend.errors import DiskError

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "lustre", "ceph", "glusterfs",
     "fuse.sshfs", "fuse.glusterfs", "beegfs", "gpfs"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds everything of one installation."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """NBGPU_HOME, else the platform's user data directory."""
        given = os.environ.get("NBGPU_HOME")
        if given:
            return cls(Path(given).expanduser().resolve())
        if sys.platform == "darwin":
            base = Path.home() / "Library" / "Application Support"
        elif sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
        else:
            base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
        return cls(base / "nbgpu")

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def backend_json(self) -> Path:
        return self.run / "backend.json"

    @property
    def backend_log(self) -> Path:
        return self.run / "backend.log"

    @property
    def instances(self) -> Path:
        return self.root / "instances"

    @property
    def parents(self) -> Path:
        """Pre-imported parents, a folder each."""
        return self.root / "parents"

    @property
    def jobs(self) -> Path:
        """Inputs and outputs of jobs that are too large for the database."""
        return self.root / "jobs"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.json"

    @property
    def hosts(self) -> Path:
        """Own servers, a folder each, with the settings and the tunnel of one."""
        return self.root / "hosts"

    @property
    def kernels(self) -> Path:
        """Kernel specs of the pods that run."""
        return self.root / "kernels"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def hub_cache(self) -> Path:
        """The Hugging Face cache layout; HF_HOME, where set, so that weights are shared."""
        given = os.environ.get("HF_HOME")
        return (Path(given).expanduser() if given else self.root / "huggingface") / "hub"

    @property
    def engines(self) -> Path:
        """NBGPU_ENGINES may be shared between installations."""
        given = os.environ.get("NBGPU_ENGINES")
        return Path(given).expanduser().resolve() if given else self.root / "engines"

    @property
    def state_db(self) -> Path:
        return self.root / "state.db"

    @property
    def telemetry_db(self) -> Path:
        return self.root / "telemetry.db"

    def prepare(self) -> None:
        """Make the folders and see that they can be written. Raises DiskError with a sentence."""
        try:
            for folder in (self.root, self.run, self.instances, self.models, self.jobs):
                folder.mkdir(parents=True, exist_ok=True)
            self.run.chmod(0o700)
            self.instances.chmod(0o700)
            self.jobs.chmod(0o700)
            probe = self.run / f".probe-{os.getpid()}"
            probe.write_bytes(b"x" * 4096)
            probe.unlink()
        except OSError as error:
            raise DiskError(
                f"NBGPU_HOME ({self.root}) cannot be written: {error.strerror}.",
                "Free some space, or set NBGPU_HOME to a folder on a local disk that you can write.",
            ) from None
        kind = file_system(self.root)
        if kind in NETWORK_FILE_SYSTEMS:
            raise DiskError(
                f"NBGPU_HOME ({self.root}) lies on a network file system ({kind}), where locks and "
                "databases are not safe.",
                "Set NBGPU_HOME to a folder on a local disk.",
            )


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, from /proc/self/mounts; "" if unknown."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    target = str(path.resolve())
    for line in mounts:
        fields = line.split()
        point = fields[1].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind

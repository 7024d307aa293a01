"""Small disks, for which Linux wants to be asked as root."""

import subprocess
from pathlib import Path


def mount(folder: Path, options: str):
    """Put a disk in memory there: `size=64k`, `ro`, `remount,size=10m`."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True)


def unmount(folder: Path):
    """Take it away, whoever still looks at it."""
    subprocess.run(["umount", "-l", str(folder)], check=True)

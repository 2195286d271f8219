"""Photograph a report for the README: the verdict and the gains, light, in a headless Chromium.

    python benchmarks/picture.py report.html [docs/assets/report.png]

What was asked (the table of tasks and the notes) is left out of the picture, nothing else is
changed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, HEIGHT, SCALE = 1100, 1050, 1.5
HIDE = "<style>#asked { display: none }</style></head>"
QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --hide-scrollbars"
)


def photograph(report: Path, picture: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("picture.py needs chromium on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(report.read_text(encoding="utf-8").replace("</head>", HIDE), "utf-8")
        subprocess.run(
            [
                chromium,
                *QUIET.split(),
                f"--user-data-dir={folder}/profile",
                f"--window-size={WIDTH},{HEIGHT}",
                f"--force-device-scale-factor={SCALE}",
                f"--screenshot={picture.resolve()}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


if __name__ == "__main__":
    source, *target = sys.argv[1:]
    photograph(Path(source), Path(target[0] if target else "docs/assets/report.png"))

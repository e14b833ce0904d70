"""A package index on loopback, serving the wheels that set-up has kept.

Poetry, unlike pip and uv, takes packages from an index only, and resolves for every system and every extra at once: so
it also asks for the few packages that are locked for other systems alone, and for those of extras that no lock holds.
Those are offered empty; nothing here ever installs them.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from tests.packaging.locks import for_other_systems, of_extras_outside_the_lock


@contextmanager
def local_index(wheels: Path, folder: Path) -> Iterator[str]:
    """Serve an index of the wheels while the block runs; ``folder`` holds its pages. Gives the index's URL."""
    folder.mkdir()
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for wheel in wheels.glob("*.whl"):
        files[canonicalize_name(parse_wheel_filename(wheel.name)[0])].append(wheel)
    for name, version in [*for_other_systems(), *of_extras_outside_the_lock()]:
        if name not in files:
            files[name] = [empty_wheel(folder, name, version)]
    for name, found in files.items():
        page = folder / "simple" / name
        page.mkdir(parents=True)
        for wheel in found:
            (page / wheel.name).symlink_to(wheel)
        links = (f'<a href="{f.name}#sha256={hashlib.sha256(f.read_bytes()).hexdigest()}">{f.name}</a>' for f in found)
        (page / "index.html").write_text("<!DOCTYPE html><html><body>" + "<br>".join(links) + "</body></html>")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple/"
        finally:
            server.shutdown()


def empty_wheel(folder: Path, name: str, version: str) -> Path:
    """Write a wheel with nothing in it but its name and version."""
    distribution = name.replace("-", "_")
    path = folder / f"{distribution}-{version}-py3-none-any.whl"
    info = f"{distribution}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the test tells what went wrong."""

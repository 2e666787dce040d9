"""Small ISOs that nobody can boot, and a releases API that has them."""

from __future__ import annotations

import hashlib
import io

import pycdlib

from tests.fakes.web import Web

API = "/api/v3/repos/boot2docker/boot2docker/releases/latest"


def make_iso(label: str, content: bytes = b"hello") -> bytes:
    """An ISO with one file."""
    iso = pycdlib.PyCdlib()
    iso.new(vol_ident=label)
    iso.add_fp(io.BytesIO(content), len(content), "/FILE.;1")
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()


def publish(
    web: Web, tag: str, data: bytes, *, digest: bool = False, name: str = "boot2docker.iso"
) -> str:
    """Make an ISO the newest release; returns its path on the server."""
    path = f"/download/{tag}/{name}"
    web.put(path, data)
    asset = {"name": name, "browser_download_url": web.url(path)}
    if digest:
        asset["digest"] = f"sha256:{hashlib.sha256(data).hexdigest()}"
    source = {"name": "sources.tar.gz", "browser_download_url": web.url("/sources")}
    web.put_json(API, {"tag_name": tag, "assets": [source, asset]})
    return path

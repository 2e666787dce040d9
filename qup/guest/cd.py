"""CDs that hold a seed: ISO 9660 with Joliet and Rock Ridge names."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from qup.files import write_atomic


def write_cd(path: Path, label: str, files: Mapping[str, str]) -> None:
    """Write an image that only its owner can read.

    Args:
        path: the image.
        label: the volume's label.
        files: contents by path, which may lead through folders.

    Raises:
        HostError: it can't be written.
    """
    import pycdlib  # 35 ms that only a first start needs

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
    folders: dict[PurePosixPath, str] = {PurePosixPath(): ""}
    for number, (name, text) in enumerate(sorted(files.items())):
        place = PurePosixPath(name)
        for parent in reversed(place.parents):
            if parent not in folders:
                folders[parent] = f"{folders[parent.parent]}/DIR{len(folders)}"
                iso.add_directory(folders[parent], rr_name=parent.name, joliet_path=f"/{parent}")
        payload = text.encode()
        iso.add_fp(
            io.BytesIO(payload),
            len(payload),
            f"{folders[place.parent]}/SEED{number}.;1",
            rr_name=place.name,
            joliet_path=f"/{name}",
        )
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    write_atomic(path, image.getvalue(), durable=False)

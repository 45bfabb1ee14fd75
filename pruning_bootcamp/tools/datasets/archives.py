"""Unpacking a downloaded archive: plain files below the folder and nothing else, no more of them than was announced."""

import gzip
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from pruning_bootcamp.errors import BootcampError

MOST_BYTES = 2**31  # unpacked; the largest data set that is downloaded here has 0.2 GB
MOST_FILES = 100_000


def unpack(archive: Path, folder: Path) -> None:
    """The files of a .tar.gz, or the one in a .gz, below `folder`. BootcampError names the member that is refused.

    Refused before anything is written: names that lead out of the folder, links, devices, and more than MOST_BYTES.
    """
    try:
        if archive.name.endswith((".tar.gz", ".tgz", ".tar")):
            _unpack_tar(archive, folder)
        else:
            assert archive.suffix == ".gz", archive
            _unpack_gzip(archive, folder / archive.stem)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise BootcampError(f"{archive.name}: is a damaged archive ({error}).") from error


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        members: list[tarfile.TarInfo] = []
        total = 0
        for member in tar:  # not getmembers(): a bomb is noticed on the way
            total += member.size
            members.append(member)
            _check(member, archive, total, len(members))
        for member in members:
            place = folder / member.name
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None, member.name
            with content, _new_file(place) as written:
                shutil.copyfileobj(content, written)


def _check(member: tarfile.TarInfo, archive: Path, total: int, count: int) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise BootcampError(f"{archive.name}: refused: '{member.name}' leads out of the folder.")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise BootcampError(f"{archive.name}: refused: '{member.name}' is a link or a device, not a file.")
    if total > MOST_BYTES or count > MOST_FILES:
        raise BootcampError(f"{archive.name}: refused: it would unpack to more than {MOST_BYTES:,} bytes.")


def _unpack_gzip(archive: Path, place: Path) -> None:
    with gzip.open(archive) as content, _new_file(place) as written:
        total = 0
        while block := content.read(2**20):
            total += len(block)
            if total > MOST_BYTES:
                raise BootcampError(f"{archive.name}: refused: it would unpack to more than {MOST_BYTES:,} bytes.")
            written.write(block)


def _new_file(place: Path):  # type: ignore[no-untyped-def]
    """A file that was not there, whatever the archive says of its mode: 0644, less what the umask takes away."""
    return open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb")

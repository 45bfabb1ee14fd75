"""Downloads that are whole or not there: into a temporary folder, checked against md5, unpacked, then renamed."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.utils import download_url

from pruning_bootcamp.errors import BootcampError, listed
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.tools.datasets.archives import unpack
from pruning_bootcamp.tools.datasets.folders import missing

SILENCE_SECONDS = 30


@dataclass(frozen=True)
class Download:
    """Archives (address, md5) that, unpacked together, make the folder `folder`."""

    title: str
    archives: Sequence[tuple[str, str]]
    folder: str
    inner: str = ""
    """the folder inside the archive; empty when its files lie at the top"""


def fetch(download: Download, root: Path, allowed: bool) -> Path:
    """The folder root/download.folder, whole. Nothing is left behind when it fails; BootcampError says what to do."""
    assert allowed, f"{download.title} is absent and must not be downloaded: may_be_absent() says so to the user"
    target = root / download.folder
    LOGGER.info("downloading %s to %s", download.title, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as temporary, _impatient():
            unpacked = Path(temporary) / "unpacked"
            unpacked.mkdir()
            for address, md5 in download.archives:
                name = address.rpartition("/")[2]
                download_url(address, temporary, name, md5)
                unpack(Path(temporary) / name, unpacked)
            _place(unpacked / download.inner, target)
    except (
        OSError,
        RuntimeError,
        EOFError,
        BootcampError,
    ) as error:  # URLError is an OSError; a wrong md5 is a RuntimeError
        addresses = ", ".join(address for address, _ in download.archives)
        raise BootcampError(
            f"{download.title} is not in {root}, and could not be downloaded ({error}). Without a network: get "
            f"{addresses} elsewhere and unpack, so that the files lie in {target}; or use data.name=digits, which "
            "needs no download."
        ) from None
    return target


def _place(unpacked: Path, target: Path) -> None:
    """Rename; another process that was first has put the same files there."""
    try:
        os.replace(unpacked, target)
    except OSError:
        if not target.is_dir() or set(os.listdir(unpacked)) - set(os.listdir(target)):
            raise
        shutil.rmtree(unpacked)


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """A server that says nothing for a while is given up; torchvision itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def check_complete(folder: Path, lacking: Sequence[str]) -> None:
    """BootcampError when files of the data set are lacking."""
    if lacking:
        raise BootcampError(f"{folder} lacks {listed(lacking)}. Delete the folder and get it again.")


def may_be_absent(title: str, looked_for: Sequence[str], root: Path, settings: Mapping[str, Plain]) -> None:
    """Nothing is there: fine when it may be downloaded, an error otherwise."""
    if not settings.get("download", True):
        raise BootcampError(missing(title, looked_for, root) + " Or let it be downloaded: data.args.download=true.")
    if root.exists() and not root.is_dir():
        raise BootcampError(f"{root} is a file, not a folder. Set data.root=DIR.")

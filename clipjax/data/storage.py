"""Files at addresses (gs://, s3:// and what else fsspec knows): looked up, fetched whole, stored whole."""

import posixpath
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.errors import UserError

_PAUSES = (1.0, 4.0, 16.0)  # seconds before each further attempt, up to half as long again by chance
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # protocol to the extra that brings its library
_VERSIONS = ("etag", "md5hash", "generation", "crc32c", "lastmodified", "last_modified", "updated", "mtime", "created")
_LISTED_FROM = 8  # files of one folder: from so many on, one listing costs less than a question for each


class Remote(NamedTuple):
    """A file at an address: its size in bytes, and a text that changes with its content where the store has one."""

    url: str
    size: int
    version: str


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Credentials and endpoints are taken from the environment, as its library does. Raises UserError where the library
    is absent or the protocol is none.
    """
    import fsspec

    protocol = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"Run: pip install 'clipjax[{extra}]'" if extra else first_line(error)
        raise UserError(f"{url}: the library for {protocol}:// is not installed. {remedy}.") from None
    except ValueError:
        raise UserError(f"{url}: {protocol}:// is no known protocol. Give gs://, s3:// or a local path.") from None
    except Exception as error:  # credentials that cannot be found or read: each library has its own kinds
        raise unreachable(url, error) from error


def look_up(urls: Sequence[str]) -> list[Remote | None]:
    """What stands at each address, None where no file does. Raises UserError as `file_system` does."""
    folders: dict[str, list[str]] = {}
    for url in urls:
        folders.setdefault(posixpath.dirname(url), []).append(url)
    found = {}
    for folder, inside in folders.items():
        system, _ = file_system(inside[0])
        listed = _listing(folder) if len(inside) >= _LISTED_FROM and not folder.startswith("http") else None
        for url in inside:
            path = system._strip_protocol(url)
            found[url] = _info(system, url, path) if listed is None else listed.get(path)
    return [_remote(url, found[url]) for url in urls]


def list_folder(url: str) -> list[Remote]:
    """The files in the folder at an address, sorted; none where there is no such folder."""
    system, path = file_system(url)
    inside = [_remote(system.unstrip_protocol(name), info) for name, info in _listing(url).items()]
    return sorted(file for file in inside if file is not None)


def match(pattern: str) -> list[str]:
    """The addresses that a glob matches, sorted."""
    system, path = file_system(pattern)
    try:
        return [system.unstrip_protocol(name) for name in sorted(system.glob(path))]
    except Exception as error:
        raise unreachable(pattern, error) from error


def list_below(url: str) -> dict[str, Remote]:
    """{name from there: file} of all files below an address; empty where there are none."""
    system, path = file_system(url)
    try:
        system.invalidate_cache()  # what others stored meanwhile counts
        found = system.find(path, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:
        raise unreachable(url, error) from error
    files = ((name, _remote(system.unstrip_protocol(name), info)) for name, info in found.items())
    return {posixpath.relpath(name, path): file for name, file in files if file is not None}


def store(path: Path, url: str) -> None:
    """Copy a local file to an address, whole. Raises UserError where that fails again and again."""
    system, inside = file_system(url)
    for pause in (*_PAUSES, None):
        try:
            if inside.startswith("/"):  # of memory:// and file://; a bucket has no folders to make, and may not be made
                system.makedirs(posixpath.dirname(inside), exist_ok=True)
            return system.put_file(str(path), inside)
        except Exception as error:
            if pause is None:
                raise UserError(
                    f"{url}: cannot be written ({first_line(error)}). Check the address, the network, the credentials."
                ) from error
        time.sleep(pause * random.uniform(1, 1.5))


def remove(url: str) -> None:
    """Remove the file or folder at an address, if it is there. Raises UserError where the store refuses."""
    system, path = file_system(url)
    try:
        system.rm(path, recursive=True)
    except FileNotFoundError:
        pass
    except Exception as error:
        raise unreachable(url, error) from error


def fetch(file: Remote, path: Path) -> None:
    """Copy a whole file to `path`, which is only right when this returns. Raises OSError, naming the file.

    What fails is tried again, three times, and so is a copy of another size than was listed.
    """
    system, inside = file_system(file.url)
    for pause in (*_PAUSES, None):
        try:
            system.get_file(inside, str(path))
            if (size := path.stat().st_size) == file.size:
                return
            reason: Any = f"{size:,} of {file.size:,} bytes came"
        except FileNotFoundError:
            raise OSError(f"{file.url}: is there no more") from None
        except Exception as error:
            if getattr(error, "errno", None) == 28:  # the disk is full: waiting helps nobody
                raise
            reason = str(error) or type(error).__name__
        if pause is not None:
            time.sleep(pause * random.uniform(1, 1.5))
    raise OSError(f"{file.url}: cannot be fetched ({first_line(reason)})")


def unreachable(url: str, error: BaseException) -> UserError:
    """The line for a store that refuses or does not answer."""
    return UserError(
        f"{url}: cannot be read ({first_line(error)}). Check the address, the network and the credentials."
    )


def first_line(error: Any) -> str:
    """The first line of an error, cut to what fits into one of ours."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _listing(url: str) -> dict[str, dict]:
    """{path: what the store says} of a folder; empty where there is none."""
    system, path = file_system(url)
    try:
        return {info["name"]: info for info in system.ls(path, detail=True)}
    except FileNotFoundError:
        return {}
    except Exception as error:
        raise unreachable(url, error) from error


def _info(system, url: str, path: str) -> dict | None:
    try:
        return system.info(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise unreachable(url, error) from error


def _remote(url: str, info: dict | None) -> Remote | None:
    if info is None or info.get("type") == "directory":
        return None
    said = {str(name).lower(): value for name, value in info.items()}
    version = next((f"{name}={said[name]}" for name in _VERSIONS if said.get(name)), "")
    return Remote(url, int(info.get("size") or 0), version)

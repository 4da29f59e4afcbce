"""Weights files: where they are looked for, whether they are the right ones, and how they are fetched.

Nothing here touches the network except :func:`fetch`, and nothing imports a model's package.
"""

from __future__ import annotations

import fcntl
import http
import http.client
import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from uspex_bridge.base.errors import ModelError
from uspex_bridge.base.files import checksum, user_cache, user_data
from uspex_bridge.base.schema import nearest
from uspex_bridge.models.cards import CalculatorSettings, Card, KnownModel, file_of_url

#: Called with the bytes so far and the total where it is known.
Progress = Callable[[int, int | None], None]
#: Environment variable with folders of weights, separated as in PATH.
VARIABLE = "USPEX_BRIDGE_MODELS"
#: Seconds without a byte after which a download is given up.
NETWORK_TIMEOUT = 60.0


@dataclass(frozen=True)
class Weights:
    """Weights that were found.

    Attributes:
        model: the name to report, a known one or the file's.
        path: the file; None where the calculator takes no weights or finds them by ``model`` itself.
        known: the card's entry, None for a file of the user's own.
    """

    model: str | None
    path: Path | None
    known: KnownModel | None = None

    @property
    def sha256(self) -> str | None:
        """Checksum of the file, read once per process and state of the file.

        Raises:
            ModelError: the file cannot be read.
        """
        return None if self.path is None else _sha256(self.path)


def models_folder() -> Path:
    """Return the folder that downloads go to: the first of $USPEX_BRIDGE_MODELS, else in the user's data folder."""
    return _named_folders()[0]


def find(card: Card, settings: CalculatorSettings, name: str = "") -> Weights:
    """Find the weights that ``settings`` of the calculator ``name`` ask for, and check their checksum.

    ``model`` is a known name, a path or a URL (which is looked for among the downloads, never fetched here);
    None takes the first known model that is there. Looked for in this order: an explicit path, the folders of
    $USPEX_BRIDGE_MODELS, the user's data folder, the package's own folders.

    Raises:
        ModelError: nothing found (says how to get it), or the checksum is wrong.
    """
    if settings.model is None:
        return _default(card, settings, name or card.kind)
    known = None if os.sep in settings.model else card.known(settings.model)
    if known is not None:
        found = _known_or_none(card, known)
        if found is None:
            raise _absent(card, known, name or card.kind)
        return _checked(found, settings)
    return _checked(_own(card, settings.model, name or card.kind), settings)


def fetch(
    card: Card,
    model: str,
    sha256: str | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download known weights or a URL into ``folder`` (:func:`models_folder`) and return the file.

    The file appears under its name only when it is whole and its checksum right; one that is there already and
    right is not downloaded again, and a download that was cut off goes on where it ended. ``progress`` is called with
    the bytes so far and the total where it is known.

    Raises:
        ModelError: not a known name or URL, no source answered, or the checksum is wrong.
    """
    known = card.known(model)
    if known is not None and known.in_wheel:
        holder = card.keeper or card.package
        raise ModelError(f"{card.kind} {known.name} comes with {holder}; nothing to fetch: {card.install}")
    first = known.files[0] if known and known.files else ""
    urls = known.urls(first) if known else ((model,) if is_url(model) else ())
    if not urls:
        names = ", ".join(k.name for k in card.models if k.urls("")) or "none"
        raise ModelError(f"{card.kind}: '{model}' is neither a URL nor a model that can be fetched; those are: {names}")
    file = known.file_names[0] if known else file_of_url(model)
    if not file:
        raise ModelError(f"{card.kind}: {model} does not end in the name of a file")
    target = (folder or models_folder() / card.kind) / file
    expected = sha256 or (known.sha256 if known else None)
    for other in known.beside if known else ():
        _fetch_one(card, model, known.urls(other) if known else (), target.with_name(other), None, progress)
    _fetch_one(card, model, urls, target, expected, progress)
    return target


def _fetch_one(
    card: Card,
    model: str,
    urls: tuple[str, ...],
    target: Path,
    expected: str | None,
    progress: Progress | None,
) -> None:
    if target.is_file() and (expected is None or _sha256(target) == expected.lower()):
        return
    problems = []
    for url in urls:
        try:
            _refuse_plain(url, expected)
            _download(url, target, expected, progress)
            return
        except (OSError, ValueError, http.client.HTTPException, ModelError) as error:
            problems.append(f"{url}: {getattr(error, 'reason', None) or error}")
    raise ModelError(f"{card.kind}: could not fetch '{model}' to {target}: " + "; ".join(problems))


def fetch_command(card: Card, model: str) -> str:
    """Return the command that fetches weights."""
    return f"uspex-bridge doctor --fetch {card.kind}:{model}"


def package_folder(module: str) -> Path | None:
    """Return the folder of an installed package without importing it, or None."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _sha256(path: Path) -> str:
    """Return a checksum that is worked out once per process and state of the file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        state = path.stat()
        return _known_sha256(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise ModelError(f"{path}: weights cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=64)
def _known_sha256(path: Path, _mtime: int, _size: int) -> str:
    return checksum(path)


def is_url(model: str) -> bool:
    """Tell whether a model is named by a URL."""
    return model.startswith(("https://", "http://", "file://"))


def _named_folders() -> list[Path]:
    """Folders of $USPEX_BRIDGE_MODELS, then the user's data folder."""
    listed = [Path(entry).expanduser() for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry]
    return [*listed, user_data() / "models"]


def _folders(card: Card) -> list[Path]:
    """Return every folder in which weights of this kind may lie, in the order of the search."""
    package = package_folder(card.module)
    folders = [place for folder in _named_folders() for place in (folder / card.kind, folder)]
    kept = (entry for entry in card.search if "{package}" not in entry or package is not None)
    return [*folders, *(Path(entry.format(cache=user_cache(), package=package)).expanduser() for entry in kept)]


def _lying(card: Card, names: tuple[str, ...]) -> Path | None:
    return next((f / n for f in _folders(card) for n in names if (f / n).is_file()), None)


def _known_or_none(card: Card, known: KnownModel) -> Weights | None:
    if known.in_wheel:
        package = package_folder(card.keeper or card.module)
        path = package / known.files[0] if package else None
        return Weights(known.name, path, known) if path and path.is_file() else None
    path = _lying(card, known.file_names) or _cached_by_hub(card, known)
    return Weights(known.name, path, known) if path else None


def _hub_cache() -> Path:
    """Return the folder that Hugging Face's own client keeps its downloads in."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("HF_HOME") or user_cache() / "huggingface").expanduser() / "hub"


def _cached_by_hub(card: Card, known: KnownModel) -> Path | None:
    """Return where Hugging Face's own client has put the weights: of its main revision, else of the newest one."""
    if not known.hub:
        return None
    for place in (_hub_cache(), *_folders(card)):
        folder = place / f"models--{known.hub.replace('/', '--')}"
        try:
            main = (folder / "refs" / "main").read_text().strip()
            revisions = sorted((folder / "snapshots").iterdir(), key=lambda p: (p.name == main, p.stat().st_mtime))
        except OSError:
            continue
        for revision in reversed(revisions):
            if all((revision / name).is_file() for name in (known.files[0], *known.beside)):
                return revision / known.files[0]
    return None


def _default(card: Card, settings: CalculatorSettings, name: str) -> Weights:
    if not card.takes_weights or (not card.models and not card.model_required):
        return Weights(None, None)
    if card.model_required:
        names = ", ".join(known.name for known in card.models)
        raise ModelError(
            f"{card.kind} has no default model; set model under [calculators.{name}] to the path of a file"
            + (f", or to one of: {names}" if names else "")
        )
    for known in card.models:
        if found := _known_or_none(card, known):
            return _checked(found, settings)
    raise _absent(card, card.models[0], name)


def _own(card: Card, model: str, name: str) -> Weights:
    """Find a file that is not one of the card's own."""
    if is_url(model):
        file = file_of_url(model)
        path = _lying(card, (file,)) if file else None
        if path is None:
            raise ModelError(
                f"{card.kind}: {model} is not on this machine; looked for {file} in {_listed(_folders(card))}; "
                f"get it with: {fetch_command(card, model)}"
            )
        return Weights(model, path)
    path = Path(model).expanduser()
    if path.is_dir() and card.folder_file and (path / card.folder_file).is_file():
        return Weights(path.name, (path / card.folder_file).absolute())
    if path.is_dir():
        raise ModelError(f"{path}: is a folder, not a weights file")
    if path.is_file():
        return Weights(path.name, path.absolute())
    if os.sep in model:
        raise ModelError(f"{card.kind}: there is no file {path.absolute()} (model of [calculators.{name}])")
    if path.name == model and (lying := _lying(card, (model,))):
        return Weights(model, lying)
    if not card.models and path.name == model:
        return Weights(model, None)
    hint = nearest(model, [known.name for known in card.models]) if card.models else ""
    raise ModelError(
        f"{card.kind}: '{model}' of [calculators.{name}] is neither a file nor a known model{hint}; "
        f"looked in {_listed([Path.cwd(), *_folders(card)])}"
    )


def _absent(card: Card, known: KnownModel, name: str) -> ModelError:
    if known.in_wheel:
        holder = card.keeper or card.package
        return ModelError(
            f"{card.kind}: the weights '{known.name}' come with {holder}, which is not installed or does not hold "
            f"them; get it with: {card.install}"
        )
    size = f"{known.size_mb:g} MB, " if known.size_mb else ""
    facts = f"{size}licence {known.licence or 'on its page'}"
    return ModelError(
        f"{card.kind}: the weights '{known.name}' ({facts}) are not on this machine; looked for "
        f"{' or '.join(known.file_names)} in {_listed(_folders(card))}; get them with: "
        f"{known.get or fetch_command(card, known.name)}, or set model = PATH under [calculators.{name}]"
    )


def _listed(folders: list[Path]) -> str:
    return ", ".join(map(str, folders))


def _checked(weights: Weights, settings: CalculatorSettings) -> Weights:
    expected = settings.sha256 or (weights.known.sha256 if weights.known else None)
    if expected and weights.path is not None and weights.sha256 != expected.lower():
        raise ModelError(
            f"{weights.path}: not the requested weights: its sha256 is {weights.sha256}, not {expected}; "
            "remove it and fetch it again"
        )
    return weights


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirection, but not from HTTPS to plain HTTP."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request that follows; raises ModelError."""
        if req.full_url.startswith("https://"):
            _refuse_plain(newurl, None)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_plain(url: str, expected: str | None) -> None:
    """Refuse what could be changed on its way, unless a checksum follows.

    Raises:
        ModelError: it goes over plain HTTP.
    """
    if expected is None and not url.startswith(("https://", "file://")):
        raise ModelError(
            "plain HTTP is not secure; use https, or append #sha256= and the checksum of the file to the URL"
        )


def _download(url: str, target: Path, expected: str | None, progress: Progress | None) -> None:
    """Fetch ``url`` to ``target`` by way of a file beside it; a call after one that was cut off goes on with that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part, tag = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.etag")
    with part.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError("another process is fetching it") from None
        try:
            _receive(url, stream, tag, progress)
        except BaseException:
            if not tag.is_file():  # nothing tells whether the rest would be of the same file
                part.unlink()
            raise
        if part.stat().st_size == 0:
            raise ModelError("the file is empty")
        digest = checksum(part)
        if expected and digest != expected.lower():
            part.unlink()
            tag.unlink(missing_ok=True)
            raise ModelError(f"sha256 is {digest}, not {expected}")
        os.fsync(stream)
        part.chmod(0o644)
        part.replace(target)
        tag.unlink(missing_ok=True)


def _receive(url: str, stream: BinaryIO, tag: Path, progress: Progress | None) -> None:
    """Append to a file what it lacks of ``url``; ``tag`` keeps the version of what it holds so far."""
    done = stream.seek(0, os.SEEK_END)
    headers = {"User-Agent": "uspex_bridge"}
    if done and tag.is_file():
        headers |= {"Range": f"bytes={done}-", "If-Range": tag.read_text()}
    request = urllib.request.Request(url, headers=headers)
    if (token := os.environ.get("HF_TOKEN")) and urlsplit(url).hostname == "huggingface.co":
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # for its own host only
    with urllib.request.build_opener(_Redirects).open(request, timeout=NETWORK_TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise ModelError("the answer is a web page, not a file")
        if getattr(answer, "status", None) != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0  # another version, or a server that sends whole files only
            stream.truncate(0)
        version = answer.headers.get("ETag", "")
        if version and not version.startswith("W/"):
            tag.write_text(version)
        else:
            tag.unlink(missing_ok=True)
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        while block := answer.read(1 << 20):
            stream.write(block)
            done += len(block)
            if progress:
                progress(done, total)
        stream.flush()
    if total is not None and done != total:
        raise ModelError(f"ended after {done} of {total} bytes; the next call continues")

"""Publishing as its callers see it (what happens on disk is in `placing`): `<name>/`, `<name>.tar.gz`, `<name>.json`.

    stage = Staging(output_dir, name)
    with stage:
        save the SavedModel to stage.model_dir
        unpacked = stage.unpacked_candidate()  # what parity is run on
        stage.publish(build_manifest(..., files=stage.files))

Nothing appears under the final names before `publish`, which puts all three there or none.
"""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from utils.artefact.card import model_card
from utils.artefact.contents import final_names
from utils.artefact.identity import require_same_source
from utils.artefact.manifest import UNLISTED, Name, check_manifest, manifest_text, packed_manifest
from utils.artefact.placing import explained, full, make_folder, place
from utils.artefact.tarball import Packing, extract_tarball, hash_tarball, write_tarball
from utils.artefact.typed import check
from utils.errors import PackagingError
from utils.families.variants import BESIDE
from utils.files import hash_file, hash_files, paths_below


class Published(NamedTuple):
    """Where a published artefact's three parts are."""

    folder: Path
    tarball: Path
    manifest: Path

    @property
    def facts(self) -> dict[str, str]:
        """The same for people."""
        size = f"{self.tarball.stat().st_size / 1e6:.1f} MB"
        places = {"SavedModel": self.folder, "tarball": self.tarball, "manifest": self.manifest}
        beside = {BESIDE[key]: self.folder.with_name(f"{self.folder.name}.{key}") for key in BESIDE}
        places |= {title: path for title, path in beside.items() if path.is_file()}
        return {what: str(path) for what, path in places.items()} | {"tarball's size": size}


class Staging:
    """A hidden folder in `output_dir` where an artefact grows until it is published.

    Any exception inside a `with` block, an interrupt too, removes it, and so does the end of the program; the
    same staging may be used in several blocks, such as a notebook's cells. What killed processes left of the
    same name is removed at the start, what live ones are writing is not.

    model_dir: where to save the SavedModel; it does not exist yet. beside: where to write further files, by format.
    files: SHA-256 by path of what `unpacked_candidate` returned. needed_bytes: about three times the weights' bytes
    (folder, tarball, unpacked copy), and once more for each further file. overwrite: take the place of whatever has
    this name; otherwise only of what was made from the same, see `require_place`.

    PackagingError for a name that is no artefact's, and an `output_dir` that is a file, cannot be written or
    has too little space.
    """

    def __init__(
        self, output_dir: str | os.PathLike, name: str, needed_bytes: int = 0, overwrite: bool = False
    ) -> None:
        check(name, Name, "artefact", "name")
        self.name, self._overwrite = name, overwrite
        self.output_dir = Path(output_dir).expanduser().absolute()
        self._folder, lock = make_folder(self.output_dir, name, needed_bytes)
        self._end = weakref.finalize(self, _remove, self._folder, lock, os.getpid())
        self.model_dir = self._folder / "new" / name
        self._tarball = self.model_dir.with_name(final_names(name)[1])
        self.beside = {format: self._folder / "new" / f"{name}.{format}" for format in BESIDE}
        self.files: dict[str, str] = {}

    def require_place(self, manifest: Mapping[str, Any]) -> None:
        """PackagingError if what has this name was made from something else; `publish` asks again.

        manifest: or its `identity.outline`, as soon as that is known.
        """
        if not self._overwrite:
            require_same_source(self.output_dir, manifest)

    def unpacked_candidate(self) -> Path:
        """Packs the SavedModel and unpacks that tarball: the folder that parity is to be run on.

        PackagingError where `model_dir` is no SavedModel.
        """
        if not (self.model_dir / "saved_model.pb").is_file():
            raise PackagingError(f"{self.model_dir} has no saved_model.pb. Save the model there first.")
        with explained(self.output_dir):
            unpacked, self._packing = self._folder / "unpacked", Packing()
            shutil.rmtree(unpacked, ignore_errors=True)
            extract_tarball(write_tarball(self.model_dir, self._tarball, self._packing), unpacked)
        self.files = hash_files(unpacked)
        return unpacked

    def publish(self, manifest: Mapping[str, Any]) -> Published:
        """Adds manifest and model card to folder and tarball, checks both, and places them with what is `beside` them.

        Inside goes `packed_manifest`; the one beside the tarball has all figures, and the tarball's hash and size.
        PackagingError where the manifest is not this artefact's, where any file is not the one that parity ran on, and
        as `require_place`; then nothing is placed, and what was there stays.
        """
        check_manifest(manifest)
        if manifest["name"] != self.name:
            raise PackagingError(f"the manifest is of {manifest['name']!r}, and {self.name!r} was staged.")
        inside = packed_manifest(manifest)
        self._require_verified("the manifest", manifest["files"])
        beside = self._beside_facts(manifest)
        names = final_names(self.name)
        with explained(self.output_dir):
            for path, text in zip(UNLISTED, (manifest_text(inside), model_card(inside)), strict=True):
                (self.model_dir / path).parent.mkdir(exist_ok=True)
                (self.model_dir / path).write_text(text, encoding="utf-8")
            with self._tarball.open("r+b") as file:
                added = [path for path in paths_below(self.model_dir) if path not in self._packing.names]
                self._packing.append(file, self.model_dir, added)
            for what, found in (
                ("the folder", hash_files(self.model_dir)),
                ("the tarball", hash_tarball(self._tarball)),
            ):
                self._require_verified(what, {path: value for path, value in found.items() if path not in UNLISTED})
            facts = {"sha256": hash_file(self._tarball), "bytes": self._tarball.stat().st_size}
            self._tarball.with_name(names[2]).write_text(
                manifest_text({**manifest, "tarball": facts, **beside}), encoding="utf-8"
            )
            place(self._folder, self.output_dir, self.name, lambda: self.require_place(manifest))
        self.discard()
        return Published(*(self.output_dir / name for name in names))

    def discard(self) -> None:
        """Removes what is not published. May be called at any time, and again."""
        self._end()

    def __enter__(self) -> Staging:
        if not self._end.alive:
            raise PackagingError(f"this staging of {self.name} is over: published or discarded. Start another one.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        self.discard()
        if not isinstance(error, PackagingError) and (no_space := full(self.output_dir, error)):
            raise no_space from error

    def _beside_facts(self, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the manifest says of the files of further formats, each with its size."""
        found = {}
        for key, path in self.beside.items():
            if not path.is_file() and key not in manifest:
                continue
            if not path.is_file() or manifest.get(key, {}).get("sha256") != hash_file(path):
                raise PackagingError(
                    f"{path.name} is not the file that parity was run on. Nothing was published: convert again."
                )
            found[key] = {**manifest[key], "bytes": path.stat().st_size}
        return found

    def _require_verified(self, what: str, files: Mapping[str, str]) -> None:
        if not self.files:
            raise PackagingError(
                f"{self.name} was not verified: run parity on `unpacked_candidate()` before publishing."
            )
        paths = sorted(path for path in {*files, *self.files} if files.get(path) != self.files.get(path))
        if paths:
            raise PackagingError(
                f"{self.name}: {what} differs from what parity was run on, in {', '.join(paths)}. "
                "Nothing was published: change nothing after `unpacked_candidate()`, and convert again."
            )


def _remove(folder: Path, lock: IO[bytes], process: int) -> None:
    if os.getpid() == process:  # a forked child ends too, and must leave its parent's work alone
        shutil.rmtree(folder, ignore_errors=True)
    lock.close()

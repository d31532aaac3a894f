"""Publishes a release's artefacts where people look: `python -m utils.publish huggingface|kaggle FOLDER`.

FOLDER is what `make release` leaves, or a conversion of one's own checkpoint. Without --send nothing is sent, and what
would be is printed. Sent are official weights, or one's own under a name, a licence and with words of one's own; and
only if everything that was chosen may be, and is what its manifest says.

On the Hugging Face Hub an artefact is a repository: one model, one card, one task, as people there expect. At its root
are the members of the `.keras` file, because `keras.saving.load_model("hf://owner/name")` looks for them there and
knows no archive; beside them is the SavedModel, in a folder of its name, which once downloaded is what everything here
takes. TFLite files are for Kaggle alone, and ONNX files for neither: `hf://` fetches whole repositories, and they would
double those. On Kaggle a family is a model, and each file a variation under its framework. With --weights, the weights
that `utils.weights` makes of the SavedModel go along, for who trains on in PyTorch or JAX.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from utils.artefact.card import hub_card, hub_header, model_card
from utils.artefact.contents import check_lite, final_names
from utils.artefact.manifest import PUBLISHER, UNLISTED, licence, manifest_text, packed_manifest
from utils.artefact.opening import open_keras, open_model
from utils.artefact.tarball import extract_tarball
from utils.command import run_command
from utils.errors import PackagingError, ParameterError
from utils.families import FAMILIES
from utils.families.variants import VARIANTS
from utils.files import hash_file, paths_below
from utils.keras_models.archive import CONFIG, METADATA, WEIGHTS
from utils.release.folder import check_folder
from utils.weights import ENDINGS, write_weights

Manifest = Mapping[str, Any]

_OF_KAGGLE = {"PyTorch": "pyTorch", "JAX": "jax"}  # names of source frameworks
KAGGLEHUB = "kagglehub==1.0.3"  # as requirements-dev.txt has it
_MAX_WORDS = 64 << 10  # bytes of --card
# A name as both sites have them: "apache-2.0", "CC0: Public Domain", "Attribution 4.0 International (CC BY 4.0)".
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+:()-]{0,63}")


@dataclass(frozen=True)
class Maker:
    """What somebody says of a model of their own. licence: as the site spells it. words: Markdown for its card."""

    licence: str = ""
    words: str = ""

    def told(self, manifest: Manifest) -> Manifest:
        """The manifest for a card and for what a site reads."""
        return {**manifest, "licence": self.licence} if self.licence else manifest


@dataclass(frozen=True)
class Parcel:
    """What goes to one place. files: by path there, a file here or its bytes. header: what that place reads of it."""

    place: str
    files: Mapping[str, Path | bytes]
    header: str
    send: Callable[[], object]

    def __str__(self) -> str:
        sizes = {path: len(f) if isinstance(f, bytes) else f.stat().st_size for path, f in sorted(self.files.items())}
        lines = [f"{size:>15,}  {path}" for path, size in sizes.items()]
        header = [f"    {line}" for line in self.header.splitlines()]
        return "\n".join([f"{self.place} (files: {len(sizes)}, bytes: {sum(sizes.values()):,})", *lines, *header])


def publish(
    site: str,
    folder: Path,
    owner: str,
    patterns: list[str],
    send: bool = False,
    maker: Maker | None = None,
    weights: bool = False,
) -> str:
    """Prints all that goes to a site; returns a sentence on what was done.

    Args:
        site: one of `SITES`.
        folder: with tarballs, each with its manifest.
        owner: user or organisation there.
        patterns: of names, a tarball's without its ending.
        send: whether to send it, too.
        maker: of custom weights; None for official ones.
        weights: whether to send each artefact's weights for its source framework, too.

    Raises:
        PackagingError: a file is not what its manifest says, or may not be published, before anything is sent
            (without `send` the latter comes at the end); or sending failed, with what was sent before.
    """
    maker = maker or Maker()
    parcels_of, require_token = SITES[site]
    manifests = check_folder(folder)
    chosen = {name: m for name, m in manifests.items() if any(fnmatch(name, pattern) for pattern in patterns)}
    if not chosen:
        raise PackagingError(
            f"{folder} has no artefact named {' or '.join(patterns)}: expected tarballs, each with its manifest."
        )
    if send:
        _require_publishable(chosen, maker)
        require_token()
    places: list[str] = []
    for name, manifest in chosen.items():
        try:
            with tempfile.TemporaryDirectory(prefix="publish-") as scratch:
                parts = _checked_copies(folder, name, manifest, Path(scratch))
                if weights and "tensorFlow2" in parts:
                    framework = FAMILIES[manifest["model"]["family"]].framework
                    made = parts[_OF_KAGGLE[framework]] = Path(scratch) / f"{name}{ENDINGS[framework]}"
                    write_weights(open_model(str(parts["tensorFlow2"])), made)
                if "tensorFlow2" in parts and maker.licence:
                    card = model_card(maker.told(packed_manifest(manifest)), words=maker.words)
                    (parts["tensorFlow2"] / UNLISTED[1]).write_text(card, encoding="utf-8")
                for parcel in parcels_of(owner, manifest, parts, maker):
                    print(parcel, flush=True)
                    if send:
                        _sent(parcel, places)
                    places.append(parcel.place)
        except OSError as error:
            room = f"A copy is made in {tempfile.gettempdir()}; the environment variable TMPDIR names another folder."
            raise PackagingError(f"{name} cannot be copied: {error}. {room}") from error
    if send:
        return f"\nSent to {len(places)} places. A new repository or model is private until you make it public there."
    _require_publishable(chosen, maker)  # a dry run shows what --send would refuse, and then refuses it too
    return f"\nNothing was sent. With --send, this goes to {len(places)} places."


def _require_publishable(manifests: Mapping[str, Manifest], maker: Maker) -> None:
    """PackagingError unless all have their authors' weights, as they are, or one's own, of which `maker` tells."""
    refused = {name: reason for name, manifest in manifests.items() if (reason := _refusal(manifest, maker))}
    if refused:
        found = "; ".join(f"{name} ({reason})" for name, reason in refused.items())
        raise PackagingError(
            f"only official weights and those of one's own are published, and not these: {found}. Nothing was sent. "
            "Choose others with --only, or convert them so that they may be."
        )


def _refusal(manifest: Manifest, maker: Maker) -> str:
    if manifest.get("training"):
        return "fine-tuned"
    if manifest["model"].get("testing"):
        return "a model for tests"
    if manifest["weights"] == "custom":
        return _refusal_of_own(manifest["name"], maker)
    if manifest["weights"] == "official" and maker != Maker():
        return "official weights, whose authors named their licence: leave out --licence and --card"
    return "" if manifest["weights"] == "official" else f"{manifest['weights']} weights"


def _refusal_of_own(name: str, maker: Maker) -> str:
    """Why custom weights are not published: their maker says too little, or they have the authors' name."""
    alike = [row for row in VARIANTS if name.lower().replace("-", "_").startswith(row)]
    if alike:
        return f"custom weights under the name of {alike[0]}: convert the checkpoint again with a `name` of your own"
    return "" if maker.licence and maker.words else "custom weights: give both --licence and --card"


def _maker(licence: str | None, card: Path | None) -> Maker:
    """What the options say. ParameterError names the one that cannot be used."""
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise ParameterError(f"--licence is {licence!r}; expected a licence's name, such as 'apache-2.0' or 'MIT'")
    return Maker(licence or "", _words(card) if card else "")


def _words(card: Path) -> str:
    try:
        with card.open("rb") as file:
            words = file.read(_MAX_WORDS + 1)
        text = words.decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"--card is '{card}', which cannot be read as UTF-8 text: {error}") from error
    if not text or len(words) > _MAX_WORDS:
        raise ParameterError(f"--card is '{card}'; expected Markdown, at most {_MAX_WORDS:,} bytes of it")
    return text


def _sent(parcel: Parcel, before: list[str]) -> None:
    """Sends it. PackagingError with the reason, and with what was sent before."""
    try:
        parcel.send()
        print("    sent", flush=True)
    except Exception as error:  # the libraries' own, and those of their HTTP clients
        reason = " ".join(str(error).split())[:1000] or type(error).__name__
        sent = f"Sent before: {', '.join(before)}." if before else "Nothing was sent before."
        raise PackagingError(
            f"{parcel.place} was not published: {reason} {sent} Run again for what is left, with --only."
        ) from error


def _checked_copies(folder: Path, name: str, manifest: Manifest, scratch: Path) -> dict[str, Path]:
    """The artefact's parts, by Kaggle's names of frameworks, in `scratch`, where nobody changes them after the check.

    PackagingError unless each says of itself what the manifest says: weights are not official because a manifest that
    lies beside them calls them so.
    """
    if name.endswith(".tflite"):
        for file in (name, f"{name}.json"):
            shutil.copyfile(folder / file, scratch / file)
        same, parts = check_lite(scratch / name) == manifest, {"tfLite": scratch / name}
    else:
        parts = {"tensorFlow2": extract_tarball(folder / final_names(name)[1], scratch / name)}
        same = open_model(str(parts["tensorFlow2"])).manifest == packed_manifest(manifest)
        if "keras" in manifest:
            parts["keras"] = scratch / f"{name}.keras"
            shutil.copyfile(folder / parts["keras"].name, parts["keras"])
            same &= hash_file(parts["keras"]) == manifest["keras"]["sha256"]
            record = open_keras(parts["keras"]).manifest
            same &= all(record[key] == manifest[key] for key in ("name", "head", "weights"))
    if not same:
        raise PackagingError(f"{name} in {folder}: inside is another manifest than beside it. Convert it again.")
    return parts


def _files(folder: Path) -> dict[str, Path]:
    return {path: folder / path for path in paths_below(folder) if (folder / path).is_file()}


def _notes(manifest: Manifest) -> str:
    whose = "its maker's" if manifest["weights"] == "custom" else "the authors'"
    return f"converted from {whose} checkpoint, parity verified"


def _hub_parcels(owner: str, manifest: Manifest, parts: Mapping[str, Path], maker: Maker) -> Iterator[Parcel]:
    """An artefact's repository; none for a TFLite file. Arguments as of `publish` and of `_checked_copies`."""
    if "tensorFlow2" not in parts:
        print(f"{manifest['name']}.tflite: for Kaggle alone")
        return
    name = manifest["name"]
    repository = f"{owner}/{name}"
    files: dict[str, Path | bytes] = {
        "README.md": hub_card(maker.told(manifest), repository, maker.words).encode(),
        f"{name}.json": manifest_text(manifest).encode(),
    }
    files |= {f"{name}/{path}": file for path, file in _files(parts["tensorFlow2"]).items()}
    if "keras" in parts:
        with zipfile.ZipFile(parts["keras"]) as archive:
            unpacked = parts["keras"].with_suffix(".unpacked")
            files |= {member: Path(archive.extract(member, unpacked)) for member in (CONFIG, METADATA, WEIGHTS)}
    files |= {parts[key].name: parts[key] for key in _OF_KAGGLE.values() if key in parts}
    send = partial(_send_to_hub, repository, files, _notes(manifest))
    yield Parcel(f"huggingface.co/{repository}", files, hub_header(maker.told(manifest)), send)


def _send_to_hub(repository: str, files: Mapping[str, Path | bytes], notes: str) -> None:
    """All in one commit, with what it replaces; `upload_folder` would make several of large files."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, name = HfApi(), repository.split("/")[1]
    api.create_repo(repository, private=True, exist_ok=True)
    ours = (CONFIG, METADATA, WEIGHTS, *(f"{name}{ending}" for ending in ENDINGS.values()))
    there = [path for path in api.list_repo_files(repository) if path.startswith(f"{name}/") or path in ours]
    operations = [CommitOperationDelete(path) for path in there if path not in files]
    operations += [CommitOperationAdd(path, content) for path, content in files.items()]
    api.create_commit(repository, operations, commit_message=notes)


def _require_hub_token() -> None:
    from huggingface_hub import get_token

    if not get_token():
        raise PackagingError("there is no token of the Hugging Face Hub. Run `hf auth login`, or set HF_TOKEN.")


def _kaggle_parcels(owner: str, manifest: Manifest, parts: Mapping[str, Path], maker: Maker) -> Iterator[Parcel]:
    """A variation for each framework. Arguments as of `_hub_parcels`."""
    family = manifest["model"]["family"]
    variation = manifest["name"].removeprefix(f"{family}_").replace("_", "-").lower()
    # "MIT" and "Apache 2.0" are Kaggle's names.
    license_name = maker.licence or licence(manifest)[0].replace("-", " ")
    for framework, part in parts.items():
        handle = f"{owner}/{FAMILIES[family].title.lower()}/{framework}/{variation}"
        send = partial(_send_to_kaggle, handle, part, license_name, _notes(manifest))
        files = _files(part) if part.is_dir() else {part.name: part}
        yield Parcel(f"kaggle.com/models/{handle}", files, f"license_name: {license_name}", send)


def _send_to_kaggle(handle: str, part: Path, license_name: str, notes: str) -> None:
    import kagglehub

    kagglehub.model_upload(handle, str(part), license_name=license_name, version_notes=notes)


def _require_kaggle_token() -> None:
    try:
        from kagglehub.config import get_kaggle_credentials

        found = get_kaggle_credentials()
    except ImportError as error:
        raise PackagingError(f"kagglehub is not installed. Install it: pip install {KAGGLEHUB}") from error
    except ValueError as error:
        raise PackagingError(f"the token of Kaggle cannot be read: {error}.") from error
    if not found:
        raise PackagingError(
            "there is no token of Kaggle. Make one at kaggle.com/settings, and set KAGGLE_API_TOKEN or save it as "
            "~/.kaggle/access_token."
        )


SITES = {
    "huggingface": (_hub_parcels, _require_hub_token),
    "kaggle": (_kaggle_parcels, _require_kaggle_token),
}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m utils.publish", description=__doc__.splitlines()[0])
    parser.add_argument("site", choices=SITES)
    parser.add_argument("folder", type=Path, help="with a release: tarballs, manifests, .keras and .tflite files")
    parser.add_argument("--owner", default=PUBLISHER, help="user or organisation there (%(default)s)")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="artefacts' names, or patterns (all)")
    parser.add_argument("--licence", metavar="NAME", help="of a model of your own, as the site spells it")
    parser.add_argument("--card", type=Path, metavar="FILE", help="your words on a model of your own, in Markdown")
    parser.add_argument("--weights", action="store_true", help="send the weights for PyTorch or JAX, too")
    parser.add_argument("--send", action="store_true", help="really send it; without, it is only shown")
    options = parser.parse_args(arguments)
    return run_command(
        lambda: publish(
            options.site,
            options.folder,
            options.owner,
            options.only,
            options.send,
            _maker(options.licence, options.card),
            options.weights,
        ),
        "Interrupted: what was not said to be sent is not there, or private.",
    )


if __name__ == "__main__":
    sys.exit(main())

"""The page of a release: all of it there without a script, and what an index says is text and nothing else."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from manifests import manifest

from utils.families.variants import VARIANTS
from utils.files import hash_file
from utils.release import page as page_module
from utils.release.command import main as release
from utils.release.index import INDEX, PAGE, SUMS, TABLE, entry as index_entry
from utils.release.lists import in_order
from utils.release.page import page

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(page_module.__file__).with_name("page.js").read_text("utf-8")
ALL = in_order(json.loads((ROOT / "tests" / "data" / "releases.json").read_text("utf-8"))["artefacts"])
MACHINE = "a processor, 4 cores, Linux"
for place, each in enumerate(ALL):  # as if all but each third had been measured; more time, on slower machines
    figures = {"milliseconds": 900 + 7 * place, "times": 2 - place / 100}
    figures["source_milliseconds"] = figures["milliseconds"] / figures["times"]
    each["latency"] = figures | {"framework": "JAX", "machine": MACHINE, "threads": 2} if place % 3 else None
ADDRESS = "https://example.org/releases/v1"
HOSTILE = """"'><script>alert('x')</script><img src=x onerror=alert(1)></td></table>&amp;"""
LATENCY = {"milliseconds": 31.4, "source_milliseconds": 30.2, "times": 1.04, "framework": "JAX"}
LATENCY |= {"machine": MACHINE, "threads": 2}
VOID = {"meta", "input", "wbr"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


class Parsed(HTMLParser):
    """Every element as [tag, attributes, all text inside], in the order in which they begin; they must end in order."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.found.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.found[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def attributes(self, tag, name):
        return [attributes[name] for found, attributes, _ in self.found if found == tag and name in attributes]

    def texts(self, tag, **wanted):
        wanted = {key.strip("_"): value for key, value in wanted.items()}.items()
        return [text for found, attributes, text in self.found if found == tag and wanted <= attributes.items()]

    def models(self):
        return [re.match(r"\w+?(?=ConvMixer|MLP-Mixer)", text)[0] for text in self.texts("th", scope="row")]


def entry(name="mixer_tiny_fe", file=None, **changes):
    file = file or f"{name}.tar.gz"
    facts = {"name": name, "variant": "mixer_tiny", "head": "fe", "weights": "official", "family": "mixer"}
    facts |= {"operations": "xla", "parameters": 17618, "bytes": 70_000, "keras_bytes": None, "output": "features"}
    facts |= {"output_error": 1.3e-6, "gradients_error": 3.1e-6, "times": {"features": 1.4, "gradients": 0.6}}
    facts |= {"sentence": "Its features err 1.4 times as much.", "minimum_tensorflow": "2.14", "licence": "Apache-2.0"}
    facts |= {"source": {"url": "https://example.org/a.npz", "path": None, "sha256": "cd" * 32}, "derived_from": None}
    facts |= {"latency": LATENCY}
    return facts | {"file": file, "files": {file: "ab" * 32}} | changes


def smaller(file, **changes):
    return entry(file.split(".")[0], file, derived_from="mixer_tiny_fe", times={}, sentence="", **changes)


def merge(tmp_path, *entries, options=()):
    """What `python -m utils.release --merge` makes of an index that lists `entries`: exit status, and folder."""
    (tmp_path / "part").mkdir(exist_ok=True)
    (tmp_path / "part" / INDEX).write_text(json.dumps({"artefacts": list(entries)}))
    return release([str(tmp_path / "all"), "--merge", str(tmp_path / "part"), *options]), tmp_path / "all"


# --- what is there


def test_every_artefact_is_in_the_table_without_a_script():
    found = Parsed(page(ALL).replace(SCRIPT, ""))
    assert found.models() == [e["name"] for e in ALL]
    assert len(ALL) == len(found.texts("tbody"))
    for e, text in zip(ALL, found.texts("tbody"), strict=True):
        times = [f"{e['times'][output]:.1f}×" for output in (e["output"], "gradients")]
        errors = [f"{e[error]:.1e}" for error in ("output_error", "gradients_error")]
        facts = (f"{e['parameters']:,}", f"{e['bytes'] / 1e6:,.1f} MB", f"≥ {e['minimum_tensorflow']}", e["licence"])
        commands = f"{e['files'][e['file']]}  {e['file']}", f"python -m utils.verify {e['file']}"
        latency = ["—"]
        if e["latency"]:
            here, there = (f"{e['latency'][key]:,.0f} ms" for key in ("milliseconds", "source_milliseconds"))
            latency = [f"{e['latency']['times']:.2f}×{here}"]
            latency += [f"{here} for one image, and {there} in JAX, in turns with 2 threads on {MACHINE}."]
        assert text.count("—") == 1 + (e["latency"] is None)  # synthetic weights have no accuracy
        for shown in (*times, *errors, *latency, *facts, *commands, e["sentence"], e["source"]["sha256"]):
            assert shown in text, (e["name"], shown)
    assert {f"./{file}" for e in ALL for file in e["files"]} <= set(found.attributes("a", "href"))
    assert found.attributes("form", "hidden") == [None]  # a search that nothing answers


def test_headings_cells_and_controls_are_named_for_those_who_do_not_see_them():
    found = Parsed(page(ALL))
    headings = found.texts("th", scope="col")
    assert found.attributes("td", "data-label") == headings[1:] * len(ALL)
    assert found.attributes("td", "colspan") == [str(len(headings))] * len(ALL)
    assert found.attributes("label", "for") == found.attributes("input", "id")
    ids = [attributes["id"] for _, attributes, _ in found.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {href for href in found.attributes("a", "href") if href.startswith("#")} <= {f"#{name}" for name in ids}


def test_the_keras_file_and_smaller_ones_stand_with_the_model_that_they_are_of():
    keras = {f"mixer_tiny_fe.{ending}": "ab" * 32 for ending in ("tar.gz", "json", "md")}
    keras["mixer_tiny_fe.keras"] = "ef" * 32
    lite = smaller("mixer_tiny_fe_int8.tflite", output_error=2e-2, bytes=20_000)
    half = smaller("mixer_tiny_fe_float16.tflite", output_error=1e-3)
    other = smaller("other_fe_float16.tflite") | {"derived_from": "other_fe"}  # which is not there
    found = Parsed(page([half, lite, other, entry(files=keras, keras_bytes=80_000)]))
    assert found.models() == ["mixer_tiny_fe", "other_fe_float16"]
    kinds = ["SavedModel 0.1 MB", "Keras 3 0.1 MB", "TFLite, float16 0.1 MB", "TFLite, int8 0.0 MB"]
    assert found.texts("li") == [*kinds, "TFLite, float16 0.1 MB"]
    text = found.texts("tbody")[0]
    for shown in (f"{'ef' * 32}  mixer_tiny_fe.keras", "TFLite, int8, relative error 2.0e-02", "float16, relative err"):
        assert shown in text
    assert "Models: 2, files: 5, 0.3 MB" in found.texts("header")[0]


def test_synthetic_weights_are_marked_above_all_and_beside_each():
    several = [entry(), entry("a_synthetic", weights="synthetic"), entry("b_synthetic", weights="synthetic")]
    found = Parsed(page(several))
    (warning,) = found.texts("p", class_="warning")
    assert warning.startswith("SYNTHETIC WEIGHTS 2 of the 3 models")
    assert [text.count("SYNTHETIC") for text in found.texts("tbody")] == [0, 2, 2]
    assert "SYNTHETIC" not in page([entry()])


def test_the_same_entries_give_the_same_page_and_it_has_its_sum(tmp_path):
    status, folder = merge(tmp_path, *ALL)
    assert status == 0
    assert (folder / PAGE).read_text("utf-8") == page(ALL)
    assert merge(tmp_path, *reversed(ALL))[0] == 0
    assert (folder / PAGE).read_text("utf-8") == page(ALL)
    assert f"{hash_file(folder / PAGE)}  {PAGE}\n" in (folder / SUMS).read_text()


def test_a_published_page_leads_to_where_its_files_are(tmp_path, capsys):
    status, folder = merge(tmp_path, entry(), options=["--address", f"{ADDRESS}/"])
    assert status == 0
    assert json.loads((folder / INDEX).read_text())["address"] == ADDRESS
    found, file = Parsed((folder / PAGE).read_text("utf-8")), "mixer_tiny_fe.tar.gz"
    assert {f"{ADDRESS}/{file}", f"{ADDRESS}/verify.pyz"} <= set(found.attributes("a", "href"))
    sums = f"echo '{'ab' * 32}  {file}' | sha256sum -c"
    assert found.texts("pre") == [f"curl -fLO {ADDRESS}/{file}\n{sums}\npython verify.pyz {file}"]
    for wrong in ("http://example.org", "javascript:alert(1)", "https://", 'https://example.org/"x', "./"):
        with pytest.raises(SystemExit):
            merge(tmp_path, entry(), options=["--address", wrong])
        assert "is not the https address of a folder" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="macOS has shasum instead")
def test_a_shell_that_is_given_the_commands_compares_the_file_and_runs_nothing_else(tmp_path):
    file = "it's; touch owned; $(touch owned).tar.gz"
    for content, status in ((b"model", 0), (b"other", 1)):
        (tmp_path / file).write_bytes(content)
        (commands,) = Parsed(page([entry(file=file, files={file: hashlib.sha256(b"model").hexdigest()})])).texts("pre")
        compare, _ = commands.splitlines()
        assert subprocess.run(["sh", "-c", compare], cwd=tmp_path, capture_output=True).returncode == status
    assert [path.name for path in tmp_path.iterdir()] == [file]


# --- what an index may say


def test_what_an_index_says_is_text_wherever_it_stands():
    source = {"url": HOSTILE, "path": HOSTILE, "sha256": HOSTILE}
    texts = ("variant", "head", "weights", "family", "operations", "output", "sentence", "licence")
    latency = LATENCY | {"machine": HOSTILE, "framework": HOSTILE}
    hostile = entry(HOSTILE, source=source, latency=latency, **dict.fromkeys((*texts, "minimum_tensorflow"), HOSTILE))
    found = Parsed(page([hostile, smaller(f"{HOSTILE}.tflite") | {"derived_from": HOSTILE}], HOSTILE))
    assert found.texts("script") == [SCRIPT]
    assert found.texts("img") == []
    assert not [name for _, attributes, _ in found.found for name in attributes if name.startswith("on")]
    (text,) = found.texts("tbody")
    assert text.count(HOSTILE) >= 9
    assert f"in {HOSTILE}, in turns with 2 threads on {HOSTILE}." in text
    assert HOSTILE.upper() in text  # weights that are none are loud, whatever they are
    assert len(found.texts("td")) == len(found.texts("td", class_="more")) * 10


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "//example.org", "http://example.org"])
def test_an_address_of_another_scheme_leads_nowhere(address):
    found = Parsed(page([entry(file=address, source={"url": address, "path": None, "sha256": "cd"})], address))
    assert [a for a in found.attributes("a", "href") if not a.startswith(("https://", "./", "#"))] == []
    assert f"Checkpoint: {address}," in found.texts("tbody")[0]
    assert "https://example.org/a.npz" in Parsed(page([entry()])).attributes("a", "href")


def test_the_page_lets_nothing_run_or_load_but_its_own_script_and_style():
    def named(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    found = Parsed(page(ALL))
    (policy,) = [content for content in found.attributes("meta", "content") if "src" in content]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    (script,), (style,) = found.texts("script"), found.texts("style")
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert (rules["script-src"], rules["style-src"]) == (named(script), named(style))
    assert not {"src", "style"} & {name for _, attributes, _ in found.found for name in attributes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": {"a/../b.tar.gz": "ab" * 32}}, "artefacts[0].files"),
        ({"files": {"mixer_tiny_fe.tar.gz": "ab" * 31}}, "artefacts[0].files"),
        ({"files": {"mixer_tiny_fe.tar.gz\nab  other": "ab" * 32}}, "artefacts[0].files"),
        ({"files": {"other.tar.gz": "ab" * 32}}, "artefacts[0] is"),
        ({"bytes": 10**400}, "artefacts[0].bytes"),
        ({"keras_bytes": "80 kB"}, "artefacts[0].keras_bytes"),
        ({"output_error": float("nan")}, "artefacts[0].output_error"),
        ({"source": {"url": ["x"]}}, "artefacts[0].source"),
        ({"sentence": "\ud800"}, "artefacts[0].sentence"),
        ({"name": None}, "artefacts[0].name"),
        ({"latency": LATENCY | {"times": 0}}, "artefacts[0].latency.times"),
    ],
)
def test_an_index_that_no_list_can_be_made_of_is_refused(tmp_path, capsys, changes, said):
    status, folder = merge(tmp_path, entry(**changes))
    assert status == 1
    assert said in capsys.readouterr().err
    assert not folder.exists()


def test_an_index_without_what_may_be_missing_is_not_refused(tmp_path):
    needed = ("name", "variant", "head", "weights", "family", "file", "parameters", "bytes", "files")
    status, folder = merge(tmp_path, {key: value for key, value in entry().items() if key in needed})
    assert status == 0
    assert "mixer_tiny_fe" in (folder / TABLE).read_text()
    found = Parsed((folder / PAGE).read_text("utf-8"))
    assert found.models() == ["mixer_tiny_fe"]
    assert found.texts("td", **{"data-label": "Latency"}) == ["—"]


def test_a_classifier_of_the_authors_weights_has_their_accuracy_and_no_other_model_has():
    variant = VARIANTS["convmixer_768_32"]
    facts = {"variant": variant, "name": f"{variant.name}_classification", "weights": "official"}
    facts["source"] = {"url": "https://example.org/a.pth.tar", "path": None, "sha256": "ab" * 32}
    official = index_entry(manifest(**facts), "a.tar.gz", 70_000, {"a.tar.gz": "ab" * 32})
    assert (official["top1"], official["image_size"]) == (80.16, 48)
    synthetic = manifest(**facts | {"name": f"{facts['name']}_synthetic", "weights": "synthetic"})
    assert index_entry(synthetic, "a.tar.gz", 1, {})["top1"] is None
    text = page([official])
    assert Parsed(text).texts("td", **{"data-label": "Top-1"}) == ["80.16 %"]
    assert "ConvMixer, classifier, 48 px" in text
    assert "files: 1, 0.1 MB" in text


# --- how it moves


@pytest.mark.skipif(not BROWSER, reason="there is no Chromium or Chrome")
@pytest.mark.parametrize(
    ("fragment", "shown"),
    [
        ("", [e["name"] for e in ALL]),
        ("#search=MIXER+fe+plain", [e["name"] for e in ALL if e["head"] == "fe" and e["operations"] == "plain"]),
        ("#sort=6&down=1", [e["name"] for e in sorted(ALL, key=lambda e: -e["times"][e["output"]])]),
        ("#sort=8", [e["name"] for e in sorted(ALL, key=lambda e: e["latency"]["times"] if e["latency"] else 9)]),
    ],
)
def test_a_browser_searches_and_sorts_as_the_address_says(tmp_path, fragment, shown):
    (tmp_path / PAGE).write_text(page(ALL), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = [BROWSER, *options, f"file://{tmp_path / PAGE}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    bodies = re.findall(r"<tbody( hidden[^>]*)?>.*?data-value=\"(\w+)\"", done.stdout)
    assert [name for hidden, name in bodies if not hidden] == shown
    assert len(bodies) == len(ALL)
    assert f">{len(shown)} of {len(ALL)} models</output>" in done.stdout
    assert done.stdout.count(">Copy</button>") == len(ALL)

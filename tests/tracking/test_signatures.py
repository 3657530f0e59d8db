"""A version in a real store is signed with a person's key, and whatever differs from what was signed is refused."""

import base64
import json
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from keys import KeyPair, key_pair
from ruamel.yaml import YAML
from shelf import REGISTRY, Shelf, moved_by_hand, record

from ddpm import cli
from ddpm.cli import model as cli_model
from ddpm.errors import UserError
from ddpm.promotion import registry
from ddpm.promotion.registry import KEPT, ORIGIN, RECORDS, SIGNATURE
from ddpm.serving.calls import Bounds
from ddpm.serving.served_models import ServedModels
from ddpm.signing.signature import KEY_VARIABLE, PASSWORD_VARIABLE
from ddpm.tracking import documents
from ddpm.tracking.mlflow_registry import MlflowRegistry

ROOT = Path(__file__).parents[2]
COVERED = (
    "README.md",
    "artifacts/model.safetensors",
    "kept.safetensors",
    "metrics.json",
    "origin.json",
    "version.json",
)


@pytest.fixture
def shelf(project: Path, tiny_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Shelf:
    for variable in (KEY_VARIABLE, PASSWORD_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    return Shelf(project, tiny_model)


@pytest.fixture
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return key_pair(tmp_path_factory.mktemp("keys"), "ours")


def asks_for(key: Path) -> None:
    """The params.yaml of a folder in which every version must be signed."""
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text())
    params["signing"]["verify_key"] = str(key)
    yaml.dump(params, Path("params.yaml"))


def whole(shelf: Shelf, seed: int) -> str:
    """The number of a version that has everything that a signature covers."""
    number = shelf.register(seed, record(10.0)).number
    found = registry.version(REGISTRY, number)
    origin = documents.write(shelf.client, found.tags["model_id"], {"data": "digits", "seed": seed})
    shelf.client.set_model_version_tag("ddpm", number, ORIGIN, origin)
    kept = shelf.project / f"kept-{seed}.safetensors"
    kept.write_bytes(b"pictures")
    REGISTRY.keep_file(number, kept)
    return number


def stored(shelf: Shelf, number: str) -> dict[str, Path]:
    """Where the store has what the signature covers, by the names in the signature."""
    found = registry.version(REGISTRY, number)
    place = documents.artifact(shelf.client.get_model_version_download_uri("ddpm", number), shelf.project)
    kept = place / "documents" / found.tags[KEPT]
    return {
        "README.md": place / "README.md",
        "artifacts/model.safetensors": place / "artifacts" / "model.safetensors",
        "kept.safetensors": kept,
        "metrics.json": place / "documents" / f"{found.tags[RECORDS].split()[0]}.json",
        "origin.json": place / "documents" / f"{found.tags[ORIGIN]}.json",
    }


def refused(number: str, key: Path, capsys: pytest.CaptureFixture[str], *, name: str = "ddpm") -> str:
    """The sentence of `ddpm verify`, after the registry has refused to give the file out, too."""
    found = registry.version(MlflowRegistry(name), number)
    with tempfile.TemporaryDirectory() as folder, pytest.raises(UserError):
        MlflowRegistry(name, verify_key=key).download(found, Path(folder))
    capsys.readouterr()
    assert cli.main(["verify", number, "--name", name, "--key", str(key)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_a_signed_version_is_verified_without_any_network(
    shelf: Shelf, keys: KeyPair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = whole(shelf, 0)

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert cli.main(["sign", number, "--key", str(keys.private)]) == 0
    assert f"is signed with {keys.private}: {', '.join(COVERED)}\n" in capsys.readouterr().out
    assert cli.main(["verify", number, "--key", str(keys.public)]) == 0
    assert f"is what the owner of {keys.public} signed: {', '.join(COVERED)}\n" in capsys.readouterr().out
    folder = shelf.project / "verified"
    folder.mkdir()
    found = registry.version(REGISTRY, number)
    given = MlflowRegistry("ddpm", verify_key=keys.public).download(found, folder)
    assert given.is_relative_to(folder)
    assert given.read_bytes() == shelf.content(0)


def test_a_changed_byte_is_named_and_so_is_a_file_that_is_gone(
    shelf: Shelf, keys: KeyPair, capsys: pytest.CaptureFixture[str]
) -> None:
    number = whole(shelf, 0)
    assert cli.main(["sign", number, "--key", str(keys.private)]) == 0
    files = stored(shelf, number)
    assert {*files, "version.json"} == set(COVERED)
    for name, file in files.items():
        before = file.read_bytes()
        k = len(before) // 2
        file.write_bytes(before[:k] + bytes([before[k] ^ 1]) + before[k + 1 :])
        said = refused(number, keys.public, capsys)
        assert f"is not what the owner of the key {keys.public} signed: changed: {name}; restore" in said
        file.unlink()
        assert f"signed: missing: {name}; restore" in refused(number, keys.public, capsys)
        file.write_bytes(before)
    assert cli.main(["verify", number, "--key", str(keys.public)]) == 0


def test_an_added_file_and_a_tag_that_names_another_document_are_refused(
    shelf: Shelf, keys: KeyPair, capsys: pytest.CaptureFixture[str]
) -> None:
    number = whole(shelf, 0)
    assert cli.main(["sign", number, "--key", str(keys.private)]) == 0
    better = documents.write(shelf.client, registry.version(REGISTRY, number).tags["model_id"], record(0.1))
    before = registry.version(REGISTRY, number).tags[RECORDS]
    shelf.client.set_model_version_tag("ddpm", number, RECORDS, f"{better} {before}")
    assert "changed: metrics.json" in refused(number, keys.public, capsys)
    shelf.client.set_model_version_tag("ddpm", number, RECORDS, before)
    added = stored(shelf, number)["artifacts/model.safetensors"].with_name(".gitignore")
    added.write_text("more")
    assert "added: artifacts/.gitignore" in refused(number, keys.public, capsys)
    added.unlink()
    assert cli.main(["verify", number, "--key", str(keys.public)]) == 0


def test_records_by_other_protocols_decisions_and_the_canary_leave_the_signature_valid(
    shelf: Shelf, keys: KeyPair
) -> None:
    number = whole(shelf, 0)
    assert cli.main(["sign", number, "--key", str(keys.private)]) == 0
    REGISTRY.keep_record(number, record(9.0, protocol={"n": 200, "seed": 0, "extractor_hash": "e"}))
    REGISTRY.keep_decision(number, {"rules": [], "images": None})
    REGISTRY.keep_canary(number, {"outcome": "passed"})
    assert cli.main(["promote", number, "--reason", "good", "--skip-canary"]) == 0
    assert cli.main(["verify", number, "--key", str(keys.public)]) == 0


def test_the_same_record_again_leaves_the_signature_valid_and_another_one_of_its_protocol_is_signed_again(
    shelf: Shelf, keys: KeyPair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = whole(shelf, 0)
    REGISTRY.keep_record(number, record(9.0, protocol={"n": 200, "seed": 0, "extractor_hash": "e"}))
    assert cli.main(["sign", number, "--key", str(keys.private)]) == 0
    REGISTRY.keep_record(number, record(10.0))
    REGISTRY.sign_again(number)
    assert "what was signed is written anew" in capsys.readouterr().out
    assert cli.main(["verify", number, "--key", str(keys.public)]) == 0
    REGISTRY.keep_record(number, record(9.9))
    assert "changed: metrics.json" in refused(number, keys.public, capsys)
    monkeypatch.setenv(KEY_VARIABLE, str(keys.private))
    REGISTRY.sign_again(number)
    assert cli.main(["verify", number, "--key", str(keys.public)]) == 0


def test_the_signature_of_another_key_is_refused_also_if_it_claims_ours(
    shelf: Shelf, keys: KeyPair, capsys: pytest.CaptureFixture[str]
) -> None:
    number, theirs = whole(shelf, 0), key_pair(shelf.project, "theirs")
    assert cli.main(["sign", number, "--key", str(keys.private)]) == 0
    file = registry.version(REGISTRY, number).tags[SIGNATURE]
    folder = stored(shelf, number)["metrics.json"].parent
    ours = json.loads((folder / file).read_text())
    assert cli.main(["sign", number, "--key", str(theirs.private)]) == 0
    assert "another key signed it" in refused(number, keys.public, capsys)

    forged = json.loads((folder / registry.version(REGISTRY, number).tags[SIGNATURE]).read_text())
    forged["verificationMaterial"] = ours["verificationMaterial"]
    put(shelf, number, forged)
    assert f"was changed or is not by the key {keys.public}" in refused(number, keys.public, capsys)
    # The list of files of ours is changed, so that it fits another model file; its signature is not ours any more.
    payload = json.loads(base64.b64decode(ours["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"][0]["digest"] = "0" * 64
    ours["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    put(shelf, number, ours)
    assert f"was changed or is not by the key {keys.public}" in refused(number, keys.public, capsys)


def test_what_is_no_signature_is_refused(shelf: Shelf, keys: KeyPair, capsys: pytest.CaptureFixture[str]) -> None:
    number = whole(shelf, 0)
    for content in ("", "{}", "[]", "null", '{"verificationMaterial": {}}', "\x00"):
        put(shelf, number, content)
        assert "its signature cannot be read" in refused(number, keys.public, capsys)


def put(shelf: Shelf, number: str, signature: Any) -> None:
    """Store this as the signature of a version."""
    file = shelf.project / "put.sig"
    file.write_text(signature if isinstance(signature, str) else json.dumps(signature))
    name = documents.write_file(shelf.client, registry.version(REGISTRY, number).tags["model_id"], file)
    shelf.client.set_model_version_tag("ddpm", number, SIGNATURE, name)


def test_the_signature_of_another_version_or_of_the_model_under_another_name_is_refused(
    shelf: Shelf, keys: KeyPair, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = whole(shelf, 0), whole(shelf, 1)
    assert cli.main(["sign", first, "--key", str(keys.private)]) == 0
    file = stored(shelf, first)["metrics.json"].parent / registry.version(REGISTRY, first).tags[SIGNATURE]
    put(shelf, second, file.read_text())
    assert "artifacts/model.safetensors" in refused(second, keys.public, capsys)
    # The whole of the signed version, in the place of the other one.
    for name, place in stored(shelf, second).items():
        shutil.copyfile(stored(shelf, first)[name], place)
    shelf.client.set_model_version_tag(
        "ddpm", second, "model_sha256", registry.version(REGISTRY, first).tags["model_sha256"]
    )
    assert "changed: version.json" in refused(second, keys.public, capsys)
    shelf.client.rename_registered_model("ddpm", "other")
    assert "changed: version.json" in refused(first, keys.public, capsys, name="other")


def test_the_bytes_that_were_verified_are_those_that_are_loaded(
    shelf: Shelf, keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = whole(shelf, 0)
    assert cli.main(["sign", number, "--key", str(keys.private)]) == 0
    asks_for(keys.public)
    found = registry.version(REGISTRY, number)
    other, load_file = whole(shelf, 1), cli_model.load_file

    def swapped(file: Path, device: Any) -> Any:
        shutil.copyfile(
            stored(shelf, other)["artifacts/model.safetensors"], stored(shelf, number)["artifacts/model.safetensors"]
        )
        return load_file(file, device)

    monkeypatch.setattr(cli_model, "load_file", swapped)
    assert cli_model.load_version(found, "cpu").sha256 == found.tags["model_sha256"]
    monkeypatch.setattr(cli_model, "load_file", load_file)
    with pytest.raises(UserError, match="changed: artifacts/model"):
        cli_model.load_version(found, "cpu")


def test_no_command_serves_samples_or_returns_to_a_version_that_nobody_signed(
    shelf: Shelf, keys: KeyPair, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = whole(shelf, 0), whole(shelf, 1)
    for number in (first, second):
        assert cli.main(["promote", number, "--reason", "good", "--skip-canary"]) == 0
    asks_for(keys.public)
    capsys.readouterr()
    for command in (
        ["serve", "--port", "0"],
        ["sample", "--out", "a.png"],
        ["promote", first, "--reason", "good", "--skip-canary"],
        ["rollback"],
        ["export-unet", "--out", "exported"],
        ["export-codec", "--out", "exported"],
    ):
        assert cli.main(command) == 1
        said = capsys.readouterr().err
        assert "of ddpm has no signature" in said, command
        assert said.count("\n") == 1
    assert shelf.champion() == second
    assert cli.main(["verify", first]) == 1
    assert cli.main(["sign", first, "--key", str(keys.private)]) == 0
    assert cli.main(["verify", first]) == 0
    assert cli.main(["rollback"]) == 0
    assert shelf.champion() == first


def test_a_server_that_follows_the_champion_keeps_the_one_it_has_until_a_signed_one_comes(
    shelf: Shelf, keys: KeyPair, caplog: pytest.LogCaptureFixture
) -> None:
    signed, unsigned, later = whole(shelf, 0), whole(shelf, 1), whole(shelf, 2)
    for number in (signed, later):
        assert cli.main(["sign", number, "--key", str(keys.private)]) == 0
    asks_for(keys.public)
    source = cli_model.registry_of("ddpm")
    moved_by_hand(shelf, signed)
    served = registry.version(source, signed)
    models = ServedModels(
        cli_model.load_version(served, "cpu", source),
        "ddpm",
        Bounds(max_work=10**6, max_work_together=4 * 10**6, max_seconds=60, max_body_bytes=10**6),
        version=served,
        registry=source,
        load=lambda found: cli_model.load_version(found, "cpu", source),
        follows=True,
    )
    moved_by_hand(shelf, unsigned)
    models.look()
    assert models.current.number == signed
    assert models.notice is not None
    assert f"version {unsigned} is the champion but could not be loaded" in models.notice
    assert f"version {unsigned} of ddpm has no signature" in caplog.text
    moved_by_hand(shelf, later)
    models.look()
    assert (models.current.number, models.notice) == (later, None)


def test_a_key_that_cannot_be_used_is_one_sentence(
    shelf: Shelf, keys: KeyPair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    number, hidden = whole(shelf, 0), key_pair(shelf.project, "hidden", password="open sesame")
    assert cli.main(["sign", number]) == 1
    assert f"name its file by --key or in {KEY_VARIABLE}" in capsys.readouterr().err
    assert cli.main(["verify", number]) == 1
    assert "signing.verify_key" in capsys.readouterr().err
    monkeypatch.setenv(KEY_VARIABLE, str(hidden.private))
    for password in (None, "wrong password", "open sesame"):
        if password is not None:
            monkeypatch.setenv(PASSWORD_VARIABLE, password)
        right = password == "open sesame"
        assert cli.main(["sign", number]) == (0 if right else 1)
        said = "".join(capsys.readouterr())
        assert ("is signed with" if right else f"{hidden.private} cannot sign") in said
        assert "open sesame" not in said
    assert cli.main(["verify", number, "--key", str(hidden.public)]) == 0
    capsys.readouterr()
    rsa_key = shelf.project / "rsa.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    rsa_key.write_bytes(rsa.generate_private_key(65537, 2048).private_bytes(*form))
    for wrong in (keys.public, rsa_key, shelf.project / "none.pem"):
        assert cli.main(["sign", number, "--key", str(wrong)]) == 1
        assert f"{wrong} cannot sign" in capsys.readouterr().err
    for wrong in (keys.private, shelf.project / "none.pub"):
        assert cli.main(["verify", number, "--key", str(wrong)]) == 1
        assert f"{wrong} cannot verify" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert cli.main(["verify", number, "--key", str(hidden.public)]) == 1
    assert '`pip install "ddpm-factory[sign]"`' in capsys.readouterr().err

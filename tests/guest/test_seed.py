"""The seed: what a guest is told at its first boot."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pycdlib
import pytest
import yaml

from qup.builtin.seeder_nocloud import LABEL, NoCloud, check_user_data
from qup.errors import ConfigError, HostError
from qup.guest.cd import write_cd
from qup.guest.keys import ensure_keys, make_key_pair
from qup.model.plan import SeedPlan
from qup.model.seed import KeyPair, Seed
from qup.paths import SshFolder

USER = KeyPair("PRIVATE-USER", "ssh-ed25519 AAAAuser qup:web")
HOST = KeyPair("-----BEGIN\nPRIVATE-HOST\n-----END\n", "ssh-ed25519 AAAAhost qup-host:web")


def build(user_data: str | None = None) -> dict[str, str]:
    plan = SeedPlan("the-uuid", "web", "me", user_data)
    return dict(NoCloud().files(Seed(plan, USER.public, HOST)))


def test_what_every_guest_is_told() -> None:
    files = build()
    assert {"meta-data", "user-data"} <= set(files)
    assert files["meta-data"] == 'instance-id: "the-uuid"\nlocal-hostname: web\n'
    text = files["user-data"]
    assert text.startswith("#cloud-config\n")
    assert "PRIVATE-USER" not in text
    assert json.dumps(HOST.private) in text
    assert USER.public in text
    assert "lock_passwd: true" in text
    assert "ssh_pwauth: false" in text


def test_a_script_becomes_a_file_that_is_run() -> None:
    script = "#!/bin/sh\necho \"quotes\" 'and' $dollars: - [yaml]\n\ttab ünï\n"
    text = build(script)["user-data"]
    assert f"content: {json.dumps(script)}" in text
    assert text.count("runcmd:") == 1


def test_a_cloud_config_follows_ours() -> None:
    text = build("#cloud-config\npackages:\n  - vim\n")["user-data"]
    assert text.startswith("#cloud-config\n")
    assert text.count("#cloud-config") == 1
    assert text.endswith("packages:\n  - vim\n")


@pytest.mark.parametrize("key", ["hostname", "users", "ssh_keys", "ssh_deletekeys", "ssh_pwauth"])
@pytest.mark.parametrize("form", ["{}: x\n", "{} : x\n", "a: 1\n{}:\n  - x\n"])
def test_a_cloud_config_may_not_set_what_qup_sets(key: str, form: str) -> None:
    with pytest.raises(ConfigError, match=key):
        check_user_data("#cloud-config\n" + form.format(key))


@pytest.mark.parametrize("text", ["", "hello", "Content-Type: multipart/mixed", " #!/bin/sh"])
def test_what_no_guest_would_take(text: str) -> None:
    with pytest.raises(ConfigError, match="neither"):
        check_user_data(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("packages: [vim\nruncmd:\n", "line 3, column"),
        ("a: 'b\n", "line"),
        ("\tpackages: []\n", "line 2, column 1"),
        ("<html>\n<body>sorry</body>\n", "is a text"),
        ("just words\n", "is a text"),
        ("- a\n- b\n", "is a list"),
        ("1: a\n", "no text"),
        ("a: 1\n---\nb: 2\n", "line 3"),
        ("a: !!python/object/apply:os.system [x]\n", "line 2"),
        ("a: *nobody\n", "line 2"),
        ("[" * 5000, "not valid YAML"),
        ("a: 2024-99-99\n", "not valid YAML"),
        ('"users": []\n', "sets users"),
    ],
)
def test_what_is_no_cloud_config(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        check_user_data(f"#cloud-config\n{text}")


@pytest.mark.parametrize(
    "text",
    [
        "---\npackages: [vim]\n",
        "{packages: [vim]}\n",
        "packages: [vim]\n...\n",
        "? packages\n: [vim]\n",
    ],
)
def test_what_can_not_follow_a_block_is_rewritten(text: str) -> None:
    """The whole of it is one table, as YAML reads it."""
    table = yaml.safe_load(build(f"#cloud-config\n{text}")["user-data"])
    assert table["packages"] == ["vim"]
    assert table["hostname"] == "web"


def test_a_template_of_cloud_inits_is_left_to_it() -> None:
    text = build("## template: jinja\n#cloud-config\nruncmd: [echo {{ ds.meta_data }}]\n")
    assert text["user-data"].startswith("## template: jinja\n#cloud-config\nhostname: web\n")
    assert text["user-data"].endswith("\nruncmd: [echo {{ ds.meta_data }}]\n")
    with pytest.raises(ConfigError, match="users"):
        check_user_data("## template: jinja\n#cloud-config\nusers: []\n")
    with pytest.raises(ConfigError, match="neither"):
        check_user_data("## template: jinja\nwords\n")


def test_line_ends_of_windows() -> None:
    assert "\\r" not in build("#!/bin/sh\r\necho hello\r\n")["user-data"]


def test_nested_keys_of_the_same_name_are_fine() -> None:
    check_user_data("#cloud-config\nwrite_files:\n  - path: /x\n    hostname: y\n")


def test_the_iso_has_all_names_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    write_cd(path, LABEL, build("#!/bin/sh\n"))
    assert path.stat().st_mode & 0o777 == 0o600
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    try:
        assert iso.pvd.volume_identifier.decode().strip() == LABEL
        for name, text in build("#!/bin/sh\n").items():
            for kind in ("joliet_path", "rr_path"):
                out = io.BytesIO()
                iso.get_file_from_iso_fp(out, **{kind: f"/{name}"})
                assert out.getvalue().decode() == text
    finally:
        iso.close()


def test_an_iso_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="write"):
        write_cd(tmp_path / "no" / "seed.iso", LABEL, build())


# --- keys ---------------------------------------------------------------------------------


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    folder = SshFolder(tmp_path)
    user, host = ensure_keys(folder, "web")
    assert (user, host) == ensure_keys(folder, "web")
    assert user.public != host.public
    for path in (folder.key, folder.host_key):
        assert path.stat().st_mode & 0o777 == 0o600


def test_half_a_pair_is_made_anew(tmp_path: Path) -> None:
    folder = SshFolder(tmp_path)
    ensure_keys(folder, "web")
    folder.key.unlink()
    again, _ = ensure_keys(folder, "web")
    assert folder.key.read_text() == again.private
    folder.host_key.with_name("host_key.pub").unlink()
    _, host = ensure_keys(folder, "web")
    assert folder.host_key.read_text() == host.private


def test_openssh_understands_a_key(tmp_path: Path) -> None:
    pair = make_key_pair("a comment")
    path = tmp_path / "key"
    path.write_text(pair.private)
    path.chmod(0o600)
    said = subprocess.run(
        ["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=False
    )
    assert said.stdout.split()[:2] == pair.public.split()[:2]

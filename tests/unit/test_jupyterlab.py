"""The JupyterLab extension: how it gets into user pods, its size and its words."""

import gzip
import json
import re
from pathlib import Path

import pytest
from traitlets.config import Config

from binder_egress.pods.start_guard import ADDRESS_VARIABLE, ISOLATED_VARIABLE, LAB_VARIABLE, lay_lab
from tests.support import TOP
from tests.support.start_guard import VALUES, made_spawner

BUILT = TOP / "verifier/binder_egress/pods/lab"
WORDS = json.loads((TOP / "verifier/binder_egress/web/messages/lab/en.json").read_text())
PAGE = "https://hub.example.org/egress/servers/alice/"
PLACE = "/usr/local/share/jupyter/labextensions/binder-egress"


# -- what the start guard copies


def environment(folder, **more):
    return {ISOLATED_VARIABLE: "true", LAB_VARIABLE: str(folder), ADDRESS_VARIABLE: PAGE, **more}


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("isolated", "half"), [("true", False), ("false", True)], ids=["captcha", "observe, and half a copy"])
def test_guard_lays_the_extension_and_the_address(tmp_path, isolated, half):
    """In mode `observe` too: the extension says nothing until the mode changes. The kubelet may run init containers again in the
    same pod, whose `emptyDir` stays."""
    if half:
        (tmp_path / "static").mkdir()
        (tmp_path / "static" / next((BUILT / "static").iterdir()).name).write_text("half")
    assert [lay_lab(environment(tmp_path, **{ISOLATED_VARIABLE: isolated})) for _ in range(2)] == ["laid", "laid"]
    assert files(tmp_path) == files(BUILT) | {"address.json"}
    assert json.loads((tmp_path / "address.json").read_text()) == {"url": PAGE}
    for name in files(BUILT):
        assert (tmp_path / name).read_bytes() == (BUILT / name).read_bytes()
    described = json.loads((tmp_path / "package.json").read_text())
    assert described["name"] == Path(PLACE).name
    assert (tmp_path / described["jupyterlab"]["_build"]["load"]).is_file()
    # The guard has another user id than the server.
    assert all(path.stat().st_mode & 0o005 == (0o5 if path.is_dir() else 0o4) for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (LAB_VARIABLE, "", "off"),
        (ISOLATED_VARIABLE, "", "off"),  # the mode is `off`
        *((ADDRESS_VARIABLE, address, "which is no address") for address in ("", "$(BINDER_LAUNCH_HOST)x/", "javascript:1")),
    ],
)
def test_nothing_is_copied_without_a_place_a_mode_or_an_address(tmp_path, variable, value, said):
    assert lay_lab(environment(tmp_path, **{variable: value})).endswith(said)
    assert files(tmp_path) == set()


def test_half_a_copy_is_no_extension(tmp_path):
    """`package.json` comes last, so JupyterLab does not take half a copy for a whole one."""
    (tmp_path / "half/static/folder").mkdir(parents=True)
    (tmp_path / "half/package.json").write_text("{}")
    (tmp_path / "to").mkdir()
    for source, error in (("absent", "FileNotFoundError"), ("half", "IsADirectoryError")):
        assert lay_lab(environment(tmp_path / "to"), str(tmp_path / source)).startswith(error)
        assert "package.json" not in files(tmp_path / "to")


# -- what the hub adds to pods

VOLUME = {"name": "binder-egress-lab", "emptyDir": {}}
MOUNT = {"name": "binder-egress-lab", "mountPath": PLACE, "readOnly": True}
OWN_VOLUME, OWN_MOUNT = {"name": "home"}, {"name": "home", "mountPath": "/home/jovyan"}


def launched(config=None, **guard):
    """A spawner at the creation of its pod, and the variables of its start guard."""
    c = config or Config()
    c.KubeSpawner.environment = {"BINDER_EGRESS_URL": "$(BINDER_LAUNCH_HOST)egress/servers/$(JUPYTERHUB_USER)/"}
    spawner = made_spawner(c, {**VALUES, **guard})
    if spawner.pre_spawn_hook:
        spawner.pre_spawn_hook(spawner)
    containers = spawner.init_containers
    found = containers[-1] if isinstance(containers, list) else containers["zz-binder-egress-start-guard"]
    return spawner, {entry["name"]: entry.get("value") for entry in found["env"]}


def test_hub_mounts_the_extension_read_only_and_tells_the_guard_the_address_of_the_launch():
    spawner, variables = launched()
    assert (spawner.volumes, spawner.volume_mounts) == ([VOLUME], [MOUNT])
    (mount,) = spawner.init_containers[0]["volumeMounts"]
    assert mount == {"name": VOLUME["name"], "mountPath": variables[LAB_VARIABLE]}
    # Kubernetes substitutes variables in this order. Braces are doubled, because KubeSpawner takes single ones for fields.
    assert list(variables)[-4:] == ["BINDER_LAUNCH_HOST", "JUPYTERHUB_USER", "JUPYTERHUB_SERVER_NAME", "BINDER_EGRESS_URL"]
    assert variables["BINDER_LAUNCH_HOST"] == "https://binder.example.org/"
    assert variables["JUPYTERHUB_USER"] == "alice-{{0}}"
    assert variables["BINDER_EGRESS_URL"] == "$(BINDER_LAUNCH_HOST)egress/servers/$(JUPYTERHUB_USER)/"
    # A second launch of the server.
    spawner.user_options = {"binder_launch_host": "https://other.example.org/"}
    spawner.pre_spawn_hook(spawner)
    found = [entry["value"] for entry in spawner.init_containers[0]["env"] if entry["name"] == "BINDER_LAUNCH_HOST"]
    assert found == ["https://other.example.org/"]


def test_volumes_are_kept():
    """In maps, in lists, and where a subclass has them."""
    c = Config()
    c.BinderSpawner.volumes, c.BinderSpawner.volume_mounts = {"home": OWN_VOLUME}, {"home": OWN_MOUNT}
    c.BinderSpawner.init_containers = {"tc-init": {"name": "tc-init"}}
    spawner, variables = launched(c)
    assert spawner.volumes == {"home": OWN_VOLUME, "zz-binder-egress-lab": VOLUME}
    assert spawner.volume_mounts == {"home": OWN_MOUNT, "zz-binder-egress-lab": MOUNT}
    assert variables["BINDER_LAUNCH_HOST"]
    c = Config()
    c.KubeSpawner.volumes, c.KubeSpawner.volume_mounts = [OWN_VOLUME], [OWN_MOUNT]
    appended = Config()
    appended.KubeSpawner.volumes.append(OWN_VOLUME)
    appended.KubeSpawner.volume_mounts.append(OWN_MOUNT)
    for config in (c, appended):
        spawner, _ = launched(config)
        assert (spawner.volumes, spawner.volume_mounts) == ([OWN_VOLUME, VOLUME], [OWN_MOUNT, MOUNT])


@pytest.mark.parametrize("section", ["Spawner", "KubeSpawner", "BinderSpawner"])
def test_hook_of_the_operator_is_called(section):
    c, called = Config(), []
    c[section].pre_spawn_hook = lambda spawner: called.append(spawner) or "what it returns"
    spawner, variables = launched(c)
    assert called == [spawner] and variables["BINDER_LAUNCH_HOST"]
    assert spawner.pre_spawn_hook(spawner) == "what it returns"


@pytest.mark.parametrize("path", ["/", "/usr/local/share", "/usr/local/share/jupyter/", PLACE])
@pytest.mark.parametrize("name", ["mountPath", "mount_path"])
def test_volume_of_the_operator_at_that_place_wins(path, name, capsys):
    c = Config()
    c.KubeSpawner.volume_mounts = [{"name": "tools", name: path}]
    spawner, variables = launched(c)
    assert (spawner.volumes, len(spawner.volume_mounts), len(spawner.init_containers)) == ([], 1, 1)
    assert LAB_VARIABLE not in variables and "volumeMounts" not in spawner.init_containers[0]
    assert "no JupyterLab extension" in capsys.readouterr().out
    c.KubeSpawner.volume_mounts = [{"name": "tools", name: "/usr/local/share/jup"}]
    assert launched(c)[0].volume_mounts[-1] == MOUNT


def test_one_value_switches_it_off_and_no_guard_means_no_extension():
    spawner, variables = launched(jupyterlab=False)
    assert (spawner.volumes, spawner.volume_mounts, spawner.pre_spawn_hook) == ([], [], None)
    assert LAB_VARIABLE not in variables and "volumeMounts" not in spawner.init_containers[0]
    spawner = made_spawner(None, {**VALUES, "enabled": False})
    assert (spawner.volumes, spawner.volume_mounts, spawner.init_containers, spawner.pre_spawn_hook) == ([], [], [], None)


def test_launch_goes_on_if_the_address_is_not_known(caplog):
    c = Config()
    spawner = made_spawner(c, VALUES)
    spawner.pre_spawn_hook(spawner)
    assert "no JupyterLab extension: KeyError: 'BINDER_EGRESS_URL'" in caplog.text


def test_guard_is_added_even_if_the_extension_cannot_be(capsys):
    c = Config()
    c.KubeSpawner.volumes = ()
    spawner = made_spawner(c, VALUES)
    assert "no JupyterLab extension: AttributeError" in capsys.readouterr().out
    assert [container["name"] for container in spawner.init_containers] == ["binder-egress-start-guard"]
    assert "volumeMounts" not in spawner.init_containers[0]


# -- its size and its words


def test_extension_is_small():
    assert sum(len(gzip.compress(path.read_bytes())) for path in BUILT.rglob("*") if path.is_file()) <= 30 * 1024


def test_every_word_is_used():
    source = "".join(path.read_text() for path in (TOP / "frontend/lab").glob("*.js"))
    quoted = set(re.findall(r'"([a-z-]+)"', source))
    states = ("none", "packages", "hosts", "network", "unknown", "observe")
    assert set(WORDS) - quoted - set(states) == set()

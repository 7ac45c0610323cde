"""The operator's lists."""

import shutil

from binder_egress.agent.lists import Match, read, signature

ONE, TWO = "ab" * 32, "cd" * 32


def test_sums_have_labels_and_a_broken_line_leaves_the_rest(tmp_path):
    last = f"{'ef' * 32}\n{ONE[:-1]} short\nnonsense\n"
    (tmp_path / "miners.sha256").write_text(f"# known ones\n\n{ONE}  xmrig 6.21\n{TWO.upper()} *some file\n{last}")
    (tmp_path / "other.sha256").write_bytes(b"\xff\xfe")
    (tmp_path / "fine.sha256").write_text(f"{ONE} b\n")
    lists = read([tmp_path])
    assert lists.hashes == {
        ONE: [Match("fine", "b"), Match("miners", "xmrig 6.21")],
        TWO: [Match("miners", "some file")],
        "ef" * 32: [Match("miners", "ef" * 6)],
    }
    assert [len(lists.broken[name]) for name in ("miners", "other")] == [2, 1]
    assert "line 6" in lists.broken["miners"][0]


def test_folders_are_read_together_and_other_files_left_alone(tmp_path):
    for name in ("configmap", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "configmap/a.yar").write_text("rule a {condition: true}")
    (tmp_path / "secret/b.yara").write_text("rule b {condition: true}")
    (tmp_path / "secret/a.yara").write_text("rule c {condition: true}")
    (tmp_path / "secret/README").write_text("words")
    (tmp_path / "secret/..data").mkdir()
    lists = read([tmp_path / "configmap", tmp_path / "secret", tmp_path / "none"])
    assert set(lists.rules) == {"a", "b"} and list(lists.broken) == ["a"]


def test_change_of_a_mounted_configmap_is_noticed(tmp_path):
    """As the kubelet does: files are links into `..data`, which is replaced as a whole."""

    def write(version, text):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.sha256").write_text(text)
        (tmp_path / "..new").symlink_to(version)
        (tmp_path / "..new").rename(tmp_path / "..data")

    write("..1", f"{ONE} a\n")
    (tmp_path / "a.sha256").symlink_to("..data/a.sha256")
    before = signature([tmp_path])
    assert signature([tmp_path]) == before and ONE in read([tmp_path]).hashes
    write("..2", f"{TWO} a\n")
    shutil.rmtree(tmp_path / "..1")
    assert signature([tmp_path]) != before and set(read([tmp_path]).hashes) == {TWO}

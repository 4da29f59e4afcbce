"""What only its user may touch."""

import os
import socket

import pytest

from uspex_bridge.base import private


def test_private_files_and_folders(tmp_path):
    file = tmp_path / "secret"
    file.touch(0o600)
    assert private.not_private(str(file)) == ""
    file.chmod(0o640)
    assert "chmod 600" in private.not_private(str(file))
    folder = tmp_path / "folder"
    folder.mkdir(0o700)
    assert private.not_private(str(folder)) == ""
    folder.chmod(0o711)
    assert "chmod 700" in private.not_private(str(folder))


def test_a_link_is_not_private(tmp_path):
    (tmp_path / "folder").mkdir(0o700)
    (tmp_path / "link").symlink_to("folder")
    assert "is a link" in private.not_private(str(tmp_path / "link"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_user_is_not_private(tmp_path):
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, 12345)
    assert "another user" in private.not_private(str(tmp_path))


def test_the_user_at_the_other_end_of_a_socket():
    one, other = socket.socketpair()
    with one, other:
        assert private.user_of(one) == os.getuid()

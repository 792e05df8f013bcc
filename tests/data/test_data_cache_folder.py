"""Where the cache lies: named, under $XDG_CACHE_HOME, or at home."""

from pathlib import Path

import pytest

from bikd_fast.data.cache_folder import cache_folder
from bikd_fast.errors import UserError


def test_a_named_folder_wins_and_may_start_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder("~/pictures") == cache_folder(Path("~/pictures")) == tmp_path / "pictures"
    assert cache_folder("/disk/~") == Path("/disk/~")


def test_without_a_name_it_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/bikd_fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache/bikd_fast"


def test_a_home_that_nobody_has_is_told(monkeypatch):
    with pytest.raises(UserError, match=r"~no-such-user/cache: no such home folder.*data\.cache_dir"):
        cache_folder("~no-such-user/cache")

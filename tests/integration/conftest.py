"""Commands as they are typed, and services with sockets of their own."""

import shutil
import tempfile
from pathlib import Path

import pytest
from serving import Service

from uspex_bridge.cli.main import main


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.delenv("USPEX_BRIDGE_CONFIG", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder; return exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return call


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Structures labelled by CHGNet: files for training and for validation."""
    import learning

    return learning.write_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="session")
def data(files):
    """The same as a trainer gets them."""
    from uspex_bridge.learn.training.order import from_files

    return from_files(*files)


@pytest.fixture(scope="module")
def short():
    """A private folder with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="ub-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def shared(short):
    """One service for the tests that do it no harm."""
    top = short / "shared"
    top.mkdir(0o700)
    service = Service(top)
    yield service
    service.close()


@pytest.fixture
def own(short):
    """Makes services for one test."""
    made = []

    def make(*options: str, again: Service | None = None, **popen) -> Service:
        top = again.path.parent if again else short / f"own{len(list(short.iterdir()))}"
        top.mkdir(0o700, exist_ok=True)
        made.append(Service(top, *options, **popen))
        return made[-1]

    yield make
    for service in made:
        service.close()

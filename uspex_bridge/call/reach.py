"""Whether the models of a set-up hold to the pressure of its search, tried in a process of its own.

``python -m uspex_bridge.call.reach PRESSURE ELEMENTS FOLDER [SETTINGS]`` prints calculator -> limits as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uspex_bridge.base.errors import BridgeError, CalculationError
from uspex_bridge.call.choice import choose_protocol
from uspex_bridge.call.config import load_config
from uspex_bridge.call.student import loadable

#: Seconds for all models.
_LIMIT = 900.0


def limits_of(
    elements: Iterable[str], pressure: float, near: Path, explicit: Path | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return where each calculator of the settings' protocol breaks down below a pressure.

    Args:
        elements: of the search.
        pressure: of the search, GPa.
        near: folder that the settings are looked for from.
        explicit: settings file, if one is named.

    Returns:
        Calculator to its limits (:class:`uspex_bridge.relaxation.reach.Limit` as plain data); those whose elements are
        invented are left out.

    Raises:
        CalculationError: the scan itself failed.
    """
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__]
    command += [f"{pressure:g}", ",".join(elements), str(near.absolute())]
    command += [] if explicit is None else [str(explicit.absolute())]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise CalculationError(f"not done after {_LIMIT:g} s") from None
    lines = [line for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines() if line.strip()]
    if done.returncode or not lines:
        raise CalculationError(lines[-1] if lines else f"exit code {done.returncode}")
    found: dict[str, list[dict[str, Any]]] = json.loads(lines[-1])
    return found


def main(pressure: float, elements: list[str], near: Path, explicit: Path | None) -> int:
    """Scan and print."""
    from uspex_bridge.base.threads import limit_threads
    from uspex_bridge.models import backends
    from uspex_bridge.relaxation.reach import limits

    found = {}
    try:
        config = load_config(near, explicit)
        limit_threads(config.threads)
        for name in loadable(choose_protocol(config)[0], config):
            backend = backends.load(name, config.settings_of(name))
            if not backend.identity.get("invented"):
                backend.check_elements(elements)
                found[name] = [one.as_dict() for one in limits(elements, pressure, backend.evaluate_many)]
            backend.close()
    except BridgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(float(given[0]), given[1].split(","), Path(given[2]), Path(given[3]) if len(given) > 3 else None))

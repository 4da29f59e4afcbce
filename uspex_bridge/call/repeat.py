"""A result that the record has already, for the same start by the same settings and weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from uspex_bridge.base.data import Frame, VaspRun
from uspex_bridge.call.folders import Request
from uspex_bridge.call.record_line import words_of
from uspex_bridge.models.cards import model_name


def repeated_run(request: Request, earlier: dict[str, Any]) -> VaspRun:
    """Return a one-step run that ends as an earlier one did.

    Args:
        request: the job.
        earlier: the record's entry of the same job; see :func:`uspex_bridge.call.record_tail.can_stand_again`.
    """
    output, free_energy = earlier["output"], earlier.get("free_energy")
    magmoms = output.get("magmoms")
    frame = Frame(
        cell=np.array(output["cell"], dtype=float),
        scaled=np.array(output["scaled"], dtype=float),
        energy=float(earlier["energy"]),
        forces=np.array(output["forces"], dtype=float),
        stress=np.array(output["stress"], dtype=float),
        magmoms=None if magmoms is None else np.array(magmoms, dtype=float),
    )
    return VaspRun(
        structure=request.structure,
        frames=(frame,),
        intent=request.intent,
        converged=True,
        model=model_name(earlier["models"][earlier["stages"][-1]["calculator"]]),
        free_energy="" if free_energy is None else words_of(free_energy),
        incar=request.incar,
    )

"""OSZICAR: one line per ionic step with the enthalpy, the file that tells USPEX's MATLAB line that all is done."""

from __future__ import annotations

from uspex_bridge.base.data import VaspRun
from uspex_bridge.vasp.text import exponent, magnetic, require_finite

_HEADER = "       N       E                     dE             d eps       ncg     rms          rms(c)"


def format_oszicar(run: VaspRun) -> str:
    """Write OSZICAR, all ionic steps.

    ``F=`` and ``E0=`` are E + PV, as in VASP; ``d E`` is their change from the step before. The line before each must
    name an electronic step, of which there is one, with E alone. The blank that begins an ``F=`` line is needed by
    USPEX's column count, beyond 999 steps too.

    Raises:
        CalculationError: a number is not finite.
    """
    require_finite(run)
    moments = magnetic(run)
    lines = [_HEADER]
    enthalpy = energy = None
    for number, frame in enumerate(run.frames, 1):
        last, last_energy = enthalpy, energy
        enthalpy, energy = frame.enthalpy(run.pressure_gpa), frame.energy
        total = exponent(enthalpy)
        change = exponent(0.0 if last is None else enthalpy - last, 6)
        step = exponent(0.0 if last_energy is None else energy - last_energy, 5)
        lines.append(f"DAV:   1    {exponent(energy, 12)}   {step:>12}   0.00000E+00     0   0.000E+00")
        line = f" {number:3d} F= {total} E0= {total}  d E ={change}"
        if moments and frame.magmoms is not None:
            line += f"  mag= {float(frame.magmoms.sum()):10.4f}"
        lines.append(line)
    return "\n".join(lines) + "\n"

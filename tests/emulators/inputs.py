"""The contents of a search's Specific/ folder: INCAR series and stub POTCARs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

#: Tags of a real VASP set-up that mean nothing to a potential without electrons.
_ELECTRONS = (
    "PREC = {prec}\nEDIFF = {ediff}\nISMEAR = 1 ; SIGMA = {sigma}\nLREAL = A ! real-space projectors\nNELM = 60\n"
)


def manual_series(last_force: float = 0.01) -> list[str]:
    """Return five INCARs built as USPEX's manual advises: ISIF 4, 4, 3, 3 and a single point (NSW = 0, ISIF = 2).

    The first two end by energy (EDIFFG > 0), the fourth at ``last_force`` eV/Å.
    """
    tails = [
        "EDIFFG = 1e-1\nNSW = 65\nISIF = 4\nIBRION = 2\nPOTIM = 0.02\n",
        "EDIFFG = 1E-02\nNSW = 55\nISIF = 4\nIBRION = 1\nPOTIM = 0.30\n",
        "EDIFFG = -1.0D-01\nNSW = 150\nISIF = 3\nIBRION = 2\nPOTIM = 0.02\n",
        f"EDIFFG = -{last_force}\nNSW = 1000\nISIF = 3\nIBRION = 1\nPOTIM = 0.30\n",
        "NSW = 0\nISIF = 2\nIBRION = 2\nPOTIM = 0.02\n",
    ]
    heads = [("LOW", "1e-2", 0.10), ("NORMAL", "1e-3", 0.08), ("NORMAL", "1e-3", 0.07), ("NORMAL", "1e-4", 0.06)]
    heads.append(("NORMAL", "1e-4", 0.05))
    return [_ELECTRONS.format(prec=p, ediff=e, sigma=s) + tail for (p, e, s), tail in zip(heads, tails, strict=True)]


def short_series(last_force: float = 0.01) -> list[str]:
    """Return four INCARs, the fewest with which the MATLAB line perturbs a step (the second): ISIF 4, 3, 3, NSW = 0."""
    head = _ELECTRONS.format(prec="NORMAL", ediff="1e-4", sigma=0.06)
    return [
        head + "EDIFFG = -0.5\nNSW = 60\nISIF = 4\nIBRION = 2\n",
        head + "EDIFFG = -0.1\nNSW = 200\nISIF = 3\nIBRION = 2\n",
        head + f"EDIFFG = -{last_force}\nNSW = 1000\nISIF = 3\nIBRION = 2\n",
        head + "NSW = 0\nISIF = 2\n",
    ]


def single_relaxation(force: float = 0.01) -> list[str]:
    """Return one INCAR that relaxes everything to ``force`` eV/Å."""
    return [
        _ELECTRONS.format(prec="NORMAL", ediff="1e-5", sigma=0.05)
        + f"EDIFFG = -{force}\nNSW = 1500\nISIF = 3\nIBRION = 2\n"
    ]


def embedded_settings() -> str:
    """Return the bridge.toml of the protocol whose weights come with its packages."""
    return 'protocol = "embedded"\n'


def demo_weights(folder: Path) -> tuple[Path, Path]:
    """Return the demo weights of MACE and MatterSim in ``folder``.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    mace, mattersim = folder / "mace-demo-cafeni.model", folder / "mattersim-demo-cafeni.pth"
    for path in (mace, mattersim):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the demo weights are made by examples/demo_weights/train.py")
    return mace, mattersim


def paper_settings(folder: Path) -> str:
    """Return the bridge.toml of the protocol MACE -> MatterSim with the demo weights in ``folder``."""
    mace, mattersim = demo_weights(folder)
    return f'protocol = "paper"\n[calculators.mace]\nmodel = "{mace}"\n[calculators.mattersim]\nmodel = "{mattersim}"\n'


def potcar(symbol: str) -> str:
    """Return a stub POTCAR: its first line, VRHFIN and TITEL where VASP has them, and the end mark."""
    return (
        f"  PAW_PBE {symbol} 06Sep2000\n   10.00000000000000\n parameters from PSCTR are:\n"
        f"   VRHFIN ={symbol}: stub\n   TITEL  = PAW_PBE {symbol} 06Sep2000\n   ENMAX  =  300.000\n"
        " End of Dataset\n"
    )


def write_specific(root: Path, species: Iterable[str], incars: Sequence[str]) -> Path:
    """Create ``root``/Specific with INCAR_1..n and POTCAR_<symbol>; files already there are kept."""
    specific = root / "Specific"
    specific.mkdir(parents=True, exist_ok=True)
    wanted = {f"INCAR_{n}": text for n, text in enumerate(incars, 1)}
    wanted |= {f"POTCAR_{symbol}": potcar(symbol) for symbol in species}
    for name, text in wanted.items():
        if not (specific / name).exists():
            (specific / name).write_text(text)
    return specific

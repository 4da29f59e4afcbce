"""Foundation-model relaxations in the place where USPEX expects VASP."""

__version__ = "0.1.0"

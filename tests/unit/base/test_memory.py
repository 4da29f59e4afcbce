"""Memory of processes."""

from uspex_bridge.base.memory import available_mb, resident_mb


def test_memory_of_a_process_that_is_not_there():
    assert resident_mb("self") > 5
    assert resident_mb(2**30) is None


def test_what_this_machine_could_still_give_out():
    assert available_mb() > 10

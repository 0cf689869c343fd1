import pytest

from lgrpo_lightning.metrics import Throughput


@pytest.fixture
def at(monkeypatch):
    """Sets the time."""
    now = [0.0]
    monkeypatch.setattr("lgrpo_lightning.metrics.throughput.time.perf_counter", lambda: now[0])

    def set_time(seconds):
        now[0] = seconds

    return set_time


def test_pauses_do_not_count(at):
    clock = Throughput()
    at(1)
    clock.start()
    at(3)
    clock.stop()
    at(100)  # an evaluation
    clock.start()
    at(101)
    clock.stop()
    assert clock.reading() == 3


def test_a_reading_starts_the_next_one_also_while_it_runs(at):
    clock = Throughput()
    clock.start()
    at(2)
    assert clock.reading() == 2
    at(5)
    assert clock.reading() == 3
    clock.stop()
    at(9)
    assert clock.reading() == 0


def test_stopping_what_does_not_run_does_nothing(at):
    clock = Throughput()
    clock.stop()
    at(4)
    clock.stop()
    assert clock.reading() == 0


def test_a_piece_of_work_that_was_broken_off_does_not_count(at):
    clock = Throughput()
    clock.start()
    at(2)  # an error; somebody tries again later
    at(50)
    clock.start()
    at(51)
    assert clock.reading() == 1

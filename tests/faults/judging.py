"""What became of something that was done to quee_hf: a clear error, a documented result, or harm."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

MOST_SECONDS = 120  # that anything may take, on a machine with much else to do; a hang is harm


class Attack(NamedTuple):
    """Something that is done.

    Args:
        kind: The line of the table that it counts in.
        run: Does it, and returns in words what came of it; raises what quee_hf raises, or `Harm`.
    """

    kind: str
    run: Callable[[], str]


class Harm(Exception):
    """A wrong answer that looks like a right one, or something that must not have happened."""


class Verdict(NamedTuple):
    """What became of an attack."""

    kind: str
    outcome: str
    is_harm: bool


class _Hang(BaseException):
    """Not an `Exception`, which code under attack might catch."""


def judge(attack: Attack, allowed: tuple[type[Exception], ...], most_seconds: int = MOST_SECONDS) -> Verdict:
    """Do it, and say what came of it.

    Args:
        attack: What.
        allowed: Errors that are clear: anything else that is raised is harm.
        most_seconds: That it may take; more is harm, too.
    """
    try:
        with _at_most(most_seconds):
            return Verdict(attack.kind, attack.run(), is_harm=False)
    except allowed as error:
        is_empty = not str(error).strip()
        return Verdict(attack.kind, f"`{type(error).__name__}`", is_harm=is_empty)
    except Harm as error:
        return Verdict(attack.kind, f"harm: {error}", is_harm=True)
    except _Hang:
        return Verdict(attack.kind, f"harm: not done after {most_seconds} s", is_harm=True)
    except Exception as error:
        return Verdict(attack.kind, f"harm: {type(error).__name__}: {error}"[:200], is_harm=True)


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

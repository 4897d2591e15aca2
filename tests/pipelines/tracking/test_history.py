from pipelines.tracking.history import LOST_STEPS, RESTARTS, History


def steps(first: int, last: int, name: str = "train/loss") -> list[dict[str, float]]:
    return [{"step": step, name: float(step)} for step in range(first, last + 1)]


def logged(history: History, records: list[dict[str, float]]) -> list[tuple[str, int]]:
    return [(name, step) for name, _, _, step in history.new(records, now_ms=1)]


def counts(history: History, step: int) -> tuple[float, float, int]:
    restarts, lost = history.start(step, now_ms=1)
    assert (restarts[0], lost[0]) == (RESTARTS, LOST_STEPS)
    assert restarts[3] == lost[3]
    return restarts[1], lost[1], restarts[3]


def test_repeated_steps_are_logged_once() -> None:
    history = History()
    assert [step for _, step in logged(history, steps(1, 20))] == list(range(1, 21))
    assert [step for _, step in logged(history, steps(16, 25))] == [21, 22, 23, 24, 25]


def test_each_metric_has_its_own_highest_step() -> None:
    history = History()
    logged(history, steps(1, 20))
    assert logged(history, [{"step": 20, "val/loss": 1.0}]) == [("val/loss", 20)]
    assert logged(history, [{"step": 20, "val/loss": 1.0, "train/loss": 20.0}]) == []


def test_restarts_and_lost_steps_add_up() -> None:
    history = History()
    assert counts(history, 0) == (0, 0, 0)
    logged(history, steps(1, 57))
    assert counts(history, 40) == (1, 17, 57)
    logged(history, steps(41, 50))  # dies again while repeating
    assert counts(history, 40) == (2, 27, 57)
    logged(history, steps(41, 90))
    assert counts(history, 90) == (3, 27, 90)


def test_counts_go_on_in_the_next_process() -> None:
    first = History()
    points = [*first.start(0, now_ms=1), *first.new(steps(1, 30), now_ms=2)]
    points += first.start(20, now_ms=3)
    second = History()
    second.carry_over(reversed([*points]))
    assert logged(second, steps(21, 31)) == [("train/loss", 31)]
    third = History()
    third.carry_over(points)
    assert counts(third, 20) == (2, 20, 30)


def test_a_sampler_goes_on_numbering() -> None:
    history = History()
    assert history.next_step("system/") == 0
    history.carry_over([("system/cpu", 1.0, 1, 7), ("train/loss", 1.0, 1, 99)])
    assert history.next_step("system/") == 8


def test_what_nobody_heard_before_the_restart_is_logged_after_it() -> None:
    history = History()
    history.start(0, now_ms=1)
    logged(history, steps(1, 10))
    assert counts(history, 15) == (1, 0, 15)  # 11 to 15 were trained and saved, the news was lost
    assert [step for _, step in logged(history, steps(6, 15))] == [11, 12, 13, 14, 15]
    assert counts(history, 15) == (2, 0, 15)

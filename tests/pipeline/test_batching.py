"""Batches: what waits at the same time, in order, within the limits; errors to their askers."""

import asyncio

import pytest

from transfer.pipeline.batching import Batcher, Room, Window
from transfer.waiting import task_group


class Echo:
    """Answers a question with itself, as soon as *gate* is open; remembers the batches."""

    def __init__(self):
        self.batches = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, questions):
        self.batches.append(list(questions))
        await self.gate.wait()
        if "bad" in questions:
            raise ValueError("bad")
        return questions


async def ask_all(batcher, questions):
    async with asyncio.TaskGroup() as group:
        return [group.create_task(batcher.ask(each)) for each in questions]


async def test_what_waits_at_the_same_time_goes_together_in_order():
    echo = Echo()
    async with task_group() as group:
        batcher = Batcher(group, echo.run, len, limit=100, count=10)
        asked = await ask_all(batcher, ["a", "b", "c"])
    assert [each.result() for each in asked] == ["a", "b", "c"]
    assert echo.batches == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("limit", "count", "batches"),
    [
        (4, 10, [["aa", "bb"], ["cccccc"], ["d"]]),  # one larger than the limit goes alone
        (100, 3, [["aa", "bb", "cccccc"], ["d"]]),
    ],
)
async def test_a_batch_keeps_the_limits(limit, count, batches):
    echo = Echo()
    async with task_group() as group:
        batcher = Batcher(group, echo.run, len, limit=limit, count=count)
        await ask_all(batcher, ["aa", "bb", "cccccc", "d"])
    assert echo.batches == batches


async def test_at_most_parallel_batches_are_under_way():
    echo = Echo()
    echo.gate.clear()
    async with task_group() as group:
        batcher = Batcher(group, echo.run, len, limit=1, count=1, parallel=2)
        asking = asyncio.create_task(ask_all(batcher, "abc"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert echo.batches == [["a"], ["b"]]
        echo.gate.set()
        await asking
    assert echo.batches == [["a"], ["b"], ["c"]]


async def test_beside_others_a_batch_begins_only_when_it_is_worth_it():
    echo = Echo()
    echo.gate.clear()
    async with task_group() as group:
        batcher = Batcher(group, echo.run, len, limit=100, count=10, parallel=3, least=4)
        asking = []

        async def ask(question):
            asking.append(asyncio.create_task(batcher.ask(question)))
            for _ in range(3):
                await asyncio.sleep(0)

        for question in ("a", "b", "cc"):  # nobody is beside the first one
            await ask(question)
        assert echo.batches == [["a"]]
        await ask("d")
        assert echo.batches == [["a"], ["b", "cc", "d"]]
        await ask("e")
        echo.gate.set()
        await asyncio.gather(*asking)
    assert echo.batches == [["a"], ["b", "cc", "d"], ["e"]]


async def test_what_is_small_is_never_left_waiting():
    """Whoever ends last takes it along."""
    for gone in range(2):
        gates = [asyncio.Event(), asyncio.Event()]
        order = iter(gates)

        async def run(questions, order=order):
            await next(order).wait() if len(questions[0]) > 3 else None
            return questions

        async with task_group() as group:
            batcher = Batcher(group, run, len, limit=4, count=9, parallel=2, least=4)
            large = [asyncio.create_task(batcher.ask(each)) for each in ("aaaa", "bbbb")]
            for _ in range(3):
                await asyncio.sleep(0)
            small = asyncio.create_task(batcher.ask("c"))
            for gate in (gates[gone], gates[1 - gone]):
                gate.set()
                for _ in range(3):
                    await asyncio.sleep(0)
            assert await asyncio.wait_for(small, 1) == "c"
            await asyncio.gather(*large)


async def test_an_error_reaches_all_who_asked_and_the_next_batch_is_run():
    echo = Echo()
    async with task_group() as group:
        batcher = Batcher(group, echo.run, len, limit=100, count=10)
        answers = await asyncio.gather(batcher.ask("a"), batcher.ask("bad"), return_exceptions=True)
        assert [str(each) for each in answers] == ["bad", "bad"]
        assert await batcher.ask("c") == "c"


async def test_who_gives_up_takes_no_answer_from_others():
    echo = Echo()
    echo.gate.clear()
    async with task_group() as group:
        batcher = Batcher(group, echo.run, len, limit=100, count=10)
        first, second = asyncio.create_task(batcher.ask("a")), asyncio.create_task(batcher.ask("b"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        echo.gate.set()
        assert await second == "b"
    assert first.cancelled()


async def test_a_group_raises_its_first_error_alone():
    with pytest.raises(ValueError, match="deep"):
        async with task_group():
            raise BaseExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("deep")])])


@pytest.mark.parametrize(
    ("before", "next", "waits"), [("ab", "c", True), ("a", "c", False), ("ab", "ccc", False)]
)
async def test_where_many_ask_at_a_time_a_small_batch_waits_for_more(
    before, next, waits, monkeypatch
):
    """As long as the one before took, and LINGER at most."""
    monkeypatch.setattr("transfer.pipeline.batching.LINGER", 0.3)
    batches = []

    async def run(questions):
        batches.append(questions)
        await asyncio.sleep(0.3)
        return questions

    async with task_group() as group:
        batcher = Batcher(group, run, len, limit=100, count=10, least=3)
        await ask_all(batcher, before)
        first = asyncio.create_task(batcher.ask(next))
        await asyncio.sleep(0.02)
        second = asyncio.create_task(batcher.ask("d"))
        await asyncio.gather(first, second)
    assert (batches[1:] == [[next, "d"]]) == waits


# Room


async def taking(room, *sizes):
    """Tasks that take so much each, one after the other, and have begun."""
    tasks = [asyncio.create_task(room.take(size)) for size in sizes]
    await asyncio.sleep(0)
    return tasks


def settled(tasks):
    return [task.done() for task in tasks]


async def test_room_is_given_in_the_order_in_which_it_was_asked_for():
    room = Room(10)
    tasks = await taking(room, 6, 5, 1)  # the last one fits, and waits for its turn
    assert settled(tasks) == [True, False, False]
    room.give(6)
    await asyncio.sleep(0)
    assert settled(tasks) == [True, True, True]
    (waiting,) = await taking(room, 5)
    assert not waiting.done()
    room.give(1)
    await waiting


async def test_what_is_larger_than_the_room_has_it_alone():
    room = Room(10)
    first, large, last = await taking(room, 1, 99, 1)
    assert settled([first, large, last]) == [True, False, False]
    room.give(1)
    await large
    assert not last.done()
    room.give(99)
    await last


@pytest.mark.parametrize("together", [False, True])
async def test_whoever_no_longer_waits_takes_no_room(together):
    room = Room(10)
    _, cancelled, next = await taking(room, 10, 10, 10)
    if together:  # its turn and its end
        room.give(10)
    cancelled.cancel()
    if not together:
        await asyncio.wait([cancelled])
        room.give(10)
    await next
    assert cancelled.cancelled()
    (waiting,) = await taking(room, 1)
    assert not waiting.done()
    waiting.cancel()


async def test_a_number_that_grows_holds_for_what_waits_already():
    echo, most = Echo(), 1
    echo.gate.clear()
    async with task_group() as group:
        batcher = Batcher(group, echo.run, len, limit=1, count=1, parallel=lambda: most)
        asked = [batcher.put(each) for each in "abcdef"]
        await asyncio.sleep(0.01)
        assert len(echo.batches) == 1
        most = 4
        asked.append(batcher.put("g"))
        await asyncio.sleep(0.01)
        assert len(echo.batches) == 4
        echo.gate.set()
        assert await asyncio.gather(*asked) == list("abcdefg")


async def test_a_number_that_falls_holds_from_the_next_batch_on():
    most, active, beside = 3, 0, []

    async def run(questions):
        nonlocal active, most
        active += 1
        beside.append(active)
        await asyncio.sleep(0.01)
        most = 1
        active -= 1
        return questions

    async with task_group() as group:
        batcher = Batcher(group, run, len, limit=1, count=1, parallel=lambda: most)
        assert await asyncio.gather(*(batcher.put(each) for each in "abcdefgh")) == list("abcdefgh")
    assert beside[:3] == [1, 2, 3] and max(beside[4:]) == 1


async def test_a_window_lets_only_so_many_work_at_a_time():
    working = most = done = 0

    async def work():
        nonlocal working, most, done
        working += 1
        most = max(most, working)
        await asyncio.sleep(0)
        working, done = working - 1, done + 1

    async with asyncio.TaskGroup() as group:
        window = Window(group, 3)
        for _ in range(20):
            await window.add(work())
    assert (most, done) == (3, 20)


async def test_who_waits_for_a_window_and_is_cancelled_leaves_nothing_behind():
    async with asyncio.TaskGroup() as group:
        window, end = Window(group, 1), asyncio.Event()
        await window.add(end.wait())
        waiting = asyncio.create_task(window.add(end.wait()))
        await asyncio.sleep(0)
        waiting.cancel()
        end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_few_small_batches_are_under_way_together_and_large_ones_beside_them():
    echo = Echo()
    echo.gate.clear()
    async with task_group() as group:
        batcher = Batcher(group, echo.run, len, limit=4, count=9, parallel=4, least=4, few=2)
        for question in "abc":
            batcher.put(question)
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert echo.batches == [["a"], ["b"]]
        batcher.put("dddd")
        await asyncio.sleep(0.01)
        assert echo.batches == [["a"], ["b"], ["c"], ["dddd"]]
        echo.gate.set()

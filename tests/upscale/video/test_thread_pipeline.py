"""Stages in a row: order, back pressure, and errors from either end."""

import threading
import time

import pytest

from fastgan.upscale.video.threads import Aborted, Gone, Line, Queue


def numbers(made, count=100):
    def work(_):
        for number in range(count):
            made.append(number)
            yield number

    return work


def double(items):
    for item in items:
        yield 2 * item


def test_items_pass_in_order_and_wait_for_room():
    line, made = Line(), []
    first = line.stage("first", numbers(made), None, room=2)
    second = line.stage("second", double, first, room=3)
    assert next(second) == 0
    time.sleep(0.1)
    assert len(made) <= 1 + 3 + 2 + 3  # taken, waiting in both queues, and one in each hand
    assert list(second) == [2 * number for number in range(1, 100)]
    line.join()


def test_an_error_comes_after_what_was_before_it():
    def fails(items):
        for item in items:
            if item == 5:
                raise ValueError("five")
            yield item

    line, made = Line(), []
    results = line.stage("second", fails, line.stage("first", numbers(made), None, room=1), room=9)
    seen = []
    with pytest.raises(ValueError, match="five"):
        seen.extend(iter(lambda: next(results), None))
    line.join()  # the first stage has ended, though nobody took its items
    assert len(made) < 10
    with pytest.raises(ValueError, match="five"):
        next(results)


def test_who_puts_into_a_queue_that_is_left_is_told():
    queue = Queue(1)
    queue.put(1)
    threading.Timer(0.05, queue.leave).start()
    with pytest.raises(Gone):
        queue.put(2)


def test_an_abort_is_an_error_downstream():
    line, fed = Line(), Queue(4)
    results = line.stage("double", double, fed, room=4)
    fed.put(3)
    fed.end(Aborted())
    fed.end()  # only the first end counts
    assert next(results) == 6
    with pytest.raises(Aborted):
        next(results)
    line.join()


def test_waiting_is_not_work():
    def works(items):
        for item in items:
            time.sleep(0.02)
            yield item

    def waits(_):
        for number in range(5):
            time.sleep(0.1)
            yield number

    line = Line()
    results = line.stage("work", works, line.stage("wait", waits, None, room=1), room=9)
    assert len(list(results)) == 5
    line.join()
    assert 0.1 <= line.busy["work"] < 0.35
    assert line.busy["wait"] >= 0.5

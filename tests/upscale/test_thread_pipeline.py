"""Pipelines of threads: order, back pressure, and errors from either end."""

import threading
import time

import pytest

from fastgan.upscale.thread_pipeline import BoundedQueue, CancelledError, ConsumerClosedError, ThreadPipeline


def numbers(made, count=100):
    def work(_):
        for number in range(count):
            made.append(number)
            yield number

    return work


def double(items):
    for item in items:
        yield 2 * item


def test_items_pass_in_order_and_a_full_queue_blocks():
    pipeline, made = ThreadPipeline(), []
    first = pipeline.stage("first", numbers(made), None, capacity=2)
    second = pipeline.stage("second", double, first, capacity=3)
    assert next(second) == 0
    time.sleep(0.1)
    assert len(made) <= 1 + 3 + 2 + 3  # taken, waiting in both queues, and one held by each stage and the test
    assert list(second) == [2 * number for number in range(1, 100)]
    pipeline.join()


def test_an_error_is_raised_after_the_items_before_it():
    def fails(items):
        for item in items:
            if item == 5:
                raise ValueError("five")
            yield item

    pipeline, made = ThreadPipeline(), []
    results = pipeline.stage("second", fails, pipeline.stage("first", numbers(made), None, capacity=1), capacity=9)
    seen = []
    with pytest.raises(ValueError, match="five"):
        seen.extend(iter(lambda: next(results), None))
    pipeline.join()  # the first stage has ended, though nobody took its items
    assert len(made) < 10
    with pytest.raises(ValueError, match="five"):
        next(results)


def test_put_raises_when_the_consumer_closes_the_queue():
    queue = BoundedQueue(1)
    queue.put(1)
    threading.Timer(0.05, queue.close).start()
    with pytest.raises(ConsumerClosedError):
        queue.put(2)


def test_an_error_that_finishes_a_queue_is_raised_downstream():
    pipeline, fed = ThreadPipeline(), BoundedQueue(4)
    results = pipeline.stage("double", double, fed, capacity=4)
    fed.put(3)
    fed.finish(CancelledError())
    fed.finish()  # only the first call counts
    assert next(results) == 6
    with pytest.raises(CancelledError):
        next(results)
    pipeline.join()


@pytest.mark.parametrize("finished", [False, True])
def test_a_canceled_queue_drops_its_items(finished):
    queue = BoundedQueue(2)
    queue.put(1)
    if finished:
        queue.finish()
    queue.cancel()
    with pytest.raises(CancelledError):
        next(queue)


def test_waiting_time_is_not_busy_time():
    def works(items):
        for item in items:
            time.sleep(0.02)
            yield item

    def waits(_):
        for number in range(5):
            time.sleep(0.1)
            yield number

    pipeline = ThreadPipeline()
    results = pipeline.stage("work", works, pipeline.stage("wait", waits, None, capacity=1), capacity=9)
    assert len(list(results)) == 5
    pipeline.join()
    assert 0.1 <= pipeline.busy_seconds["work"] < 0.35
    assert pipeline.busy_seconds["wait"] >= 0.5

"""Tests of `quee_hf.execution.stream` on a toy network: every image as if it were alone, in full batches, and bounds."""

import collections
import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.execution.test_routed import LAMBDAS, networks
from tests.execution.toy import ToyNetwork

from quee_hf.execution.feed import Feed
from quee_hf.execution.routed import routed_forward
from quee_hf.execution.stream import MAX_LAG, stream_routes
from quee_hf.execution.walk import Routes
from quee_hf.paths import PathRules
from quee_hf.routing.router import Decision


class WatchedNetwork(ToyNetwork):
    """Counts the images inside, and the most there ever were."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.inside = self.most_inside = 0

    def embed(self, pixel_values):
        self.inside += len(pixel_values)
        self.most_inside = max(self.most_inside, self.inside)
        return super().embed(pixel_values)

    def run_segment(self, segment, level, hidden):
        if segment == len(self.router.tree.paths[-1]) - 1:
            self.inside -= len(hidden)
        return super().run_segment(segment, level, hidden)

    def decide(self, depth, node, scores, cost_lambda):
        decision = super().decide(depth, node, scores, cost_lambda)
        self.inside -= int((decision.next_node == node).sum())
        return decision


class MarkedNetwork(WatchedNetwork):
    """Images whose first pixel is 1 run to the end at the second level, all others leave at the first exit."""

    def __init__(self, num_exits: int = 4) -> None:
        super().__init__(PathRules(num_exits, 2), seed=0)

    def embed(self, pixel_values):
        self.marked = pixel_values[:, 0, 0, 0] == 1
        return super().embed(pixel_values)

    def run_segment(self, segment, level, hidden):
        # The mark is carried along: a segment that mixes tokens would lose it.
        self.marked = hidden[:, 0, 0] == 1
        out = super().run_segment(segment, level, hidden)
        out[:, 0, 0] = self.marked.float()
        return out

    def decide(self, depth, node, scores, cost_lambda):
        paths, marked = self.router.tree.paths, self.marked.numpy()
        further = {i: self.router.tree.index.get((*path, 1), i) for i, path in enumerate(paths)}
        next_node = node.copy()
        next_node[marked] = [further[i] for i in node[marked].tolist()]
        self.inside -= int((next_node == node).sum())
        return Decision(next_node, scores[:, 0])


def images_with_marks(network: ToyNetwork, count: int, marked) -> torch.Tensor:
    pixel_values = network.images(count)
    pixel_values[..., 0] = 0
    pixel_values[list(marked), ..., 0] = 1
    return pixel_values


def one_by_one(network, feed):
    """Return an iterator over the result of each image."""
    for routes in stream_routes(network, feed):
        for parts in zip(*(part.split(1) for part in vars(routes).values()), strict=True):
            yield Routes(*parts)


def together(results: list[Routes]) -> Routes:
    assert all(len(result.node) == 1 for result in results)
    names = ("node", "logits", "error", "cost_lambda")
    return Routes(*(torch.cat([getattr(r, name) for r in results]) for name in names))


def assert_equal(found: Routes, wanted: Routes) -> None:
    assert torch.equal(found.node, wanted.node)
    assert torch.equal(found.logits, wanted.logits)
    assert torch.allclose(found.error, wanted.error, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found.cost_lambda, wanted.cost_lambda)


def run_sizes(network: ToyNetwork) -> dict[int, list[int]]:
    """Return the sizes of the batches that each segment ran on."""
    sizes = collections.defaultdict(list)
    for segment, _, size in network.calls:
        sizes[segment].append(size)
    return sizes


class TestResults:
    @given(
        network=networks,
        lambdas=st.lists(st.sampled_from(LAMBDAS), min_size=1, max_size=40),
        batch_size=st.integers(1, 12),
        data=st.data(),
    )
    def test_are_those_of_each_image_alone_in_order(self, network, lambdas, batch_size, data):
        cuts = sorted(data.draw(st.lists(st.integers(0, len(lambdas)), max_size=8)))
        pixel_values = network.images(len(lambdas))
        batches = pixel_values.tensor_split(cuts)
        found = list(one_by_one(network, Feed(batches, lambdas, batch_size)))
        assert len(found) == len(lambdas)
        for i, cost_lambda in enumerate(lambdas):
            assert_equal(found[i], routed_forward(network, pixel_values[i : i + 1], cost_lambda))

    @pytest.mark.parametrize("batch_size", [1, 5, 32])
    @pytest.mark.parametrize("seed", range(3))
    def test_of_many_images_too(self, seed, batch_size):
        network = ToyNetwork(PathRules(5, 3, is_first_highest=False), seed=seed)
        pixel_values, lambdas = network.images(700), torch.tensor(LAMBDAS).repeat(100)
        wanted = routed_forward(network, pixel_values, lambdas)
        assert len(wanted.node.unique()) > 15  # so that this means something
        network.calls.clear()
        found = list(one_by_one(network, Feed(pixel_values.split(13), lambdas, batch_size)))
        assert_equal(together(found), wanted)
        assert max(size for *_, size in network.calls) <= batch_size

    def test_one_lambda_serves_all(self):
        network = ToyNetwork(PathRules(4, 2), seed=3)
        pixel_values = network.images(50)
        found = one_by_one(network, Feed(pixel_values.split(8), 0.25, 8))
        assert_equal(together(list(found)), routed_forward(network, pixel_values, 0.25))

    @pytest.mark.parametrize("batches", [[], [torch.zeros(0, 1, 1, 5)]], ids=["none", "an-empty-batch"])
    def test_of_no_images_are_none(self, batches):
        network = ToyNetwork(PathRules(3, 2))
        assert list(one_by_one(network, Feed(batches, 0.0, 4))) == []
        assert not network.calls


class TestBatches:
    def test_of_late_segments_are_full(self):
        network = ToyNetwork(PathRules(4, 2), seed=7)
        pixel_values = network.images(2000)
        for batch in pixel_values.split(16):
            routed_forward(network, batch, 0.25)
        plain = run_sizes(network)
        network.calls.clear()
        list(one_by_one(network, Feed(pixel_values.split(16), 0.25, 16)))
        streamed = run_sizes(network)
        for segment, sizes in streamed.items():
            assert sum(sizes) == sum(plain[segment])
            # Full but for the last at each level, and those that the oldest image was in.
            assert sum(size == 16 for size in sizes) >= 0.85 * len(sizes)
        assert max(plain[3]) < 16  # without the stream the last segment never sees a full batch
        assert sum(map(len, streamed.values())) < 0.5 * sum(map(len, plain.values()))

    def test_are_exactly_full_while_input_lasts_and_nothing_lags(self):
        network = ToyNetwork(PathRules(3, 2), seed=7)
        read = []

        def batches():
            for batch in network.images(MAX_LAG * 8).split(8):
                read.append(len(network.calls))
                yield batch

        list(one_by_one(network, Feed(batches(), 0.25, 8)))
        assert {size for *_, size in network.calls[: read[-1]]} == {8}

    def test_at_the_end_run_front_to_back(self):
        """So that what is left of one segment fills the next one up."""
        network = MarkedNetwork()
        list(one_by_one(network, Feed([images_with_marks(network, 6, range(6))], 0.0, 4)))
        assert network.calls == [
            *((0, 8, 4), (1, 6, 4), (2, 6, 4), (3, 6, 4)),  # the first four fill every queue on their way
            *((0, 8, 2), (1, 6, 2), (2, 6, 2), (3, 6, 2)),
        ]

    def test_at_the_end_no_segment_runs_twice_where_once_is_enough(self):
        network = ToyNetwork(PathRules(4, 3, is_first_highest=False), seed=7)
        lambdas = torch.tensor(LAMBDAS).repeat(9)[:60]
        list(one_by_one(network, Feed(network.images(60).split(7), lambdas, 64)))
        assert len(network.calls) == len({call[:2] for call in network.calls})

    def test_take_those_that_came_first(self):
        order = []

        class Spy(MarkedNetwork):
            def run_segment(self, segment, level, hidden):
                if segment == 1:
                    order.append(hidden[:, 0, 1].tolist())
                return super().run_segment(segment, level, hidden)

        network = Spy(num_exits=2)
        network._segments[0] = torch.eye(5)  # the first segment passes images on as they are
        pixel_values = images_with_marks(network, 7, {0, 2, 3, 4, 5, 6})
        pixel_values[..., 1] = torch.arange(7.0).reshape(-1, 1, 1)
        list(one_by_one(network, Feed(pixel_values.split(3), 0.0, 2)))
        assert order == [[0, 2], [3, 4], [5, 6]]  # pairs entered together, and were parted since 1 left


class TestBounds:
    @given(network_seed=st.integers(0, 20), batch_size=st.integers(1, 9), chunk=st.integers(1, 30))
    def test_images_inside(self, network_seed, batch_size, chunk):
        network = WatchedNetwork(PathRules(4, 3, is_first_highest=False), seed=network_seed)
        lambdas = torch.tensor(LAMBDAS).repeat(30)
        feed = Feed(network.images(210).split(chunk), lambdas, batch_size)
        assert len(list(one_by_one(network, feed))) == 210
        num_queues = len({call[:2] for call in network.calls})
        assert network.inside == 0
        assert network.most_inside <= num_queues * (batch_size - 1) + batch_size

    def test_results_that_wait_for_one_image(self):
        """Adversarial: one image in a hundred goes where no other follows for long."""
        batch_size, network, received, worst = 4, MarkedNetwork(), 0, 0

        def batches():
            for number, image in enumerate(images_with_marks(network, 1000, range(0, 1000, 100)).split(1)):
                nonlocal worst
                worst = max(worst, number - received)
                yield image

        for _ in one_by_one(network, Feed(batches(), 0.0, batch_size)):
            received += 1
        assert received == 1000
        # One batch is being read when as many wait as may.
        assert MAX_LAG * batch_size <= worst <= (MAX_LAG + 2) * batch_size
        assert network.most_inside <= 2 * batch_size  # it alone waits, beside those that leave at once
        alone = [size for segment, _, size in network.calls if segment]
        assert alone == [1] * len(alone)

    def test_memory_does_not_grow_with_the_data(self):
        most = []
        for times in (5, 50):
            network = ToyNetwork(PathRules(4, 3), seed=7)
            batches = network.images(200).repeat(times, 1, 1, 1).split(8)
            for _ in one_by_one(network, Feed(batches, 0.25, 8)):
                pass
            most.append(network.most_alive)
        assert most[0] == most[1]

    def test_few_that_wait_do_not_keep_their_whole_batches(self):
        batch_size, network = 64, MarkedNetwork()
        pixel_values = images_with_marks(network, 10 * batch_size, range(0, 10 * batch_size, batch_size))
        assert len(list(one_by_one(network, Feed([pixel_values], 0.0, batch_size)))) == len(pixel_values)
        # Ten images wait, each from another batch; alive are the batch that runs, its input and the one before.
        assert network.most_alive <= 4


class TestInput:
    def test_is_not_read_further_than_needed(self):
        network, read = ToyNetwork(PathRules(1, 2)), []

        def batches():
            for number, batch in enumerate(network.images(40).split(4)):
                read.append(number)
                yield batch

        results = one_by_one(network, Feed(batches(), 0.0, 4))
        assert read == []
        for number in range(
            40
        ):  # with one exit all leave at once: a batch is read as its first result is asked for
            next(results)
            assert read == list(range(number // 4 + 1))

    def test_that_fails_gives_what_came_before_and_then_the_error(self):
        network = ToyNetwork(PathRules(4, 3), seed=1)
        pixel_values = network.images(50)

        def batches():
            yield from pixel_values.split(7)
            raise OSError("no such disk")

        results, found = one_by_one(network, Feed(batches(), 0.25, 8)), []
        with pytest.raises(OSError, match="no such disk"):
            found.extend(results)
        assert_equal(together(found), routed_forward(network, pixel_values, 0.25))
        assert list(results) == []


class TestEnd:
    """Whatever ends a stream, nothing is kept, and gradients are recorded as before."""

    @pytest.mark.parametrize("ending", ["close", "input", "interruption", "network"])
    def test_leaves_nothing_behind(self, ending):
        network = ToyNetwork(PathRules(4, 3), seed=1)
        kept: list[weakref.ref] = []

        def batches():
            for number, batch in enumerate(network.images(400).split(8)):
                kept.append(weakref.ref(batch))
                yield batch
                del batch
                if number == 20 and ending in ("input", "interruption"):
                    raise OSError if ending == "input" else KeyboardInterrupt
                if number == 20 and ending == "network":
                    network.read_exit = None

        def consume():
            results = one_by_one(network, Feed(batches(), 0.25, 8))
            if ending == "close":
                for _ in range(99):
                    next(results)
                results.close()
            else:
                error = {"input": OSError, "interruption": KeyboardInterrupt, "network": TypeError}[ending]
                with pytest.raises(error):
                    list(results)

        consume()
        gc.collect()
        assert kept
        assert all(ref() is None for ref in [*kept, *network._alive])
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()

    def test_neither_input_nor_consumer_meet_the_inference_mode(self):
        network, modes = ToyNetwork(PathRules(3, 2)), []

        def batches():
            for batch in network.images(20).split(4):
                modes.append(torch.is_inference_mode_enabled())
                yield batch

        for routes in one_by_one(network, Feed(batches(), 0.25, 8)):
            modes.append(torch.is_inference_mode_enabled())
            assert not any(tensor.is_inference() for tensor in (routes.node, routes.logits, routes.error))
        assert set(modes) == {False}

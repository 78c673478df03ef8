import pytest
import torch

from propscope.networks.randomness import global_stream, seeded_generator


def test_stream_is_determined_by_seed_and_names():
    def draw(seed, *names):
        return torch.rand(4, generator=seeded_generator(seed, *names))

    assert torch.equal(draw(0, "weights", "he"), draw(0, "weights", "he"))
    others = [
        draw(1, "weights", "he"),
        draw(0, "weights", "xavier"),
        draw(0, "biases", "he"),
        draw(-1, "weights", "he"),
    ]
    for other in others:
        assert not torch.equal(draw(0, "weights", "he"), other)


def test_names_do_not_run_together():
    assert seeded_generator(0, "ab", "c").initial_seed() != seeded_generator(0, "a", "bc").initial_seed()


def test_global_stream_follows_the_generator_and_restores():
    before = torch.get_rng_state()
    with global_stream(seeded_generator(3)):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with global_stream(seeded_generator(3)):
        assert torch.equal(torch.rand(3), first)
    generator = seeded_generator(3)
    with global_stream(generator):
        torch.rand(3)
    with global_stream(generator):
        assert not torch.equal(torch.rand(3), first)


def test_global_stream_restores_after_an_exception():
    before = torch.get_rng_state()

    def fail():
        torch.manual_seed(5)
        raise KeyError

    with pytest.raises(KeyError), global_stream(seeded_generator(3)):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_nothing_changes():
    torch.manual_seed(4)
    wanted = torch.rand(2)
    torch.manual_seed(4)
    with global_stream(None):
        assert torch.equal(torch.rand(2), wanted)

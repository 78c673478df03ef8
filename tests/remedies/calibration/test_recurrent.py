import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from propscope.remedies.calibration.parts import input_of_layer


def stack(kind, **options):
    torch.manual_seed(0)
    return kind(4, 5, num_layers=3, **options)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_what_enters_a_layer_is_what_the_lower_ones_return(kind, bidirectional):
    whole = stack(kind, bidirectional=bidirectional)
    below = kind(4, 5, num_layers=2, bidirectional=bidirectional)
    below.load_state_dict({k: v for k, v in whole.state_dict().items() if "l2" not in k})
    x = torch.randn(7, 3, 4)
    assert input_of_layer(whole, x, None, 0) is not None
    assert torch.equal(input_of_layer(whole, x, None, 0), x)
    assert torch.equal(input_of_layer(whole, x, None, 2), below(x)[0])
    state = torch.randn(6 if bidirectional else 3, 3, 5)
    half = state[: len(state) * 2 // 3]
    given, expected = ((state, state), (half, half)) if kind is nn.LSTM else (state, half)
    assert torch.equal(input_of_layer(whole, x, given, 2), below(x, expected)[0])
    assert whole.num_layers == 3
    assert len(whole._flat_weights) == len(list(whole.parameters()))


def test_packed_and_unbatched():
    whole = stack(nn.LSTM, batch_first=True)
    x = torch.randn(3, 7, 4)
    packed = pack_padded_sequence(x, torch.tensor([7, 4, 2]), batch_first=True)
    assert torch.equal(input_of_layer(whole, packed, None, 0), packed.data)
    assert input_of_layer(whole, packed, None, 1).shape == (13, 5)
    assert input_of_layer(whole, x[0], None, 1).shape == (7, 5)


def test_dropout_between_layers_counts_in_training():
    whole = stack(nn.GRU, dropout=0.5)
    x = torch.randn(7, 3, 4)
    assert (input_of_layer(whole, x, None, 1) == 0).any()
    assert (input_of_layer(whole, x, None, 0) != 0).all()
    assert (input_of_layer(whole.eval(), x, None, 1) != 0).all()

"""The moving average against its closed form."""

import pytest
import torch
from torch import nn

from remdm.nets.ema import EMA


def model(value: float) -> nn.Linear:
    net = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    return net


def test_average_follows_its_closed_form_without_warmup():
    net = model(0.0)
    ema = EMA(net, decay=0.9, warmup=False)
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            net.weight.fill_(value)
        ema.update(net)
    wanted = 0.1 * (0.81 * 1.0 + 0.9 * 2.0 + 3.0)
    torch.testing.assert_close(ema.shadow["weight"], torch.full((2, 3), wanted))


def test_warmup_raises_the_decay_from_a_tenth_to_its_limit():
    net = model(0.0)
    ema = EMA(net, decay=0.5)
    decays = []
    for _ in range(12):
        decays.append(ema.current_decay())
        ema.update(net)
    assert decays[:3] == [1 / 10, 2 / 11, 3 / 12]
    assert decays[-1] == 0.5


def test_frozen_parameters_are_copied_not_averaged():
    net = model(1.0)
    net.bias.requires_grad_(False)
    ema = EMA(net, decay=0.999)
    with torch.no_grad():
        net.bias.fill_(0.3)
    for _ in range(50):
        ema.update(net)
    assert torch.equal(ema.shadow["bias"], net.bias)


def test_copy_to_writes_the_average():
    net, other = model(1.0), model(5.0)
    EMA(net).copy_to(other)
    assert torch.equal(other.weight, net.weight)


def test_saved_average_goes_on_where_it_stopped():
    net = model(0.0)
    ema = EMA(net, decay=0.99)
    with torch.no_grad():
        net.weight.fill_(1.0)
    ema.update(net)
    restored = EMA(model(7.0), decay=0.99)
    restored.load_state_dict(ema.state_dict())
    ema.update(net)
    restored.update(net)
    assert torch.equal(ema.shadow["weight"], restored.shadow["weight"])
    assert restored.num_updates == 2


def test_state_dict_does_not_follow_later_updates():
    net = model(0.0)
    ema = EMA(net, decay=0.5)
    saved = ema.state_dict()
    with torch.no_grad():
        net.weight.fill_(1.0)
    ema.update(net)
    assert (saved["shadow"]["weight"] == 0).all()


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_average_of_another_model_is_refused(change):
    ema = EMA(model(0.0))
    state = ema.state_dict()
    if change == "missing":
        del state["shadow"]["bias"]
    elif change == "extra":
        state["shadow"]["more"] = torch.zeros(1)
    else:
        state["shadow"]["bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match="average"):
        ema.load_state_dict(state)


def test_decay_of_one_is_refused_with_its_name():
    with pytest.raises(ValueError, match=r"Experiment\.ema_decay"):
        EMA(model(0.0), decay=1.0)

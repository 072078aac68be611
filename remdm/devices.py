"""Where nets compute, by the name that somebody gives."""

import torch


def named_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: "cpu", "cuda", "cuda:1"; "auto" is "cuda" where there is one, else "cpu".

    Raises:
        ValueError: If there is no such device.
    """
    found = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if found else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"a device is named auto, cpu, cuda or cuda:N, and none {name!r}."
        ) from None
    if device.type == "cuda" and (device.index or 0) >= (torch.cuda.device_count() if found else 0):
        raise ValueError(f"torch finds no device {name!r} on this machine; take auto or cpu.")
    return device

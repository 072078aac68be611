"""What each preset writes, step by step, with a small fixed net (method table, test 20).

A line is a step: `.` is MASK, `a` to `e` are actions, `$` is END. A change here is a change of
behaviour: say so in the changelog.
"""

import pytest
import torch
from torch import Tensor

from remdm.diffusion.presets import preset_knobs, preset_names, sampler_preset

A, ROWS, HORIZON = 5, 2, 10
SYMBOLS = "abcde.$"


def fixed_net(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
    """Logits that are multiples of 1/4, so the same on every machine."""
    rows = torch.arange(len(tokens)) if rows is None else rows
    position = torch.arange(HORIZON)[:, None]
    action = torch.arange(A + 1)
    near = tokens + 2 * tokens.roll(1, -1) + 3 * tokens.roll(-1, -1)
    mixed = near[..., None] * (action + 1) + 3 * position * action + 5 * rows[:, None, None]
    logits = (mixed % 7) / 2.0 + (mixed % 3) / 4.0
    logits[..., A] -= 2.0
    return logits


def written(name: str) -> tuple[list[str], list[list[int]]]:
    """The steps of both rows, and how many masks each step left in them."""
    steps = {"num_denoise_steps": 5} if "num_denoise_steps" in preset_knobs(name) else {}
    sample = sampler_preset(name, A, **steps).sample(
        fixed_net, ROWS, HORIZON, torch.Generator().manual_seed(1), window=6, trace=True
    )
    lines = [
        " ".join("".join(SYMBOLS[t] for t in row) for row in entry.tokens.tolist())
        for entry in sample.trace
    ]
    masks = [(entry.tokens == A).sum(-1).tolist() for entry in sample.trace]
    return lines, masks


TRACES: dict[str, list[str]] = {
    "balanced": [
        "cde...dc.. ..........",
        "c.e...dc.. ..ee.c....",
        "cc.dba..eb d.e..cd..e",
        "ccddbaaaeb d$$$$$$$$$",
    ],
    "count": [
        "c..e...... de........",
        "ce.ee..... de.e.c....",
        "cedeebdccb debebcdced",
    ],
    "default": [
        "...e...... d.........",
        "c..e...... d....c....",
        "ce.e...... d..d.c....",
        "cede...... d.ed.c....",
        "cedee..... deed.c....",
        "cedeeeeccc deedecedec",
    ],
    "greedy": [
        "...b...... d.........",
        "c..b...... d....c....",
        "ce.b...... d..d.c....",
        "ceeb...... d.cd.c....",
        "ceeb.b.... dccd.c....",
        "ceebdbbccb dccdecadec",
    ],
    "head_2026_08": [
        "cde...dc.. ..........",
        "cde..edce. ..ed.c....",
        "cdeda.dcea d.ed.c....",
        "cdeda.dcea deedecbdbc",
        "cdedaddcea deedecbdbc",
    ],
    "paper_cap": [
        "c$e...db.. ..........",
        "c$e..edbb. ..ee.c....",
        "c$edaedbba d.ee.c....",
        "c$edaedbba deeedcbd.c",
        "c$edaedbba deeedcbdcc",
    ],
    "paper_conf": [
        "c$e...db.. ..........",
        "c$...ed.b. ..ee.c....",
        "c$dba.d..a d....c....",
        "c$dba.ddda dde.e.bd.c",
        "c$dbadddda ddeeeebdcc",
    ],
    "paper_loop": [
        "c$ee..db.. ...eae.c.e",
        "c$eeeedbbd eedeaebcee",
        "c$eee.dbbd eedeae..ee",
        "c$eee.dbbd eedeaeccee",
        "c$eeebdbbd eedeaeccee",
    ],
    "paper_mdlm": [
        "c$e...db.. ..........",
        "c$e..edbb. ..ee.c....",
        "c$edaedbba d.ee.c....",
        "c$edaedbba deeedcbdbc",
    ],
    "paper_rescale": [
        "c$e...db.. ..........",
        "c$e..edbb. ..ee.c....",
        "c$eda.dbba d.ee.c....",
        "c$eda.dbba deeedcbd.c",
        "c$edaddbba deeedcbdcc",
    ],
    "paper_switch": [
        "c$e...db.. ..........",
        "c$e..edbb. ..ee.c....",
        "c$edaedbba d.ee.c....",
        "c$edaedbba deeedcbd.c",
        "c$edaedbba deeedcbdcc",
    ],
    "path": [
        "c......c.. d......d..",
        "ce.....ce. d....c.d.c",
        "cebb...ce. d..d.c.dcc",
        "cebb.bdce. dd.d.cedcc",
        "cebbdbdcea ddddecedcc",
    ],
    "readme_craftax_eval": [
        "c......c.. d......d..",
        "ae....d.e. .d...c..dc",
        "ebbb...cd. bccdd...d.",
        "baaa.bd.de e..deebeaa",
        "bcbedbaaea cccebdcaae",
    ],
    "readme_craftax_loop": [
        "cde...dc.. ..........",
        "cde..edce. ..ee.c....",
        "c..da....a d.........",
        "cebda..cda dde.e.bd.c",
        "cebdabdcda ddeeecbdcc",
    ],
    "readme_minihack": [
        "c......c.. d......d..",
        "cee...dce. dde..c.d.c",
        "ceed..dcea ddeedc..cc",
        "ceedcedcea ddeedcbecc",
    ],
    "readme_minihack_greedy": [
        "c..b...... d......d..",
        "cedb..dc.. dd.d.c.d.c",
        "cedbcedceb ddddecedcc",
    ],
    "swap": [
        "c..e...... de........",
        "ce..ed.... d.ce.c....",
        "cebae..c.. dcc.bc.c..",
        "ceba.edce. dcccbcaccc",
        "cebadedcea dcccbcaccc",
    ],
    "threshold": [
        "...e...... d.........",
        "c..e...... d....c....",
        "ce.e...... d..d.c....",
        "cede...... d.ed.c....",
        "cedee..... deed.c....",
        "cedeeeeccc deedecedec",
    ],
}


def test_every_preset_is_pinned() -> None:
    assert sorted(TRACES) == preset_names()


@pytest.mark.parametrize("name", sorted(TRACES))
def test_presets_write_what_they_wrote_before(name: str) -> None:
    lines, masks = written(name)
    assert lines == TRACES[name]
    assert masks == [[row.count(".") for row in line.split()] for line in TRACES[name]]

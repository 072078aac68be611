"""`--resume 12` of a launched run: its learner goes back once, not at every restart."""

from dataclasses import replace

from remdm.distributed.launch import DONE
from tests.distributed.test_launch import part, supervisor


def test_a_run_that_was_told_to_go_back_goes_back_once(tmp_path):
    code = "(folder / f'{start}').write_text(' '.join(sys.argv[3:])); start == 2 or sys.exit(1)"
    learner = part(tmp_path, "learn", code)
    learner = replace(learner, words=(*learner.words, "--resume", "12"))
    assert supervisor(tmp_path, learner).run() == DONE
    assert [(tmp_path / n).read_text() for n in "12"] == ["--resume 12", "--resume auto"]

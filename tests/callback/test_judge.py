"""What the judge of a run asks of its training batches."""

import pytest
import torch

from fitb_callbacks import RidgeJudge
from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.callback.judge import RunJudge
from judge_process import learn_apart


def test_no_more_batches_are_wanted_once_there_is_enough_of_each_class():
    judge = RunJudge(RidgeJudge(images_per_class=2), None, ErrorPolicy("raise"))
    judge.check((1, 8, 8), num_classes=3)
    for labels, wants_more in (([0, 0, 1], True), ([1, 1], True), ([2], True), ([2], False)):
        assert judge.wants_batches(epoch=0)
        judge.stream(torch.rand(len(labels), 1, 8, 8), torch.tensor(labels), epoch=0)
        assert judge.wants_batches(epoch=0) == wants_more


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_processes_agree_on_the_judge_and_none_waits_for_another(tmp_path):
    torch.multiprocessing.spawn(learn_apart, (2, str(tmp_path)), nprocs=2)
    once, twice = [10.0] * 4, [20.0] * 4
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == {
            "no batch": [once] * 3,
            "given up": [None] * 3,
            "given up later": [twice, None, None],
        }
